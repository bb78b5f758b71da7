//! Giving guest memory back to the host.

use std::fs;
use std::io;
use std::sync::{Mutex, PoisonError};

use vm_memory::bitmap::BitmapSlice;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion, VolatileSlice};

use super::layout::PAGE_SIZE;
use super::{GuestMemory, Region, host, keep_private};

/// A process's mappings up to which discards make new ones: half of what Linux allows.
const MOST_MAPPINGS: usize = 32 << 10;
/// How many discards make none before the mappings are counted again.
const PATIENCE: usize = 4096;
/// The process's mappings, one a line.
const MAPS: &str = "/proc/self/maps";

/// Gives the whole pages in a part of guest memory back to the host, and says how many bytes these are.
/// The guest finds them cleared when it touches them again, also those that the host does not get: parts of
/// huge pages, and restored pages in too many places.
///
/// # Errors
/// The host keeps them: what they hold may be gone or not.
pub fn discard<B: BitmapSlice>(memory: &GuestMemory, part: &VolatileSlice<'_, B>) -> io::Result<u64> {
    let page = usize::try_from(PAGE_SIZE).map_err(io::Error::other)?;
    let start = part.ptr_guard().as_ptr();
    let skipped = start.align_offset(page);
    let Some(len) = part.len().checked_sub(skipped).map(|len| len - len % page).filter(|len| *len > 0) else {
        return Ok(0);
    };
    let pages = part.subslice(skipped, len).map_err(io::Error::other)?;
    let holds = |region: &&Region| {
        let at = (start as usize).wrapping_sub(region.as_ptr() as usize);
        u64::try_from(at).is_ok_and(|at| at < region.len())
    };
    let region = memory.iter().find(holds);
    let freed = if region.is_some_and(|region| region.flags() & libc::MAP_SHARED != 0) {
        // A page that others can map as well has to go from its file.
        host::advise(&pages, libc::MADV_REMOVE).map(|()| len)
    } else if region.and_then(GuestMemoryRegion::is_hugetlbfs) == Some(true) {
        // A huge page could be another's when the guest needs it again, and then it has none: they stay.
        host::clear(&pages).map(|()| 0)
    } else if region.is_some_and(|region| region.file_offset().is_some()) {
        discard_private(&pages)
    } else {
        host::advise(&pages, libc::MADV_DONTNEED).map(|()| len)
    };
    pages.bitmap().mark_dirty(0, len);
    u64::try_from(freed?).map_err(io::Error::other)
}

/// Pages of a private mapping of a file would come again as the file's.
fn discard_private<B: BitmapSlice>(pages: &VolatileSlice<'_, B>) -> io::Result<usize> {
    static BUDGET: Mutex<Budget> = Mutex::new(Budget { left: 0, refusals: 0 });
    let mapped = || fs::read(MAPS).map_or(usize::MAX, |maps| maps.iter().filter(|b| **b == b'\n').count());
    if !BUDGET.lock().unwrap_or_else(PoisonError::into_inner).take(mapped) {
        return host::clear(pages).map(|()| 0);
    }
    host::map_over(pages, None)?;
    keep_private(pages);
    Ok(pages.len())
}

/// How many mappings discards may still make. The guest chooses where they are, and so how many: without
/// a limit it could take all that the process may have, and that other machines in it need.
struct Budget {
    left: usize,
    refusals: usize,
}

impl Budget {
    /// Whether there may be one more.
    fn take(&mut self, mapped: impl Fn() -> usize) -> bool {
        if self.left == 0 && self.refusals == 0 {
            // Each may cut one mapping into three.
            self.left = MOST_MAPPINGS.saturating_sub(mapped()) / 2;
            self.refusals = if self.left == 0 { PATIENCE } else { 0 };
        }
        let granted = self.left > 0;
        let counter = if granted { &mut self.left } else { &mut self.refusals };
        *counter -= 1;
        granted
    }
}

#[cfg(test)]
mod tests;
