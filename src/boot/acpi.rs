//! ACPI tables of a hardware-reduced machine (ACPI 6.5, section 4.1).
//!
//! RSDP → XSDT → FADT and MADT, FADT → DSDT. Hardware-reduced means: no SCI, no power-management
//! timer, no FACS, no legacy interrupt controllers; a guest sleeps and resets through three byte
//! registers. Linux then numbers interrupts only from what a device's `_CRS` says, so each device
//! that has one must be in the DSDT.
//!
//! The DSDT is kept to constant objects, since its guest interprets it while it boots. The one method is
//! not called before a generation id changes.

use acpi_tables::aml::{
    self, Device, EISAName, IO, Interrupt, Memory32Fixed, Method, Name, Notify, Package, Path,
    ResourceTemplate, Scope,
};
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, ProcessorLocalApic};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, AmlSink};
use thiserror::Error;
use vm_memory::{Bytes, GuestAddress};

use super::platform::{Platform, Trigger, VirtioMmio};
use crate::memory::{GuestMemory, layout};

const OEM_ID: [u8; 6] = *b"BANTAM";
const OEM_TABLE_ID: [u8; 8] = *b"BANTAMVM";
const OEM_REVISION: u32 = 1;
/// Length of the header that all tables but the RSDP begin with (section 5.2.6).
const HEADER_LEN: u32 = 36;
/// Tables start at multiples of this.
const ALIGNMENT: usize = 16;
/// Device names have three hexadecimal digits for a device's number.
const MAX_VIRTIO: usize = 0x1000;

/// IA-PC boot architecture flag (section 5.2.9.3): do not probe for VGA. The other bits stay
/// clear: neither an 8042 nor user-visible ISA devices, but there is a CMOS clock.
const VGA_NOT_PRESENT: u16 = 1 << 2;

/// Why the tables could not be written.
#[derive(Debug, Error)]
pub enum Error {
    /// A device's window is not in the first 4 GiB, where its descriptor could name it.
    #[error("virtio device {index}: its registers at {base:#x}+{len:#x} are not below 4 GiB")]
    Window {
        /// The device's number.
        index: usize,
        /// First address.
        base: u64,
        /// Number of bytes.
        len: u32,
    },
    /// More devices than there are names.
    #[error("{count} virtio devices are too many for the ACPI name space; at most {MAX_VIRTIO} fit")]
    Devices {
        /// Number of devices.
        count: usize,
    },
    /// The tables do not fit where they belong.
    #[error("the ACPI tables take {len:#x} bytes; there is room for {room:#x}: attach fewer devices")]
    Space {
        /// Length of the tables.
        len: usize,
        /// Length of their place.
        room: u64,
    },
    /// Guest memory refused the write.
    #[error("cannot write the ACPI tables at {address:#x}")]
    Write {
        /// Where.
        address: u64,
        /// Why.
        source: vm_memory::GuestMemoryError,
    },
}

/// Writes the tables for `platform` at [`layout::ACPI_TABLES`], and returns where the RSDP is.
///
/// # Errors
/// The machine does not fit into the tables or their place, or guest memory is not there.
pub fn write(memory: &GuestMemory, platform: &Platform<'_>) -> Result<GuestAddress, Error> {
    let address = layout::ACPI_TABLES;
    let image = build(address, platform)?;
    let room = layout::ACPI_TABLES_END - address;
    if u64::try_from(image.len()).map_or(true, |len| len > room) {
        return Err(Error::Space { len: image.len(), room });
    }
    // One write: each costs a look-up of the region, and the tables are adjacent anyway.
    memory.write_slice(&image, GuestAddress(address)).map_err(|source| Error::Write { address, source })?;
    Ok(GuestAddress(address))
}

/// All tables as they lie in memory from `base` on.
fn build(base: u64, platform: &Platform<'_>) -> Result<Vec<u8>, Error> {
    let mut image = Image::new(base, Rsdp::len());
    let dsdt = image.place(&dsdt(platform)?);
    let fadt = image.place(&fadt(dsdt));
    let madt = image.place(&madt(platform));
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = image.place(&bytes(&xsdt));
    Ok(image.finish(&bytes(&Rsdp::new(OEM_ID, xsdt))))
}

