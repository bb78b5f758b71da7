//! What the PVH protocol hands over: `hvm_start_info` (Xen, `public/arch-x86/hvm/start_info.h`).

use linux_loader::start_info::{
    XEN_HVM_MEMMAP_TYPE_RAM, XEN_HVM_MEMMAP_TYPE_RESERVED, XEN_HVM_START_MAGIC_VALUE, hvm_memmap_table_entry,
    hvm_modlist_entry, hvm_start_info,
};
use vm_memory::{ByteValued, Bytes, GuestAddress};

use super::error::Error;
use super::handover::{Handover, MEMORY_MAP_MAX};
use super::memory_map::Kind;
use crate::memory::GuestMemory;
use crate::memory::layout::{CMDLINE, PVH_START_INFO, ZERO_PAGE};

/// The module list: 8-byte aligned after the start info.
const MODULES: u64 = PVH_START_INFO + 0x40;
/// The memory map, after a list of one module.
const MEMORY_MAP: u64 = PVH_START_INFO + 0x60;
/// The version that has a memory map.
const VERSION: u32 = 1;

const _: () = assert!(size_of::<hvm_start_info>() as u64 <= MODULES - PVH_START_INFO);
const _: () = assert!(size_of::<hvm_modlist_entry>() as u64 <= MEMORY_MAP - MODULES);
const _: () =
    assert!((MEMORY_MAP_MAX * size_of::<hvm_memmap_table_entry>()) as u64 <= ZERO_PAGE - MEMORY_MAP);

/// Writes all that the kernel finds when it is entered.
pub(super) fn write(memory: &GuestMemory, handover: &Handover<'_>) -> Result<(), Error> {
    let mut info = hvm_start_info {
        magic: XEN_HVM_START_MAGIC_VALUE,
        version: VERSION,
        cmdline_paddr: CMDLINE,
        rsdp_paddr: handover.rsdp.unwrap_or(0),
        memmap_paddr: MEMORY_MAP,
        ..hvm_start_info::default()
    };
    if let Some(initrd) = &handover.initrd {
        let (paddr, size) = (initrd.start, initrd.end - initrd.start);
        put(memory, hvm_modlist_entry { paddr, size, ..hvm_modlist_entry::default() }, MODULES)?;
        info.nr_modules = 1;
        info.modlist_paddr = MODULES;
    }
    let mut address = MEMORY_MAP;
    for entry in &handover.map {
        let type_ = match entry.kind {
            Kind::Ram => XEN_HVM_MEMMAP_TYPE_RAM,
            Kind::Reserved => XEN_HVM_MEMMAP_TYPE_RESERVED,
        };
        let (addr, size) = (entry.range.start, entry.range.end - entry.range.start);
        put(memory, hvm_memmap_table_entry { addr, size, type_, reserved: 0 }, address)?;
        address += size_of::<hvm_memmap_table_entry>() as u64;
        info.memmap_entries += 1;
    }
    put(memory, info, PVH_START_INFO)
}

fn put<T: ByteValued>(memory: &GuestMemory, value: T, address: u64) -> Result<(), Error> {
    memory.write_obj(value, GuestAddress(address)).map_err(|source| Error::Write {
        what: "the PVH start info",
        address,
        source,
    })
}

#[cfg(test)]
mod tests;
