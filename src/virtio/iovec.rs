//! Scattered guest memory as the kernel's vectored calls take it.

// Addresses in guest memory leave the borrow that they come from.
#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::Arc;

use vm_memory::bitmap::Bitmap;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryError};

use crate::memory::dirty::{LogSlice, WriteLog};
use crate::memory::{GuestMemory, GuestSlice};

/// Most buffers that one call takes, `UIO_MAXIOV` of `linux/uio.h`.
const MAX_BUFFERS: usize = 1024;

/// Buffers in guest memory, for a transfer that outlives a borrow of it: the kernel or another thread
/// reads or fills them. What a transfer has done is cut off with [`advance`](Self::advance). Whoever has
/// them filled by the kernel says so afterwards, with [`mark`](Self::mark).
///
/// The bytes are the guest's, which may change them at any time: nothing here makes a reference to them.
#[derive(Debug, Default)]
pub struct IoVecs {
    /// What is left, from `next` on. None of these is empty.
    buffers: Vec<libc::iovec>,
    next: usize,
    len: u64,
    /// The regions that the buffers are in. There is seldom more than one, which takes no allocation.
    region: Option<Region>,
    others: Vec<Region>,
    /// What keeps the buffers mapped.
    _memory: Option<Arc<GuestMemory>>,
}

/// A region of guest memory: where it begins, and where writes to it are noted.
#[derive(Clone, Copy, Debug)]
struct Region {
    start: usize,
    log: NonNull<WriteLog>,
}

// SAFETY: the addresses are of guest memory and its logs, which any thread may access, and which stay as
// long as this lives: it holds the memory, or its maker has vouched for that.
unsafe impl Send for IoVecs {}

impl IoVecs {
    /// The buffers of `ranges` in guest memory, which stays mapped as long as they live.
    ///
    /// # Errors
    /// A range is not in guest memory, wholly.
    pub fn from_guest(
        memory: &Arc<GuestMemory>,
        ranges: impl IntoIterator<Item = (GuestAddress, usize)>,
    ) -> Result<Self, GuestMemoryError> {
        let mut vecs = Self { _memory: Some(Arc::clone(memory)), ..Self::default() };
        for (address, len) in ranges {
            for slice in memory.get_slices(address, len) {
                vecs.push(&slice?);
            }
        }
        Ok(vecs)
    }

    /// The buffers of `slices`.
    ///
    /// # Safety
    /// The memory of the slices stays mapped as long as the value lives, and so does an operation that an
    /// engine was given it with: whoever makes it keeps a clone of the [`GuestMemory`] for that time.
    pub unsafe fn from_slices<'a>(slices: impl IntoIterator<Item = GuestSlice<'a>>) -> Self {
        let mut vecs = Self::default();
        for slice in slices {
            vecs.push(&slice);
        }
        vecs
    }

    fn push(&mut self, slice: &GuestSlice<'_>) {
        if slice.is_empty() {
            return;
        }
        let base: *mut libc::c_void = slice.ptr_guard_mut().as_ptr().cast();
        self.buffers.push(libc::iovec { iov_base: base, iov_len: slice.len() });
        self.len = self.len.saturating_add(slice.len() as u64);
        let start = base.addr().wrapping_sub(slice.bitmap().offset());
        if self.regions().all(|region| region.start != start) {
            let region = Region { start, log: slice.bitmap().log().into() };
            match self.region {
                None => self.region = Some(region),
                Some(_) => self.others.push(region),
            }
        }
    }

    fn regions(&self) -> impl Iterator<Item = &Region> {
        self.region.iter().chain(&self.others)
    }

    /// Bytes that are left.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What is left, as far as one call takes it. The addresses stay where they are until the next
    /// [`advance`](Self::advance), also when the value moves.
    #[must_use]
    pub fn buffers(&self) -> &[libc::iovec] {
        let left = self.buffers.get(self.next..).unwrap_or_default();
        left.get(..left.len().min(MAX_BUFFERS)).unwrap_or_default()
    }

    /// Cuts off the first `count` bytes.
    pub fn advance(&mut self, count: u64) {
        let mut count = count.min(self.len);
        self.len -= count;
        while let Some(buffer) = self.buffers.get_mut(self.next).filter(|_| count > 0) {
            let taken = usize::try_from(count).unwrap_or(usize::MAX).min(buffer.iov_len);
            count -= taken as u64;
            if taken == buffer.iov_len {
                self.next += 1;
            } else {
                buffer.iov_base = buffer.iov_base.wrapping_byte_add(taken);
                buffer.iov_len -= taken;
            }
        }
    }

    /// Whether the address and the length of each buffer is a multiple of `alignment`.
    #[must_use]
    pub fn are_aligned(&self, alignment: usize) -> bool {
        self.buffers
            .iter()
            .skip(self.next)
            .all(|buffer| (buffer.iov_base.addr() | buffer.iov_len).is_multiple_of(alignment.max(1)))
    }

    /// What is left, each buffer once.
    fn slices(&self) -> impl Iterator<Item = GuestSlice<'_>> {
        self.buffers.iter().skip(self.next).filter_map(|buffer| {
            let at = buffer.iov_base.addr();
            // Regions do not overlap: the last one that begins before the buffer has it.
            let region =
                self.regions().filter(|region| region.start <= at).max_by_key(|region| region.start)?;
            // SAFETY: the log is a part of the region, which lives as long as `self`, as its memory does.
            let log = LogSlice::new(unsafe { region.log.as_ref() }, at - region.start);
            // SAFETY: the buffer was part of a slice of guest memory when it was pushed, `advance` only
            // shortens it, and the memory is mapped as long as `self` lives: it holds the memory, or the
            // maker of `from_slices` keeps it.
            Some(unsafe { GuestSlice::with_bitmap(buffer.iov_base.cast(), buffer.iov_len, log, None) })
        })
    }

    /// Notes that the first `count` bytes have been written to. Not before that is done: who saves memory
    /// meanwhile would have them as they were, and not look again.
    pub fn mark(&self, count: u64) {
        let mut left = usize::try_from(count).unwrap_or(usize::MAX);
        for slice in self.slices() {
            if left == 0 {
                break;
            }
            let len = slice.len().min(left);
            slice.bitmap().mark_dirty(0, len);
            left -= len;
        }
    }

    /// Copies what the guest has in the first bytes to `bytes`: as many as are left or fit.
    pub fn copy_to(&self, bytes: &mut [u8]) -> usize {
        let mut done = 0;
        for slice in self.slices() {
            match bytes.get_mut(done..) {
                None | Some([]) => break,
                Some(rest) => done += slice.copy_to(rest),
            }
        }
        done
    }

    /// Copies `bytes` to the first bytes of the buffers: as many as are left there.
    pub fn copy_from(&self, bytes: &[u8]) -> usize {
        let mut done = 0;
        for slice in self.slices() {
            match bytes.get(done..) {
                None | Some([]) => break,
                Some(rest) => {
                    slice.copy_from(rest);
                    done += rest.len().min(slice.len());
                }
            }
        }
        done
    }
}

#[cfg(test)]
mod tests;
