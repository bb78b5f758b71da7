//! Descriptor chains: the buffers of one request (VIRTIO 1.2, section 2.7).

use std::io;

use virtio_queue::DescriptorChain;
use virtio_queue::desc::split::Descriptor;
use vm_memory::{ByteValued, GuestMemoryBackend};

use crate::memory::{GuestMemory, GuestSlice};

/// A chain that no driver may build: it has no end, leaves guest memory, is longer than the queue,
/// or has a buffer for the driver's bytes after one for the device's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadChain;

/// The buffers of a request, checked: they lie in guest memory, together have less than 4 GiB, and are
/// at most as many as the queue has descriptors.
#[derive(Default)]
pub struct Chain<'m> {
    head: u16,
    readable: Vec<GuestSlice<'m>>,
    writable: Vec<GuestSlice<'m>>,
}

impl<'m> Chain<'m> {
    /// Takes the place of what is here.
    pub(super) fn refill(
        &mut self,
        memory: &'m GuestMemory,
        descriptors: DescriptorChain<&GuestMemory>,
        most: usize,
    ) -> Result<(), BadChain> {
        self.head = descriptors.head_index();
        self.readable.clear();
        self.writable.clear();
        // The iterator ends at a fault as it does at the last descriptor; only the last one says so.
        let mut ended = false;
        for descriptor in descriptors {
            self.push(memory, descriptor)?;
            ended = !descriptor.has_next();
            if self.readable.len() + self.writable.len() > most {
                return Err(BadChain);
            }
        }
        if ended { Ok(()) } else { Err(BadChain) }
    }

    fn push(&mut self, memory: &'m GuestMemory, descriptor: Descriptor) -> Result<(), BadChain> {
        let len = usize::try_from(descriptor.len()).map_err(|_| BadChain)?;
        let slice = memory.get_slice(descriptor.addr(), len).map_err(|_| BadChain)?;
        if descriptor.is_write_only() {
            self.writable.push(slice);
        } else if self.writable.is_empty() {
            self.readable.push(slice);
        } else {
            return Err(BadChain);
        }
        Ok(())
    }

    /// The number by which the chain is given back: [`VirtQueue::complete`](super::VirtQueue::complete).
    #[must_use]
    pub fn head(&self) -> u16 {
        self.head
    }

    /// The buffers of what the driver says.
    pub(super) fn readable_slices(&self) -> &[GuestSlice<'m>] {
        &self.readable
    }

    /// What the driver says, from its beginning.
    #[must_use]
    pub fn readable(&self) -> Cursor<'_, 'm> {
        Cursor::new(&self.readable)
    }

    /// Where the driver wants the answer, from its beginning.
    #[must_use]
    pub fn writable(&self) -> Cursor<'_, 'm> {
        Cursor::new(&self.writable)
    }
}

/// A place in a row of buffers. Reading and writing move it on; guest memory is never seen as a Rust
/// slice, because the guest changes it at any time.
#[derive(Clone)]
pub struct Cursor<'a, 'm> {
    current: Option<GuestSlice<'m>>,
    rest: &'a [GuestSlice<'m>],
}

impl<'a, 'm> Cursor<'a, 'm> {
    /// At the first byte of these buffers.
    #[must_use]
    pub fn new(slices: &'a [GuestSlice<'m>]) -> Self {
        Self { current: None, rest: slices }
    }

    /// How many bytes follow.
    #[must_use]
    pub fn remaining(&self) -> usize {
        // Less than 4 GiB, as is checked for a chain.
        self.slices().map(|slice| slice.len()).sum()
    }

    /// The buffers that follow.
    pub fn slices(&self) -> impl Iterator<Item = GuestSlice<'m>> + use<'a, 'm> {
        self.current.into_iter().chain(self.rest.iter().copied()).filter(|slice| !slice.is_empty())
    }

    /// The next part that is in one piece, at most `most` bytes; moves past it.
    fn advance(&mut self, most: usize) -> Option<GuestSlice<'m>> {
        loop {
            let slice = match self.current.take() {
                Some(slice) => slice,
                None => {
                    let (first, rest) = self.rest.split_first()?;
                    self.rest = rest;
                    *first
                }
            };
            if slice.is_empty() {
                continue;
            }
            let taken = slice.len().min(most);
            self.current = slice.offset(taken).ok().filter(|left| !left.is_empty());
            return slice.subslice(0, taken).ok();
        }
    }

    /// Goes on by `count` bytes, or to the end.
    pub fn skip(&mut self, mut count: usize) {
        while count > 0 {
            let Some(part) = self.advance(count) else { return };
            count -= part.len();
        }
    }

    /// Cuts the row after `count` bytes: the first part, and this cursor behind it.
    pub fn split(&mut self, count: usize) -> Vec<GuestSlice<'m>> {
        let mut parts = Vec::with_capacity(self.rest.len() + 1);
        let mut left = count;
        while left > 0 {
            let Some(part) = self.advance(left) else { break };
            left -= part.len();
            parts.push(part);
        }
        parts
    }

    /// Copies what the driver says into `bytes`; how many there were.
    pub fn read(&mut self, bytes: &mut [u8]) -> usize {
        let mut done = 0;
        while let Some(to) = bytes.get_mut(done..).filter(|to| !to.is_empty()) {
            let Some(part) = self.advance(to.len()) else { break };
            done += part.copy_to(to);
        }
        done
    }

    /// Copies `bytes` to the driver; how many there was room for.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        let mut done = 0;
        while let Some(from) = bytes.get(done..).filter(|from| !from.is_empty()) {
            let Some(part) = self.advance(from.len()) else { break };
            part.copy_from(from);
            done += part.len();
        }
        done
    }

    /// A structure of the driver's; none if there are not as many bytes.
    pub fn read_obj<T: ByteValued + Default>(&mut self) -> Option<T> {
        let mut object = T::default();
        let wanted = object.as_slice().len();
        (self.read(object.as_mut_slice()) == wanted).then_some(object)
    }

    /// A structure for the driver.
    ///
    /// # Errors
    /// There is not room for all of it.
    pub fn write_obj<T: ByteValued>(&mut self, object: &T) -> io::Result<()> {
        let bytes = object.as_slice();
        if self.write(bytes) == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }
}
