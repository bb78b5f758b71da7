//! `fork`: many copies of one snapshot.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use kvm_ioctls::Kvm;

use super::process::{self, Running, count};
use super::restore::floor::Saved;
use super::results::{Case, Figure, Unit};
use super::rounds::{Contest, Sample};
use super::{BANTAM, FLOOR, Progress, Setup, footprint, hold, inside, nanoseconds};
use crate::machine::RunningMachine;
use crate::snapshot::{Restoring, Snapshot};
use crate::timeline::{Phase, Timeline};

const COPIES: u32 = 100;
const MEMORY_MIB: u64 = 256;
const WARM_UP: usize = 1;

const RUNNING: &str = "fork/running@100";
const TOLD: &str = "fork/told@100";
const EACH: &str = "fork/pss-each@100";

/// A guest that prints this at its start, and again when it is a copy.
const IDENTITY: &str = "identity generation=";

pub(super) fn measure(setup: &Setup, progress: Progress<'_>) -> anyhow::Result<Vec<Case>> {
    let mut cases = in_one_process(setup, progress)?;
    cases.extend(as_a_command(setup, progress)?);
    Ok(cases)
}

/// By the library.
fn in_one_process(setup: &Setup, progress: Progress<'_>) -> anyhow::Result<Vec<Case>> {
    let title = "opening a snapshot of 256 MiB until 100 copies of its guest run (the floor: can run)";
    let figure = Figure::lower(RUNNING, title, Unit::Nanoseconds);
    let path = setup.folder().join("fork");
    // A guest that waits for its console: what it does itself is not what copies cost.
    inside::save(&path, inside::config(MEMORY_MIB, "dirty=64K"), "dirty ready")?;
    let (kvm, saved) = (Kvm::new()?, Saved::read(&path)?);
    let mut contest = Contest::new(vec![figure], WARM_UP, setup.rounds(3, 10));
    contest.add(FLOOR, || {
        let start = Instant::now();
        let machines: Vec<_> = (0..COPIES).map(|_| saved.restore(&kvm)).collect::<Result<_, _>>()?;
        let took = start.elapsed();
        drop(machines);
        Ok(vec![(RUNNING.to_owned(), nanoseconds(took))])
    });
    contest.add(BANTAM, || Ok(vec![(RUNNING.to_owned(), nanoseconds(run(&path)?))]));
    for vmm in setup.peers() {
        contest.lacks(&vmm.name, vmm.why_only_restore());
    }
    hold(contest, "fork", progress)
}

/// How long until the last copy's guest is entered.
fn run(path: &Path) -> anyhow::Result<Duration> {
    let mut timelines = Vec::new();
    let start = Instant::now();
    let machines =
        Snapshot::open(path)?.fork(usize::try_from(COPIES)?, &Restoring::default(), |_, builder| {
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
    drop(running);
    Ok(last - start)
}

/// By `bantam fork`.
fn as_a_command(setup: &Setup, progress: Progress<'_>) -> anyhow::Result<Vec<Case>> {
    let figures = vec![
        Figure::lower(
            TOLD,
            "exec of bantam fork until 100 guests have told that they are copies",
            Unit::Nanoseconds,
        ),
        Figure::lower(
            EACH,
            "memory for each copy then (PSS of the process, guests and program and all, by 100)",
            Unit::Bytes,
        ),
    ];
    let path = setup.folder().join("fork-command");
    inside::save(&path, inside::config(MEMORY_MIB, "identity"), IDENTITY)?;
    let bantam = footprint::apart(setup)?.into_iter().find(|vmm| vmm.name == BANTAM);
    let bantam = bantam.context("Bantam is always there")?;
    let arguments = ["fork".into(), path.into(), "--count".into(), COPIES.to_string().into()];
    let mut contest = Contest::new(figures, 0, setup.rounds(2, 5));
    contest.add(BANTAM, || told(&bantam.program, &arguments));
    contest.lacks(FLOOR, "the bare calls have no generation id, by which a guest learns that it is a copy");
    for vmm in setup.peers() {
        contest.lacks(&vmm.name, vmm.why_only_restore());
    }
    hold(contest, "fork, as a command", progress)
}

fn told(program: &Path, arguments: &[std::ffi::OsString]) -> anyhow::Result<Sample> {
    let copies = usize::try_from(COPIES)?;
    let all = |printed: &[u8]| count(printed, IDENTITY) >= copies;
    let (running, took) = Running::start_until(&mut process::command(program, arguments), all)?;
    let each = footprint::pss(running.id())? / f64::from(COPIES);
    Ok(vec![(TOLD.to_owned(), nanoseconds(took)), (EACH.to_owned(), each)])
}
