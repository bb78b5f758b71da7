//! `restore`: from opening a snapshot to the guest's first byte; how long a machine stands still for a diff; what
//! prefetching saves.
//!
//! A restored guest's first instruction shows by its first byte: the guest that is saved prints without end.

mod diff;
pub(super) mod floor;
mod process;
mod working_set;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use kvm_ioctls::Kvm;

use self::floor::Saved;
use super::results::{Case, Figure, Unit};
use super::rounds::Contest;
use super::{BANTAM, FLOOR, Progress, Setup, hold, inside, nanoseconds};
use crate::hypervisor::Hypervisor;
use crate::machine::Builder;
use crate::snapshot::{Restoring, Snapshot};
use crate::timeline::{Phase, Timeline};

/// MiB of the machines' memory.
const SIZES: [u32; 4] = [16, 256, 1024, 8192];
/// The largest of them with `--quick`.
const LARGEST_QUICK: u32 = 1024;
const WARM_UP: usize = 2;

/// A guest that prints without end, and what it prints when it has come up.
const WORDS: &str = "flood";
const UP: &str = "flood 3";

pub(super) fn measure(setup: &Setup, progress: Progress<'_>) -> anyhow::Result<Vec<Case>> {
    let mut cases = Vec::new();
    let largest = setup.effort.pick(LARGEST_QUICK, u32::MAX);
    for memory_mib in SIZES.into_iter().filter(|memory_mib| *memory_mib <= largest) {
        cases.extend(first_instruction(setup, memory_mib, progress)?);
    }
    cases.extend(process::measure(setup, progress)?);
    cases.extend(diff::measure(setup, progress)?);
    cases.extend(working_set::measure(setup, progress)?);
    Ok(cases)
}

/// In one process, without the cost of making one.
fn first_instruction(setup: &Setup, memory_mib: u32, progress: Progress<'_>) -> anyhow::Result<Vec<Case>> {
    let size = size(memory_mib);
    let id = format!("restore/first-instruction@{}", size.replace(' ', ""));
    let path = setup.folder().join("restore");
    inside::save(&path, inside::config(memory_mib.into(), WORDS), UP)?;
    let (hypervisor, kvm, saved) = (Hypervisor::open()?, Kvm::new()?, Saved::read(&path)?);

    let title = format!("opening a snapshot of {size} to its guest's first byte, in a process that is there");
    let figure = Figure::lower(&id, title, Unit::Nanoseconds).on(
        "restore/first-instruction",
        "guest memory, MiB",
        memory_mib.into(),
    );
    let mut contest = Contest::new(vec![figure], WARM_UP, setup.rounds(15, 40));
    let sample = |took| Ok(vec![(id.clone(), nanoseconds(took))]);
    contest.add(FLOOR, || {
        let start = Instant::now();
        let mut machine = saved.restore(&kvm)?;
        machine.run_to_byte()?;
        sample(start.elapsed())
    });
    contest.add(BANTAM, || sample(bantam(&hypervisor, &path)?));
    for vmm in setup.peers() {
        contest.lacks(&vmm.name, vmm.why_only_restore());
    }
    let cases = hold(contest, &format!("restore, {size}"), progress)?;
    std::fs::remove_dir_all(&path)?;
    Ok(cases)
}

/// How long until the guest's first byte; the machine is gone then.
fn bantam(hypervisor: &Hypervisor, path: &Path) -> anyhow::Result<Duration> {
    let timeline = Arc::new(Timeline::default());
    let (console, mut said) = inside::console();
    let start = Instant::now();
    let snapshot = Snapshot::open(path)?;
    let builder: Builder = snapshot.builder(snapshot.config(), Restoring::default())?;
    let builder =
        builder.hypervisor(hypervisor.clone()).timeline(Arc::clone(&timeline)).console_output(console);
    let machine = builder.build()?.resume()?;
    said.line("")?;
    let first = timeline.get(Phase::FirstConsoleByte).context("a line without a byte")?;
    drop(machine);
    Ok(first - start)
}

/// In the largest unit that fits.
fn size(mib: u32) -> String {
    if mib.is_multiple_of(1024) { format!("{} GiB", mib / 1024) } else { format!("{mib} MiB") }
}

#[cfg(test)]
mod tests;
