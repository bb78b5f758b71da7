//! What someone outside can ask of a running machine, and the socket by which it is asked.
//!
//! A request is a line of JSON, `{"command":"balloon","target":"128M"}`, and so is its answer:
//! `{"ok":{}}`, or `{"error":"..."}` with what is wrong. Where that takes long, there are lines before it
//! which say how far it is: `{"progress":{"done":4096,"total":65536}}`. A client that goes meanwhile has
//! it given up.

mod client;
mod controlled;
mod job;
mod list;
mod machine;
mod place;
mod save;
mod server;

use std::io;
use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args, Subcommand};
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use client::{ask, ask_and_watch};
pub use controlled::{About, Controlled, Info};
pub use job::{Job, Progress};
pub use list::{Listed, list};
pub use machine::Machine;
pub use place::{Folder, Name, ParseNameError};
pub use server::Server;

use crate::config::{Size, Span};

/// What a machine can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Subcommand)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Request {
    /// How much memory the balloon is to take from the guest.
    Balloon {
        /// For example 128M; 0 gives everything back.
        target: Size,
        /// The balloon.
        #[arg(long, default_value_t = balloon())]
        #[serde(default = "balloon")]
        id: String,
    },
    /// Have the guest say, once, which of its pages are free; the host gets them.
    Hinting {
        /// off ends a round that has begun.
        #[arg(value_parser = BoolishValueParser::new(), action = ArgAction::Set, value_name = "on|off")]
        on: bool,
        /// The balloon.
        #[arg(long, default_value_t = balloon())]
        #[serde(default = "balloon")]
        id: String,
    },
    /// Tell the guest that a disk's file or device has another size now.
    Resized {
        /// The disk.
        id: String,
    },
    /// Tell the guest that a virtio console's window has another size now.
    Window {
        /// The console.
        id: String,
        /// Characters in a line.
        columns: u16,
        /// Lines.
        rows: u16,
    },
    /// Print what a device knows and counts.
    Metrics {
        /// The device.
        id: String,
    },
    /// Print the exits of its vCPUs and, unless it is paused, what all devices know and count.
    Stats,
    /// Print what the machine is, and whether it runs.
    Info,
    /// Save the machine; it goes on as it was.
    Snapshot(SnapshotRequest),
    /// Hold the machine's vCPUs and devices.
    Pause,
    /// Let them go on.
    Resume,
    /// Stop the machine, wherever its guest is.
    Stop,
}

/// What is to be saved, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields)]
pub struct SnapshotRequest {
    /// The directory that becomes the snapshot; a snapshot that is there already is replaced.
    pub path: PathBuf,
    /// Save only what has changed since this snapshot, which the new one needs from then on. It has to
    /// be the last one that was saved with --track.
    #[arg(long, value_name = "BASE")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diff_of: Option<PathBuf>,
    /// Keep track of what changes from now on, so that the next snapshot can be a diff to this one.
    #[arg(long)]
    #[serde(default)]
    pub track: bool,
    /// Save while the guest runs: it stands still for what it has changed meanwhile only, for 50ms at
    /// the most or what --max-pause says.
    #[arg(long)]
    #[serde(default)]
    pub live: bool,
    /// As --live; if the guest would have to stand still for longer, nothing is saved.
    #[arg(long, value_name = "TIME")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_pause: Option<Span>,
}

impl Request {
    /// The request with the paths in it as they are for the caller: a machine has a working directory of its
    /// own.
    #[must_use]
    pub fn with_absolute_paths(mut self) -> Self {
        if let Self::Snapshot(SnapshotRequest { path, diff_of, .. }) = &mut self {
            for path in std::iter::once(path).chain(diff_of) {
                // It fails where there is no working directory, and that is told by whoever uses the path.
                *path = std::path::absolute(&*path).unwrap_or_else(|_| path.clone());
            }
        }
        self
    }
}

/// The balloon of a machine that gives it no name.
fn balloon() -> String {
    "balloon0".to_owned()
}

/// What there is in an answer, by its names.
pub type Fields = serde_json::Map<String, serde_json::Value>;

/// What a machine answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Answer {
    /// It is done; what was asked for.
    Ok(Fields),
    /// It is not; why, in one line.
    Error(String),
    /// It is being done, and another answer will come.
    Progress {
        /// How much is done.
        done: u64,
        /// Of how much.
        total: u64,
    },
}

impl Answer {
    /// It is done.
    #[must_use]
    pub fn done() -> Self {
        Self::Ok(Fields::new())
    }

    /// It is done, and this was asked for: a structure with fields.
    #[must_use]
    pub fn fields(value: &impl Serialize) -> Self {
        match serde_json::to_value(value) {
            Ok(serde_json::Value::Object(fields)) => Self::Ok(fields),
            Ok(_) => Self::refused(&"the answer has no fields"),
            Err(error) => Self::refused(&error),
        }
    }

    /// It is not, for this reason.
    fn refused(error: &dyn std::fmt::Display) -> Self {
        Self::Error(error.to_string())
    }
}

/// Why a machine cannot be asked, or does not do it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The socket cannot be made.
    #[error("cannot make the control socket {path}")]
    Bind {
        /// The socket.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// There is one already, and somebody listens.
    #[error("another machine listens at {0}: give --control another path")]
    InUse(PathBuf),
    /// There is a machine of this name.
    #[error("a machine named '{0}' runs already: give another --name, or stop it with `bantam ctl {0} stop`")]
    NameInUse(Name),
    /// The folder of the named machines' sockets cannot be made or read.
    #[error("cannot use {path}, the folder of your machines' sockets")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// There is something in that folder's place that others can change.
    #[error(
        "{0} is no folder of yours that nobody else can enter: remove it or `chmod 700` it, or let \
         XDG_RUNTIME_DIR name a folder of yours"
    )]
    NotPrivate(PathBuf),
    /// No machine has this name.
    #[error("no machine is named '{0}': `bantam ps` lists those that are; a socket's path has a '/' in it")]
    NoSuchName(Name),
    /// There is a file of another kind.
    #[error("there is a file at {0}, and it is no socket: give --control another path")]
    NoSocket(PathBuf),
    /// Nobody answers.
    #[error("no machine listens at {path}: give the path that it was started with (bantam run --control)")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// The machine went away, or it is none.
    #[error("no answer comes from {path}")]
    NoAnswer {
        /// The socket.
        path: PathBuf,
        /// What came in its place.
        source: io::Error,
    },
    /// The machine does not do it.
    #[error("{0}")]
    Refused(String),
}

#[cfg(test)]
mod tests;
