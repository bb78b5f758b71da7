//! Snapshots: how long a machine takes to come back, beside the bare calls that bring the same state back; what
//! many copies cost; how long a machine stands still for a diff; what prefetching saves.
//!
//! ```text
//! cargo bench --bench snapshot -- [--quick] [--rounds N] [--save]
//! ```
//!
//! All machines run the embedded guest on one vCPU. A machine is back with its first exit to the serial port.

mod floor;
#[path = "../support/mod.rs"]
mod support;

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bantam::config::{Console, MachineConfig, Size};
use bantam::hypervisor::{ClockState, Hypervisor, VcpuState};
use bantam::machine::{Builder, RunningMachine};
use bantam::snapshot::{Options as Saving, Restoring, Snapshot, Taken};
use bantam::timeline::{Phase, Timeline, milliseconds};
use clap::Parser;
use kvm_ioctls::Kvm;
use serde::Serialize;

use support::host::Fingerprint;
use support::results;
use support::stats::{Summary, median_ratio};

/// The sizes at which a restore is measured; the first is the one that is compared with the target.
const SIZES: [Size; 4] = [Size::mib(256), Size::mib(16), Size::gib(1), Size::gib(8)];
const COPIES: usize = 100;
const PATIENCE: Duration = Duration::from_secs(60);
/// The working set of the prefetching.
const WORKING_SET: &str = "working-set=64M spread=8";

#[derive(Debug, Parser)]
#[command(about = "Snapshots: restore, fork, diff, prefetch")]
struct Options {
    /// Five rounds.
    #[arg(long)]
    quick: bool,
    /// Rounds.
    #[arg(long, value_name = "N", default_value_t = 40, conflicts_with = "quick")]
    rounds: usize,
    /// Write the figures to benches/results/snapshot.json.
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
            (true, true) => 5,
            (true, false) => self.rounds,
        }
    }
}

#[derive(Serialize)]
struct Results {
    host: Fingerprint,
    rounds: usize,
    /// From opening the snapshot to the guest's first exit.
    restore: Vec<Restore>,
    fork: Fork,
    diff: Diff,
    prefetch: Prefetch,
}

/// Times in milliseconds.
#[derive(Serialize)]
struct Restore {
    memory_mib: u64,
    bantam_ms: Summary,
    floor_ms: Summary,
    /// The median of the ratios in each round.
    to_floor: f64,
}

#[derive(Serialize)]
struct Fork {
    copies: usize,
    /// From opening the snapshot until every guest has been entered.
    ms: Summary,
    /// What each copy adds to the process (PSS).
    kib_each: Summary,
}

#[derive(Serialize)]
struct Diff {
    memory_mib: u64,
    dirty_mib: u64,
    pause_ms: Summary,
    written_mib: Summary,
}

#[derive(Serialize)]
struct Prefetch {
    working_set_mib: f64,
    /// Until the guest has touched all of it, from a cold page cache.
    lazy_ms: Summary,
    prefetched_ms: Summary,
    /// The median of the ratios in each round.
    speed_up: f64,
}

