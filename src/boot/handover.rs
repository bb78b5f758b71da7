//! What a kernel is told, whichever protocol it is entered by.

use std::ops::Range;

use linux_loader::bootparam::E820_MAX_ENTRIES_ZEROPAGE;

use super::cmdline::CommandLine;
use super::error::Error;
use super::image::Image;
use super::memory_map;
use crate::memory::GuestMemory;

/// Entries of the memory map that the zero page has room for.
pub(super) const MEMORY_MAP_MAX: usize = E820_MAX_ENTRIES_ZEROPAGE;

/// What both protocols tell the kernel, each in its own structures.
pub(super) struct Handover<'a> {
    pub(super) cmdline: &'a CommandLine,
    pub(super) initrd: Option<Range<u64>>,
    pub(super) map: Vec<memory_map::Entry>,
    pub(super) rsdp: Option<u64>,
}

impl Handover<'_> {
    /// Writes what has the same form in both protocols.
    pub(super) fn finish(&self, memory: &GuestMemory, initrd: Option<&Image>) -> Result<(), Error> {
        if let (Some(image), Some(range)) = (initrd, &self.initrd) {
            image.copy_to(memory, 0, range.start, range.end - range.start)?;
        }
        self.cmdline.write(memory)
    }
}
