//! Guest memory: anonymous, lazily backed, with the hole below 4 GiB.

// Memory advice is a call on raw addresses.
#![allow(unsafe_code)]

pub mod dirty;
mod discard;
mod error;
pub mod fault;
mod host;
mod huge;
pub mod image;
mod layers;
pub mod layout;
mod working_set;

use std::ops::{ControlFlow, Range};

use vm_memory::bitmap::BitmapSlice;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress, VolatileSlice};

pub use dirty::DirtyPages;
pub use discard::discard;
pub use error::Error;
pub use huge::{allocate_huge, restore_huge};
pub use layers::{Layer, Layers, Run, restore};
pub use working_set::{Prefetch, WorkingSet};

use crate::config::Size;
use dirty::{LogSlice, WriteLog};
use layout::{HOLE_END, HOLE_START, PAGE_SIZE};

/// Guest memory as every part of the machine sees it. Clones share the same memory.
pub type GuestMemory = vm_memory::GuestMemoryMmap<WriteLog>;

/// A piece of guest memory. What is written to it is noted, when [`dirty::track`] says so.
pub type GuestSlice<'m> = vm_memory::VolatileSlice<'m, LogSlice<'m>>;

/// A region of it.
type Region = <GuestMemory as GuestMemoryBackend>::R;

/// Is told how many bytes are done, and of how many. A break means that nobody wants the rest.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64) -> ControlFlow<()>;

fn report(progress: Progress<'_>, done: u64, total: u64) -> Result<(), Error> {
    match progress(done, total) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::GivenUp),
    }
}

/// Below this address memory keeps small pages: a guest that only says hello touches a few pages
/// here, and a huge page would be cleared for each.
const SMALL_PAGES_END: u64 = 2 << 20;

/// The ranges of guest-physical addresses that `size` of memory takes: from 0 up to the hole, and
/// the rest from 4 GiB up.
fn ranges(size: Size) -> Result<Vec<(GuestAddress, usize)>, Error> {
    let low = size.bytes().min(HOLE_START);
    [(0, low), (HOLE_END, size.bytes() - low)]
        .into_iter()
        .filter(|(_, len)| *len > 0)
        .map(|(start, len)| {
            usize::try_from(len).map(|len| (GuestAddress(start), len)).map_err(|_| Error::TooLarge(size))
        })
        .collect()
}

/// Maps `size` of guest memory. The host gives pages as the guest touches them; transparent huge
/// pages are advised for all but the first 2 MiB.
///
/// # Errors
/// The host's address space has no room.
pub fn allocate(size: Size) -> Result<GuestMemory, Error> {
    let memory = GuestMemory::from_ranges(&ranges(size)?).map_err(|source| Error::Map { size, source })?;
    for (at, slice) in parts(&memory, 0..size.bytes())? {
        let skipped = SMALL_PAGES_END.saturating_sub(at);
        if let Ok(slice) = slice.offset(usize::try_from(skipped).unwrap_or(usize::MAX)) {
            let _ = host::advise(&slice, libc::MADV_HUGEPAGE);
        }
    }
    keep_all_private(&memory)?;
    Ok(memory)
}

/// Keeps the parts of memory from children of the process and from core dumps.
fn keep_all_private(memory: &GuestMemory) -> Result<(), Error> {
    parts(memory, 0..size(memory))?.iter().for_each(|(_, slice)| keep_private(slice));
    Ok(())
}

/// A child of a fork has no use for the guest's memory, and without it the fork need not
/// write-protect all of it under running vCPUs; nor does it belong into a core dump.
///
/// Best effort: a kernel that refuses an advice loses nothing.
fn keep_private<B: BitmapSlice>(slice: &VolatileSlice<'_, B>) {
    for advice in [libc::MADV_DONTFORK, libc::MADV_DONTDUMP] {
        let _ = host::advise(slice, advice);
    }
}

/// How many bytes of RAM there are.
fn size(memory: &GuestMemory) -> u64 {
    memory.iter().map(GuestMemoryRegion::len).sum()
}

