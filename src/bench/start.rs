//! `start`: from the start of a VMM's process to the guest's first byte, and to its end.

use anyhow::Context;
use serde_json::Value;

use super::peers::{Guest, Vmm};
use super::results::{Case, Figure, Unit};
use super::rounds::{Contest, Sample};
use super::{BANTAM, FLOOR, Progress, Setup, hold, nanoseconds, process};
use crate::timeline::Phase;

const MEMORY_MIB: u64 = 256;
const WARM_UP: usize = 3;
/// A peer takes part in one round of so many: they are slow, and the comparison is not close.
const PEERS_EVERY: usize = 3;

const EXIT: &str = "start/exit";
const FIRST_BYTE: &str = "start/first-byte";
const TEAR_DOWN: &str = "start/tear-down";
const CPU: &str = "start/cpu";

/// The phases of Bantam's own timeline that make up the time to the first byte; others do not tell theirs.
const PHASES: [(Phase, &str, &str); 6] = [
    (Phase::KvmOpened, "start/phase-open", "process started, /dev/kvm opened"),
    (Phase::MemoryMapped, "start/phase-memory", "memory mapped, machine made"),
    (Phase::KernelLoaded, "start/phase-load", "kernel and tables loaded"),
    (Phase::VcpusCreated, "start/phase-vcpus", "vCPUs made"),
    (Phase::FirstRun, "start/phase-entry", "threads started, guest entered: its first instruction"),
    (Phase::FirstConsoleByte, "start/phase-guest", "the guest's first byte"),
];

pub(super) fn measure(setup: &Setup, progress: Progress<'_>) -> anyhow::Result<Vec<Case>> {
    let mut cases = from_outside(setup, progress)?;
    cases.extend(from_inside(setup, progress)?);
    Ok(cases)
}

/// What can be seen of every VMM.
fn from_outside(setup: &Setup, progress: Progress<'_>) -> anyhow::Result<Vec<Case>> {
    let figures = vec![
        Figure::lower(EXIT, "exec to exit", Unit::Nanoseconds),
        Figure::lower(FIRST_BYTE, "exec to the guest's first byte", Unit::Nanoseconds).part_of(EXIT),
        Figure::lower(
            TEAR_DOWN,
            "the guest's byte, its power-off, to the end of the process",
            Unit::Nanoseconds,
        )
        .part_of(EXIT),
        Figure::lower(CPU, "processor time from exec to exit", Unit::Nanoseconds),
    ];
    let mut contest = Contest::new(figures, WARM_UP, setup.rounds(15, 60));
    for vmm in &setup.vmms {
        let every = if [FLOOR, BANTAM].contains(&vmm.name.as_str()) { 1 } else { PEERS_EVERY };
        contest.add_every(every, &vmm.name, || once(setup, vmm, &setup.guest(MEMORY_MIB, "boot")));
    }
    hold(contest, "start", progress)
}

/// One run of the guest in a VMM.
fn once(setup: &Setup, vmm: &Vmm, guest: &Guest<'_>) -> anyhow::Result<Sample> {
    let run = setup.start(vmm, guest, |mut command| process::time(&mut command))?;
    Ok(vec![
        (EXIT.to_owned(), nanoseconds(run.end)),
        (FIRST_BYTE.to_owned(), nanoseconds(run.first_byte)),
        (TEAR_DOWN.to_owned(), nanoseconds(run.end.saturating_sub(run.first_byte))),
        (CPU.to_owned(), nanoseconds(run.cpu)),
    ])
}

/// What Bantam tells of the way to the first byte.
fn from_inside(setup: &Setup, progress: Progress<'_>) -> anyhow::Result<Vec<Case>> {
    let figure = |(_, id, title)| Figure::lower(id, title, Unit::Nanoseconds).part_of(FIRST_BYTE);
    let mut contest = Contest::new(PHASES.map(figure).into(), WARM_UP, setup.rounds(10, 40));
    let bantam = setup.vmm(BANTAM).context("Bantam is always there")?;
    contest.add(BANTAM, || {
        let guest = setup.guest(MEMORY_MIB, "boot");
        let output = setup.start(bantam, &guest, |mut command| {
            Ok(command.arg("--json").stdin(std::process::Stdio::null()).output()?)
        })?;
        phases(&String::from_utf8_lossy(&output.stderr))
    });
    for vmm in setup.vmms.iter().filter(|vmm| vmm.name != BANTAM) {
        contest.lacks(&vmm.name, "it does not tell when it reaches its phases");
    }
    hold(contest, "start, by phase", progress)
}

/// The time from each phase to the next, from Bantam's report in JSON.
fn phases(report: &str) -> anyhow::Result<Sample> {
    let said = || format!("bantam says {report:?}");
    let line = report.lines().rfind(|line| line.starts_with('{')).with_context(said)?;
    let report: Value = serde_json::from_str(line).with_context(said)?;
    let mut before = 0.0;
    let mut sample = Sample::new();
    for (phase, id, _) in PHASES {
        let key = phase.name().to_lowercase().replace([' ', '-'], "_");
        let at = report.pointer(&format!("/timings_ms/{key}")).and_then(Value::as_f64);
        let at = at.with_context(|| format!("no {key} in {report}"))? * 1e6;
        sample.push((id.to_owned(), at - before));
        before = at;
    }
    Ok(sample)
}
