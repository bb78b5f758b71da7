//! `bantam restore`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use clap::{Args, ValueEnum};

use super::devices::{DeviceArgs, check_counts};
use super::session::{Later, SessionArgs};
use super::terminal;
use crate::config::{Console, Span};
use crate::control::Machine;
use crate::snapshot::{MemorySource, Restoring, Snapshot};
use crate::virtio::Allow;

const RESTORE_HELP: &str = "\
The machine has the devices that it had. An option for a kind of device replaces all of that kind: give
as many as there were, at other places of the host's (another tap, another socket).

Exit codes are those of `bantam run`.

Examples:
  bantam restore web.snap
  bantam restore web.snap --record 200ms      the next restore is faster
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
    #[arg(long, value_name = "TIME", conflicts_with = "memory_from")]
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
    /// Where memory comes from.
    #[arg(long, value_name = "WAY", default_value = "map")]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum From {
    /// The snapshot's files are mapped: pages come when they are touched, and machines share what they do
    /// not change.
    Map,
    /// A thread reads each page when it is touched.
    Fault,
    /// All of it is read into huge pages before the guest runs.
    Huge,
}

impl MemoryArgs {
    /// What they say, of this snapshot.
    pub(super) fn restoring(&self, snapshot: &Snapshot) -> anyhow::Result<Restoring> {
        if !self.allow.contains(&Difference::Foreign) {
            check_owner(snapshot)?;
        }
        let memory = match self.memory_from {
            From::Map => MemorySource::Map,
            From::Fault => MemorySource::Fault,
            From::Huge => MemorySource::Huge,
        };
        let allow = Allow {
            changed_disks: self.allow.contains(&Difference::ChangedDisks),
            clock: self.allow.contains(&Difference::Clock),
        };
        let prefetch = !self.no_prefetch && memory == MemorySource::Map && has_record(snapshot);
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

/// Whether there is a record of the pages that are needed first. One that is damaged is none: it is a help,
/// and no part of the machine.
fn has_record(snapshot: &Snapshot) -> bool {
    match snapshot.working_set() {
        Ok(set) => set.is_some(),
        Err(error) => {
            let reasons = crate::doctor::chain(&error);
            terminal::note(&format!(
                "goes on without the record of the pages that are needed first: {reasons}"
            ));
            false
        }
    }
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
        let snapshot = Snapshot::open(&self.path)?;
        let mut config = snapshot.config();
        config.console = self.console.unwrap_or(config.console);
        config.stats |= self.stats;
        config.devices = self.devices.over(config.devices);
        check_counts(&snapshot.manifest().config.devices, &config.devices)?;
        config.validate()?;
        let how = self.memory.restoring(&snapshot)?;
        // What is brought in ahead is not what the guest has needed.
        let (track, record) = (self.track, self.record.is_some());
        let how = Restoring { track, record, prefetch: how.prefetch && !record, ..how };
        let snapshot = Arc::new(snapshot);
        let later = self.record.map(|after| recording(Arc::clone(&snapshot), after));
        self.session.run(config, process_start, |config| Ok(snapshot.builder(config, how)?), later)
    }
}
