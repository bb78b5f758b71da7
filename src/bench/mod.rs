//! The bench: what a VMM costs, of Bantam and of its peers, in turns on one machine.
//!
//! A subcommand is a [`Group`] of figures. It makes [contests](rounds::Contest), in each of which every VMM that can
//! do it runs the same guest, round after round, beside the floor: the bare calls to KVM. What comes of it are
//! [`results::Results`], which can be kept, compared and drawn. Criterion's benches use the same parts.

mod block;
pub mod clock;
pub mod compare;
pub mod crowd;
pub mod dispatch;
mod exits;
pub mod floor;
pub mod footprint;
mod fork;
pub mod host;
mod idle;
mod inside;
mod job;
pub mod linux;
mod memory;
mod net;
pub mod peers;
pub mod process;
pub mod report;
mod restore;
pub mod results;
pub mod rounds;
mod scale;
mod start;
pub mod stats;
pub mod table;
mod vsock;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use self::host::{Host, Watch};
use self::peers::{Guest, Kernel, Vmm};
use self::results::{Case, Contender, Results, SCHEMA};
use self::rounds::Contest;
use crate::machine::EMBEDDED_GUEST;

/// The name of the bare calls to KVM among the contenders.
pub const FLOOR: &str = "floor";
/// Bantam's.
pub const BANTAM: &str = "bantam";
/// fio's, which needs no guest: it is to disks what the bare calls are to the rest.
pub const FIO: &str = "fio";
/// What the others' figures are compared with, where it is measured.
pub const REFERENCES: [&str; 2] = [FLOOR, FIO];

/// Whether a contender is Bantam in one way or another: as a library, or with another engine.
#[must_use]
pub fn is_bantams(name: &str) -> bool {
    name.strip_prefix(BANTAM).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Has what is measured end, with an error, before the next run of a contender. A signal handler may call it.
pub fn interrupt() {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

fn is_interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Figures that are measured together: a subcommand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Group {
    /// From the start of the process to the guest's first byte, to its end, and until all is gone.
    Start,
    /// Round trips from the guest to its VMM and back, by kind.
    Exits,
    /// What a VMM takes of the host's memory beside its guest's.
    Memory,
    /// From opening a snapshot to the guest's first instruction.
    Restore,
    /// Many copies of one snapshot.
    Fork,
    /// Reads and writes of a disk.
    Block,
    /// Frames to and from a tap.
    Net,
    /// Streams between guest and host.
    Vsock,
    /// Machines a second, and how many fit.
    Scale,
    /// From exec to a marker on a Linux's console.
    Linux,
}

impl Group {
    /// All, in the order in which they are measured.
    pub const ALL: [Self; 10] = [
        Self::Start,
        Self::Exits,
        Self::Memory,
        Self::Restore,
        Self::Fork,
        Self::Block,
        Self::Net,
        Self::Vsock,
        Self::Scale,
        Self::Linux,
    ];

    /// The subcommand's name, with which the ids of its figures begin.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Exits => "exits",
            Self::Memory => "memory",
            Self::Restore => "restore",
            Self::Fork => "fork",
            Self::Block => "block",
            Self::Net => "net",
            Self::Vsock => "vsock",
            Self::Scale => "scale",
            Self::Linux => "linux",
        }
    }

    fn measure(self, setup: &Setup, progress: Progress<'_>) -> anyhow::Result<Vec<Case>> {
        match self {
            Self::Start => start::measure(setup, progress),
            Self::Exits => exits::measure(setup, progress),
            Self::Memory => memory::measure(setup, progress),
            Self::Restore => restore::measure(setup, progress),
            Self::Fork => fork::measure(setup, progress),
            Self::Block => block::measure(setup, progress),
            Self::Net => net::measure(setup, progress),
            Self::Vsock => vsock::measure(setup, progress),
            Self::Scale => scale::measure(setup, progress),
            Self::Linux => linux::measure(setup, progress),
        }
    }
}

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effort {
    /// Everything in less than two minutes.
    Quick,
    /// As much as makes intervals narrow.
    Full,
}

impl Effort {
    /// One of two numbers.
    #[must_use]
    pub fn pick<T>(self, quick: T, full: T) -> T {
        match self {
            Self::Quick => quick,
            Self::Full => full,
        }
    }

    /// In results.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.pick("quick", "full")
    }
}

/// Told what is measured, and which round of how many begins.
pub type Progress<'a> = &'a mut dyn FnMut(&str, usize, usize);

/// What all measurements need.
pub struct Setup {
    /// Everyone who is measured: the floor first, then Bantam.
    pub vmms: Vec<Vmm>,
    /// How much.
    pub effort: Effort,
    /// Rounds, where they are given.
    pub rounds: Option<usize>,
    /// The Linux for [`Group::Linux`].
    pub linux: Option<linux::Linux>,
    /// A folder for files, which goes with this.
    folder: TempDir,
    guest: PathBuf,
}

