//! The MP table (Intel MultiProcessor Specification 1.4): processors, the IOAPIC and its inputs,
//! for guests without ACPI.

use thiserror::Error;
use vm_memory::{Bytes, GuestAddress};
use zerocopy::little_endian::{U16, U32};
use zerocopy::{Immutable, IntoBytes};

use super::platform::{ISA_IRQS, Platform, Trigger};
use crate::memory::{GuestMemory, layout};

/// Revision 1.4 of the specification.
const REVISION: u8 = 4;
/// Version of local APICs inside a processor.
const LOCAL_APIC_VERSION: u8 = 0x14;
/// Version of the 82093AA IOAPIC.
const IOAPIC_VERSION: u8 = 0x11;
/// Number of the only bus.
const ISA_BUS: u8 = 0;
/// Destination "all local APICs".
const ALL_APICS: u8 = 0xff;

/// Polarity and trigger mode as the bus has them: on ISA, active-high edges (table 4-10).
const CONFORMING: u16 = 0;
/// Active-high, level-triggered.
const HIGH_LEVEL: u16 = 0b11_01;

/// MP floating pointer structure (section 4.1).
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct FloatingPointer {
    signature: [u8; 4],
    table: U32,
    /// In units of 16 bytes.
    length: u8,
    revision: u8,
    checksum: u8,
    /// All zero: a configuration table is there, and no PIC mode to leave.
    features: [u8; 5],
}

/// MP configuration table header (section 4.2).
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Header {
    signature: [u8; 4],
    length: U16,
    revision: u8,
    checksum: u8,
    oem: [u8; 8],
    product: [u8; 12],
    oem_table: U32,
    oem_table_length: U16,
    entries: U16,
    local_apic: U32,
    extended_length: U16,
    extended_checksum: u8,
    reserved: u8,
}

/// Processor (section 4.3.1).
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Processor {
    kind: u8,
    apic_id: u8,
    apic_version: u8,
    flags: u8,
    signature: U32,
    features: U32,
    reserved: [u8; 8],
}

/// Bus (section 4.3.2).
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Bus {
    kind: u8,
    id: u8,
    name: [u8; 6],
}

/// IOAPIC (section 4.3.3).
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct IoApic {
    kind: u8,
    id: u8,
    version: u8,
    flags: u8,
    address: U32,
}

/// I/O or local interrupt assignment (sections 4.3.4 and 4.3.5).
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Assignment {
    kind: u8,
    interrupt: u8,
    flags: U16,
    bus: u8,
    irq: u8,
    apic: u8,
    input: u8,
}

const PROCESSOR: u8 = 0;
const BUS: u8 = 1;
const IOAPIC: u8 = 2;
const IO_INTERRUPT: u8 = 3;
const LOCAL_INTERRUPT: u8 = 4;

/// Interrupt types (table 4-11).
const INT: u8 = 0;
const NMI: u8 = 1;
const EXT_INT: u8 = 3;

const ENABLED: u8 = 1 << 0;
const BOOT_PROCESSOR: u8 = 1 << 1;

/// Why the table could not be written.
#[derive(Debug, Error)]
pub enum Error {
    /// An interrupt has no number in a table that has one byte for it.
    #[error("virtio device {index}: interrupt {irq} is beyond what an MP table can name (255)")]
    Irq {
        /// The device's number.
        index: usize,
        /// Its interrupt.
        irq: u32,
    },
    /// Guest memory refused the write.
    #[error("cannot write the MP table at {address:#x}")]
    Write {
        /// Where.
        address: u64,
        /// Why.
        source: vm_memory::GuestMemoryError,
    },
}

/// Writes the floating pointer at [`layout::MP_POINTER`] and the table at [`layout::MP_TABLE`].
///
/// # Errors
/// A device's interrupt does not fit into the table, or guest memory is not there.
pub fn write(memory: &GuestMemory, platform: &Platform<'_>) -> Result<(), Error> {
    let table = table(platform)?;
    let pointer = pointer(layout::MP_TABLE);
    for (bytes, address) in [(&table, layout::MP_TABLE), (&pointer, layout::MP_POINTER)] {
        memory
            .write_slice(bytes, GuestAddress(address))
            .map_err(|source| Error::Write { address, source })?;
    }
    Ok(())
}

fn pointer(table: u64) -> Vec<u8> {
    let mut pointer = FloatingPointer {
        signature: *b"_MP_",
        table: address32(table),
        length: 1,
        revision: REVISION,
        checksum: 0,
        features: [0; 5],
    };
    pointer.checksum = checksum(pointer.as_bytes());
    pointer.as_bytes().to_vec()
}

