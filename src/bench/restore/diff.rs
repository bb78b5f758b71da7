//! Snapshots that are diffs: how long a guest stands still for one, and what it writes.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, ensure};

use crate::bench::inside::{self, Said, quiet};
use crate::bench::results::{Case, Figure, Unit};
use crate::bench::rounds::{Contest, Sample};
use crate::bench::{BANTAM, FLOOR, Progress, Setup, hold, nanoseconds};
use crate::machine::{Builder, RunningMachine};
use crate::snapshot::{Options, Taken};

const MEMORY_MIB: u64 = 1024;
/// A guest that changes so much of it on each byte, and what it says then.
const WORDS: &str = "dirty=16M";
const READY: &str = "dirty ready";
const CHANGED: &str = "dirty pages";
const WARM_UP: usize = 1;

const PAUSE: &str = "restore/diff-pause";
const WRITTEN: &str = "restore/diff-written";

/// A machine whose every snapshot is a diff to the one before.
struct Series {
    folder: PathBuf,
    machine: Option<RunningMachine>,
    keys: io::PipeWriter,
    said: Said,
    base: PathBuf,
    number: usize,
}

pub(super) fn measure(setup: &Setup, progress: Progress<'_>) -> anyhow::Result<Vec<Case>> {
    let title = "how long a guest of 1 GiB stands still for a diff of the 16 MiB that it has changed";
    let figures = vec![
        Figure::lower(PAUSE, title, Unit::Nanoseconds),
        Figure::lower(WRITTEN, "what a diff of 16 MiB in 1 GiB writes of memory", Unit::Bytes),
    ];
    let folder = tempfile::tempdir_in(setup.folder())?;
    let mut series = Series::start(folder.path().to_owned())?;
    let mut contest = Contest::new(figures, WARM_UP, setup.rounds(5, 15));
    contest.add(BANTAM, || series.next());
    contest.lacks(FLOOR, "which pages have changed, and where they go, is no matter of KVM's calls alone");
    for vmm in setup.peers() {
        contest.lacks(&vmm.name, "its adapter knows of no snapshots that are diffs");
    }
    hold(contest, "restore, diffs", progress)
}

impl Series {
    fn start(folder: PathBuf) -> anyhow::Result<Self> {
        let (keyboard, keys) = io::pipe()?;
        let (console, mut said) = inside::console();
        let config = inside::config(MEMORY_MIB, WORDS);
        let builder = Builder::new(config).console_input(keyboard).console_output(console);
        let machine = builder.build()?.resume()?;
        said.line(READY)?;
        let mut paused = inside::pause(machine)?;
        let base = folder.join("base");
        let first = Options { base: None, track: true };
        Taken::take(&mut paused, &base, &first, &mut quiet)?.finish(&mut quiet)?;
        let machine = Some(paused.resume()?);
        Ok(Self { folder, machine, keys, said, base, number: 0 })
    }

    /// Has the guest change its pages, and saves them.
    fn next(&mut self) -> anyhow::Result<Sample> {
        self.keys.write_all(b"x")?;
        let line = self.said.line(CHANGED)?;
        ensure!(line.contains("wrong=0"), "{line}");
        self.number += 1;
        let path = self.folder.join(self.number.to_string());
        let options = Options { base: Some(self.base.clone()), track: true };
        let machine = self.machine.take().context("a snapshot has failed before")?;
        let start = Instant::now();
        let mut paused = inside::pause(machine)?;
        let taken = Taken::take(&mut paused, &path, &options, &mut quiet)?;
        self.machine = Some(paused.resume()?);
        let pause = start.elapsed();
        let saved = taken.finish(&mut quiet)?;
        self.base = path;
        #[allow(clippy::cast_precision_loss, reason = "some MiB")]
        let written = saved.memory_bytes as f64;
        Ok(vec![(PAUSE.to_owned(), nanoseconds(pause)), (WRITTEN.to_owned(), written)])
    }
}
