//! What is forked: a snapshot, or a machine that runs.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::Context;

use super::super::ctl::Address;
use super::super::progress::Progress;
use super::temporary_folder;
use crate::config::Span;
use crate::control::{Name, Request, SnapshotRequest, ask_and_watch};
use crate::snapshot::{Id, Snapshot, folder};

/// A snapshot or a machine, which is known when it is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Directory(PathBuf),
    /// A machine's name, unless something in the directory is called so.
    Either(Name),
}

/// A snapshot that is removed when this is dropped.
pub(super) struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = folder::remove(&self.0) {
            log::warn!("a snapshot is left at {}: {}", self.0.display(), crate::doctor::chain(&error));
        }
    }
}

impl FromStr for Source {
    type Err = std::convert::Infallible;

    /// What can be no name is a path.
    fn from_str(word: &str) -> Result<Self, Self::Err> {
        Ok(word.parse().map_or_else(|_| Self::Directory(word.into()), Self::Either))
    }
}

impl Source {
    /// Opens the snapshot, or one that the machine is asked for, whose guest stands still for so long at the
    /// most.
    pub(super) fn open(&self, max_pause: Option<Span>) -> anyhow::Result<(Snapshot, Option<Temporary>)> {
        match self {
            Self::Directory(path) => Ok((Snapshot::open(path)?, None)),
            Self::Either(name) => {
                let path = PathBuf::from(name.as_str());
                if path.symlink_metadata().is_ok() {
                    Ok((Snapshot::open(&path)?, None))
                } else {
                    of_machine(name, max_pause)
                }
            }
        }
    }
}

/// Has a running machine saved.
fn of_machine(name: &Name, max_pause: Option<Span>) -> anyhow::Result<(Snapshot, Option<Temporary>)> {
    let address = Address::Name(name.clone());
    let path = temporary_folder().join(format!("bantam-fork-{}", Id::random()?));
    let wanted = SnapshotRequest { path: path.clone(), live: true, max_pause, ..SnapshotRequest::default() };
    let mut bar = Progress::new("the machine");
    let asked = address
        .ask(|socket| ask_and_watch(socket, &Request::Snapshot(wanted), |done, total| bar.show(done, total)));
    match asked {
        Err(crate::control::Error::NoSuchName(_)) => {
            anyhow::bail!(
                "'{name}' is neither a snapshot's directory nor the name of a running machine: `bantam ps` lists those"
            )
        }
        asked => {
            let to = path.display();
            asked.with_context(|| {
                format!("'{name}' cannot be saved to be forked, into {to} (TMPDIR names another place)")
            })?
        }
    };
    let temporary = Temporary(path.clone());
    Ok((Snapshot::open(&path)?, Some(temporary)))
}
