//! Pages that the guest does without.

use vm_memory::{GuestAddress, GuestMemoryBackend};

use crate::memory::{GuestMemory, GuestSlice, discard};
use crate::virtio::Cursor;

/// A page of the balloon's, whatever the guest's own are (VIRTIO 1.2, section 5.5.6).
pub(super) const PAGE: u64 = 4096;

/// Most page numbers that are looked at in one event; others on the loop wait meanwhile.
pub(super) const NUMBERS_AT_ONCE: usize = 4096;
/// Most bytes of ranges that are given back in one event. Whole pages.
pub(super) const BYTES_AT_ONCE: usize = 64 << 20;

/// A page number in a chain, little-endian.
const NUMBER: usize = size_of::<u32>();
/// Page numbers that are put in order at once: what Linux sends in a chain.
const BATCH: usize = 256;

/// What has been given back to the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Given {
    /// Bytes that the host has had.
    pub(super) bytes: u64,
    /// Pages that are none of the guest's.
    pub(super) foreign_pages: u64,
    /// Times that the host did not take what it was given.
    pub(super) refusals: u64,
}

impl Given {
    /// Gives back the pages whose numbers come next, at most so many; how many numbers that were.
    pub(super) fn numbered(
        &mut self,
        memory: &GuestMemory,
        numbers: &mut Cursor<'_, '_>,
        most: usize,
    ) -> usize {
        let mut done = 0;
        let mut bytes = [0; BATCH * NUMBER];
        let mut batch = Vec::with_capacity(BATCH);
        while let Some(bytes) = bytes.get_mut(..BATCH.min(most - done) * NUMBER).filter(|b| !b.is_empty()) {
            let read = numbers.read(bytes) / NUMBER;
            let words = bytes.chunks_exact(NUMBER).take(read);
            batch.clear();
            batch.extend(words.filter_map(|word| word.try_into().ok()).map(u32::from_le_bytes));
            self.pages(memory, &mut batch);
            done += read;
            if read * NUMBER < bytes.len() {
                break;
            }
        }
        done
    }

    /// Gives back these pages, neighbours together.
    fn pages(&mut self, memory: &GuestMemory, numbers: &mut Vec<u32>) {
        let address = |number: u32| GuestAddress(u64::from(number) * PAGE);
        let all = numbers.len();
        numbers.retain(|number| memory.address_in_range(address(*number)));
        self.foreign_pages += (all - numbers.len()) as u64;
        numbers.sort_unstable();
        for run in numbers.chunk_by(|one, next| next - one <= 1) {
            let Some((first, last)) = run.first().zip(run.last()) else { continue };
            let len = usize::try_from(u64::from(last - first + 1) * PAGE).unwrap_or_default();
            memory.get_slices(address(*first), len).flatten().for_each(|part| self.part(memory, &part));
        }
    }

    /// Gives back the whole pages in the buffers that come next, at most so many bytes of them; how many
    /// bytes that were.
    pub(super) fn ranges(&mut self, memory: &GuestMemory, ranges: &mut Cursor<'_, '_>, most: usize) -> usize {
        let parts = ranges.split(most);
        parts.iter().for_each(|part| self.part(memory, part));
        parts.iter().map(GuestSlice::len).sum()
    }

    fn part(&mut self, memory: &GuestMemory, part: &GuestSlice<'_>) {
        match discard(memory, part) {
            Ok(bytes) => self.bytes += bytes,
            Err(error) => {
                // The guest could make it say so for ever.
                if self.refusals == 0 {
                    log::warn!("the host takes no memory back from a balloon: {error}");
                }
                self.refusals += 1;
            }
        }
    }
}