impl Setup {
    /// With these VMMs; disks and snapshots are made in a new folder in `folder`, as a rule the current one: its file
    /// system is measured along.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn new(vmms: Vec<Vmm>, effort: Effort, rounds: Option<usize>, folder: &Path) -> anyhow::Result<Self> {
        let made = tempfile::Builder::new().prefix("bantam-bench-").tempdir_in(folder);
        let folder = made.with_context(|| format!("cannot make a folder in {}", folder.display()))?;
        // These mean something to one VMM or another in a word with a file's name.
        let path = folder.path().to_str().filter(|path| !path.contains(['\'', '"', '\\', ',', ':', ' ']));
        path.with_context(|| {
            format!(
                "{}: use a folder without blanks, quotes, commas and colons in its path",
                folder.path().display()
            )
        })?;
        let guest = folder.path().join("guest.elf");
        fs::write(&guest, EMBEDDED_GUEST).with_context(|| guest.display().to_string())?;
        Ok(Self { vmms, effort, rounds, linux: None, folder, guest })
    }

    /// Where files may be made.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The embedded guest.
    #[must_use]
    pub fn kernel(&self) -> Kernel<'_> {
        Kernel::Embedded(&self.guest)
    }

    /// A machine with the embedded guest.
    pub fn guest(&self, memory_mib: u64, words: impl Into<String>) -> Guest<'_> {
        Guest::new(self.kernel(), memory_mib, words)
    }

    /// How many rounds: as given, or one of two numbers.
    #[must_use]
    pub fn rounds(&self, quick: usize, full: usize) -> usize {
        self.rounds.unwrap_or(self.effort.pick(quick, full))
    }

    /// Does something with the command that runs a machine in a VMM, which has a new folder for its files until then.
    ///
    /// # Errors
    /// The VMM cannot do it, or what is done fails.
    pub fn start<T>(
        &self,
        vmm: &Vmm,
        guest: &Guest<'_>,
        run: impl FnOnce(Command) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let folder = tempfile::tempdir_in(self.folder())?;
        run(vmm.command(guest, folder.path())?)
    }

    /// The VMMs that are neither the floor nor Bantam.
    pub fn peers(&self) -> impl Iterator<Item = &Vmm> {
        self.vmms.iter().filter(|vmm| vmm.is_peer())
    }

    /// The VMM of a name.
    #[must_use]
    pub fn vmm(&self, name: &str) -> Option<&Vmm> {
        self.vmms.iter().find(|vmm| vmm.name == name)
    }
}

/// Measures some groups, and tells all about it.
///
/// # Errors
/// Bantam or the floor fails. A peer that does is told of in the results.
pub fn run(groups: &[Group], setup: &Setup, progress: Progress<'_>) -> anyhow::Result<Results> {
    let (host, watch, began, start) = (Host::look(), Watch::start(), SystemTime::now(), Instant::now());
    // Before: the checkout may be another at the end.
    let commit = setup.vmm(BANTAM).and_then(|bantam| host::commit(&bantam.program));
    let mut cases = Vec::new();
    for group in groups {
        cases.extend(group.measure(setup, progress).with_context(|| format!("bench {}", group.name()))?);
    }
    let mut quiet = watch.finish();
    if cfg!(debug_assertions) {
        quiet.disturbed.push("this is a debug build of Bantam".to_owned());
    }
    let contender = |vmm: &Vmm| Contender {
        name: vmm.name.clone(),
        version: vmm.version.clone().filter(|_| vmm.name != FLOOR),
        program: Some(vmm.program.display().to_string()).filter(|_| vmm.name != FLOOR),
    };
    Ok(Results {
        schema: SCHEMA,
        bantam: env!("CARGO_PKG_VERSION").to_owned(),
        commit,
        began: rfc3339(began),
        took_s: start.elapsed().as_secs_f64(),
        effort: setup.effort.name().to_owned(),
        host,
        quiet,
        vmms: setup.vmms.iter().map(contender).collect(),
        cases,
    })
}

/// Runs a contest under a name for its progress.
fn hold(contest: Contest<'_>, name: &str, progress: Progress<'_>) -> anyhow::Result<Vec<Case>> {
    contest.run(&mut |round, rounds| progress(name, round, rounds))
}

/// A duration as a sample.
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "far from 2^52 ns, which are 52 days")]
pub fn nanoseconds(duration: Duration) -> f64 {
    duration.as_nanos() as f64
}

/// An instant in UTC, to the second.
fn rfc3339(instant: SystemTime) -> String {
    let seconds = instant.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days since 1 March of the year 0 of the Gregorian calendar: leap days come last in years that begin so.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = if month < 10 { (year, month + 3) } else { (year + 1, month - 9) };
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z", era * 400 + year)
}

#[cfg(test)]
mod tests;
