//! What the 64-bit Linux boot protocol hands over: the zero page, page tables and a GDT.

use linux_loader::bootparam::{LOADED_HIGH, boot_e820_entry, boot_params, setup_header};
use vm_memory::{ByteValued, Bytes, GuestAddress};

use super::bzimage::HEADER;
use super::error::Error;
use super::handover::Handover;
use super::memory_map::Kind;
use super::paging::PageTables;
use super::registers;
use crate::memory::GuestMemory;
use crate::memory::layout::{CMDLINE, GDT, ZERO_PAGE};

/// boot.rst, `type_of_loader`: a boot loader without an assigned number.
const LOADER_UNDEFINED: u8 = 0xff;
/// boot.rst, `vid_mode`: "normal".
const VIDEO_NORMAL: u16 = 0xffff;
/// boot.rst, `boot_flag` and `header`.
const BOOT_FLAG: u16 = 0xaa55;
const HDRS: u32 = u32::from_le_bytes(*b"HdrS");
/// The protocol whose fields we fill in for a kernel that brings no header.
const VERSION: u16 = 0x020f;
/// Linux, `arch/x86/include/asm/e820/types.h`.
const E820_RAM: u32 = 1;
const E820_RESERVED: u32 = 2;

/// Writes all that the kernel finds when it is entered. `header` is the setup header of a bzImage;
/// an ELF kernel has none.
pub(super) fn write(
    memory: &GuestMemory,
    handover: &Handover<'_>,
    header: Option<&[u8]>,
    tables: &PageTables,
) -> Result<(), Error> {
    tables.write(memory)?;
    let gdt = registers::gdt().map(u64::to_le_bytes);
    memory.write_slice(gdt.as_flattened(), GuestAddress(GDT)).map_err(|source| Error::Write {
        what: "the GDT",
        address: GDT,
        source,
    })?;
    let zero_page = zero_page(handover, header);
    memory.write_obj(zero_page, GuestAddress(ZERO_PAGE)).map_err(|source| Error::Write {
        what: "the zero page",
        address: ZERO_PAGE,
        source,
    })
}

fn zero_page(handover: &Handover<'_>, header: Option<&[u8]>) -> boot_params {
    let mut params = boot_params::default();
    match header {
        Some(header) => {
            // The header as it is in the file, with fields that are newer than the structure.
            let place = params.as_mut_slice().get_mut(HEADER..HEADER + header.len());
            if let Some(place) = place {
                place.copy_from_slice(header);
            }
        }
        None => {
            params.hdr = setup_header {
                boot_flag: BOOT_FLAG,
                header: HDRS,
                version: VERSION,
                ..setup_header::default()
            };
        }
    }
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    params.hdr.loadflags |= LOADED_HIGH;
    params.hdr.vid_mode = VIDEO_NORMAL;
    params.hdr.setup_data = 0;
    (params.hdr.cmd_line_ptr, params.ext_cmd_line_ptr) = split(CMDLINE);
    let initrd = handover.initrd.clone().unwrap_or_default();
    (params.hdr.ramdisk_image, params.ext_ramdisk_image) = split(initrd.start);
    (params.hdr.ramdisk_size, params.ext_ramdisk_size) = split(initrd.end - initrd.start);
    params.acpi_rsdp_addr = handover.rsdp.unwrap_or(0);

    let mut count = 0;
    let mut table = params.e820_table;
    for (slot, entry) in table.iter_mut().zip(&handover.map) {
        *slot = boot_e820_entry {
            addr: entry.range.start,
            size: entry.range.end - entry.range.start,
            r#type: match entry.kind {
                Kind::Ram => E820_RAM,
                Kind::Reserved => E820_RESERVED,
            },
        };
        count += 1;
    }
    params.e820_table = table;
    params.e820_entries = count;
    params
}

/// The protocol's old 32-bit field and the extension that holds the upper half.
#[allow(clippy::cast_possible_truncation, reason = "the halves are what is wanted")]
fn split(value: u64) -> (u32, u32) {
    (value as u32, (value >> 32) as u32)
}

#[cfg(test)]
mod tests;
