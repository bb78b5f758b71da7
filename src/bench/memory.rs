//! `memory`: what a VMM takes of the host's memory beside its guest's, and what each of many machines takes.

use std::time::Duration;

use anyhow::Context;

use super::peers::{Guest, Vmm};
use super::process::Running;
use super::results::{Case, Figure, Unit};
use super::rounds::{Contest, Sample};
use super::{BANTAM, FLOOR, Progress, Setup, footprint, hold, idle};

const MEMORY_MIB: u64 = 256;
/// A guest that has used so much processor time spins, and its VMM has nothing to do.
const SPINNING: Duration = Duration::from_millis(300);
/// Machines at a time.
const COUNTS: [u32; 3] = [1, 10, 100];

const PSS: &str = "memory/pss";
const ANONYMOUS: &str = "memory/anonymous";
const THREADS: &str = "memory/threads";
const PROGRAM: &str = "memory/program";
const FILES: &str = "memory/program-and-libraries";

pub(super) fn measure(setup: &Setup, progress: Progress<'_>) -> anyhow::Result<Vec<Case>> {
    let vmms = footprint::apart(setup)?;
    let mut cases = of_one(setup, &vmms, progress)?;
    cases.extend(of_many(setup, &vmms, progress)?);
    Ok(cases)
}

/// A machine whose guest spins.
fn of_one(setup: &Setup, vmms: &[Vmm], progress: Progress<'_>) -> anyhow::Result<Vec<Case>> {
    let figures = vec![
        Figure::lower(PSS, "memory of a VMM's process beside its guest's (PSS)", Unit::Bytes),
        Figure::lower(ANONYMOUS, "of it, what no file backs: heap, stacks, changed data", Unit::Bytes)
            .part_of(PSS),
        Figure::lower(
            THREADS,
            "threads of a process with one vCPU and no devices, with those that KVM adds",
            Unit::Count,
        ),
        Figure::lower(PROGRAM, "size of the program's file", Unit::Bytes),
        Figure::lower(
            FILES,
            "size of the program's file and the shared libraries that it loads",
            Unit::Bytes,
        ),
    ];
    let mut contest = Contest::new(figures, 0, setup.rounds(3, 8));
    for vmm in vmms {
        contest.add(&vmm.name, || once(setup, vmm));
    }
    for figure in [PROGRAM, FILES] {
        contest.gap(FLOOR, figure, "the bare calls are a part of Bantam's program");
    }
    hold(contest, "memory", progress)
}

#[allow(clippy::cast_precision_loss, reason = "far from 2^52 bytes")]
fn once(setup: &Setup, vmm: &Vmm) -> anyhow::Result<Sample> {
    let guest = Guest { console: false, ..setup.guest(MEMORY_MIB, "spin") };
    let seen = setup.start(vmm, &guest, |mut command| {
        let mut running = Running::start(&mut command)?;
        running.work_for(SPINNING)?;
        let overhead = footprint::overhead(running.id(), MEMORY_MIB << 20)?;
        Ok((overhead, footprint::threads(running.id())?, footprint::files(running.id())?))
    })?;
    let (overhead, threads, files) = seen;
    let mut sample = vec![
        (PSS.to_owned(), overhead.pss as f64),
        (ANONYMOUS.to_owned(), overhead.anonymous as f64),
        (THREADS.to_owned(), threads as f64),
    ];
    if vmm.name != FLOOR {
        let program = std::fs::metadata(&vmm.program)?.len();
        sample.extend([(PROGRAM.to_owned(), program as f64), (FILES.to_owned(), files as f64)]);
    }
    Ok(sample)
}

/// Many machines, idle: what they share divides among them.
fn of_many(setup: &Setup, vmms: &[Vmm], progress: Progress<'_>) -> anyhow::Result<Vec<Case>> {
    let id = |count: u32| format!("memory/each@{count}");
    let figure = |count: u32| {
        let title = format!("PSS for each machine, with what its guest of 256 MiB has touched: {count} idle");
        Figure::lower(id(count), title, Unit::Bytes).on("memory/each", "machines", count.into())
    };
    let sample = |costs: Vec<idle::Cost>| costs.iter().map(|cost| (id(cost.count), cost.each())).collect();
    let mut contest = Contest::new(COUNTS.map(figure).into(), 0, setup.rounds(2, 5));
    // A VMM that takes long to start is not asked for a hundred.
    let peers_most = setup.effort.pick(1, 10);
    for vmm in vmms {
        let most = if vmm.is_peer() { peers_most } else { u32::MAX };
        let (counts, beyond): (Vec<_>, Vec<_>) = COUNTS.into_iter().partition(|count| *count <= most);
        for count in beyond {
            contest.gap(
                &vmm.name,
                id(count),
                format!("left out: as it may take long to start, it is asked for {most} at the most"),
            );
        }
        contest.add(&vmm.name, move || Ok(sample(idle::processes(setup, vmm, MEMORY_MIB, &counts)?)));
    }
    let bantam = vmms.iter().find(|vmm| vmm.name == BANTAM).context("Bantam is always there")?;
    contest.add(idle::LIBRARY, || Ok(sample(idle::together(&bantam.program, MEMORY_MIB, &COUNTS)?)));
    hold(contest, "memory of many", progress)
}