/// The parts of memory for a range of RAM, in order, with the place of each in RAM. RAM has no hole: what
/// comes after its low part is the memory from 4 GiB up.
fn parts(memory: &GuestMemory, range: Range<u64>) -> Result<Vec<(u64, GuestSlice<'_>)>, Error> {
    let outside =
        || Error::Outside { first: range.start / PAGE_SIZE, count: (range.end - range.start) / PAGE_SIZE };
    let mut parts = Vec::new();
    let mut start = 0;
    for region in memory.iter() {
        let end = start + region.len();
        let (from, to) = (range.start.max(start), range.end.min(end));
        if from < to {
            let len = usize::try_from(to - from).map_err(|_| outside())?;
            let slice = region.get_slice(MemoryRegionAddress(from - start), len).map_err(|_| outside())?;
            parts.push((from, slice));
        }
        start = end;
    }
    if range.end > start { Err(outside()) } else { Ok(parts) }
}

#[cfg(test)]
pub(crate) mod tests {
    /// Pages in 2 MiB.
    pub(crate) const PAGES: usize = 512;

    use vm_memory::Bytes;

    use super::*;

    #[test]
    fn memory_leaves_the_hole_free() {
        let cases: [(u64, &[(u64, u64)]); 4] = [
            (16 << 20, &[(0, 16 << 20)]),
            (HOLE_START, &[(0, HOLE_START)]),
            (HOLE_START + 4096, &[(0, HOLE_START), (HOLE_END, 4096)]),
            (200 << 30, &[(0, HOLE_START), (HOLE_END, (200 << 30) - HOLE_START)]),
        ];
        for (size, expected) in cases {
            let memory = allocate(Size::new(size)).unwrap();
            let got: Vec<_> = memory.iter().map(|r| (r.start_addr().0, r.len())).collect();
            assert_eq!(got, expected);
        }
    }

    #[test]
    fn memory_starts_as_zeroes_and_is_shared_by_clones() {
        let memory = allocate(Size::mib(16)).unwrap();
        let last = GuestAddress((16 << 20) - 8);
        assert_eq!(memory.read_obj::<u64>(last).unwrap(), 0);
        memory.clone().write_obj(7_u64, last).unwrap();
        assert_eq!(memory.read_obj::<u64>(last).unwrap(), 7);
        assert!(memory.write_obj(7_u64, GuestAddress((16 << 20) - 7)).is_err());
    }

    /// How many of the pages in a part of guest memory the host keeps.
    pub(crate) fn resident(memory: &GuestMemory, start: u64, pages: usize) -> usize {
        let slice = memory.get_slice(GuestAddress(start), pages * 4096).unwrap();
        let mut state = vec![0_u8; pages];
        let address = slice.ptr_guard().as_ptr().cast_mut().cast();
        // SAFETY: the range is a mapping that lives, and there is a byte for each of its pages.
        assert_eq!(unsafe { libc::mincore(address, pages * 4096, state.as_mut_ptr()) }, 0);
        state.iter().filter(|state| **state & 1 != 0).count()
    }

    #[test]
    fn pages_go_back_to_the_host_and_come_again_as_zeroes() {
        const START: u64 = 4 << 20;
        let anonymous = allocate(Size::mib(16)).unwrap();
        let file = vmm_sys_util::tempfile::TempFile::new().unwrap().into_file();
        file.set_len(16 << 20).unwrap();
        let file = Some(vm_memory::FileOffset::new(file, 0));
        let shared = GuestMemory::from_ranges_with_files([(GuestAddress(0), 16 << 20, file)]).unwrap();
        for memory in [anonymous, shared] {
            let pages = 2 << 20 >> 12;
            memory.write_slice(&vec![7; 2 << 20], GuestAddress(START)).unwrap();
            assert_eq!(resident(&memory, START, pages), pages);
            // Neither the first page nor the last one is whole.
            let part = memory.get_slice(GuestAddress(START + 1), (2 << 20) - 2).unwrap();
            assert_eq!(discard(&memory, &part).unwrap(), (2 << 20) - 2 * 4096);
            assert_eq!(resident(&memory, START, pages), 2);
            let read = |at| memory.read_obj::<u8>(GuestAddress(START + at)).unwrap();
            assert_eq!([read(4095), read(4096), read((2 << 20) - 4096)], [7, 0, 7]);
            let part = memory.get_slice(GuestAddress(START + 1), 4096).unwrap();
            assert_eq!(discard(&memory, &part).unwrap(), 0);
        }
    }

    #[test]
    fn what_the_host_cannot_map_is_an_error() {
        let error = allocate(Size::new(1 << 60)).unwrap_err();
        assert!(error.to_string().contains("cannot map"), "{error}");
    }
}
