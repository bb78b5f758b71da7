use super::super::testing::{MIB, memory};
use super::*;
use crate::memory::layout::{HOLE_END, HOLE_START};

fn map(ranges: &[(u64, u64)]) -> Vec<(Range<u64>, Kind)> {
    let map = Ram::of(&memory(ranges)).unwrap().map(8).unwrap();
    map.into_iter().map(|entry| (entry.range, entry.kind)).collect()
}

#[test]
fn firmware_tables_are_reserved_and_the_hole_is_absent() {
    assert_eq!(
        map(&[(0, HOLE_START), (HOLE_END, MIB)]),
        [
            (0..CONVENTIONAL_END, Kind::Ram),
            (CONVENTIONAL_END..HIGH_MEMORY, Kind::Reserved),
            (HIGH_MEMORY..HOLE_START, Kind::Ram),
            (HOLE_END..HOLE_END + MIB, Kind::Ram),
        ]
    );
}

#[test]
fn adjacent_regions_are_one() {
    let memory = memory(&[(0, 2 * MIB), (2 * MIB, MIB), (4 * MIB, MIB)]);
    let ram = Ram::of(&memory).unwrap();
    assert_eq!((ram.total(), ram.low_end()), (4 * MIB, 3 * MIB));
    assert_eq!(ram.map(8).unwrap().len(), 4);
    assert!(ram.contains(MIB, 2 * MIB));
    assert!(!ram.contains(MIB, 3 * MIB));
    assert!(!ram.contains(3 * MIB, 1));
    assert!(!ram.contains(u64::MAX, 2));
    let error = ram.map(3).unwrap_err();
    assert_eq!(error.to_string(), "guest memory has 4 pieces, but a kernel can be told of 3 at most");
}

#[test]
fn boot_data_needs_the_first_mebibyte() {
    assert_eq!(map(&[(0, MIB)]).len(), 2);
    for ranges in [[(0, MIB / 2)], [(MIB, MIB)]] {
        let error = Ram::of(&memory(&ranges)).unwrap_err();
        assert!(matches!(error, Error::TooLittleMemory { .. }), "{error:?}");
    }
}
