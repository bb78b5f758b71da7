//! What the loader tells: `hvm_start_info` (Xen, public/arch-x86/hvm/start_info.h)
//! or `boot_params` (Linux, Documentation/arch/x86/zero-page.rst).

use crate::phys;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Pvh,
    Linux64,
}

impl Protocol {
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Pvh => "PVH",
            Protocol::Linux64 => "Linux 64-bit",
        }
    }
}

/// `XEN_HVM_START_MAGIC_VALUE`.
const START_MAGIC: u32 = 0x336e_c578;

/// Offsets in `hvm_start_info`.
mod start_info {
    pub const VERSION: u64 = 4;
    pub const MODULE_COUNT: u64 = 12;
    pub const MODULES: u64 = 16;
    pub const COMMAND_LINE: u64 = 24;
    pub const RSDP: u64 = 32;
    pub const MAP: u64 = 40;
    pub const MAP_ENTRIES: u64 = 48;
    pub const MODULE_SIZE: u64 = 32;
    pub const MAP_ENTRY_SIZE: u64 = 24;
}

/// Offsets in `boot_params`.
mod boot_params {
    pub const RSDP: u64 = 0x070;
    pub const EXT_RAMDISK_IMAGE: u64 = 0x0c0;
    pub const EXT_COMMAND_LINE: u64 = 0x0c8;
    pub const MAP_ENTRIES: u64 = 0x1e8;
    pub const RAMDISK_IMAGE: u64 = 0x218;
    pub const COMMAND_LINE: u64 = 0x228;
    pub const MAP: u64 = 0x2d0;
    pub const MAP_ENTRY_SIZE: u64 = 20;
    pub const MAP_MAX: u32 = 128;
}

/// One range of the memory map; the kinds are those of E820 (ACPI 6.5, 15.3).
#[derive(Clone, Copy)]
pub struct Range {
    pub start: u64,
    pub end: u64,
    pub kind: u32,
}

impl Range {
    pub fn kind_name(&self) -> &'static str {
        match self.kind {
            1 => "usable",
            2 => "reserved",
            3 => "ACPI",
            4 => "ACPI NVS",
            5 => "unusable",
            7 => "persistent",
            _ => "other",
        }
    }
}

pub struct BootInfo {
    pub protocol: Protocol,
    /// Where the structure lies, for people.
    pub address: u64,
    info: Option<u64>,
}

impl BootInfo {
    pub fn new(protocol: Protocol, address: u64) -> Self {
        // boot_params need no magic number: a loader may leave `HdrS` out.
        let known = protocol == Protocol::Linux64 || phys::read32(address) == Some(START_MAGIC);
        BootInfo { protocol, address, info: known.then_some(address) }
    }

    fn field32(&self, offset: u64) -> Option<u32> {
        phys::read32(self.info?.checked_add(offset)?)
    }

    fn field64(&self, offset: u64) -> Option<u64> {
        phys::read64(self.info?.checked_add(offset)?)
    }

    /// Where the command line lies.
    pub fn command_line(&self) -> Option<u64> {
        match self.protocol {
            Protocol::Pvh => self.field64(start_info::COMMAND_LINE),
            Protocol::Linux64 => {
                let high = self.field32(boot_params::EXT_COMMAND_LINE)?;
                Some(u64::from(high) << 32 | u64::from(self.field32(boot_params::COMMAND_LINE)?))
            }
        }
    }

    pub fn rsdp(&self) -> Option<u64> {
        let address = match self.protocol {
            Protocol::Pvh => self.field64(start_info::RSDP),
            Protocol::Linux64 => self.field64(boot_params::RSDP),
        };
        address.filter(|&address| address != 0)
    }

    fn map_table(&self) -> Option<(u64, u64, u32)> {
        match self.protocol {
            Protocol::Pvh if self.field32(start_info::VERSION)? == 0 => None,
            Protocol::Pvh => Some((
                self.field64(start_info::MAP)?,
                start_info::MAP_ENTRY_SIZE,
                self.field32(start_info::MAP_ENTRIES)?.min(boot_params::MAP_MAX),
            )),
            Protocol::Linux64 => Some((
                self.address.checked_add(boot_params::MAP)?,
                boot_params::MAP_ENTRY_SIZE,
                (self.field32(boot_params::MAP_ENTRIES)? & 0xff).min(boot_params::MAP_MAX),
            )),
        }
    }

    /// The memory map, in the loader's order; empty and overflowing ranges are
    /// left out.
    pub fn map(&self) -> impl Iterator<Item = Range> + use<> {
        let (table, size, count) = self.map_table().unwrap_or((0, 0, 0));
        (0..u64::from(count)).filter_map(move |index| {
            let entry = table.checked_add(index * size)?;
            let start = phys::read64(entry)?;
            let end = start.checked_add(phys::read64(entry + 8)?)?;
            let kind = phys::read32(entry + 16)?;
            (end > start).then_some(Range { start, end, kind })
        })
    }

    pub fn usable(&self) -> impl Iterator<Item = Range> + use<> {
        self.map().filter(|range| range.kind == 1)
    }

    /// The lowest address, from `floor` up, of what was loaded beside the kernel.
    pub fn first_module(&self, floor: u64) -> u64 {
        let first = match self.protocol {
            Protocol::Pvh => {
                let count = u64::from(self.field32(start_info::MODULE_COUNT).unwrap_or(0).min(64));
                let table = self.field64(start_info::MODULES).unwrap_or(0);
                (0..count)
                    .filter_map(|index| phys::read64(table.checked_add(index * start_info::MODULE_SIZE)?))
                    .filter(|&address| address >= floor)
                    .min()
            }
            Protocol::Linux64 => {
                let high = self.field32(boot_params::EXT_RAMDISK_IMAGE).unwrap_or(0);
                let low = self.field32(boot_params::RAMDISK_IMAGE).unwrap_or(0);
                Some(u64::from(high) << 32 | u64::from(low)).filter(|&address| address >= floor)
            }
        };
        first.unwrap_or(u64::MAX)
    }
}
