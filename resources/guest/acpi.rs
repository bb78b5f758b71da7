//! The few ACPI tables that matter here (ACPI 6.5, chapter 5): the RSDP, the
//! RSDT or XSDT, the MADT, the FADT and the DSDT. Nothing in them is trusted.

use crate::phys;

/// Where a PC's firmware leaves the RSDP when the loader does not tell.
const SCAN: core::ops::Range<u64> = 0xe0000..0x10_0000;
const RSDP_SIGNATURE: u64 = u64::from_le_bytes(*b"RSD PTR ");
const HEADER: u64 = 36;
const MAX_TABLE: u64 = 1 << 20;
const MAX_TABLES: u64 = 64;

/// A table that has been found whole, its checksum included.
#[derive(Clone, Copy)]
pub struct Table {
    address: u64,
    length: u64,
}

impl Table {
    fn at(address: u64) -> Option<Self> {
        let length = u64::from(phys::read32(address.checked_add(4)?)?);
        if !(HEADER..=MAX_TABLE).contains(&length) {
            return None;
        }
        checksum(address, length).then_some(Table { address, length })
    }

    fn offset(&self, offset: u64, size: u64) -> Option<u64> {
        (offset + size <= self.length).then_some(self.address + offset)
    }

    fn read8(&self, offset: u64) -> Option<u8> {
        phys::read8(self.offset(offset, 1)?)
    }

    fn read32(&self, offset: u64) -> Option<u32> {
        phys::read32(self.offset(offset, 4)?)
    }

    fn read64(&self, offset: u64) -> Option<u64> {
        phys::read64(self.offset(offset, 8)?)
    }
}

/// Whether the bytes add up to zero.
pub fn checksum(address: u64, length: u64) -> bool {
    let sum = |sum: u8, at| Some(sum.wrapping_add(phys::read8(at)?));
    address.checked_add(length).and_then(|end| (address..end).try_fold(0, sum)) == Some(0)
}

/// Looks through the firmware's area, 16 bytes at a time; pages where nothing
/// answers are passed over, since each read there may be an exit.
pub fn scan(range: core::ops::Range<u64>, found: impl Fn(u64) -> bool) -> Option<u64> {
    range
        .step_by(4096)
        .filter(|&page| phys::read64(page) != Some(u64::MAX))
        .flat_map(|page| (page..page + 4096).step_by(16))
        .find(|&address| found(address))
}

/// The tables of this machine.
#[derive(Clone, Copy)]
pub struct Acpi {
    pub rsdp: u64,
    root: Table,
    entry_size: u64,
}

impl Acpi {
    /// From the loader's RSDP if it names one, else by looking for it.
    pub fn find(rsdp: Option<u64>) -> Option<Self> {
        let valid = |address: u64| phys::read64(address) == Some(RSDP_SIGNATURE) && checksum(address, 20);
        let rsdp = rsdp.filter(|&address| valid(address)).or_else(|| scan(SCAN, valid))?;
        let extended = phys::read8(rsdp + 15)? >= 2 && phys::read64(rsdp + 24)? != 0;
        let (root, entry_size) =
            if extended { (phys::read64(rsdp + 24)?, 8) } else { (u64::from(phys::read32(rsdp + 16)?), 4) };
        Some(Acpi { rsdp, root: Table::at(root)?, entry_size })
    }

    /// The tables' signatures, in order.
    pub fn signatures(&self) -> impl Iterator<Item = [u8; 4]> {
        self.addresses().filter_map(|address| Some(phys::read32(address)?.to_le_bytes()))
    }

    fn addresses(&self) -> impl Iterator<Item = u64> {
        let (root, size) = (self.root, self.entry_size);
        let count = ((root.length - HEADER) / size).min(MAX_TABLES);
        (0..count).filter_map(move |index| {
            let offset = HEADER + index * size;
            if size == 8 { root.read64(offset) } else { root.read32(offset).map(u64::from) }
        })
    }

    fn table(&self, signature: [u8; 4]) -> Option<Table> {
        let wanted = Some(u32::from_le_bytes(signature));
        self.addresses().find(|&address| phys::read32(address) == wanted).and_then(Table::at)
    }

    pub fn madt(&self) -> Option<Madt> {
        self.table(*b"APIC").map(|table| Madt { table })
    }

    /// From the FADT's X_DSDT if it has one, else from its DSDT field.
    pub fn dsdt(&self) -> Option<Dsdt> {
        let fadt = self.table(*b"FACP")?;
        let wide = fadt.read64(fadt::X_DSDT).filter(|&address| address != 0);
        let address = wide.or_else(|| fadt.read32(fadt::DSDT).map(u64::from))?;
        Some(Dsdt { table: Table::at(address)? })
    }

    pub fn fadt(&self) -> Option<Fadt> {
        let table = self.table(*b"FACP")?;
        let flags = table.read32(fadt::FLAGS)?;
        let reset = (flags & fadt::RESET_REG_SUP != 0)
            .then(|| Some((Register::read(&table, fadt::RESET_REG)?, table.read8(fadt::RESET_VALUE)?)))
            .flatten();
        let sleep = (flags & fadt::HW_REDUCED_ACPI != 0)
            .then(|| Register::read(&table, fadt::SLEEP_CONTROL_REG))
            .flatten();
        Some(Fadt { reset, sleep })
    }
}

