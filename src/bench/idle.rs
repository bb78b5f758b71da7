//! Machines that are up and have nothing to do: what each takes, and how long it takes to start.

use std::path::Path;
use std::thread;
use std::time::Duration;

use super::peers::Vmm;
use super::process::{self, Running};
use super::{Setup, footprint};

/// Bantam as a library: all machines in one process.
pub(super) const LIBRARY: &str = "bantam-library";

/// A guest that sends a byte when it is up, and is halted then.
const WORDS: &str = "boot halt";
/// Until the last guest is halted, and its VMM has seen it.
const SETTLE: Duration = Duration::from_millis(100);

/// What some idle machines have cost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cost {
    /// How many.
    pub(super) count: u32,
    /// The time until each had sent its byte, one after the other.
    pub(super) took: Duration,
    /// What of the host's memory their processes have: guests, programs and all.
    pub(super) pss: f64,
}

impl Cost {
    /// The memory for each.
    pub(super) fn each(&self) -> f64 {
        self.pss / f64::from(self.count)
    }
}

/// Each machine in a process of its own; there are more of them at each of these points.
pub(super) fn processes(
    setup: &Setup,
    vmm: &Vmm,
    memory_mib: u64,
    points: &[u32],
) -> anyhow::Result<Vec<Cost>> {
    let guest = setup.guest(memory_mib, WORDS);
    let mut all = All::default();
    let mut took = Duration::ZERO;
    let mut costs = Vec::new();
    for &count in points {
        while all.0.len() < usize::try_from(count)? {
            let folder = tempfile::tempdir_in(setup.folder())?;
            let mut command = vmm.command(&guest, folder.path())?;
            let (running, one) = Running::start_until(&mut command, |printed| !printed.is_empty())?;
            took += one;
            all.0.push((running, folder));
        }
        thread::sleep(SETTLE);
        costs.push(Cost { count, took, pss: all.pss()? });
    }
    Ok(costs)
}

/// All machines in one process of Bantam's; a new one at each of these points.
pub(super) fn together(bantam: &Path, memory_mib: u64, points: &[u32]) -> anyhow::Result<Vec<Cost>> {
    let cost = |&count: &u32| {
        let numbers = ["--count".into(), count.to_string().into(), "--memory".into()];
        let arguments: Vec<_> = ["bench".into(), "crowd".into()].into_iter().chain(numbers).collect();
        let mut command = process::command(bantam, &arguments);
        command.arg(memory_mib.to_string()).arg(WORDS);
        let (running, took) = Running::start_until(&mut command, |printed| !printed.is_empty())?;
        thread::sleep(SETTLE);
        Ok(Cost { count, took, pss: footprint::pss(running.id())? })
    };
    points.iter().map(cost).collect()
}

/// They are gone with this, all at a time.
#[derive(Default)]
struct All(Vec<(Running, tempfile::TempDir)>);

impl All {
    fn pss(&self) -> anyhow::Result<f64> {
        self.0.iter().map(|(running, _)| footprint::pss(running.id())).sum()
    }
}

impl Drop for All {
    fn drop(&mut self) {
        for (running, _) in &mut self.0 {
            // It is waited for in a moment, and killed again.
            let _ = running.kill();
        }
    }
}
