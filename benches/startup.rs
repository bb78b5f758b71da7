//! How long a machine takes from the start of its process to the guest's first byte and to the end,
//! and what its monitor takes of the host: Bantam beside the bare calls to KVM (`floor.c`) and
//! beside QEMU's `microvm`, in turns, so that a busy moment of the host meets all of them.
//!
//! ```text
//! cargo bench --bench startup -- [--quick] [--rounds N] [--save]
//! ```
//!
//! All start the same kind of machine: 256 MiB and one vCPU. Bantam and QEMU boot Bantam's embedded
//! guest. `BANTAM_BIN` names another `bantam` than the one that Cargo built for the benchmark.

mod support;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use std::{env, fs, thread};

use anyhow::{Context, bail, ensure};
use clap::Parser;
use serde::Serialize;

use support::host::Fingerprint;
use support::memory::{self, Overhead};
use support::process::{self, Run, Running};
use support::program::{self, version};
use support::results;
use support::stats::{Summary, median_ratio};

const MEMORY_MIB: u64 = 256;
/// The contenders in the order of the report.
const ORDER: [&str; 3] = ["floor", "bantam", "qemu"];
/// Rounds before those that count.
const WARM_UP: usize = 3;
/// QEMU takes part in one round of so many: it is slow, and the comparison is not close.
const QEMU_EVERY: usize = 3;
/// A guest that has used so much processor time spins.
const SPINNING: Duration = Duration::from_millis(300);

const TARGET_RATIO: f64 = 1.5;
const TARGET_PSS_KIB: f64 = 1536.0;
const TARGET_SIZE_MIB: f64 = 4.0;

#[derive(Debug, Parser)]
#[command(about = "Start-up and memory of Bantam beside the bare KVM calls and QEMU")]
struct Options {
    /// Ten rounds.
    #[arg(long)]
    quick: bool,
    /// Rounds.
    #[arg(long, value_name = "N", default_value_t = 30, conflicts_with = "quick")]
    rounds: usize,
    /// Write the figures to benches/results/startup.json.
    #[arg(long)]
    save: bool,
    /// Given by `cargo bench`; without it one round shows that everything works.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Options {
    fn rounds(&self) -> usize {
        match (self.bench, self.quick) {
            (false, _) => 1,
            (true, true) => 10,
            (true, false) => self.rounds,
        }
    }
}

/// A program that starts a machine.
struct Contender {
    name: &'static str,
    program: PathBuf,
    /// To boot, send a byte and power off.
    boot: Vec<OsString>,
    /// To boot and spin, where that can be asked for.
    spin: Option<Vec<OsString>>,
    /// Takes part in one round of so many.
    every: usize,
}

/// Everything that was measured.
#[derive(Serialize)]
struct Results {
    host: Fingerprint,
    memory_mib: u64,
    rounds: usize,
    contenders: BTreeMap<&'static str, Figures>,
    /// Contenders that did not take part, and why.
    absent: BTreeMap<&'static str, String>,
    bantam_file_bytes: u64,
    targets: Vec<Target>,
}

/// One contender's figures; times in milliseconds.
#[derive(Serialize)]
struct Figures {
    version: Option<String>,
    first_byte_ms: Option<Summary>,
    exit_ms: Option<Summary>,
    cpu_ms: Option<Summary>,
    /// Medians of the ratios in each round.
    first_byte_to_floor: Option<f64>,
    exit_to_floor: Option<f64>,
    system_calls: Option<u64>,
    overhead: Option<Overhead>,
}

/// A figure that Bantam wants to keep under a bound.
#[derive(Serialize)]
struct Target {
    what: &'static str,
    at_most: f64,
    is: Option<f64>,
    /// It is a time's, so a busy host spoils it.
    timing: bool,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    if !support::have_kvm() {
        return Ok(());
    }
    // First, as the load that it tells is then that of others.
    let host = Fingerprint::take();
    let mut absent = BTreeMap::new();
    let mut contenders = Vec::new();
    for (name, found) in ORDER.into_iter().zip([floor(), bantam(), qemu()]) {
        match found {
            Ok(contender) => contenders.push(contender),
            Err(reason) => {
                println!("{name}: not available: {reason:#}");
                absent.insert(name, format!("{reason:#}"));
            }
        }
    }
    let bantam = contenders.iter().find(|contender| contender.name == "bantam").context("no bantam")?;
    let bantam_file_bytes = fs::metadata(&bantam.program)?.len();

