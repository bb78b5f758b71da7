//! What can be wrong with a snapshot's directory.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::super::format;
use super::super::manifest::{self, Id};
use super::{MAX_CHAIN, STATE};

/// A snapshot that cannot be opened or made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// There is nothing at the path.
    #[error("there is no snapshot {0}")]
    NoSnapshot(PathBuf),
    /// There is something else at the path.
    #[error("{0} is not a directory, and so not a snapshot")]
    NotADirectory(PathBuf),
    /// The directory is another one.
    #[error("{0} is not a snapshot: it has no '{STATE}' of one")]
    NotASnapshot(PathBuf),
    /// The directory holds what is not the snapshot's.
    #[error("{path} stays as it is: it holds '{name}', which is no part of a snapshot; move that away")]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// What is in it.
        name: String,
    },
    /// A file of the snapshot is not there.
    #[error("{path} is missing from the snapshot")]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A file of the snapshot is not a file.
    #[error("{0} is not a plain file")]
    NotAFile(PathBuf),
    /// The state file is not one, or damaged.
    #[error("{path} cannot be used")]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: format::Error,
    },
    /// What the snapshot says of itself is wrong.
    #[error("{path} does not describe a snapshot")]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: manifest::Error,
    },
    /// A file has another size.
    #[error("{path} has {found} bytes instead of {expected}: copy the snapshot again, or make a new one")]
    Size {
        /// The file.
        path: PathBuf,
        /// What it should have.
        expected: u64,
        /// What it has.
        found: u64,
    },
    /// The base of a diff cannot be opened.
    #[error(
        "{snapshot} holds only what changed since {base}, which cannot be opened; put that snapshot back there"
    )]
    Base {
        /// The diff.
        snapshot: PathBuf,
        /// Its base.
        base: PathBuf,
        /// Why not.
        source: Box<Error>,
    },
    /// Another snapshot is where the base of a diff was.
    #[error(
        "{snapshot} holds only what changed since the snapshot {expected}, and {base} is another one, {found}"
    )]
    OtherBase {
        /// The diff.
        snapshot: PathBuf,
        /// Where its base was.
        base: PathBuf,
        /// The base.
        expected: Id,
        /// What is there now.
        found: Id,
    },
    /// The base of a diff is of another machine.
    #[error("{snapshot} holds only what changed since {base}, which has another size of memory")]
    BaseSize {
        /// The diff.
        snapshot: PathBuf,
        /// Its base.
        base: PathBuf,
    },
    /// A snapshot is its own base in the end.
    #[error("{snapshot} holds only what changed since {base}, which is made from {snapshot} itself")]
    Circle {
        /// The diff.
        snapshot: PathBuf,
        /// Its base.
        base: PathBuf,
    },
    /// Too many snapshots are on top of each other.
    #[error("more than {MAX_CHAIN} snapshots are on top of each other at {snapshot}: merge some of them")]
    Chain {
        /// The last one that was looked at.
        snapshot: PathBuf,
    },
    /// A new snapshot is to replace the one that it needs.
    #[error(
        "the new snapshot needs {0}, and cannot take its place: give it another path, or save all of the memory"
    )]
    ReplacesBase(PathBuf),
    /// A new snapshot is to replace one that its disks need.
    #[error(
        "the disks of the new snapshot lie over those in {0}, whose place it cannot take: give it another path"
    )]
    ReplacesDisks(PathBuf),
    /// A new snapshot is to replace one that another needs.
    #[error(
        "the snapshot {by} is of no use without the one in {path}, whose place the new one cannot take: give it \
         another path, or merge {by} first"
    )]
    ReplacesNeeded {
        /// The snapshot that is there.
        path: PathBuf,
        /// The other.
        by: PathBuf,
    },
    /// A path that no directory can have.
    #[error("{0} is no path for a snapshot: give the directory that is to be made")]
    Target(PathBuf),
    /// The file system has no room left.
    #[error("no room to {what} {path}: free some, or save elsewhere")]
    Full {
        /// What was to be done.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// The file system cannot swap two directories.
    #[error("{path} cannot be replaced at once by this file system: remove it first")]
    Exchange {
        /// The snapshot that was to be replaced.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// Anything else that the host refuses.
    #[error("cannot {what} {path}")]
    Io {
        /// What was to be done.
        what: &'static str,
        /// With which file or directory.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
}

/// The error of a system call.
pub(super) fn io(what: &'static str, path: &Path, source: io::Error) -> Error {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::Full { what, path, source },
        _ => Error::Io { what, path, source },
    }
}