/// Offsets and flags of the FADT (ACPI 6.5, 5.2.9).
mod fadt {
    pub const DSDT: u64 = 40;
    pub const FLAGS: u64 = 112;
    pub const RESET_REG: u64 = 116;
    pub const RESET_VALUE: u64 = 128;
    pub const X_DSDT: u64 = 140;
    pub const SLEEP_CONTROL_REG: u64 = 244;
    pub const RESET_REG_SUP: u32 = 1 << 10;
    pub const HW_REDUCED_ACPI: u32 = 1 << 20;
}

/// A register in a generic address structure (ACPI 6.5, 5.2.3.2).
#[derive(Clone, Copy)]
pub enum Register {
    Memory(u32),
    Port(u16),
}

impl Register {
    fn read(table: &Table, offset: u64) -> Option<Self> {
        let address = table.read64(offset + 4).filter(|&address| address != 0)?;
        match table.read8(offset)? {
            0 => Some(Register::Memory(address.try_into().ok()?)),
            1 => Some(Register::Port(address.try_into().ok()?)),
            _ => None,
        }
    }
}

/// How to reset the machine and how to switch it off.
#[derive(Clone, Copy)]
pub struct Fadt {
    pub reset: Option<(Register, u8)>,
    pub sleep: Option<Register>,
}

/// The differentiated system description table. Its AML is not interpreted:
/// what matters here is found by how it looks.
#[derive(Clone, Copy)]
pub struct Dsdt {
    table: Table,
}

/// The resources of a device: registers in memory, and an interrupt (or zero).
pub struct Resources {
    pub address: u32,
    pub size: u32,
    pub irq: u32,
}

impl Dsdt {
    /// Where the generation id is: `Name (ADDR, Package (2) {low, high})` with the lower half as a double
    /// word (ACPI 6.5, 20.2.5.1 and 20.2.3), as it is for addresses above 64 KiB.
    pub fn generation_id(&self) -> Option<u64> {
        let is = |at, text: &[u8; 4]| self.table.read32(at) == Some(u32::from_le_bytes(*text));
        let at = (HEADER..self.table.length).find(|&at| is(at, b"ADDR") && is(at + 4, b"\x12\x08\x02\x0c"))?;
        self.table.read32(at + 8).map(u64::from)
    }

    /// The interrupt of the generic event device (ACPI 6.5, 5.6.9).
    pub fn event_interrupt(&self) -> Option<u32> {
        let named = |&at: &u64| self.table.read64(at) == Some(u64::from_le_bytes(*b"ACPI0013"));
        let at = (HEADER..self.table.length).find(named)?;
        self.interrupt(&mut (at + 8..at + Self::REACH))
    }

    /// The first extended interrupt descriptor (6.4.3.6): tag, length, flags, count, numbers.
    fn interrupt(&self, places: &mut impl Iterator<Item = u64>) -> Option<u32> {
        let at = places.find(|&at| self.table.read8(at) == Some(0x89))?;
        self.table.read32(at + 5)
    }

    /// How far behind a device's hardware ID its resources may be.
    const REACH: u64 = 160;

    /// The devices with such a hardware ID of eight letters, and with a 32-bit
    /// fixed memory range descriptor behind it (ACPI 6.5, 6.4.3.4).
    pub fn devices(&self, hardware_id: [u8; 8]) -> impl Iterator<Item = Resources> + use<> {
        let table = self.table;
        let named = move |&at: &u64| table.read64(at) == Some(u64::from_le_bytes(hardware_id));
        (HEADER..table.length).filter(named).filter_map(move |at| {
            let mut behind = (at + 8..at + Self::REACH).take_while(move |at| !named(at));
            // Tag and length (9), then access, base and length of the range.
            let range =
                behind.find(|&at| table.read32(at).is_some_and(|tag| tag & 0xff_ffff == 0x00_0986))?;
            let irq = Dsdt { table }.interrupt(&mut behind.skip_while(|&at| at < range + 12));
            Some(Resources {
                address: table.read32(range + 4)?,
                size: table.read32(range + 8)?,
                irq: irq.unwrap_or(0),
            })
        })
    }
}

/// The multiple APIC description table (ACPI 6.5, 5.2.12).
pub struct Madt {
    table: Table,
}

/// An entry of the MADT that matters here.
pub enum MadtEntry {
    /// An enabled CPU, with its local APIC's ID.
    Cpu(u32),
    /// An IOAPIC, with its first interrupt: 0 where the ISA ones are.
    IoApic { address: u32, first: u32 },
}

impl Madt {
    pub fn local_apic(&self) -> Option<u32> {
        self.table.read32(36)
    }

    pub fn entries(&self) -> impl Iterator<Item = MadtEntry> {
        let table = self.table;
        let mut next = 44;
        core::iter::from_fn(move || {
            let offset = next;
            let (kind, length) = (table.read8(offset)?, table.read8(offset + 1)?);
            if length < 2 {
                return None;
            }
            next += u64::from(length);
            Some((kind, offset))
        })
        .filter_map(move |(kind, offset)| match kind {
            0 if table.read32(offset + 4)? & 1 != 0 => Some(MadtEntry::Cpu(table.read8(offset + 3)?.into())),
            1 => Some(MadtEntry::IoApic {
                address: table.read32(offset + 4)?,
                first: table.read32(offset + 8)?,
            }),
            9 if table.read32(offset + 8)? & 1 != 0 => Some(MadtEntry::Cpu(table.read32(offset + 4)?)),
            _ => None,
        })
    }
}