    let rounds = options.rounds();
    let runs = measure(&contenders, rounds)?;
    let mut figures = BTreeMap::new();
    for contender in &contenders {
        figures.insert(contender.name, figures_of(contender, &runs)?);
    }
    let targets = targets(figures.get("bantam"), bantam_file_bytes);
    let results = Results {
        host,
        memory_mib: MEMORY_MIB,
        rounds,
        contenders: figures,
        absent,
        bantam_file_bytes,
        targets,
    };
    print(&results);
    if options.save {
        results::save("startup.json", &results)?;
    }
    Ok(())
}

/// Compiles the bare calls.
fn floor() -> anyhow::Result<Contender> {
    let compiler = env::var_os("CC").unwrap_or_else(|| "cc".into());
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/floor.c");
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("floor");
    let status = Command::new(&compiler)
        .args(["-O2", "-o"])
        .args([&program, &source])
        .status()
        .with_context(|| format!("no C compiler ({})", compiler.display()))?;
    ensure!(status.success(), "{} cannot compile {}", compiler.display(), source.display());
    Ok(Contender { name: "floor", program, boot: Vec::new(), spin: None, every: 1 })
}

fn bantam() -> anyhow::Result<Contender> {
    let memory = format!("{MEMORY_MIB}M");
    let arguments = |more: &[&str]| ["run", "--memory", &memory].iter().chain(more).map(Into::into).collect();
    Ok(Contender {
        name: "bantam",
        program: program::bantam()?,
        boot: arguments(&["--cmdline", "boot"]),
        spin: Some(arguments(&["--console", "off", "--cmdline", "spin"])),
        every: 1,
    })
}

/// QEMU with the machine that is nearest, and as little else as it lets one leave out.
fn qemu() -> anyhow::Result<Contender> {
    let program = program::installed(program::QEMU)?;
    let memory = MEMORY_MIB.to_string();
    let arguments = |serial, job| {
        [
            ["-machine", "microvm,acpi=on,pit=off,pic=off,rtc=off,isa-serial=on,accel=kvm"],
            ["-cpu", "host"],
            ["-m", &memory],
            ["-kernel", program::GUEST],
            ["-append", job],
            ["-display", "none"],
            ["-serial", serial],
        ]
        .into_iter()
        .flatten()
        .chain(["-nodefaults", "-no-user-config", "-no-reboot"])
        .map(OsString::from)
        .collect()
    };
    Ok(Contender {
        name: "qemu",
        program,
        boot: arguments("stdio", "boot"),
        spin: Some(arguments("none", "spin")),
        every: QEMU_EVERY,
    })
}

/// The runs of each round by contender.
type Rounds = Vec<BTreeMap<&'static str, Run>>;

/// Runs the contenders in turns, forth and back, so that none has always the same one before it.
fn measure(contenders: &[Contender], rounds: usize) -> anyhow::Result<Rounds> {
    let mut runs = Rounds::new();
    for round in 0..WARM_UP + rounds {
        let counted = round.checked_sub(WARM_UP);
        let mut taking_part: Vec<_> =
            contenders.iter().filter(|contender| counted.is_none_or(|n| n % contender.every == 0)).collect();
        if round % 2 == 1 {
            taking_part.reverse();
        }
        let mut run = BTreeMap::new();
        for contender in taking_part {
            run.insert(
                contender.name,
                process::time(&mut process::command(&contender.program, &contender.boot))?,
            );
        }
        if counted.is_some() {
            runs.push(run);
        }
    }
    Ok(runs)
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn figures_of(contender: &Contender, rounds: &Rounds) -> anyhow::Result<Figures> {
    let series = |pick: fn(&Run) -> Duration| {
        Summary::of(rounds.iter().filter_map(|round| round.get(contender.name)).map(pick).map(milliseconds))
    };
    let to_floor = |pick: fn(&Run) -> Duration| {
        let pair =
            |round: &BTreeMap<_, _>| Some((pick(round.get(contender.name)?), pick(round.get("floor")?)));
        median_ratio(rounds.iter().filter_map(pair).map(|(a, b)| (milliseconds(a), milliseconds(b))))
    };
    Ok(Figures {
        version: (contender.name != "floor").then(|| version(&contender.program)).flatten(),
        first_byte_ms: series(|run| run.first_byte),
        exit_ms: series(|run| run.end),
        cpu_ms: series(|run| run.cpu),
        first_byte_to_floor: to_floor(|run| run.first_byte),
        exit_to_floor: to_floor(|run| run.end),
        system_calls: process::system_calls(&contender.program, &contender.boot),
        overhead: contender.spin.as_ref().map(|spin| overhead(&contender.program, spin)).transpose()?,
    })
}

/// What a monitor takes while its guest spins.
fn overhead(program: &Path, spin: &[OsString]) -> anyhow::Result<Overhead> {
    let mut running = Running::start(&mut process::command(program, spin))?;
    while running.cpu_time()? < SPINNING {
        if running.has_ended()? {
            bail!("{} ends although its guest should spin", program.display());
        }
        thread::sleep(Duration::from_millis(20));
    }
    let overhead = memory::overhead(running.id(), MEMORY_MIB << 20)?;
    running.terminate()?;
    Ok(overhead)
}

#[allow(clippy::cast_precision_loss, reason = "sizes are shown to three digits")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn targets(bantam: Option<&Figures>, file_bytes: u64) -> Vec<Target> {
    let pss_kib = bantam.and_then(|figures| figures.overhead.as_ref()).map(|overhead| overhead.pss_kib << 10);
    [
        ("first byte / floor", TARGET_RATIO, bantam.and_then(|figures| figures.first_byte_to_floor), true),
        ("exec to exit / floor", TARGET_RATIO, bantam.and_then(|figures| figures.exit_to_floor), true),
        ("PSS beside guest memory, KiB", TARGET_PSS_KIB, pss_kib.map(|bytes| mib(bytes) * 1024.0), false),
        ("size of the file, MiB", TARGET_SIZE_MIB, Some(mib(file_bytes)), false),
    ]
    .into_iter()
    .map(|(what, at_most, is, timing)| Target { what, at_most, is, timing })
    .collect()
}

