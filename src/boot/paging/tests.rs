use super::super::testing::{CANARY, MIB, bytes_at, fill, image, memory};
use super::*;
use crate::memory::layout::{HIGH_MEMORY, ZERO_PAGE};

const GIB: u64 = 1 << 30;

/// Walks the tables as a processor would (Intel SDM 3A, 4.5).
fn translate(memory: &GuestMemory, address: u64) -> Option<u64> {
    let entry = |table: u64, shift: u32| {
        let at = table + (address >> shift & 0x1ff) * 8;
        let value = u64::from_le_bytes(bytes_at(memory, at, 8).try_into().unwrap());
        (value & 1 == 1).then_some(value)
    };
    let pointers = entry(PAGE_TABLES, 39)? & !0xfff;
    let directory = entry(pointers, 30)? & !0xfff;
    let large = entry(directory, 21)?;
    assert_eq!(large & 0x83, 0x83, "a present, writable, large page");
    Some((large & !(LARGE_PAGE - 1)) + address % LARGE_PAGE)
}

#[test]
fn boot_data_and_kernel_are_mapped_and_little_else() {
    for (kernel, tables) in [
        (MIB..2 * MIB, 3),
        (MIB..GIB + 1, 4),
        (3 * GIB - MIB..3 * GIB, 4),
        (4 * GIB..4 * GIB + MIB, 4),
        (5 * GIB..9 * GIB, 7),
        (511 * GIB..512 * GIB, 4),
    ] {
        let memory = memory(&[(0, MIB)]);
        fill(&memory);
        PageTables::covering(&image(b""), &kernel).unwrap().write(&memory).unwrap();
        for address in [0, ZERO_PAGE, CMDLINE, HIGH_MEMORY, kernel.start, kernel.end - 1] {
            assert_eq!(translate(&memory, address), Some(address), "{kernel:#x?}");
        }
        let outside = if kernel.end == 512 * GIB { 510 * GIB } else { (kernel.end - 1) + GIB };
        assert_eq!(translate(&memory, outside), None, "{kernel:#x?}");
        let end = PAGE_TABLES + tables * PAGE_SIZE;
        assert_ne!(bytes_at(&memory, end - 8, 8), [CANARY; 8], "{kernel:#x?}");
        assert_eq!(bytes_at(&memory, end, 8), [CANARY; 8], "{kernel:#x?}");
    }
}

#[test]
fn the_room_for_tables_has_an_end() {
    let covering =
        |kernel: Range<u64>| PageTables::covering(&image(b""), &kernel).map(|tables| tables.gibibytes);
    let most = covering(GIB..GIB + (DIRECTORIES_MAX - 1) * GIB).unwrap();
    assert_eq!(most.len() as u64, DIRECTORIES_MAX);
    for kernel in
        [GIB..GIB + DIRECTORIES_MAX * GIB, 0..u64::MAX, 512 * GIB..512 * GIB + 1, u64::MAX - 1..u64::MAX]
    {
        let error = covering(kernel).unwrap_err();
        assert!(matches!(error, Error::Unmappable { .. }), "{error:?}");
    }
}
