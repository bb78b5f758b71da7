//! `bantam restore`.

mod stream;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Instant;

use clap::{Args, ValueEnum};

use super::devices::{DeviceArgs, check_counts};
use super::session::{Later, SessionArgs};
use super::terminal;
use crate::config::{Console, Span};
use crate::control::Machine;
use crate::memory::WorkingSet;
use crate::snapshot::{MemorySource, Restoring, Snapshot};
use crate::virtio::Allow;

const RESTORE_HELP: &str = "\
The machine has the devices that it had. An option for a kind of device replaces all of that kind: give
as many as there were, at other places of the host's (another tap, another socket).

Exit codes are those of `bantam run`.

Examples:
  bantam restore web.snap
  bantam restore web.snap --record 200ms      the next restore is faster
  ssh host cat web.snap/memory | bantam restore web.snap --memory-from stream:-
  bantam restore web.snap --name web-2 --console file:web-2.log --vsock cid=4,uds=web-2.vsock";

#[derive(Args, Debug)]
#[command(after_help = RESTORE_HELP)]
pub(super) struct Restore {
    /// The snapshot's directory.
    path: PathBuf,
    #[command(flatten)]
    session: SessionArgs,
    /// Where the serial console goes, in place of where it went: stdio, file:PATH, pty or off.
    #[arg(long, value_name = "WHERE")]
    console: Option<Console>,
    /// Count exits by kind and port or address, and print them at the end.
    #[arg(long)]
    stats: bool,
    #[command(flatten)]
    memory: MemoryArgs,
    /// When the guest has run for so long, 200ms say, record into the snapshot which pages it has needed:
    /// from then on they are brought in ahead of the guest.
    #[arg(long, value_name = "TIME")]
    record: Option<Span>,
    /// Keep track of what changes, so that a snapshot can be a diff to this one.
    #[arg(long)]
    track: bool,
    #[command(flatten, next_help_heading = "Devices")]
    devices: DeviceArgs,
}

/// How a machine that was saved comes to its memory, and to what it may find changed.
#[derive(Args, Debug)]
pub(super) struct MemoryArgs {
    /// Where memory comes from. map: the snapshot's files are mapped, pages come when they are touched, and
    /// machines share what they do not change. fault: a thread reads each page when it is touched. huge: all of it
    /// is read into huge pages before the guest runs. stream:PATH: the bytes of the snapshot's file 'memory' come
    /// from a pipe, a Unix socket to connect to or, with -, from standard input; the guest runs meanwhile, and
    /// waits for what it touches before that has come. That file need not be there, then.
    #[arg(long, value_name = "map|fault|huge|stream:PATH", default_value = "map")]
    memory_from: From,
    /// Let the guest wait for every page that it needs. Without this, and with memory mapped, those that
    /// were recorded (bantam restore --record) are brought in ahead of it.
    #[arg(long)]
    no_prefetch: bool,
    /// Restore although this is not as it was. What the guest remembers of a changed disk may be wrong.
    #[arg(long, value_name = "WHAT")]
    allow: Vec<Difference>,
}

/// What memory comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum From {
    Snapshot(MemorySource),
    Stream(PathBuf),
}

impl FromStr for From {
    type Err = &'static str;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match (word, word.strip_prefix("stream:")) {
            ("map", _) => Ok(Self::Snapshot(MemorySource::Map)),
            ("fault", _) => Ok(Self::Snapshot(MemorySource::Fault)),
            ("huge", _) => Ok(Self::Snapshot(MemorySource::Huge)),
            (_, Some(path)) if !path.is_empty() => Ok(Self::Stream(path.into())),
            _ => Err("give map, fault, huge or stream:PATH"),
        }
    }
}

impl MemoryArgs {
    /// Opens the snapshot, as far as it is needed.
    fn open(&self, path: &Path) -> anyhow::Result<Snapshot> {
        Ok(match self.memory_from {
            From::Snapshot(_) => Snapshot::open(path)?,
            From::Stream(_) => Snapshot::open_without_memory(path)?,
        })
    }

    /// Whether a machine can be recorded: its pages come because they are touched.
    fn check_record(&self) -> anyhow::Result<()> {
        match self.memory_from {
            From::Snapshot(MemorySource::Map | MemorySource::Fault) => Ok(()),
            From::Snapshot(MemorySource::Huge) | From::Stream(_) => anyhow::bail!(
                "--record is of no use with this --memory-from: all pages come there, and none tells that the guest \
                 has needed it; give map or fault"
            ),
        }
    }

