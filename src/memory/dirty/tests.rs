use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::sync::atomic::AtomicBool;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress, VolatileMemory};

use super::*;
use crate::memory::discard;

const MIB: u64 = 1 << 20;
const HIGH: u64 = 4 << 30;
/// Pages below the hole.
const LOW_PAGES: u64 = 256;

fn memory() -> GuestMemory {
    let ranges = [(GuestAddress(0), 1 << 20), (GuestAddress(HIGH), 1 << 20)];
    GuestMemory::from_ranges(&ranges).unwrap()
}

fn tracked() -> GuestMemory {
    let memory = memory();
    track(&memory, true);
    memory
}

fn runs(memory: &GuestMemory) -> Vec<(u64, u64)> {
    take(memory).runs().collect()
}

fn flat(pages: &DirtyPages) -> BTreeSet<u64> {
    pages.runs().flat_map(|(first, count)| first..first + count).collect()
}

#[test]
fn a_log_that_is_off_has_no_memory_and_no_pages() {
    let memory = memory();
    memory.write_slice(&[1; 0x8000], GuestAddress(0)).unwrap();
    assert!(!is_tracked(&memory));
    assert!(take(&memory).is_empty());
    for region in memory.iter() {
        assert!(MmapRegion::bitmap(region).words.get().is_none());
    }
}

#[test]
fn each_way_to_write_is_noted() {
    let memory = tracked();
    memory.write_obj(1_u8, GuestAddress(0x1fff)).unwrap();
    assert_eq!(runs(&memory), [(1, 1)]);
    memory.write_obj(1_u64, GuestAddress(0x1ffc)).unwrap();
    assert_eq!(runs(&memory), [(1, 2)]);
    memory.write_slice(&[1; 0x2001], GuestAddress(0x5000)).unwrap();
    assert_eq!(runs(&memory), [(5, 3)]);
    memory.store(1_u16, GuestAddress(0xf_f000), Ordering::Release).unwrap();
    assert_eq!(runs(&memory), [(255, 1)]);
    let mut file = File::open("/dev/zero").unwrap();
    memory.read_exact_volatile_from(GuestAddress(0x8000), &mut file, 0x1000).unwrap();
    assert_eq!(runs(&memory), [(8, 1)]);
    let part = memory.get_slice(GuestAddress(0x4000), 0x4000).unwrap();
    part.subslice(0x1000, 0x2000).unwrap().offset(0x1000).unwrap().copy_from(&[1_u8; 9]);
    assert_eq!(runs(&memory), [(6, 1)]);
    part.get_ref::<u32>(0x3000).unwrap().store(1);
    assert_eq!(runs(&memory), [(7, 1)]);
    memory.write_slice(&[], GuestAddress(0x9000)).unwrap();
    assert_eq!(runs(&memory), []);
}

#[test]
fn reads_are_not_noted() {
    let memory = tracked();
    memory.read_slice(&mut [0; 0x8000], GuestAddress(0)).unwrap();
    memory.read_obj::<u64>(GuestAddress(HIGH)).unwrap();
    memory.load::<u16>(GuestAddress(0), Ordering::Acquire).unwrap();
    let mut file = File::options().write(true).open("/dev/null").unwrap();
    memory.write_all_volatile_to(GuestAddress(0), &mut file, 0x8000).unwrap();
    memory.get_slice(GuestAddress(0), 0x1000).unwrap().copy_to(&mut [0_u8; 64]);
    assert_eq!(runs(&memory), []);
}

#[test]
fn pages_are_counted_across_the_hole() {
    let memory = tracked();
    memory.write_obj(1_u8, GuestAddress(HIGH + MIB - 1)).unwrap();
    assert_eq!(runs(&memory), [(2 * LOW_PAGES - 1, 1)]);
    // The last page below the hole and the first one above it are neighbours in the image.
    for at in [HIGH, MIB - 1] {
        memory.write_obj(1_u8, GuestAddress(at)).unwrap();
    }
    assert_eq!(runs(&memory), [(LOW_PAGES - 1, 2)]);
}

#[test]
fn what_is_taken_is_gone_for_all_clones() {
    let memory = memory();
    let clone = memory.clone();
    track(&clone, true);
    memory.write_obj(1_u8, GuestAddress(0)).unwrap();
    // It is on already: nothing is lost.
    track(&memory, true);
    assert_eq!(runs(&clone), [(0, 1)]);
    assert_eq!(runs(&memory), []);
    memory.write_obj(1_u8, GuestAddress(0)).unwrap();
    track(&clone, false);
    memory.write_obj(1_u8, GuestAddress(0x1000)).unwrap();
    track(&clone, true);
    assert_eq!(runs(&memory), [], "a log begins with nothing");
}