/// The configuration table. 255 processors and 256 interrupts, all that bytes can number, come to
/// 7,224 bytes: it always fits into its place.
fn table(platform: &Platform<'_>) -> Result<Vec<u8>, Error> {
    let mut entries = Entries::default();
    for apic_id in 0..platform.cpus.get() {
        entries.push(&processor(apic_id));
    }
    let apic = platform.ioapic_id();
    entries.push(&Bus { kind: BUS, id: ISA_BUS, name: *b"ISA   " });
    entries.push(&IoApic {
        kind: IOAPIC,
        id: apic,
        version: IOAPIC_VERSION,
        flags: ENABLED,
        address: address32(layout::IOAPIC),
    });
    for (irq, trigger) in interrupts(platform)? {
        let flags = if trigger == Trigger::Edge { CONFORMING } else { HIGH_LEVEL };
        entries.push(&assignment(IO_INTERRUPT, INT, flags, irq, (apic, irq)));
    }
    // As in section 3.6.2.2, although no 8259 drives LINT0: kernels print these and go on.
    entries.push(&assignment(LOCAL_INTERRUPT, EXT_INT, CONFORMING, 0, (ALL_APICS, 0)));
    entries.push(&assignment(LOCAL_INTERRUPT, NMI, CONFORMING, 0, (ALL_APICS, 1)));
    Ok(entries.finish())
}

fn processor(apic_id: u8) -> Processor {
    /// Family 6, and the features of an FPU and an APIC: kernels have `CPUID` for the truth.
    const SIGNATURE: u32 = 0x600;
    const FEATURES: u32 = 1 << 9 | 1 << 0;

    Processor {
        kind: PROCESSOR,
        apic_id,
        apic_version: LOCAL_APIC_VERSION,
        flags: if apic_id == 0 { ENABLED | BOOT_PROCESSOR } else { ENABLED },
        signature: SIGNATURE.into(),
        features: FEATURES.into(),
        reserved: [0; 8],
    }
}

fn assignment(kind: u8, interrupt: u8, flags: u16, irq: u8, (apic, input): (u8, u8)) -> Assignment {
    Assignment { kind, interrupt, flags: flags.into(), bus: ISA_BUS, irq, apic, input }
}

/// The IOAPIC's inputs in use, each the interrupt of its own number: all of the ISA bus, because
/// drivers for legacy devices ask for theirs by number and fail where it is not mapped, and those
/// of virtio devices. A guest prepares every input listed, so free ones above ISA are left out.
fn interrupts(platform: &Platform<'_>) -> Result<Vec<(u8, Trigger)>, Error> {
    let mut interrupts: Vec<_> = platform
        .virtio
        .iter()
        .enumerate()
        .map(|(index, device)| match u8::try_from(device.irq) {
            Ok(irq) => Ok((irq, device.trigger)),
            Err(_) => Err(Error::Irq { index, irq: device.irq }),
        })
        .collect::<Result<_, _>>()?;
    interrupts.extend((0..ISA_IRQS).map(|irq| (irq, Trigger::Edge)));
    // Stable: what a device says of an input comes before what the bus does.
    interrupts.sort_by_key(|(irq, _)| *irq);
    interrupts.dedup_by_key(|(irq, _)| *irq);
    Ok(interrupts)
}

/// The table's entries, counted as the header wants them.
#[derive(Default)]
struct Entries {
    bytes: Vec<u8>,
    count: u16,
}

impl Entries {
    fn push<T: IntoBytes + Immutable>(&mut self, entry: &T) {
        self.bytes.extend_from_slice(entry.as_bytes());
        self.count = self.count.saturating_add(1);
    }

    fn finish(self) -> Vec<u8> {
        let length = size_of::<Header>() + self.bytes.len();
        let mut header = Header {
            signature: *b"PCMP",
            length: u16::try_from(length).unwrap_or(u16::MAX).into(),
            revision: REVISION,
            checksum: 0,
            oem: *b"BANTAM  ",
            product: *b"MICROVM     ",
            oem_table: 0.into(),
            oem_table_length: 0.into(),
            entries: self.count.into(),
            local_apic: address32(layout::LOCAL_APIC),
            extended_length: 0.into(),
            extended_checksum: 0,
            reserved: 0,
        };
        header.checksum = checksum(header.as_bytes()).wrapping_add(checksum(&self.bytes));
        let mut table = Vec::with_capacity(length);
        table.extend_from_slice(header.as_bytes());
        table.extend_from_slice(&self.bytes);
        table
    }
}

/// An address of the layout below 4 GiB.
fn address32(address: u64) -> U32 {
    u32::try_from(address).unwrap_or(u32::MAX).into()
}

/// What makes the sum of all bytes zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum: u8, byte| sum.wrapping_sub(*byte))
}

#[cfg(test)]
mod tests;
