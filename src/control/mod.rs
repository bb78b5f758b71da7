//! What someone outside can ask of a running machine, and the socket by which it is asked.
//!
//! A request is a line of JSON, `{"command":"balloon","target":"128M"}`, and so is its answer:
//! `{"ok":{}}`, or `{"error":"..."}` with what is wrong.

mod client;
mod machine;
mod server;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::{ArgAction, Subcommand};
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use client::ask;
pub use machine::Controlled;
pub use server::Server;

use crate::config::Size;

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
    /// Hold the machine's vCPUs and devices.
    Pause,
    /// Let them go on.
    Resume,
    /// Stop the machine, wherever its guest is.
    Stop,
}

/// The balloon of a machine that gives it no name.
fn balloon() -> String {
    "balloon0".to_owned()
}

/// What a machine answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// It is done; the numbers that were asked for.
    Ok(BTreeMap<String, u64>),
    /// It is not; why, in one line.
    Error(String),
}

impl Answer {
    /// It is done.
    #[must_use]
    pub fn done() -> Self {
        Self::Ok(BTreeMap::new())
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
