use std::os::unix::fs::FileExt;

use vm_memory::{Bytes, GuestAddress};

use super::super::tests::resident;
use super::super::{Layer, Layers, restore};
use super::*;
use crate::config::Size;

const PAGE: u64 = PAGE_SIZE;

#[test]
fn a_restored_page_comes_again_as_zeroes_and_not_as_the_files() {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&vec![7; 2 << 20], 0).unwrap();
    let layer = Layer { file, runs: None };
    let memory = restore(&Layers::new(Size::mib(2), vec![layer]).unwrap()).unwrap();
    let read = |page: u64| memory.read_obj::<u8>(GuestAddress(page * PAGE)).unwrap();
    // One that is the file's, one that has become the guest's own, and one that nobody has touched.
    assert_eq!(read(1), 7);
    memory.write_obj(8_u8, GuestAddress(2 * PAGE)).unwrap();
    let part = memory.get_slice(GuestAddress(PAGE), 3 * 4096).unwrap();
    assert_eq!(discard(&memory, &part).unwrap(), 3 * PAGE);
    assert_eq!(resident(&memory, PAGE, 3), 0);
    assert_eq!([read(0), read(1), read(2), read(3), read(4)], [7, 0, 0, 0, 7]);
    memory.write_obj(9_u8, GuestAddress(2 * PAGE)).unwrap();
    assert_eq!(read(2), 9);
    // Once more, now that no file is below.
    assert_eq!(discard(&memory, &part).unwrap(), 3 * PAGE);
    assert_eq!([read(0), read(1), read(2), read(3), read(4)], [7, 0, 0, 0, 7]);
}

#[test]
fn discards_leave_mappings_to_others() {
    let mut budget = Budget { left: 0, refusals: 0 };
    assert!((0..100).all(|_| budget.take(|| MOST_MAPPINGS - 200)));
    // They have all been used meanwhile.
    let mut counted = 0;
    for round in 1..=2 {
        let full = std::cell::Cell::new(0);
        let mapped = || {
            full.set(full.get() + 1);
            MOST_MAPPINGS
        };
        assert!((0..PATIENCE).all(|_| !budget.take(mapped)));
        counted += full.get();
        assert_eq!(counted, round);
    }
    // And given back.
    assert!(budget.take(|| MOST_MAPPINGS - 2));
    assert!(!budget.take(|| usize::MAX));
}
