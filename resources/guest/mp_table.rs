//! The older way to tell the CPUs: the MP table (Intel MultiProcessor
//! Specification 1.4, chapter 4).

use crate::acpi::{MadtEntry, checksum, scan};
use crate::phys;

const FLOATING_POINTER: u32 = u32::from_le_bytes(*b"_MP_");
const CONFIGURATION: u32 = u32::from_le_bytes(*b"PCMP");
const HEADER: u64 = 44;

const PROCESSOR: u8 = 0;
const IO_APIC: u8 = 2;

pub struct MpTable {
    address: u64,
    end: u64,
}

impl MpTable {
    /// Looks where the specification says: the last KiB of base memory and the
    /// BIOS ROM.
    pub fn find() -> Option<Self> {
        let valid = |address: u64| phys::read32(address) == Some(FLOATING_POINTER) && checksum(address, 16);
        let pointer = scan(0x9f000..0xa0000, valid).or_else(|| scan(0xf0000..0x10_0000, valid))?;
        let address = u64::from(phys::read32(pointer + 4)?);
        let end = address + u64::from(phys::read16(address + 4)?);
        (phys::read32(address)? == CONFIGURATION).then_some(MpTable { address, end })
    }

    pub fn local_apic(&self) -> Option<u32> {
        phys::read32(self.address + 36)
    }

    pub fn entries(&self) -> impl Iterator<Item = MadtEntry> {
        let (mut next, end) = (self.address + HEADER, self.end);
        // By the length: qboot leaves the number of entries zero.
        core::iter::from_fn(move || {
            let entry = next;
            let kind = phys::read8(entry)?;
            next += if kind == PROCESSOR { 20 } else { 8 };
            (next <= end).then_some((kind, entry))
        })
        .filter_map(|(kind, entry)| match kind {
            PROCESSOR if phys::read8(entry + 3)? & 1 != 0 => {
                Some(MadtEntry::Cpu(phys::read8(entry + 1)?.into()))
            }
            IO_APIC if phys::read8(entry + 3)? & 1 != 0 => {
                Some(MadtEntry::IoApic { address: phys::read32(entry + 4)?, first: 0 })
            }
            _ => None,
        })
    }
}