#[test]
fn pages_that_go_back_to_the_host_have_changed() {
    let memory = tracked();
    let part = memory.get_slice(GuestAddress(HIGH + 0x2800), 0x3000).unwrap();
    assert_eq!(discard(&memory, &part).unwrap(), 0x2000);
    assert_eq!(runs(&memory), [(LOW_PAGES + 3, 2)]);
    let part = memory.get_slice(GuestAddress(0x800), 0x1000).unwrap();
    assert_eq!(discard(&memory, &part).unwrap(), 0);
    assert_eq!(runs(&memory), []);
}

#[test]
fn another_log_joins_at_its_place() {
    let memory = tracked();
    let low = memory.iter().next().unwrap();
    memory.write_obj(1_u8, GuestAddress(64 << 12)).unwrap();
    // Its bits past the region's end are nobody's.
    MmapRegion::bitmap(low).merge(64 << 12, &[0b1100, 0, 1 << 63, u64::MAX]);
    assert_eq!(runs(&memory), [(64, 1), (66, 2), (255, 1)]);
}

#[test]
fn no_write_is_lost_between_two_takes() {
    const ROUNDS: u64 = 200;
    let memory = tracked();
    let done = AtomicBool::new(false);
    // Each writer counts in pages of its own; a copy is made of what is taken, as for a snapshot.
    let mut copy = BTreeMap::new();
    let save = |copy: &mut BTreeMap<u64, u64>| {
        for page in flat(&take(&memory)) {
            let address = if page < LOW_PAGES { page << 12 } else { HIGH + ((page - LOW_PAGES) << 12) };
            copy.insert(page, memory.read_obj(GuestAddress(address)).unwrap());
        }
    };
    std::thread::scope(|scope| {
        let writers: Vec<_> = [0, HIGH]
            .into_iter()
            .map(|base| {
                let memory = memory.clone();
                scope.spawn(move || {
                    for round in 1..=ROUNDS {
                        for page in 0..LOW_PAGES {
                            memory.write_obj(round, GuestAddress(base + (page << 12))).unwrap();
                        }
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                save(&mut copy);
            }
            save(&mut copy);
        });
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        done.store(true, Ordering::Release);
    });
    assert!(copy.keys().copied().eq(0..2 * LOW_PAGES), "{copy:?}");
    assert!(copy.values().all(|round| *round == ROUNDS), "{copy:?}");
}

proptest! {
    #[test]
    fn the_marked_pages_are_those_of_the_bytes(
        writes in proptest::collection::vec((0..1_usize << 20, 0..1_usize << 18), 0..20),
    ) {
        let memory = tracked();
        let region = memory.iter().nth(1).unwrap();
        let mut expected = BTreeSet::new();
        for (offset, len) in writes {
            let len = len.min((1 << 20) - offset);
            MmapRegion::bitmap(region).slice_at(offset).mark_dirty(0, len);
            let ends = (offset..offset + len).step_by(4096).chain((len > 0).then(|| offset + len - 1));
            expected.extend(ends.map(|at| LOW_PAGES + (at as u64 >> 12)));
        }
        let pages = take(&memory);
        prop_assert_eq!(flat(&pages), expected);
    }

    #[test]
    fn a_union_has_the_pages_of_both_in_runs_that_do_not_touch(
        one in proptest::collection::btree_set(0_u64..200, 0..100),
        other in proptest::collection::btree_set(0_u64..200, 0..100),
    ) {
        let [first, second] = [&one, &other].map(|pages| pages.iter().copied().collect::<DirtyPages>());
        let union = first.union(&second);
        let expected: BTreeSet<_> = one.union(&other).copied().collect();
        prop_assert_eq!(union.len(), expected.len() as u64);
        prop_assert_eq!(union.is_empty(), expected.is_empty());
        prop_assert_eq!(flat(&union), expected);
        let runs: Vec<_> = union.runs().collect();
        prop_assert!(runs.windows(2).all(|pair| pair[0].0 + pair[0].1 < pair[1].0), "{:?}", runs);
        prop_assert!(runs.iter().all(|run| run.1 > 0));
    }
}
