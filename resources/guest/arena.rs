//! Memory behind the image, given out page by page and never taken back.

use crate::boot_info::BootInfo;
use crate::paging;

pub const PAGE: u64 = 4096;

unsafe extern "C" {
    static image_start: u8;
    static image_end: u8;
}

/// Where the image lies, its uninitialised data included.
pub fn image() -> (u64, u64) {
    ((&raw const image_start).addr() as u64, (&raw const image_end).addr() as u64)
}

pub struct Arena {
    next: u64,
    end: u64,
}

impl Arena {
    /// From the end of the image to the end of the RAM around it, without what
    /// the loader has put there for us (initrd, PVH modules).
    pub fn new(boot: &BootInfo) -> Self {
        let (start, next) = image();
        let end = boot
            .usable()
            .find(|range| range.start <= start && next <= range.end)
            .map_or(next, |range| range.end);
        Arena { next, end: end.min(boot.first_module(next)).min(1 << 32) & !(PAGE - 1) }
    }

    /// Where the next page will come from: all before is in use.
    pub fn mark(&self) -> u64 {
        self.next
    }

    /// Takes back all that was given out since the mark. The caller vouches that
    /// nobody, no device either, uses it any more.
    pub fn rewind(&mut self, mark: u64) {
        self.next = mark;
    }

    pub fn pages(&mut self, count: u64) -> Option<u64> {
        let start = self.next;
        let end = start.checked_add(count.checked_mul(PAGE)?)?;
        if end > self.end {
            return None;
        }
        self.next = end;
        paging::reach(end);
        Some(start)
    }

    /// Pages full of zeroes.
    pub fn zeroed(&mut self, count: u64) -> Option<u64> {
        let start = self.pages(count)?;
        // SAFETY: these pages are RAM, mapped, and nobody else's.
        unsafe { (start as *mut u8).write_bytes(0, (count * PAGE) as usize) };
        Some(start)
    }

    /// A slice of such values, for those who know when it is taken back.
    pub fn slice<T: Copy>(&mut self, count: usize, value: T) -> Option<&'static mut [T]> {
        let bytes = count.checked_mul(size_of::<T>())? as u64;
        let start = self.pages(bytes.div_ceil(PAGE))? as *mut T;
        for index in 0..count {
            // SAFETY: these pages are RAM, mapped, aligned, and nobody else's.
            unsafe { start.add(index).write(value) };
        }
        // SAFETY: as above, and now they are filled.
        Some(unsafe { core::slice::from_raw_parts_mut(start, count) })
    }

    /// Pages full of zeroes, the last ones of this memory.
    pub fn zeroed_last(&mut self, count: u64) -> Option<u64> {
        let start = self.end.checked_sub(count.checked_mul(PAGE)?)?;
        if start < self.next {
            return None;
        }
        paging::reach(self.end);
        self.end = start;
        // SAFETY: these pages are RAM, mapped, and nobody else's.
        unsafe { (start as *mut u8).write_bytes(0, (count * PAGE) as usize) };
        Some(start)
    }
}
