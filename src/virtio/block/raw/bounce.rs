//! Memory for transfers that cannot go to the guest's own.

// Memory with an alignment of the file's choice.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::io;
use std::ptr::NonNull;

/// Zeroed memory at a multiple of an alignment, and how calls are told of it.
#[derive(Debug)]
pub(in crate::virtio::block) struct AlignedBuffer {
    start: NonNull<u8>,
    layout: Layout,
    /// For the call that is made. It stays at its place on the heap until the next.
    frames: Vec<libc::iovec>,
}

// SAFETY: the memory belongs to the buffer alone, as a `Vec`'s does.
unsafe impl Send for AlignedBuffer {}

impl AlignedBuffer {
    pub(in crate::virtio::block) fn new(len: usize, alignment: usize) -> io::Result<Self> {
        let layout = Layout::from_size_align(len.max(1), alignment.max(1))
            .map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        // SAFETY: the layout's size is not 0.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) });
        let start = start.ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, layout, frames: Vec::new() })
    }

    pub(in crate::virtio::block) fn bytes(&self) -> &[u8] {
        // SAFETY: the memory is allocated with this length, zeroed, and changed only through `&mut self`, or
        // by the kernel during a call, during which its owner does not look at it.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.layout.size()) }
    }

    pub(in crate::virtio::block) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` makes the reference the only one.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.layout.size()) }
    }

    /// Prepares [`frames`](Self::frames) for the first `len` bytes; what is more than there are repeats
    /// them.
    pub(super) fn frame(&mut self, mut len: u64) {
        self.frames.clear();
        while len > 0 {
            let part = usize::try_from(len).unwrap_or(usize::MAX).min(self.layout.size());
            self.frames.push(libc::iovec { iov_base: self.start.as_ptr().cast(), iov_len: part });
            len -= part as u64;
        }
    }

    pub(super) fn frames(&self) -> &[libc::iovec] {
        &self.frames
    }
}

impl Drop for AlignedBuffer {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout, and freed only here.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}
