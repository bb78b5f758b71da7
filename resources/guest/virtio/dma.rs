//! Memory that a device may read and write. Only volatile accesses touch it, so
//! what a device does meanwhile changes values and nothing else.

use super::Result;
use crate::arena::{Arena, PAGE};

/// A range of the arena's memory.
#[derive(Clone, Copy)]
pub struct Dma {
    address: u64,
    length: u64,
}

impl Dma {
    /// So many bytes of zeroes, on a page boundary.
    pub fn zeroed(arena: &mut Arena, length: u64) -> Result<Self> {
        let address = arena.zeroed(length.div_ceil(PAGE)).ok_or("too little memory")?;
        Ok(Dma { address, length })
    }

    /// A range that another CPU is told of: part of one that the arena gave out.
    pub fn known(address: u64, length: u64) -> Self {
        Dma { address, length }
    }

    /// So many bytes of zeroes, where the arena's memory ends. They are not taken
    /// back.
    pub fn last(arena: &mut Arena, length: u64) -> Result<Self> {
        let address = arena.zeroed_last(length.div_ceil(PAGE)).ok_or("too little memory")?;
        Ok(Dma { address, length })
    }

    pub fn address(self) -> u64 {
        self.address
    }

    pub fn length(self) -> u64 {
        self.length
    }

    /// Part of it. Panics, as all accesses do, if that is not within.
    pub fn part(self, offset: u64, length: u64) -> Self {
        assert!(offset <= self.length && length <= self.length - offset, "outside a buffer");
        Dma { address: self.address + offset, length }
    }

    fn at<T>(self, offset: u64) -> *mut T {
        self.part(offset, size_of::<T>() as u64).address as *mut T
    }

    pub fn read8(self, offset: u64) -> u8 {
        // SAFETY: in memory that the arena gave out, and any bits are a number;
        // so it is in the functions below.
        unsafe { self.at::<u8>(offset).read_volatile() }
    }

    /// The offsets of wider accesses are multiples of their sizes.
    pub fn read16(self, offset: u64) -> u16 {
        // SAFETY: see `read8`.
        unsafe { self.at::<u16>(offset).read_volatile() }
    }

    pub fn read32(self, offset: u64) -> u32 {
        // SAFETY: see `read8`.
        unsafe { self.at::<u32>(offset).read_volatile() }
    }

    pub fn read64(self, offset: u64) -> u64 {
        // SAFETY: see `read8`.
        unsafe { self.at::<u64>(offset).read_volatile() }
    }

    pub fn write8(self, offset: u64, value: u8) {
        // SAFETY: see `read8`.
        unsafe { self.at::<u8>(offset).write_volatile(value) }
    }

    pub fn write16(self, offset: u64, value: u16) {
        // SAFETY: see `read8`.
        unsafe { self.at::<u16>(offset).write_volatile(value) }
    }

    pub fn write32(self, offset: u64, value: u32) {
        // SAFETY: see `read8`.
        unsafe { self.at::<u32>(offset).write_volatile(value) }
    }

    pub fn write64(self, offset: u64, value: u64) {
        // SAFETY: see `read8`.
        unsafe { self.at::<u64>(offset).write_volatile(value) }
    }

    /// Writes the whole range, word by word: for much data.
    pub fn write_words(self, mut next: impl FnMut() -> u64) {
        for index in 0..self.length as usize / 8 {
            // SAFETY: see `read8`; the loop stays within the range.
            unsafe { (self.address as *mut u64).add(index).write_volatile(next()) }
        }
    }

    /// Copies as much as this range holds.
    pub fn copy(self, source: Dma) {
        let source = source.part(0, self.length);
        // SAFETY: both are in memory that the arena gave out; the copy is one
        // string instruction (memory.rs).
        unsafe {
            core::ptr::copy(source.address as *const u8, self.address as *mut u8, self.length as usize);
        }
    }

    /// Reads the whole range, word by word.
    pub fn read_words(self, mut take: impl FnMut(u64)) {
        for index in 0..self.length as usize / 8 {
            // SAFETY: as above.
            take(unsafe { (self.address as *const u64).add(index).read_volatile() })
        }
    }
}
