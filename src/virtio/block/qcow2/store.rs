//! A file as the qcow2 driver takes one.

// Buffers of the driver's become the kernel's lists of buffers.
#![allow(unsafe_code)]

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use imago::Storage;
use imago::io_buffers::{IoVector, IoVectorMut};
use imago::storage::PreallocateMode;
use imago::storage::drivers::CommonStorageHelper;

use super::Error;
use crate::virtio::block::host::{Call, HostFile};

/// A file below an image. Its clones are the same file.
#[derive(Debug)]
pub(in crate::virtio::block) struct Store {
    host: Arc<HostFile>,
    shared: Arc<Shared>,
    /// A write is safe before the next begins.
    in_order: bool,
}

#[derive(Debug)]
struct Shared {
    /// How far the file goes, with all that was written: what is missing below is an error, what is above
    /// reads as zeroes.
    size: AtomicU64,
    helper: CommonStorageHelper,
}

impl Store {
    pub(super) fn new(host: &Arc<HostFile>) -> Result<Self, Error> {
        let size = host.size().map_err(|source| Error::Read { path: host.path().to_owned(), source })?.into();
        let shared = Arc::new(Shared { size, helper: CommonStorageHelper::default() });
        Ok(Self { host: Arc::clone(host), shared, in_order: false })
    }

    /// The same file, for the guest's data.
    pub(super) fn data(&self) -> Self {
        Self { host: Arc::clone(&self.host), shared: Arc::clone(&self.shared), in_order: false }
    }

    /// The same file, for what may not be written out of order even when the host fails.
    pub(super) fn in_order(self) -> Self {
        Self { in_order: true, ..self }
    }

    fn perform(&self, call: &Call<'_>) -> io::Result<u64> {
        loop {
            let returned =
                if self.in_order { self.host.perform_durably(call) } else { self.host.perform(call) };
            match returned {
                Err(libc::EINTR) => {}
                Err(libc::EOPNOTSUPP | libc::ENOSYS | libc::ENODEV) => {
                    return Err(io::ErrorKind::Unsupported.into());
                }
                returned => return returned.map_err(io::Error::from_raw_os_error),
            }
        }
    }

    fn size_now(&self) -> u64 {
        self.shared.size.load(Ordering::Acquire)
    }

    fn grown_to(&self, end: u64) {
        self.shared.size.fetch_max(end, Ordering::AcqRel);
    }
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.host.path().display().fmt(f)
    }
}

fn beyond() -> io::Error {
    io::ErrorKind::InvalidInput.into()
}

impl Storage for Store {
    fn mem_align(&self) -> usize {
        self.host.alignment().memory
    }

    fn req_align(&self) -> usize {
        usize::try_from(self.host.alignment().offset).unwrap_or(1)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.size_now())
    }

    unsafe fn pure_readv(&self, mut left: IoVectorMut<'_>, mut offset: u64) -> io::Result<()> {
        while !left.is_empty() {
            // SAFETY: the list is used for one call, during which nobody uses `left`.
            let buffers = unsafe { left.as_iovec() };
            let count = self.perform(&Call::Read { buffers, offset })?;
            if count == 0 {
                if offset < self.size_now() {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                left.fill(0);
                return Ok(());
            }
            left = left.split_tail_at(count);
            offset = offset.checked_add(count).ok_or_else(beyond)?;
        }
        Ok(())
    }

    unsafe fn pure_writev(&self, mut left: IoVector<'_>, mut offset: u64) -> io::Result<()> {
        while !left.is_empty() {
            // SAFETY: the list is used for one call, which only reads.
            let buffers = unsafe { left.as_iovec() };
            let count = self.perform(&Call::Write { buffers, offset })?;
            if count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            left = left.split_tail_at(count);
            offset = offset.checked_add(count).ok_or_else(beyond)?;
            self.grown_to(offset);
        }
        Ok(())
    }

    unsafe fn pure_write_zeroes(&self, offset: u64, len: u64) -> io::Result<()> {
        let end = offset.checked_add(len).ok_or_else(beyond)?;
        if len == 0 {
            return Ok(());
        }
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        self.perform(&Call::Allocate { mode, offset, len })?;
        if end > self.size_now() {
            // Unlike truncation this never cuts off what another thread writes behind.
            self.perform(&Call::Allocate { mode: 0, offset: end - 1, len: 1 })?;
            self.grown_to(end);
        }
        if self.in_order { self.sync() } else { Ok(()) }
    }

    unsafe fn pure_discard(&self, offset: u64, len: u64) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        match self.perform(&Call::Allocate { mode, offset, len }) {
            Err(error) if error.kind() != io::ErrorKind::Unsupported => Err(error),
            _ => Ok(()),
        }
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.perform(&Call::Sync).map(drop)
    }

    unsafe fn invalidate_cache(&self) -> io::Result<()> {
        Ok(())
    }

    fn get_storage_helper(&self) -> &CommonStorageHelper {
        &self.shared.helper
    }

    fn resize(&self, size: u64, _mode: PreallocateMode) -> io::Result<()> {
        self.host.set_size(size)?;
        self.shared.size.store(size, Ordering::Release);
        Ok(())
    }
}
