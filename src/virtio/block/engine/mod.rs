//! How a disk's operations are carried out: several at a time, without the device's waiting for them.

mod inline;
mod threads;
mod uring;

use std::io;
use std::os::fd::BorrowedFd;

pub(super) use inline::Inline;
pub(super) use threads::Threads;
pub(super) use uring::Uring;

use crate::virtio::iovec::IoVecs;

/// What a guest asks of a disk. Offsets and lengths are bytes.
#[derive(Debug)]
pub enum Operation {
    /// Fills the buffers.
    Read {
        /// From here on.
        offset: u64,
        /// The guest's memory that is filled.
        buffers: IoVecs,
    },
    /// Writes what is in the buffers.
    Write {
        /// From here on.
        offset: u64,
        /// The guest's memory that is read.
        buffers: IoVecs,
    },
    /// Makes safe from a failure of the host's what was written: the writes that were done before this was
    /// submitted.
    Flush,
    /// Tells that nobody needs what is there. It reads back as anything.
    Discard {
        /// From here on.
        offset: u64,
        /// So many bytes.
        len: u64,
    },
    /// Makes zeroes of what is there.
    WriteZeroes {
        /// From here on.
        offset: u64,
        /// So many bytes.
        len: u64,
        /// The host may free the space; otherwise it stays reserved where the host can do that.
        unmap: bool,
    },
}

impl Operation {
    /// Whether it changes what is on the disk.
    #[must_use]
    pub fn writes(&self) -> bool {
        !matches!(self, Self::Read { .. } | Self::Flush)
    }

    /// The bytes of the disk that it is about: from where, and how many.
    #[must_use]
    pub fn extent(&self) -> (u64, u64) {
        match self {
            Self::Read { offset, buffers } | Self::Write { offset, buffers } => (*offset, buffers.len()),
            Self::Discard { offset, len } | Self::WriteZeroes { offset, len, .. } => (*offset, *len),
            Self::Flush => (0, 0),
        }
    }
}

/// An operation that is done.
#[derive(Debug)]
pub struct Completion {
    /// The token that it was submitted with.
    pub token: u64,
    /// The bytes that were read or written: all of them, never fewer. Of an operation that failed, some
    /// may have been.
    pub result: io::Result<u64>,
}

/// Carries out operations. Those that are in flight together are done in any order: whoever needs an order
/// submits the second when the first is complete.
///
/// Each operation that was submitted is complete exactly once, and not before it has stopped to touch its
/// buffers. Dropping an engine waits for those that are in flight.
pub trait Engine: Send {
    /// Takes an operation. Whether it starts at once or with [`kick`](Self::kick) is the engine's choice.
    fn submit(&mut self, token: u64, operation: Operation);

    /// Starts all that was submitted, with one system call at most.
    ///
    /// # Errors
    /// The host takes no operations any more.
    fn kick(&mut self) -> io::Result<()>;

    /// Appends what is complete to `sink`. To be called when [`fd`](Self::fd) is readable, and after a
    /// [`kick`](Self::kick) where there is no such descriptor; sparing a turn of the event loop, also where
    /// there is one.
    ///
    /// # Errors
    /// The host takes no operations any more.
    fn completions(&mut self, sink: &mut Vec<Completion>) -> io::Result<()>;

    /// Starts what was submitted and blocks until nothing is in flight: for a pause or a reset.
    /// [`completions`](Self::completions) then hands out the rest.
    ///
    /// # Errors
    /// The host takes no operations any more.
    fn wait_all(&mut self) -> io::Result<()>;

    /// Readable when there are completions. An engine that has none completes operations as they are
    /// submitted.
    fn fd(&self) -> Option<BorrowedFd<'_>>;

    /// Operations that were submitted and that [`completions`](Self::completions) has not yet told of.
    fn pending(&self) -> usize;

    /// What it is called in a configuration.
    fn name(&self) -> &'static str;
}

/// Carries out one operation, blocking. What engines that wait stand on.
pub(super) trait Backend: Send + Sync {
    /// The bytes that were read or written.
    fn run(&self, operation: Operation) -> io::Result<u64>;
}