/// Tables one after the other. What points to a table is placed after it; only the RSDP, which
/// points to the last, has its room kept at the start.
struct Image {
    base: u64,
    bytes: Vec<u8>,
}

impl Image {
    fn new(base: u64, reserve: usize) -> Self {
        let mut bytes = Vec::with_capacity(8192);
        bytes.resize(reserve, 0);
        Self { base, bytes }
    }

    /// Appends a table and returns its guest-physical address.
    fn place(&mut self, table: &[u8]) -> u64 {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
        let address = self.base + self.bytes.len() as u64;
        self.bytes.extend_from_slice(table);
        address
    }

    fn finish(mut self, first: &[u8]) -> Vec<u8> {
        for (to, from) in self.bytes.iter_mut().zip(first) {
            *to = *from;
        }
        self.bytes
    }
}

fn bytes(aml: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    aml.to_aml_bytes(&mut bytes);
    bytes
}

/// A table of a header and `body`.
fn table(signature: [u8; 4], revision: u8, body: &[u8]) -> Vec<u8> {
    let mut table = Sdt::new(signature, HEADER_LEN, revision, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    table.append_slice(body);
    table.as_slice().to_vec()
}

fn fadt(dsdt: u64) -> Vec<u8> {
    let register = |offset: u16| {
        let port = u64::from(layout::ACPI_PORT + offset);
        GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, port)
    };
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::Headless)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Wbinvd)
        // Set means "not as a fixed hardware feature": there is no such hardware here.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc);
    fadt.iapc_boot_arch = VGA_NOT_PRESENT.into();
    // Sections 4.8.3.6 (reset) and 4.8.3.7 (sleep).
    fadt.sleep_control_reg = register(0);
    fadt.sleep_status_reg = register(1);
    fadt.reset_reg = register(2);
    fadt.reset_value = layout::ACPI_RESET_VALUE;
    fadt.hypervisor_vendor_identity = u64::from_le_bytes(*b"Bantam\0\0").into();
    bytes(&fadt.finalize())
}

/// The interrupt controllers (section 5.2.12). There is no 8259 beside them (`PCAT_COMPAT`), and
/// no override of an ISA interrupt: each is the IOAPIC input of its own number.
fn madt(platform: &Platform<'_>) -> Vec<u8> {
    /// The revision of ACPI 6.3; nothing that came later is used.
    const REVISION: u8 = 5;
    const ALL_PROCESSORS: u8 = 0xff;

    let cpus = platform.cpus.get();
    let mut body = Vec::with_capacity(32 + 8 * usize::from(cpus));
    body.dword(address32(layout::LOCAL_APIC));
    body.dword(0);
    for id in 0..cpus {
        ProcessorLocalApic::new(id, id, EnabledStatus::Enabled).to_aml_bytes(&mut body);
    }
    IoApic::new(platform.ioapic_id(), address32(layout::IOAPIC), 0).to_aml_bytes(&mut body);
    // Local APIC NMI (section 5.2.12.7), which the crate lacks: type, length, processor, flags
    // (conforming to the bus), local interrupt pin.
    body.vec(&[4, 6, ALL_PROCESSORS, 0, 0, 1]);
    table(*b"APIC", REVISION, &body)
}

/// An address of the layout's hole below 4 GiB.
fn address32(address: u64) -> u32 {
    u32::try_from(address).unwrap_or(u32::MAX)
}

fn dsdt(platform: &Platform<'_>) -> Result<Vec<u8>, Error> {
    /// Integers have 64 bits from this revision on (section 19.6.29).
    const REVISION: u8 = 2;

    let count = platform.virtio.len();
    if count > MAX_VIRTIO {
        return Err(Error::Devices { count });
    }
    let mut devices = Vec::with_capacity(128 + 96 * count);
    serial_port(&mut devices);
    clock(&mut devices);
    generation_id(&mut devices);
    for (index, device) in platform.virtio.iter().enumerate() {
        virtio(&mut devices, index, device)?;
    }
    let mut body = Scope::raw("_SB_".into(), devices);
    // Section 7.4.2: the sleep type of the one state there is beside running.
    let sleep: [&dyn Aml; 2] = [&layout::ACPI_SLEEP_TYPE_S5, &aml::ZERO];
    Name::new("_S5_".into(), &Package::new(sleep.to_vec())).to_aml_bytes(&mut body);
    Ok(table(*b"DSDT", REVISION, &body))
}

