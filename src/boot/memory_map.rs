//! What a kernel is told about memory, and the same knowledge for placing things in it.

use std::ops::Range;

use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion};

use super::error::Error;
use crate::memory::GuestMemory;
use crate::memory::layout::{CONVENTIONAL_END, HIGH_MEMORY};

/// What a range of guest-physical addresses is to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Free memory.
    Ram,
    /// Memory with firmware tables in it.
    Reserved,
}

/// One entry of the memory map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its addresses.
    pub range: Range<u64>,
    /// What they are.
    pub kind: Kind,
}

/// The memory of a machine: its regions in order, with neighbours joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ram {
    ranges: Vec<Range<u64>>,
}

impl Ram {
    /// The memory of this machine.
    ///
    /// # Errors
    /// There is no memory from address zero to 1 MiB, where boot data goes.
    pub fn of(memory: &GuestMemory) -> Result<Self, Error> {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        // GuestMemoryMmap keeps its regions sorted and apart.
        for region in memory.iter() {
            let start = region.start_addr().raw_value();
            let end = start.saturating_add(region.len());
            match ranges.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ => ranges.push(start..end),
            }
        }
        let ram = Self { ranges };
        if ram.low_end() < HIGH_MEMORY {
            return Err(Error::TooLittleMemory { memory: ram.low_end() });
        }
        Ok(ram)
    }

    /// Bytes of memory.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.ranges.iter().map(|range| range.end - range.start).fold(0, u64::saturating_add)
    }

    /// End of the memory that starts at address zero.
    #[must_use]
    pub fn low_end(&self) -> u64 {
        self.ranges.first().filter(|range| range.start == 0).map_or(0, |range| range.end)
    }

    /// Whether `size` bytes from `start` on are all memory.
    #[must_use]
    pub fn contains(&self, start: u64, size: u64) -> bool {
        let Some(end) = start.checked_add(size) else { return false };
        self.ranges.iter().any(|range| range.start <= start && end <= range.end)
    }

    /// The pieces, in order.
    pub(super) fn ranges(&self) -> impl Iterator<Item = &Range<u64>> {
        self.ranges.iter()
    }

    /// The memory map: free below the firmware tables, reserved up to 1 MiB, and free after it.
    ///
    /// # Errors
    /// It needs more than `max` entries.
    pub fn map(&self, max: usize) -> Result<Vec<Entry>, Error> {
        const CUTS: [(Range<u64>, Kind); 3] = [
            (0..CONVENTIONAL_END, Kind::Ram),
            (CONVENTIONAL_END..HIGH_MEMORY, Kind::Reserved),
            (HIGH_MEMORY..u64::MAX, Kind::Ram),
        ];
        let mut entries = Vec::with_capacity(self.ranges.len() + CUTS.len());
        for range in &self.ranges {
            for (cut, kind) in &CUTS {
                let part = range.start.max(cut.start)..range.end.min(cut.end);
                if !part.is_empty() {
                    entries.push(Entry { range: part, kind: *kind });
                }
            }
        }
        if entries.len() > max {
            return Err(Error::MemoryMap { pieces: entries.len(), max });
        }
        Ok(entries)
    }
}

#[cfg(test)]
mod tests;