fn print(results: &Results) {
    let Fingerprint { date, commit, cpu, cores, kernel, kvm, load } = &results.host;
    println!("{date}, commit {commit}\n{cpu}, {cores} cores, Linux {kernel}, {}", kvm.join(" "));
    let busy = results.host.is_busy();
    if busy {
        println!("This host is busy (load {load}): look at the minima, and measure again when it is quiet.");
    }
    let in_order: Vec<_> = ORDER
        .iter()
        .filter_map(|name| results.contenders.get_key_value(name))
        .map(|(n, f)| (*n, f))
        .collect();
    print_times(&in_order);
    println!();
    for (name, figures) in in_order {
        if let Some(calls) = figures.system_calls {
            println!("{name:<8} {calls} system calls");
        }
        if let Some(Overhead { pss_kib, anonymous_kib, guest_kib, threads }) = &figures.overhead {
            println!(
                "{name:<8} PSS {pss_kib} KiB beside guest memory, {anonymous_kib} KiB of it anonymous; \
                 guest {guest_kib} KiB; {} threads: {}",
                threads.len(),
                threads.join(" ")
            );
        }
    }
    println!();
    for Target { what, at_most, is, timing } in &results.targets {
        let verdict = match is {
            Some(is) if *timing && busy => format!("{is:.2}: no verdict, the host is busy"),
            Some(is) => format!("{is:.2}: {}", if is <= at_most { "met" } else { "missed" }),
            None => "not measured".to_owned(),
        };
        println!("target {what} <= {at_most}: {verdict}");
    }
}

/// The table of times. Beside the median of the rounds' ratios stands that of the minima, which a
/// busy host disturbs least.
fn print_times(contenders: &[(&str, &Figures)]) {
    println!(
        "\n{:<22} {:>5} {:>9} {:>9} {:>9} {:>9} {:>8} {:>8}",
        "ms", "runs", "min", "p25", "p50", "p90", "x floor", "min/min"
    );
    type Series = fn(&Figures) -> (Option<Summary>, Option<f64>);
    let series: [(&str, Series); 3] = [
        ("first byte", |figures| (figures.first_byte_ms, figures.first_byte_to_floor)),
        ("exit", |figures| (figures.exit_ms, figures.exit_to_floor)),
        ("CPU time", |figures| (figures.cpu_ms, None)),
    ];
    let floor = contenders.iter().find(|(name, _)| *name == "floor").map(|(_, figures)| figures);
    let cell = |ratio: Option<f64>| ratio.map_or(String::new(), |ratio| format!("{ratio:.2}"));
    for (name, figures) in contenders {
        for (what, pick) in series {
            let (Some(Summary { samples, min, p25, p50, p90, .. }), ratio) = pick(figures) else { continue };
            let of_minima = floor.and_then(|floor| pick(floor).0).map(|floor| min / floor.min);
            let (label, ratio, of_minima) = (format!("{name:<8} {what}"), cell(ratio), cell(of_minima));
            println!(
                "{label:<22} {samples:>5} {min:>9.3} {p25:>9.3} {p50:>9.3} {p90:>9.3} {ratio:>8} {of_minima:>8}"
            );
        }
    }
}
