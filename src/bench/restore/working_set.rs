//! What a restored guest needs first, from a cold page cache: each page when it is touched, or all of them brought in
//! ahead.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::bench::inside;
use crate::bench::results::{Case, Figure, Unit};
use crate::bench::rounds::Contest;
use crate::bench::{BANTAM, FLOOR, Progress, Setup, hold, nanoseconds};
use crate::machine::RunningMachine;
use crate::snapshot::{Restoring, Snapshot};

const MEMORY_MIB: u64 = 1024;
/// The set's pages are scattered over so many times as much memory.
const SPREADS: [u32; 2] = [2, 8];
/// Bantam without what was recorded.
const LAZY: &str = "bantam-lazy";

pub(super) fn measure(setup: &Setup, progress: Progress<'_>) -> anyhow::Result<Vec<Case>> {
    let mut cases = Vec::new();
    for spread in SPREADS {
        cases.extend(spread_over(setup, spread, progress)?);
    }
    Ok(cases)
}

fn spread_over(setup: &Setup, spread: u32, progress: Progress<'_>) -> anyhow::Result<Vec<Case>> {
    let path = setup.folder().join(format!("working-set-{spread}"));
    let words = format!("working-set=64M spread={spread}");
    inside::save(&path, inside::config(MEMORY_MIB, &words), "working-set ready")?;
    let snapshot = Snapshot::open(&path)?;
    let (_, machine) = touch(&snapshot, Restoring { record: true, ..Restoring::default() })?;
    snapshot.record(&machine)?;
    drop(machine);

    let id = format!("restore/working-set@spread{spread}");
    let title = format!(
        "restoring until the guest has read 64 MiB, scattered over {} MiB, from a cold page cache",
        64 * spread
    );
    let figure = Figure::lower(&id, title, Unit::Nanoseconds).on(
        "restore/working-set",
        "scattered over so many times its size",
        spread.into(),
    );
    let mut contest = Contest::new(vec![figure], 0, setup.rounds(2, 8));
    let once = |prefetch: bool| {
        let prefetch = if prefetch { snapshot.working_set()?.map(Arc::new) } else { None };
        let (took, _machine) = touch(&snapshot, Restoring { prefetch, ..Restoring::default() })?;
        Ok(vec![(id.clone(), nanoseconds(took))])
    };
    contest.add(BANTAM, || once(true));
    contest.add(LAZY, || once(false));
    contest.lacks(FLOOR, "the bare calls have no serial port that would wake the saved guest");
    for vmm in setup.peers() {
        contest.lacks(&vmm.name, vmm.why_only_restore());
    }
    let cases = hold(contest, &format!("restore, working set, spread {spread}"), progress)?;
    std::fs::remove_dir_all(&path)?;
    Ok(cases)
}

/// How long a restored guest takes for its working set.
fn touch(snapshot: &Snapshot, how: Restoring) -> anyhow::Result<(Duration, RunningMachine)> {
    rustix::fs::fadvise(snapshot.folder().memory()?, 0, None, rustix::fs::Advice::DontNeed)
        .context("the page cache cannot be emptied")?;
    let (keyboard, mut keys) = io::pipe()?;
    let (console, mut said) = inside::console();
    let start = Instant::now();
    let builder = snapshot.builder(snapshot.config(), how)?;
    let machine = builder.console_input(keyboard).console_output(console).build()?.resume()?;
    keys.write_all(b"x")?;
    let report = said.line("working-set pages")?;
    let took = start.elapsed();
    ensure!(report.contains("wrong=0"), "{report}");
    Ok((took, machine))
}