fn serial_port(devices: &mut Vec<u8>) {
    let port = IO::new(layout::COM1_PORT, layout::COM1_PORT, 1, 8);
    let irq = interrupt(layout::COM1_IRQ.into(), Trigger::Edge);
    device(devices, "COM1", &EISAName::new("PNP0501"), None, &[&port, &irq]);
}

/// The clock, without an interrupt as it raises none. Were it not here, Linux would register a
/// platform device with the ISA bus's interrupt 8, a number that may be some other device's when
/// interrupts are numbered dynamically.
fn clock(devices: &mut Vec<u8>) {
    let ports = IO::new(layout::RTC_PORT, layout::RTC_PORT, 1, 2);
    device(devices, "RTC_", &EISAName::new("PNP0B00"), None, &[&ports]);
}

/// The generation id ("Virtual Machine Generation ID", Microsoft): its compatible id is what guests know
/// it by, and `ADDR` where it is. A generic event device (section 5.6.9) tells them of a change.
fn generation_id(devices: &mut Vec<u8>) {
    const NAME: &str = "VGEN";
    const COUNTER: &str = "VM_Gen_Counter";
    const CHANGED: u8 = 0x80;

    let address: [&dyn Aml; 2] = [&address32(layout::GENERATION_ID), &aml::ZERO];
    let children: [&dyn Aml; 4] = [
        &Name::new("_HID".into(), &"BANT0001"),
        &Name::new("_CID".into(), &COUNTER),
        &Name::new("_DDN".into(), &COUNTER),
        &Name::new("ADDR".into(), &Package::new(address.to_vec())),
    ];
    Device::new(NAME.into(), children.to_vec()).to_aml_bytes(devices);

    let hid = Name::new("_HID".into(), &"ACPI0013");
    let irq = interrupt(layout::GENERATION_IRQ.into(), Trigger::Edge);
    let crs = Name::new("_CRS".into(), &ResourceTemplate::new(vec![&irq]));
    let (generation, changed) = (Path::new(NAME), CHANGED);
    let notify = Notify::new(&generation, &changed);
    // Its argument is the interrupt, of which there is one.
    let event = Method::new("_EVT".into(), 1, true, vec![&notify]);
    Device::new("GED_".into(), vec![&hid, &crs, &event]).to_aml_bytes(devices);
}

/// `LNRO0005` is the id by which Linux and others know a virtio-mmio device. There is no `_CCA`:
/// on x86 an absent one means coherent (section 6.2.17).
fn virtio(devices: &mut Vec<u8>, index: usize, window: &VirtioMmio) -> Result<(), Error> {
    let VirtioMmio { base, len, irq, trigger } = *window;
    let start = u32::try_from(base)
        .ok()
        .filter(|start| len.checked_sub(1).is_some_and(|extent| start.checked_add(extent).is_some()))
        .ok_or(Error::Window { index, base, len })?;
    let registers = Memory32Fixed::new(true, start, len);
    let irq = interrupt(irq, trigger);
    device(devices, &format!("V{index:03X}"), &"LNRO0005", Some(index), &[&registers, &irq]);
    Ok(())
}

fn interrupt(irq: u32, trigger: Trigger) -> Interrupt {
    Interrupt::new(true, trigger == Trigger::Edge, false, false, irq)
}

/// Appends a device. A unique id is needed only where several have the same hardware id.
fn device(devices: &mut Vec<u8>, name: &str, hid: &dyn Aml, uid: Option<usize>, resources: &[&dyn Aml]) {
    let hid = Name::new("_HID".into(), hid);
    let uid = uid.map(|uid| Name::new("_UID".into(), &uid));
    let crs = Name::new("_CRS".into(), &ResourceTemplate::new(resources.to_vec()));
    let mut children: Vec<&dyn Aml> = vec![&hid];
    children.extend(uid.as_ref().map(|uid| uid as &dyn Aml));
    children.push(&crs);
    Device::new(name.into(), children).to_aml_bytes(devices);
}

#[cfg(test)]
mod tests;
