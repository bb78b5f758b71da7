use std::num::NonZeroU8;
use std::path::Path;
use std::process::Command;

use super::*;

fn devices(count: u32) -> Vec<VirtioMmio> {
    (0..count)
        .map(|index| VirtioMmio {
            base: layout::VIRTIO_MMIO + 0x1000 * u64::from(index),
            len: 0x1000,
            irq: u32::from(layout::VIRTIO_IRQ_BASE) + index,
            trigger: if index % 2 == 0 { Trigger::Edge } else { Trigger::Level },
        })
        .collect()
}

fn platform(cpus: u8, virtio: &[VirtioMmio]) -> Platform<'_> {
    Platform { cpus: NonZeroU8::new(cpus).unwrap(), virtio }
}

fn memory() -> GuestMemory {
    GuestMemory::from_ranges(&[(GuestAddress(0), 2 << 20)]).unwrap()
}

fn read(memory: &GuestMemory, address: u64, len: usize) -> Vec<u8> {
    assert!(address >= layout::ACPI_TABLES, "{address:#x}");
    assert!(address + len as u64 <= layout::ACPI_TABLES_END, "{address:#x}+{len:#x}");
    let mut bytes = vec![0; len];
    memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
    bytes
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap())
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

fn table_at(memory: &GuestMemory, address: u64, signature: &[u8; 4]) -> Vec<u8> {
    let header = read(memory, address, 36);
    assert_eq!(&header[..4], signature);
    let table = read(memory, address, u32_at(&header, 4) as usize);
    assert_eq!(sum(&table), 0, "{signature:?}");
    assert_eq!(&table[10..24], b"BANTAMBANTAMVM", "{signature:?}");
    table
}

/// FADT, MADT and DSDT, found as a guest finds them.
fn walk(platform: &Platform<'_>) -> [Vec<u8>; 3] {
    let memory = memory();
    let rsdp_address = write(&memory, platform).unwrap();
    assert_eq!(rsdp_address.0 % 16, 0, "kernels scan in steps of 16");

    let rsdp = read(&memory, rsdp_address.0, 36);
    assert_eq!(&rsdp[..8], b"RSD PTR ");
    assert_eq!((sum(&rsdp[..20]), sum(&rsdp)), (0, 0));
    assert_eq!((rsdp[15], u32_at(&rsdp, 20)), (2, 36));

    let xsdt = table_at(&memory, u64_at(&rsdp, 24), b"XSDT");
    assert_eq!(xsdt.len(), 36 + 2 * 8);
    let fadt = table_at(&memory, u64_at(&xsdt, 36), b"FACP");
    let madt = table_at(&memory, u64_at(&xsdt, 44), b"APIC");
    let dsdt = table_at(&memory, u64_at(&fadt, 140), b"DSDT");
    [fadt, madt, dsdt]
}

/// Number and offset of a byte string's occurrences.
fn find(haystack: &[u8], needle: &[u8]) -> Vec<usize> {
    (0..haystack.len()).filter(|&at| haystack[at..].starts_with(needle)).collect()
}

#[test]
fn tables_chain_for_every_size_of_machine() {
    for count in [0, 1, 32] {
        for cpus in [1, 2, 255] {
            let virtio = devices(count);
            let [_, madt, dsdt] = walk(&platform(cpus, &virtio));
            assert_eq!(madt.len(), 36 + 8 + 8 * usize::from(cpus) + 12 + 6);
            assert_eq!(find(&dsdt, b"LNRO0005\0").len(), virtio.len());
        }
    }
}

#[test]
fn the_fadt_describes_reduced_hardware() {
    let [fadt, ..] = walk(&platform(1, &[]));
    assert_eq!((fadt.len(), fadt[8]), (276, 6), "length and revision");
    let flags = u32_at(&fadt, 112);
    let [hw_reduced, headless, reset] = [20, 12, 10].map(|bit| flags >> bit & 1);
    assert_eq!((hw_reduced, headless, reset), (1, 1, 1));
    assert_eq!(u16::from_le_bytes([fadt[109], fadt[110]]), 1 << 2, "boot architecture");
    // Generic addresses: system I/O, 8 bits wide, from bit 0, byte accesses, port.
    for (offset, port) in [(244, 0x600u64), (256, 0x601), (116, 0x602)] {
        assert_eq!(fadt[offset..offset + 4], [1, 8, 0, 1], "{port:#x}");
        assert_eq!(u64_at(&fadt, offset + 4), port);
    }
    assert_eq!(fadt[128], 1, "reset value");
    assert_eq!((u32_at(&fadt, 36), u32_at(&fadt, 40), u64_at(&fadt, 132)), (0, 0, 0), "no FACS");
}

#[test]
fn the_madt_has_the_interrupt_controllers() {
    let [_, madt, _] = walk(&platform(3, &[]));
    assert_eq!(u32_at(&madt, 36), 0xfee0_0000);
    assert_eq!(u32_at(&madt, 40), 0, "no 8259");
    let mut rest = &madt[44..];
    for id in 0..3 {
        assert_eq!(rest[..8], [0, 8, id, id, 1, 0, 0, 0]);
        rest = &rest[8..];
    }
    assert_eq!(rest[..12], [1, 12, 3, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]);
    assert_eq!(rest[12..], [4, 6, 0xff, 0, 0, 1]);
}

