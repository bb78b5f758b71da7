//! Placing the initial ramdisk: as high as it may be, so that it is out of a growing kernel's way.

use std::ops::Range;

use super::error::Error;
use super::image::{Image, structure};
use super::memory_map::Ram;
use crate::memory::layout::{HIGH_MEMORY, PAGE_SIZE};

/// Finds the highest pages below `limit` and below the device hole that are free of the kernel.
pub(super) fn place(image: &Image, ram: &Ram, limit: u64, kernel: &Range<u64>) -> Result<Range<u64>, Error> {
    check_content(image)?;
    let size = image.len();
    let top = align_down(ram.low_end().min(limit));
    let above = kernel.end.max(HIGH_MEMORY)..top;
    let below = HIGH_MEMORY..align_down(kernel.start.min(top));
    let place = |gap: &Range<u64>| {
        let start = align_down(gap.end.checked_sub(size)?);
        (start >= gap.start).then(|| start..start + size)
    };
    place(&above).or_else(|| place(&below)).ok_or_else(|| {
        let room = |gap: &Range<u64>| align_down(gap.end.saturating_sub(gap.start));
        let free = room(&above).max(room(&below));
        Error::InitrdDoesNotFit { name: image.name().to_owned(), size, free, limit: top }
    })
}

fn align_down(address: u64) -> u64 {
    address - address % PAGE_SIZE
}

/// Catches an empty file and a kernel: a guest would only say that it finds no root file system.
fn check_content(image: &Image) -> Result<(), Error> {
    let mistake = |what, hint| Err(Error::NotInitrd { name: image.name().to_owned(), what, hint });
    if image.is_empty() {
        return mistake("empty", "leave --initrd out to boot without one");
    }
    let mut head = [0; 0x206];
    image.read_at(0, &mut head)?;
    if structure::<[u8; 4]>(&head, 0) == Some(*b"\x7fELF")
        || structure::<[u8; 4]>(&head, 0x202) == Some(*b"HdrS")
    {
        return mistake("a kernel or program", "pass a kernel with --kernel");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
