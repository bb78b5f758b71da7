use std::num::NonZeroU8;

use super::*;
use crate::boot::platform::VirtioMmio;

fn device(irq: u32, trigger: Trigger) -> VirtioMmio {
    VirtioMmio { base: layout::VIRTIO_MMIO, len: 0x1000, irq, trigger }
}

fn platform(cpus: u8, virtio: &[VirtioMmio]) -> Platform<'_> {
    Platform { cpus: NonZeroU8::new(cpus).unwrap(), virtio }
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// The header's length field and all entries, found as a guest finds them.
fn walk(platform: &Platform<'_>) -> Vec<Vec<u8>> {
    let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 2 << 20)]).unwrap();
    write(&memory, platform).unwrap();
    let read = |address: u64, len: usize| {
        let mut bytes = vec![0; len];
        memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    };

    let pointer = read(layout::MP_POINTER, 16);
    assert_eq!(pointer[..4], *b"_MP_");
    assert_eq!((pointer[8], pointer[9], sum(&pointer)), (1, 4, 0));
    assert_eq!(pointer[11..], [0; 5]);
    let address = u32::from_le_bytes(pointer[4..8].try_into().unwrap());
    assert_eq!(u64::from(address), layout::MP_TABLE);

    let length = u16::from_le_bytes(read(layout::MP_TABLE + 4, 2).try_into().unwrap());
    assert!(layout::MP_TABLE + u64::from(length) <= layout::MP_TABLE_END);
    let table = read(layout::MP_TABLE, length.into());
    assert_eq!(table[..4], *b"PCMP");
    assert_eq!((table[6], sum(&table)), (4, 0));
    assert_eq!(table[36..40], [0, 0, 0xe0, 0xfe], "local APIC");

    let mut rest = &table[44..];
    let mut entries = Vec::new();
    while let Some(kind) = rest.first() {
        let (entry, after) = rest.split_at(if *kind == 0 { 20 } else { 8 });
        entries.push(entry.to_vec());
        rest = after;
    }
    let count = u16::from_le_bytes([table[34], table[35]]);
    assert_eq!(entries.len(), usize::from(count));
    assert!(entries.is_sorted_by_key(|entry| entry[0]), "section 4.3: entries come by type");
    entries
}

fn of_kind(entries: &[Vec<u8>], kind: u8) -> Vec<&[u8]> {
    entries.iter().filter(|entry| entry[0] == kind).map(Vec::as_slice).collect()
}

#[test]
fn processors_have_their_ids_and_the_first_boots() {
    for cpus in [1, 2, 255] {
        let entries = walk(&platform(cpus, &[]));
        let processors = of_kind(&entries, 0);
        assert_eq!(processors.len(), usize::from(cpus));
        for (id, processor) in (0..cpus).zip(processors) {
            let flags = if id == 0 { 0b11 } else { 0b01 };
            assert_eq!(processor[1..4], [id, 0x14, flags]);
        }
        assert_eq!(of_kind(&entries, 1), [b"\x01\x00ISA   "]);
        // The IOAPIC's id is no processor's.
        assert_eq!(of_kind(&entries, 2), [[2, cpus, 0x11, 1, 0, 0, 0xc0, 0xfe]]);
    }
}

#[test]
fn interrupts_are_those_of_isa_and_of_the_devices() {
    let virtio = [device(23, Trigger::Edge), device(5, Trigger::Level), device(6, Trigger::Edge)];
    let entries = walk(&platform(2, &virtio));
    let interrupts = of_kind(&entries, 3);
    let expected: Vec<_> =
        (0..16).chain([23]).map(|irq| [3, 0, if irq == 5 { 0b1101 } else { 0 }, 0, 0, irq, 2, irq]).collect();
    assert_eq!(interrupts, expected);
    assert_eq!(of_kind(&entries, 4), [[4, 3, 0, 0, 0, 0, 0xff, 0], [4, 1, 0, 0, 0, 0, 0xff, 1]]);
}

#[test]
fn the_longest_table_fits() {
    let virtio: Vec<_> = (0..=255).map(|irq| device(irq, Trigger::Edge)).collect();
    assert_eq!(of_kind(&walk(&platform(255, &virtio)), 3).len(), 256);
    assert_eq!(table(&platform(255, &virtio)).unwrap().len(), 7224);
}

#[test]
fn an_interrupt_without_a_number_is_refused() {
    let virtio = [device(5, Trigger::Edge), device(256, Trigger::Edge)];
    let error = table(&platform(1, &virtio)).unwrap_err();
    assert!(matches!(error, Error::Irq { index: 1, irq: 256 }), "{error}");
}

#[test]
fn memory_that_is_not_there_is_an_error() {
    let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 0xa_0000)]).unwrap();
    let error = write(&memory, &platform(1, &[])).unwrap_err();
    assert!(matches!(error, Error::Write { address: layout::MP_TABLE, .. }), "{error}");
}