#[test]
fn the_dsdt_has_every_device_with_its_resources() {
    let virtio = devices(32);
    let [_, _, dsdt] = walk(&platform(1, &virtio));
    for (index, device) in virtio.iter().enumerate() {
        assert_eq!(find(&dsdt, format!("V{index:03X}").as_bytes()).len(), 1);
        let mut descriptors = vec![0x86, 9, 0, 1];
        descriptors.extend(u32::try_from(device.base).unwrap().to_le_bytes());
        descriptors.extend(device.len.to_le_bytes());
        let flags = if device.trigger == Trigger::Edge { 0b0011 } else { 0b0001 };
        descriptors.extend([0x89, 6, 0, flags, 1]);
        descriptors.extend(device.irq.to_le_bytes());
        assert_eq!(find(&dsdt, &descriptors).len(), 1, "{device:x?}");
    }
    assert_eq!(find(&dsdt, &[0x47, 1, 0xf8, 3, 0xf8, 3, 1, 8, 0x89, 6, 0, 0b0011, 1, 4, 0, 0, 0]).len(), 1);
    assert_eq!(find(&dsdt, &[0x47, 1, 0x70, 0, 0x70, 0, 1, 2]).len(), 1);
    assert_eq!(find(&dsdt, b"_S5_\x12\x05\x02\x0a\x05\x00").len(), 1);
}

#[test]
fn the_dsdt_says_where_the_generation_id_is_and_what_tells_of_a_new_one() {
    let [_, _, dsdt] = walk(&platform(1, &devices(3)));
    let once = |bytes: &[u8]| {
        assert_eq!(find(&dsdt, bytes).len(), 1, "{}", bytes.escape_ascii());
    };
    once(b"\x08_HID\x0dBANT0001\0");
    once(b"\x08_CID\x0dVM_Gen_Counter\0");
    once(b"\x08_DDN\x0dVM_Gen_Counter\0");
    // A package of two: the lower half as a double word, and zero.
    once(b"\x08ADDR\x12\x08\x02\x0c\x00\xf0\x0e\x00\x00");
    assert_eq!(layout::GENERATION_ID, 0xe_f000);
    // Interrupt 3, by its edge; a serialized method of one argument: Notify(VGEN, 0x80).
    once(b"\x08_HID\x0dACPI0013\0\x08_CRS\x11\x0e\x0a\x0b\x89\x06\0\x03\x01\x03\0\0\0\x79\0\x14\x0d_EVT\x09\x86VGEN\x0a\x80");
    assert!(u64::from(layout::GENERATION_IRQ) < u64::from(layout::VIRTIO_IRQ_BASE));
}

#[test]
fn a_machine_that_does_not_fit_is_refused() {
    let memory = memory();
    let refused = |devices: &[VirtioMmio]| write(&memory, &platform(1, devices)).unwrap_err();

    let error = refused(&devices(1100));
    assert!(matches!(error, Error::Space { room: 0xf000, .. }), "{error}");
    let error = refused(&devices(0x1001));
    assert!(matches!(error, Error::Devices { count: 0x1001 }), "{error}");
    for (base, len) in [(0x1_0000_0000, 0x1000), (0xffff_f000, 0x1001), (0xd000_0000, 0)] {
        let device = VirtioMmio { base, len, ..devices(1)[0] };
        let error = refused(&[devices(1)[0], device]);
        assert!(matches!(error, Error::Window { index: 1, .. }), "{error}");
    }
    let edge = VirtioMmio { base: 0xffff_f000, ..devices(1)[0] };
    write(&memory, &platform(1, &[edge])).unwrap();
}

#[test]
fn memory_that_is_not_there_is_an_error() {
    let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 0xa_0000)]).unwrap();
    let error = write(&memory, &platform(1, &[])).unwrap_err();
    assert!(matches!(error, Error::Write { address: 0xe_0000, .. }), "{error}");
}

fn iasl(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new("iasl").args(arguments).current_dir(folder).output().unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "iasl {arguments:?}: {text}");
    for word in ["warning", "error", "invalid", "unknown"] {
        let complaint = text.lines().find(|line| {
            let line = line.to_lowercase();
            line.contains(word) && !line.contains(&format!("0 {word}s"))
        });
        assert_eq!(complaint, None, "iasl {arguments:?}: {text}");
    }
    text
}

#[test]
fn iasl_reads_the_tables_and_compiles_them_again() {
    if Command::new("iasl").arg("-v").output().is_err() {
        crate::testing::skip("there is no iasl (package acpica-tools)");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let virtio = devices(32);
    for (name, table) in ["facp", "apic", "dsdt"].into_iter().zip(walk(&platform(255, &virtio))) {
        std::fs::write(folder.path().join(format!("{name}.dat")), table).unwrap();
        iasl(folder.path(), &["-d", &format!("{name}.dat")]);
        let text = std::fs::read_to_string(folder.path().join(format!("{name}.dsl"))).unwrap();
        assert!(!text.to_lowercase().contains("warning"), "{text}");
        iasl(folder.path(), &[&format!("{name}.dsl")]);
    }
}
