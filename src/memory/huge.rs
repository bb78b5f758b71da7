//! Guest memory in huge pages that the host has set aside: fewer faults and fewer TLB misses.

use std::fs;

use vm_memory::GuestRegionMmap;

use super::layers::{Layers, Source};
use super::{Error, GuestMemory, host, keep_all_private, parts, ranges};
use crate::config::Size;

/// Bytes of a huge page.
const HUGE_PAGE: u64 = 2 << 20;
/// The host's pool of them.
const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

/// Maps `size` of guest memory in huge pages of 2 MiB, and has the host keep all of them for it.
///
/// # Errors
/// The size is no multiple of 2 MiB, or the host has not set aside so many.
pub fn allocate_huge(size: Size) -> Result<GuestMemory, Error> {
    if !size.bytes().is_multiple_of(HUGE_PAGE) {
        return Err(Error::HugePageSize(size));
    }
    let mut regions = Vec::new();
    for (start, len) in ranges(size)? {
        let mut region = host::map(None, len, libc::MAP_HUGETLB | libc::MAP_HUGE_2MB).map_err(|error| {
            Error::HugePages { size, needed: size.bytes() / HUGE_PAGE, free: free(), source: error.into() }
        })?;
        region.set_hugetlbfs(true);
        regions.extend(GuestRegionMmap::new(region, start));
    }
    let memory = GuestMemory::from_regions(regions).map_err(|e| Error::Map { size, source: e.into() })?;
    keep_all_private(&memory)?;
    Ok(memory)
}

/// Makes guest memory of a snapshot's in huge pages, by a copy of all that is not zeroes: nothing of the
/// files is needed afterwards, and nothing is shared.
///
/// # Errors
/// There are not enough huge pages, or a file cannot be read.
pub fn restore_huge(layers: &Layers) -> Result<GuestMemory, Error> {
    let memory = allocate_huge(layers.size())?;
    layers.check_lengths()?;
    for piece in layers.pieces() {
        let Source::File(number) = piece.source else { continue };
        let Some(file) = layers.file(number) else { continue };
        let failed = |source| Error::Layer { layer: number, source };
        for data in host::data(file, piece.bytes()).map_err(failed)? {
            for (at, slice) in parts(&memory, data)? {
                host::read_at(file, &slice, at).map_err(failed)?;
            }
        }
    }
    Ok(memory)
}

/// How many the host has that nobody has a claim to.
fn free() -> u64 {
    let read = |name: &str| {
        let text = fs::read_to_string(format!("{POOL}/{name}")).unwrap_or_default();
        text.trim().parse::<u64>().unwrap_or_default()
    };
    read("free_hugepages").saturating_sub(read("resv_hugepages"))
}

#[cfg(test)]
mod tests;
