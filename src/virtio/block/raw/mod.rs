//! Raw images: the file is the disk.

mod bounce;
mod task;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

pub(super) use bounce::AlignedBuffer;
pub(super) use task::Task;

use super::config::Cache;
use super::engine::{Backend, Operation};
use super::host::{Alignment, HostFile};
use super::image::SECTOR;

/// What all operations on an image have to keep to.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) readonly: bool,
    pub(super) cache: Cache,
    pub(super) alignment: Alignment,
    /// Bytes of the disk, which may change.
    capacity: AtomicU64,
}

impl Rules {
    pub(super) fn new(readonly: bool, cache: Cache, alignment: Alignment, capacity: u64) -> Self {
        Self { readonly, cache, alignment, capacity: capacity.into() }
    }

    pub(super) fn capacity(&self) -> u64 {
        self.capacity.load(Ordering::Acquire)
    }

    pub(super) fn set_capacity(&self, capacity: u64) {
        self.capacity.store(capacity, Ordering::Release);
    }

    /// The unit of what may be transferred.
    pub(super) fn block_size(&self) -> u32 {
        self.alignment.offset.max(SECTOR)
    }

    /// Whether an operation is one of this disk: what a guest asks for may be anything.
    pub(super) fn check(&self, operation: &Operation) -> io::Result<()> {
        let (offset, len) = operation.extent();
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.capacity());
        let whole = (offset | len).is_multiple_of(self.block_size().into());
        if self.readonly && operation.writes() {
            Err(io::ErrorKind::ReadOnlyFilesystem.into())
        } else if inside && whole {
            Ok(())
        } else {
            Err(io::ErrorKind::InvalidInput.into())
        }
    }
}

/// A raw image.
pub(super) struct Raw {
    host: HostFile,
    rules: Rules,
}

impl Raw {
    pub(super) fn new(host: HostFile, rules: Rules) -> Self {
        Self { host, rules }
    }

    pub(super) fn host(&self) -> &HostFile {
        &self.host
    }

    pub(super) fn rules(&self) -> &Rules {
        &self.rules
    }
}

impl Backend for Raw {
    fn run(&self, operation: Operation) -> io::Result<u64> {
        let mut task = match Task::new(operation, &self.rules) {
            Ok(task) => task,
            Err(result) => return result,
        };
        loop {
            let returned = self.host.perform(&task.call());
            if let Some(result) = task.returned(returned) {
                return result;
            }
        }
    }
}
