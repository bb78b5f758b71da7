//! How much the virtio devices carry: Bantam beside QEMU's `microvm` and, for disks, beside `fio` on
//! the same file, in turns, so that a busy moment of the host meets all of them.
//!
//! ```text
//! cargo bench --bench throughput -- [--quick] [--full] [--only PART] [--rounds N] [--seconds N] [--save]
//! ```
//!
//! The guest in both monitors is Bantam's embedded one. It polls, so a run keeps one core busy with
//! the guest alone. `BANTAM_BIN` names another `bantam` than the one that Cargo built for the benchmark.
//! The network's part needs root: it makes a tap in a network namespace of its own.

mod disk;
mod guest;
mod image;
mod limits;
mod net;
mod report;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use serde::Serialize;

use image::Image;
use report::{Comparison, Target};
use support::host::Fingerprint;
use support::program::{self, version};
use support::results;

const IMAGE_MIB: u64 = 1024;

#[derive(Debug, Parser)]
#[command(about = "Throughput of Bantam's virtio devices beside QEMU and fio")]
struct Options {
    /// Two rounds of a second each.
    #[arg(long)]
    quick: bool,
    /// Rounds.
    #[arg(long, value_name = "N", default_value_t = 10, conflicts_with = "quick")]
    rounds: usize,
    /// Seconds that one run measures.
    #[arg(long, value_name = "N", default_value_t = 2, conflicts_with = "quick")]
    seconds: u64,
    /// Also write and verify 4 GiB, with and without a limit.
    #[arg(long)]
    full: bool,
    /// Only this part; more than one may be given [default: all].
    #[arg(long, value_name = "PART")]
    only: Vec<Part>,
    /// Write the figures to benches/results/throughput.json.
    #[arg(long)]
    save: bool,
    /// Given by `cargo bench`; without it one round of a second shows that everything works.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Disk,
    Limits,
    Net,
}

/// How long to measure.
#[derive(Clone, Copy)]
struct Effort {
    rounds: usize,
    seconds: u64,
}

impl Options {
    fn effort(&self) -> Effort {
        match (self.bench, self.quick) {
            (false, _) => Effort { rounds: 1, seconds: 1 },
            (true, true) => Effort { rounds: 2, seconds: 1 },
            (true, false) => Effort { rounds: self.rounds, seconds: self.seconds },
        }
    }

    fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }
}

/// The programs that are there, and why others are not.
struct Programs {
    bantam: PathBuf,
    qemu: Option<PathBuf>,
    fio: Option<PathBuf>,
    absent: BTreeMap<&'static str, String>,
}

impl Programs {
    fn find() -> anyhow::Result<Self> {
        let mut absent = BTreeMap::new();
        let mut find = |name, program| {
            let found = program::installed(program);
            found.map_err(|reason| absent.insert(name, format!("{reason:#}"))).ok()
        };
        let (qemu, fio) = (find("qemu", program::QEMU), find("fio", "fio"));
        Ok(Self { bantam: program::bantam()?, qemu, fio, absent })
    }

    fn versions(&self) -> BTreeMap<&'static str, Option<String>> {
        let programs =
            [("bantam", Some(&self.bantam)), ("qemu", self.qemu.as_ref()), ("fio", self.fio.as_ref())];
        programs.into_iter().filter_map(|(name, program)| Some((name, version(program?)))).collect()
    }
}

/// Everything that was measured.
#[derive(Serialize)]
struct Results {
    host: Fingerprint,
    versions: BTreeMap<&'static str, Option<String>>,
    image_mib: u64,
    file_system: String,
    rounds: usize,
    seconds: u64,
    disk: Vec<Comparison>,
    limits: Vec<limits::Limited>,
    /// Only with `--full`.
    verified: Vec<limits::Verified>,
    net: Vec<Comparison>,
    /// What did not take part, and why.
    absent: BTreeMap<&'static str, String>,
    targets: Vec<Target>,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    if !support::have_kvm() {
        return Ok(());
    }
    // First, as the load that it tells is then that of others.
    let host = Fingerprint::take();
    let mut programs = Programs::find()?;
    let effort = options.effort();
    report::print_host(&host);

    let (mut disk, mut limited, mut verified, mut net) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut file_system = String::new();
    if options.wants(Part::Disk) || options.wants(Part::Limits) {
        let image = Image::make(IMAGE_MIB)?;
        file_system = image.file_system();
        if options.wants(Part::Disk) {
            disk = disk::measure(&programs, &image, effort)?;
        }
        if options.wants(Part::Limits) {
            limited = limits::measure(&programs.bantam, &image, effort)?;
        }
    }
    if options.full {
        verified = limits::verify(&programs.bantam)?;
    }
    if options.wants(Part::Net) {
        match net::prepare() {
            Ok(()) => net = net::measure(&programs, effort)?,
            Err(reason) => {
                programs.absent.insert("net", format!("{reason:#}"));
            }
        }
    }

    let targets = report::targets(&disk, &limited, &verified, &net);
    let results = Results {
        host,
        versions: programs.versions(),
        image_mib: IMAGE_MIB,
        file_system,
        rounds: effort.rounds,
        seconds: effort.seconds,
        disk,
        limits: limited,
        verified,
        net,
        absent: programs.absent,
        targets,
    };
    report::print(&results);
    if options.save {
        results::save("throughput.json", &results)?;
    }
    Ok(())
}