/// A console that hands on what comes.
struct Lines {
    line: Vec<u8>,
    to: Sender<String>,
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for byte in bytes {
            match byte {
                b'\n' => {
                    let line = std::mem::take(&mut self.line);
                    // Nobody may listen any more.
                    let _ = self.to.send(String::from_utf8_lossy(&line).trim_end().to_owned());
                }
                byte => self.line.push(*byte),
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn lines() -> (Lines, Receiver<String>) {
    let (to, from) = channel();
    (Lines { line: Vec::new(), to }, from)
}

/// Waits for a line that begins so.
fn line(from: &Receiver<String>, start: &str) -> anyhow::Result<String> {
    loop {
        let line = from.recv_timeout(PATIENCE).with_context(|| format!("no line '{start}'"))?;
        if line.starts_with(start) {
            return Ok(line);
        }
    }
}

fn config(memory: Size, words: &str) -> MachineConfig {
    MachineConfig { memory, cmdline: words.to_owned(), console: Console::Off, ..MachineConfig::default() }
}

fn quiet(_: u64, _: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// A snapshot of a machine that has said a line with this beginning.
fn snapshot(path: &Path, config: MachineConfig, start: &str) -> anyhow::Result<()> {
    let (console, said) = lines();
    let machine = Builder::new(config).console_output(console).build()?.resume()?;
    line(&said, start)?;
    let mut machine = machine.pause().map_err(|outcome| anyhow::anyhow!("{}", outcome.reason))?;
    Taken::take(&mut machine, path, &Saving::default(), &mut quiet)?.finish(&mut quiet)?;
    Ok(())
}

/// How long until the guest's first byte; the machine is gone then.
fn bantam(kvm: &Hypervisor, path: &Path) -> anyhow::Result<Duration> {
    let timeline = Arc::new(Timeline::default());
    let (console, said) = lines();
    let start = Instant::now();
    let snapshot = Snapshot::open(path)?;
    let builder = snapshot.builder(snapshot.config(), Restoring::default())?;
    let builder = builder.hypervisor(kvm.clone()).timeline(Arc::clone(&timeline)).console_output(console);
    let machine = builder.build()?.resume()?;
    line(&said, "")?;
    let first = timeline.get(Phase::FirstConsoleByte).context("no byte")?;
    drop(machine);
    Ok(first - start)
}

fn measure_restore(folder: &Path, memory: Size, rounds: usize) -> anyhow::Result<Restore> {
    let path = folder.join(format!("restore-{}", memory.bytes()));
    snapshot(&path, config(memory, "flood"), "flood 3")?;
    let (hypervisor, kvm) = (Hypervisor::open()?, Kvm::new()?);
    let opened = Snapshot::open(&path)?;
    let state: VcpuState = opened.folder().state().get("vcpu0")?;
    let clock: ClockState = opened.folder().state().get("machine")?;
    let len = usize::try_from(memory.bytes())?;
    let mut pairs = Vec::new();
    for round in 0..rounds + 2 {
        let bantam = bantam(&hypervisor, &path)?;
        let floor = floor::restore(&kvm, &state, clock.nanoseconds, opened.folder().memory()?, len)?;
        // The first rounds warm up.
        if round >= 2 {
            pairs.push((milliseconds(bantam), milliseconds(floor.took)));
        }
    }
    std::fs::remove_dir_all(&path)?;
    Ok(Restore {
        memory_mib: memory.bytes() >> 20,
        bantam_ms: Summary::of(pairs.iter().map(|pair| pair.0)).context("no rounds")?,
        floor_ms: Summary::of(pairs.iter().map(|pair| pair.1)).context("no rounds")?,
        to_floor: median_ratio(pairs.iter().copied()).context("no rounds")?,
    })
}

/// The process's share of the host's memory, in KiB.
fn pss() -> anyhow::Result<f64> {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup")?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

fn measure_fork(folder: &Path, rounds: usize) -> anyhow::Result<Fork> {
    let path = folder.join("fork");
    // A guest that waits for its console: what it does itself is not what copies cost.
    snapshot(&path, config(Size::mib(256), "dirty=64K"), "dirty ready")?;
    let (mut times, mut sizes) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let before = pss()?;
        let mut timelines = Vec::new();
        let start = Instant::now();
        let machines = Snapshot::open(&path)?.fork(COPIES, &Restoring::default(), |_, builder| {
            let timeline = Arc::new(Timeline::default());
            timelines.push(Arc::clone(&timeline));
            builder.timeline(timeline)
        })?;
        let running: Vec<RunningMachine> =
            machines.into_iter().map(|machine| machine.resume()).collect::<Result<_, _>>()?;
        let entered = |timeline: &Arc<Timeline>| timeline.get(Phase::FirstRun);
        let last = loop {
            match timelines.iter().map(entered).collect::<Option<Vec<_>>>() {
                Some(instants) => break instants.into_iter().max().context("no machines")?,
                None => std::thread::yield_now(),
            }
        };
        times.push(milliseconds(last - start));
        // Until each has touched what it needs to wait again.
        std::thread::sleep(Duration::from_millis(500));
        #[allow(clippy::cast_precision_loss, reason = "a small number")]
        sizes.push((pss()? - before) / COPIES as f64);
        drop(running);
    }
    Ok(Fork {
        copies: COPIES,
        ms: Summary::of(times).context("no rounds")?,
        kib_each: Summary::of(sizes).context("no rounds")?,
    })
}

/// A machine whose guest changes 16 MiB on each byte, between two snapshots.
fn measure_diff(folder: &Path, rounds: usize) -> anyhow::Result<Diff> {
    let memory = Size::gib(1);
    let (keyboard, mut keys) = io::pipe()?;
    let (console, said) = lines();
    let builder = Builder::new(config(memory, "dirty=16M")).console_input(keyboard).console_output(console);
    let mut machine = builder.build()?.resume()?;
    line(&said, "dirty ready")?;
    let mut paused = machine.pause().map_err(|outcome| anyhow::anyhow!("{}", outcome.reason))?;
    let mut base = folder.join("diff-base");
    let saving = Saving { base: None, track: true };
    Taken::take(&mut paused, &base, &saving, &mut quiet)?.finish(&mut quiet)?;
    machine = paused.resume()?;
    let (mut pauses, mut written) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        keys.write_all(b"x")?;
        line(&said, "dirty pages")?;
        let path = folder.join(format!("diff-{round}"));
        let saving = Saving { base: Some(base.clone()), track: true };
        let start = Instant::now();
        let mut paused = machine.pause().map_err(|outcome| anyhow::anyhow!("{}", outcome.reason))?;
        let taken = Taken::take(&mut paused, &path, &saving, &mut quiet)?;
        machine = paused.resume()?;
        pauses.push(milliseconds(start.elapsed()));
        let saved = taken.finish(&mut quiet)?;
        #[allow(clippy::cast_precision_loss, reason = "a small number")]
        written.push(saved.memory_bytes as f64 / f64::from(1 << 20));
        base = path;
    }
    drop(machine);
    Ok(Diff {
        memory_mib: memory.bytes() >> 20,
        dirty_mib: 16,
        pause_ms: Summary::of(pauses).context("no rounds")?,
        written_mib: Summary::of(written).context("no rounds")?,
    })
}

/// How long a restored guest takes for its working set, from a cold page cache.
fn touch(snapshot: &Snapshot, how: Restoring) -> anyhow::Result<(f64, RunningMachine)> {
    rustix::fs::fadvise(snapshot.folder().memory()?, 0, None, rustix::fs::Advice::DontNeed)?;
    let (keyboard, mut keys) = io::pipe()?;
    let (console, said) = lines();
    let start = Instant::now();
    let builder = snapshot.builder(snapshot.config(), how)?;
    let machine = builder.console_input(keyboard).console_output(console).build()?.resume()?;
    keys.write_all(b"x")?;
    let report = line(&said, "working-set pages")?;
    let took = milliseconds(start.elapsed());
    ensure!(report.contains("wrong=0"), "{report}");
    Ok((took, machine))
}

fn measure_prefetch(folder: &Path, rounds: usize) -> anyhow::Result<Prefetch> {
    let path: PathBuf = folder.join("prefetch");
    snapshot(&path, config(Size::gib(1), WORKING_SET), "working-set ready")?;
    let snapshot = Snapshot::open(&path)?;
    let (_, machine) = touch(&snapshot, Restoring { record: true, ..Restoring::default() })?;
    let set = snapshot.record(&machine)?;
    drop(machine);
    let mut pairs = Vec::new();
    for _ in 0..rounds {
        let (lazy, machine) = touch(&snapshot, Restoring::default())?;
        drop(machine);
        let (prefetched, machine) = touch(
            &snapshot,
            Restoring { prefetch: snapshot.working_set()?.map(Arc::new), ..Restoring::default() },
        )?;
        drop(machine);
        pairs.push((lazy, prefetched));
    }
    #[allow(clippy::cast_precision_loss, reason = "a small number")]
    let working_set_mib = set.bytes() as f64 / f64::from(1 << 20);
    Ok(Prefetch {
        working_set_mib,
        lazy_ms: Summary::of(pairs.iter().map(|pair| pair.0)).context("no rounds")?,
        prefetched_ms: Summary::of(pairs.iter().map(|pair| pair.1)).context("no rounds")?,
        speed_up: median_ratio(pairs.iter().copied()).context("no rounds")?,
    })
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    if !support::have_kvm() {
        return Ok(());
    }
    // First, as the load that it tells is then that of others.
    let host = Fingerprint::take();
    let rounds = options.rounds();
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let few = rounds.div_ceil(4);
    let mut restore = Vec::new();
    for size in SIZES {
        let figures = measure_restore(folder.path(), size, rounds)?;
        let Restore { memory_mib, bantam_ms, floor_ms, to_floor } = &figures;
        println!(
            "restore {memory_mib:>5} MiB: {:.2} ms, the bare calls {:.2} ms: {to_floor:.2}",
            bantam_ms.p50, floor_ms.p50
        );
        restore.push(figures);
    }
    let fork = measure_fork(folder.path(), few)?;
    println!("{} copies run after {:.0} ms, with {:.0} KiB each", COPIES, fork.ms.p50, fork.kib_each.p50);
    let diff = measure_diff(folder.path(), few)?;
    println!(
        "a diff of 16 MiB in 1 GiB stops the guest for {:.1} ms and writes {:.1} MiB",
        diff.pause_ms.p50, diff.written_mib.p50
    );
    let prefetch = measure_prefetch(folder.path(), few)?;
    println!(
        "a cold working set of {:.0} MiB: {:.0} ms, prefetched {:.0} ms: {:.1} times as fast",
        prefetch.working_set_mib, prefetch.lazy_ms.p50, prefetch.prefetched_ms.p50, prefetch.speed_up
    );
    if options.save {
        results::save("snapshot.json", &Results { host, rounds, restore, fork, diff, prefetch })?;
    }
    Ok(())
}
