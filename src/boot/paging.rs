//! Page tables for the 64-bit Linux boot protocol: 2 MiB pages, each at its own address.
//!
//! boot.rst, "64-bit Boot Protocol", wants the kernel, the zero page and the command line mapped. Only
//! the gibibytes that hold them are: every further table is a page that start-up must write.

use std::ops::Range;

use vm_memory::{Bytes, GuestAddress};

use super::error::Error;
use super::image::Image;
use crate::memory::GuestMemory;
use crate::memory::layout::{CMDLINE, PAGE_SIZE, PAGE_TABLES};

const ENTRIES: usize = 512;
const GIB_SHIFT: u32 = 30;
const LARGE_PAGE: u64 = 1 << 21;
/// Intel SDM 3A, tables 4-15 to 4-18: present, writable, and for a directory entry a 2 MiB page.
const TABLE: u64 = 0b11;
const LARGE: u64 = TABLE | 1 << 7;
/// Page directories that fit between [`PAGE_TABLES`] and what follows, after the two upper tables.
const DIRECTORIES_MAX: u64 = (CMDLINE - PAGE_TABLES) / PAGE_SIZE - 2;

/// The gibibytes to map, in order.
pub(super) struct PageTables {
    gibibytes: Vec<u64>,
}

impl PageTables {
    /// Tables that map boot data and `kernel`.
    pub(super) fn covering(image: &Image, kernel: &Range<u64>) -> Result<Self, Error> {
        let first = kernel.start >> GIB_SHIFT;
        let last = kernel.end.saturating_sub(1).max(kernel.start) >> GIB_SHIFT;
        let count = last - first + 1;
        if last >= ENTRIES as u64 || count >= DIRECTORIES_MAX {
            let name = image.name().to_owned();
            return Err(Error::Unmappable { name, start: kernel.start, end: kernel.end });
        }
        let mut gibibytes: Vec<u64> = (first..=last).collect();
        if first > 0 {
            gibibytes.insert(0, 0);
        }
        Ok(Self { gibibytes })
    }

    /// Writes the tables.
    pub(super) fn write(&self, memory: &GuestMemory) -> Result<(), Error> {
        let pointers = PAGE_TABLES + PAGE_SIZE;
        let directories = pointers + PAGE_SIZE;
        write_table(memory, PAGE_TABLES, |index| if index == 0 { pointers | TABLE } else { 0 })?;
        write_table(memory, pointers, |gibibyte| {
            match self.gibibytes.iter().zip(0..).find(|(mapped, _)| **mapped == gibibyte) {
                Some((_, place)) => (directories + place * PAGE_SIZE) | TABLE,
                None => 0,
            }
        })?;
        for (gibibyte, place) in self.gibibytes.iter().zip(0..) {
            let base = gibibyte << GIB_SHIFT;
            write_table(memory, directories + place * PAGE_SIZE, |index| {
                (base + index * LARGE_PAGE) | LARGE
            })?;
        }
        Ok(())
    }
}

fn write_table(memory: &GuestMemory, address: u64, entry: impl Fn(u64) -> u64) -> Result<(), Error> {
    let mut page = [0; ENTRIES * size_of::<u64>()];
    for (bytes, index) in page.chunks_exact_mut(size_of::<u64>()).zip(0..) {
        bytes.copy_from_slice(&entry(index).to_le_bytes());
    }
    memory.write_slice(&page, GuestAddress(address)).map_err(|source| Error::Write {
        what: "the page tables",
        address,
        source,
    })
}

#[cfg(test)]
mod tests;
