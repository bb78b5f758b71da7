//! A machine brought back by a new process: what a user of the command sees, and all that peers offer.

use anyhow::Context;

use crate::bench::peers::{Guest, NotSupported, Vmm};
use crate::bench::process::Running;
use crate::bench::results::{Case, Figure, Unit};
use crate::bench::rounds::{Contest, Sample};
use crate::bench::{Progress, Setup, hold, nanoseconds};

const MEMORY_MIB: u64 = 256;
const WARM_UP: usize = 1;
/// A peer takes part in one round of so many.
const PEERS_EVERY: usize = 3;

const FIRST_BYTE: &str = "restore/process-first-byte";

pub(super) fn measure(setup: &Setup, progress: Progress<'_>) -> anyhow::Result<Vec<Case>> {
    let title = "exec to the first byte of a guest of 256 MiB that was saved";
    let figure = Figure::lower(FIRST_BYTE, title, Unit::Nanoseconds);
    let guest = setup.guest(MEMORY_MIB, super::WORDS);
    let mut contest = Contest::new(vec![figure], WARM_UP, setup.rounds(6, 30));
    for vmm in &setup.vmms {
        let folder = tempfile::tempdir_in(setup.folder())?;
        match vmm.save(&guest, folder.path(), super::UP) {
            Ok(()) => {}
            Err(error) if vmm.is_peer() || error.is::<NotSupported>() => {
                contest.lacks(&vmm.name, format!("{error:#}"));
                continue;
            }
            Err(error) => return Err(error).with_context(|| vmm.name.clone()),
        }
        let every = if vmm.is_peer() { PEERS_EVERY } else { 1 };
        let guest = &guest;
        contest.add_every(every, &vmm.name, move || once(vmm, guest, folder.path()));
    }
    hold(contest, "restore, as a process", progress)
}

fn once(vmm: &Vmm, guest: &Guest<'_>, folder: &std::path::Path) -> anyhow::Result<Sample> {
    let mut command = vmm.restore(guest, folder)?;
    let (_running, took) = Running::start_until(&mut command, |printed| !printed.is_empty())?;
    Ok(vec![(FIRST_BYTE.to_owned(), nanoseconds(took))])
}
