//! Reads and writes of a disk: Bantam's engines, QEMU's, and fio without a guest.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;

use crate::guest::{self, Said};
use crate::image::Image;
use crate::report::{Comparison, Sample};
use crate::support::process;
use crate::{Effort, Programs};

/// How long a run may be silent beyond what it measures.
const PATIENCE: Duration = Duration::from_secs(40);

/// What is done.
struct Workload {
    name: &'static str,
    /// fio's word.
    fio: &'static str,
    block: &'static str,
    depth: u32,
    writes: bool,
}

const WORKLOADS: [Workload; 3] = [
    Workload { name: "randread", fio: "randread", block: "4K", depth: 32, writes: false },
    Workload { name: "seqread", fio: "read", block: "1M", depth: 8, writes: false },
    Workload { name: "seqwrite", fio: "write", block: "1M", depth: 8, writes: true },
];

/// Who does it.
enum Contender<'a> {
    Bantam { program: &'a Path, engine: &'static str },
    Qemu { program: &'a Path, aio: &'static str },
    Fio { program: &'a Path },
}

impl Contender<'_> {
    fn name(&self) -> String {
        match self {
            Self::Bantam { engine, .. } => format!("bantam {engine}"),
            Self::Qemu { aio, .. } => format!("qemu {aio}"),
            Self::Fio { .. } => "fio io_uring".to_owned(),
        }
    }

    fn run(&self, work: &Workload, image: &Image, direct: bool, seconds: u64) -> anyhow::Result<Sample> {
        let path = image.path().display();
        let Workload { name, block, depth, .. } = work;
        let job = format!("blk={name} bs={block} depth={depth} secs={seconds}");
        let patience = PATIENCE + Duration::from_secs(seconds);
        match self {
            Self::Bantam { program, engine } => {
                let past = if direct { ",direct" } else { "" };
                let disk = format!("path={path},engine={engine},format=raw{past}");
                sample(&guest::bantam(program, ["--disk", &disk], &job, patience)?)
            }
            Self::Qemu { program, aio } => {
                let cache = if direct { "none" } else { "writeback" };
                let drive = format!("if=none,id=d,file={path},format=raw,aio={aio},cache={cache}");
                let device = ["-drive", &drive, "-device", "virtio-blk-device,drive=d"];
                sample(&guest::qemu(program, &device, &job, patience)?)
            }
            Self::Fio { program } => fio(program, work, image.path(), direct, seconds),
        }
    }
}

fn sample(said: &Said) -> anyhow::Result<Sample> {
    Ok(Sample {
        a_second: said.a_second("n")?,
        mib_a_second: said.a_second("bytes")? / f64::from(1 << 20),
        kicks: Some(said.number("kicks")? / said.number("n")?.max(1.0)),
    })
}

/// What the host gives without a guest. Requests are submitted and taken back in groups, as a device
/// does with what it finds in its queue.
fn fio(program: &Path, work: &Workload, file: &Path, direct: bool, seconds: u64) -> anyhow::Result<Sample> {
    let Workload { fio, block, depth, .. } = work;
    let arguments = [
        "--name=bench".to_owned(),
        format!("--filename={}", file.display()),
        format!("--rw={fio}"),
        format!("--bs={}", block.to_lowercase()),
        format!("--iodepth={depth}"),
        format!("--iodepth_batch_submit={depth}"),
        format!("--iodepth_batch_complete_max={depth}"),
        format!("--direct={}", u8::from(direct)),
        format!("--runtime={seconds}"),
    ];
    let fixed = [
        "--ioengine=io_uring",
        "--time_based",
        // The page cache stays as it is.
        "--invalidate=0",
        "--norandommap",
        "--thread",
        "--output-format=json",
    ];
    let arguments: Vec<_> = arguments.iter().map(String::as_str).chain(fixed).map(OsString::from).collect();
    let patience = PATIENCE + Duration::from_secs(seconds);
    let output = process::output(&mut process::command(program, &arguments), patience)?;
    // Warnings may come before it.
    let json = output.get(output.find('{').unwrap_or(0)..).unwrap_or_default();
    let report: serde_json::Value =
        serde_json::from_str(json).with_context(|| format!("fio says {output}"))?;
    let side = if work.writes { "write" } else { "read" };
    let number = |key: &str| {
        let value = report.pointer(&format!("/jobs/0/{side}/{key}")).and_then(serde_json::Value::as_f64);
        value.with_context(|| format!("fio does not say {side}/{key}"))
    };
    let mib_a_second = number("bw_bytes")? / f64::from(1 << 20);
    Ok(Sample { a_second: number("iops")?, mib_a_second, kicks: None })
}

/// All contenders in turns, forth and back, for each kind of work.
pub(crate) fn measure(programs: &Programs, image: &Image, effort: Effort) -> anyhow::Result<Vec<Comparison>> {
    let program = programs.bantam.as_path();
    let bantam = ["io_uring", "threads", "sync"].map(|engine| Contender::Bantam { program, engine });
    let qemu = programs
        .qemu
        .iter()
        .flat_map(|program| ["io_uring", "threads"].map(|aio| Contender::Qemu { program, aio }));
    let fio = programs.fio.iter().map(|program| Contender::Fio { program });
    let contenders: Vec<_> = bantam.into_iter().chain(qemu).chain(fio).collect();

    let kinds: Vec<_> =
        [false, true].iter().flat_map(|direct| WORKLOADS.iter().map(|work| (work, *direct))).collect();
    let mut rounds = vec![Vec::new(); kinds.len()];
    for round in 0..effort.rounds {
        for ((work, direct), samples) in kinds.iter().zip(&mut rounds) {
            image.cached(!direct)?;
            let mut order: Vec<_> = contenders.iter().collect();
            if round % 2 == 1 {
                order.reverse();
            }
            let mut of_round = BTreeMap::new();
            for contender in order {
                let sample = contender.run(work, image, *direct, effort.seconds);
                of_round.insert(contender.name(), sample.with_context(|| contender.name())?);
                if work.writes {
                    image.sync()?;
                }
            }
            samples.push(of_round);
        }
    }
    let names: Vec<_> = contenders.iter().map(Contender::name).collect();
    let title = |work: &Workload, direct| {
        let cache = if direct { "direct" } else { "page cache" };
        format!("{} {} depth {}, {cache}", work.name, work.block, work.depth)
    };
    Ok(kinds
        .iter()
        .zip(rounds)
        .map(|((work, direct), rounds)| Comparison::of(title(work, *direct), &names, &rounds))
        .collect())
}