    /// Whether many machines can have it.
    pub(super) fn check_many(&self) -> anyhow::Result<()> {
        match self.memory_from {
            From::Snapshot(_) => Ok(()),
            From::Stream(_) => anyhow::bail!(
                "--memory-from stream:PATH is for one machine: use bantam restore, or write the memory into the snapshot first"
            ),
        }
    }

    /// What they say, of this snapshot; whether pages may be brought in ahead of the guest.
    pub(super) fn restoring(&self, snapshot: &Snapshot, ahead: bool) -> anyhow::Result<Restoring> {
        if !self.allow.contains(&Difference::Foreign) {
            check_owner(snapshot)?;
        }
        let memory = match self.memory_from {
            From::Snapshot(memory) => memory,
            From::Stream(_) => MemorySource::default(),
        };
        let allow = Allow {
            changed_disks: self.allow.contains(&Difference::ChangedDisks),
            clock: self.allow.contains(&Difference::Clock),
        };
        let mapped = self.memory_from == From::Snapshot(MemorySource::Map);
        let prefetch = (ahead && mapped && !self.no_prefetch).then(|| record(snapshot)).flatten();
        Ok(Restoring { allow, memory, prefetch, ..Restoring::default() })
    }
}

/// A snapshot says which files, sockets and taps its machine gets: that is for its user to say.
fn check_owner(snapshot: &Snapshot) -> anyhow::Result<()> {
    let own = rustix::process::geteuid().as_raw();
    for folder in [snapshot.folder()].into_iter().chain(snapshot.bases()) {
        let owner = folder.owner()?;
        anyhow::ensure!(
            owner == own,
            "{} belongs to the user with the number {owner}, and says which of your files, sockets and taps its machine \
             gets: look at bantam snapshot info, and give --allow foreign if that is fine",
            folder.path().display()
        );
    }
    Ok(())
}

/// The record of the pages that are needed first. One that is damaged is none: it is a help, and no part of the
/// machine.
fn record(snapshot: &Snapshot) -> Option<Arc<WorkingSet>> {
    let set = snapshot.working_set().inspect_err(|error| {
        let reasons = crate::doctor::chain(error);
        terminal::note(&format!("goes on without the record of the pages that are needed first: {reasons}"));
    });
    set.ok().flatten().map(Arc::new)
}

/// Has the pages recorded that are needed first.
fn recording(snapshot: Arc<Snapshot>, after: Span) -> Later {
    let work = move |machine: Machine| {
        match &machine {
            Machine::Running(running) => match snapshot.record(running) {
                Ok(set) => {
                    let (size, path) = (set.bytes() >> 10, snapshot.folder().path().display());
                    terminal::note(&format!("recorded {size} KiB that the guest has needed into {path}"));
                }
                Err(error) => {
                    terminal::note(&format!("nothing is recorded: {}", crate::doctor::chain(&error)))
                }
            },
            _ => terminal::note(&format!("nothing is recorded: the machine is {}", machine.state())),
        }
        machine
    };
    Later { after: after.into(), what: "recording", work: Box::new(work) }
}

/// What may differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Difference {
    /// Disks have been written to since.
    ChangedDisks,
    /// The guest's time-stamp counter goes back, on a KVM that gives guests the host's, as after a reboot of the
    /// host: so do clocks of the guest's that follow it.
    Clock,
    /// The snapshot is another user's, who has said which files of this host its machine gets.
    Foreign,
}

impl Restore {
    pub(super) fn run(self, process_start: Instant) -> anyhow::Result<ExitCode> {
        if self.record.is_some() {
            self.memory.check_record()?;
        }
        let snapshot = self.memory.open(&self.path)?;
        let mut config = snapshot.config();
        config.console = self.console.unwrap_or(config.console);
        config.stats |= self.stats;
        config.devices = self.devices.over(config.devices);
        check_counts(&snapshot.manifest().config.devices, &config.devices)?;
        config.validate()?;
        // What is brought in ahead is not what the guest has needed.
        let how = self.memory.restoring(&snapshot, self.record.is_none())?;
        let how = Restoring { track: self.track, record: self.record.is_some(), ..how };
        let snapshot = Arc::new(snapshot);
        let later = self.record.map(|after| recording(Arc::clone(&snapshot), after));
        let builder = |config| match &self.memory.memory_from {
            From::Snapshot(_) => Ok(snapshot.builder(config, how)?),
            From::Stream(path) => Ok(snapshot.builder_of_stream(config, &how, stream::open(path)?)?),
        };
        self.session.run(config, process_start, builder, later)
    }
}
