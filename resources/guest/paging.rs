//! The identity map (Intel SDM vol. 3, "4-Level Paging"): 2 MiB pages, writable and open to
//! CPL 3. entry.s brings the first gigabyte, the rest is added when needed.
//! Entries only go from not present to present, so no TLB flush is needed.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::arena::{Arena, PAGE};

const PRESENT_WRITABLE_USER: u64 = 0b111;
const LARGE: u64 = 1 << 7;
const GIB: u64 = 1 << 30;
const LARGE_PAGE: u64 = 2 << 20;
const ENTRIES: usize = 512;

/// What one page of page-directory pointers can map.
pub const LIMIT: u64 = ENTRIES as u64 * GIB;

unsafe extern "C" {
    static pdpt: [AtomicU64; ENTRIES];
    static page_directories: [AtomicU64; 3 * ENTRIES];
}

static LOW_DONE: AtomicBool = AtomicBool::new(false);

/// Sees to it that everything below `end` (at most 4 GiB) is mapped.
pub fn reach(end: u64) {
    if end > GIB && !LOW_DONE.swap(true, Ordering::Relaxed) {
        // SAFETY: the tables are ours (entry.s) and made of atomics.
        let entries = unsafe { &page_directories };
        for (address, entry) in (GIB..).step_by(LARGE_PAGE as usize).zip(entries) {
            entry.store(address | LARGE | PRESENT_WRITABLE_USER, Ordering::Relaxed);
        }
    }
}

/// Maps the gigabyte that starts at `base`, a multiple of 1 GiB from 4 GiB up.
pub fn map_high(base: u64, arena: &mut Arena) -> Option<()> {
    // SAFETY: the table is ours (entry.s) and made of atomics.
    let slot = unsafe { &pdpt }.get((base / GIB) as usize)?;
    if slot.load(Ordering::Relaxed) != 0 {
        return Some(());
    }
    let directory = arena.pages(1)?;
    for index in 0..ENTRIES {
        let entry = (base + index as u64 * LARGE_PAGE) | LARGE | PRESENT_WRITABLE_USER;
        // SAFETY: the arena gave us this page, and it is mapped.
        unsafe { (directory as *mut u64).add(index).write(entry) };
    }
    slot.store(directory | PRESENT_WRITABLE_USER, Ordering::Release);
    Some(())
}

const _: () = assert!(ENTRIES * 8 == PAGE as usize);
