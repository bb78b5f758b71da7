use proptest::prelude::*;
use vm_memory::Bytes;

use super::*;
use crate::memory::dirty;

const SIZE: usize = 1 << 16;

fn memory() -> Arc<GuestMemory> {
    // Two regions side by side: a range across them takes two buffers.
    let half = SIZE / 2;
    let ranges = [(GuestAddress(0), half), (GuestAddress(half as u64), half)];
    Arc::new(GuestMemory::from_ranges(&ranges).unwrap())
}

#[test]
fn ranges_outside_of_memory_are_errors() {
    let memory = memory();
    for (address, len) in [(SIZE as u64, 1), (SIZE as u64 - 1, 2), (u64::MAX, 2), (0, usize::MAX)] {
        assert!(IoVecs::from_guest(&memory, [(GuestAddress(address), len)]).is_err(), "{address} {len}");
    }
    assert!(IoVecs::from_guest(&memory, []).unwrap().is_empty());
}

#[test]
fn a_range_across_regions_is_two_buffers() {
    let memory = memory();
    let vecs = IoVecs::from_guest(&memory, [(GuestAddress(SIZE as u64 / 2 - 8), 16)]).unwrap();
    assert_eq!(vecs.buffers().len(), 2);
    assert!(vecs.are_aligned(8) && !vecs.are_aligned(16));
    assert_eq!(vecs.copy_from(&[7; 20]), 16);
    assert_eq!(memory.read_obj::<u64>(GuestAddress(SIZE as u64 / 2)).unwrap(), 0x0707_0707_0707_0707);
}

#[test]
fn a_call_takes_no_more_buffers_than_the_kernel() {
    let memory = memory();
    let mut vecs = IoVecs::from_guest(&memory, (0..3000).map(|at| (GuestAddress(at * 16), 8))).unwrap();
    assert_eq!((vecs.buffers().len(), vecs.len()), (1024, 24_000));
    vecs.advance(2990 * 8);
    assert_eq!((vecs.buffers().len(), vecs.len()), (10, 80));
    vecs.advance(u64::MAX);
    assert!(vecs.is_empty() && vecs.buffers().is_empty());
}

#[test]
fn the_memory_lives_as_long_as_its_buffers() {
    let memory = memory();
    let vecs = IoVecs::from_guest(&memory, [(GuestAddress(0), 4)]).unwrap();
    drop(memory);
    assert_eq!(std::thread::spawn(move || vecs.copy_from(&[1; 4])).join().unwrap(), 4);
}

proptest! {
    #[test]
    fn advancing_and_copying_agree_with_a_flat_copy(
        ranges in proptest::collection::vec((0..SIZE - 512, 0_usize..512), 0..20),
        steps in proptest::collection::vec(0_usize..700, 0..30),
    ) {
        let memory = memory();
        let pattern: Vec<u8> = (0..=250).cycle().take(SIZE).collect();
        memory.write_slice(&pattern, GuestAddress(0)).unwrap();
        let flat: Vec<u8> = ranges
            .iter()
            .flat_map(|(at, len)| pattern[*at..*at + len].to_vec())
            .collect();
        let guest = ranges.iter().map(|(at, len)| (GuestAddress(*at as u64), *len));
        let mut vecs = IoVecs::from_guest(&memory, guest).unwrap();
        let mut rest = &flat[..];
        for step in steps {
            prop_assert_eq!(vecs.len(), rest.len() as u64);
            let mut copy = vec![0; 1000];
            let count = vecs.copy_to(&mut copy);
            prop_assert_eq!(count, rest.len().min(1000));
            prop_assert_eq!(&copy[..count], &rest[..count]);
            vecs.advance(step as u64);
            rest = &rest[rest.len().min(step)..];
        }
    }
}

/// The pages that are noted as written since the last time.
fn dirty(memory: &GuestMemory) -> Vec<(u64, u64)> {
    dirty::take(memory).runs().collect()
}

#[test]
fn what_is_written_through_buffers_is_noted_and_what_is_read_is_not() {
    let memory = memory();
    dirty::track(&memory, true);
    let half = SIZE as u64 / 2;
    // Pages 1 to 3, the last page of the first region with the first of the second, page 13.
    let ranges = [(0x1800, 0x2000), (half - 0x1000, 0x2000), (half + 0x5000, 16)];
    let ranges = ranges.map(|(at, len)| (GuestAddress(at), len));
    let mut vecs = IoVecs::from_guest(&memory, ranges).unwrap();
    vecs.copy_to(&mut [0; 0x5000]);
    vecs.mark(0);
    assert_eq!(dirty(&memory), []);
    vecs.mark(0x2001);
    assert_eq!(dirty(&memory), [(1, 3), (7, 1)]);
    vecs.mark(u64::MAX);
    assert_eq!(dirty(&memory), [(1, 3), (7, 2), (13, 1)]);
    vecs.advance(0x2800);
    vecs.mark(1);
    assert_eq!(dirty(&memory), [(7, 1)]);
    vecs.copy_from(&[1; 0x801]);
    assert_eq!(dirty(&memory), [(7, 2)]);
    vecs.advance(u64::MAX);
    vecs.mark(1);
    assert_eq!(dirty(&memory), []);
}

#[test]
fn buffers_of_slices_know_their_pages() {
    let memory = memory();
    dirty::track(&memory, true);
    let slice = |at, len| memory.get_slice(GuestAddress(at), len).unwrap();
    let half = SIZE as u64 / 2;
    let parts = [slice(half + 0x2000, 0x1000), slice(0x3000, 0x2000).offset(0x1000).unwrap(), slice(half, 8)];
    // SAFETY: the memory lives to the test's end.
    let vecs = unsafe { IoVecs::from_slices(parts) };
    vecs.mark(0x1001);
    assert_eq!(dirty(&memory), [(4, 1), (10, 1)]);
    vecs.mark(u64::MAX);
    assert_eq!(dirty(&memory), [(4, 1), (8, 1), (10, 1)]);
}
