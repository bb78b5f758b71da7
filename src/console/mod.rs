//! The host's side of the serial console: what the guest sends goes to a stream, what a stream
//! brings goes to the guest. Neither side ever waits for the other on a vCPU's thread.

mod outbox;
mod pump;

use std::io;

use thiserror::Error;

pub use outbox::Outbox;
pub use pump::Pump;

use crate::streams::{self, shielded};
pub use crate::streams::{Input, OnLost, Output, Pty, Streams};

/// Why there is no console.
#[derive(Debug, Error)]
pub enum Error {
    /// Its streams cannot be opened.
    #[error(transparent)]
    Streams(#[from] streams::Error),
    /// No eventfd to be had.
    #[error("cannot make the console's event descriptor")]
    Event(#[source] io::Error),
}

#[cfg(test)]
mod tests;
