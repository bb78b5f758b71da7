use std::os::unix::fs::FileExt;

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use super::super::layout::{HOLE_END, HOLE_START};
use super::super::tests::resident;
use super::*;

const PAGE: u64 = PAGE_SIZE;

/// A sparse file of so many pages, in which these are filled with the byte.
fn file(pages: u64, filled: &[u64], byte: u8) -> File {
    let file = tempfile::tempfile().unwrap();
    file.set_len(pages * PAGE).unwrap();
    for page in filled {
        file.write_all_at(&[byte; 4096], page * PAGE).unwrap();
    }
    file
}

fn run(first: u64, count: u64, zero: bool) -> Run {
    Run { first, count, zero }
}

fn diff(pages: u64, byte: u8, runs: Vec<Run>) -> Layer {
    let filled: Vec<u64> = runs.iter().filter(|r| !r.zero).flat_map(|r| r.first..r.first + r.count).collect();
    Layer { file: file(pages, &filled, byte), runs: Some(runs) }
}

/// The byte that each page begins with.
fn bytes(memory: &GuestMemory, pages: u64) -> Vec<u8> {
    (0..pages).map(|page| memory.read_obj(GuestAddress(page * PAGE)).unwrap()).collect()
}

#[test]
fn later_layers_lie_on_earlier_ones() {
    let all: Vec<u64> = (0..12).collect();
    let layers = vec![
        Layer { file: file(12, &all, 1), runs: None },
        diff(12, 2, vec![run(2, 6, false), run(9, 1, true)]),
        diff(12, 3, vec![run(3, 1, false), run(5, 2, true), run(11, 1, false), run(0, 0, false)]),
    ];
    let layers = Layers::new(Size::new(12 * PAGE), layers).unwrap();
    let memory = restore(&layers).unwrap();
    assert_eq!(bytes(&memory, 12), [1, 1, 2, 3, 2, 0, 0, 2, 1, 0, 1, 3]);
    assert_eq!(layers.data().unwrap(), [(0, 5), (7, 2), (10, 2)]);
    let sources: Vec<_> = layers.pieces().iter().map(|piece| (piece.first, piece.count)).collect();
    assert_eq!(sources, [(0, 2), (2, 1), (3, 1), (4, 1), (5, 2), (7, 1), (8, 1), (9, 1), (10, 1), (11, 1)]);
}

#[test]
fn a_whole_image_hides_what_is_below() {
    let layers = vec![
        Layer { file: file(4, &[0, 1, 2, 3], 1), runs: None },
        diff(4, 2, vec![run(1, 1, false)]),
        Layer { file: file(4, &[0, 2], 3), runs: None },
        diff(4, 4, vec![run(3, 1, false)]),
    ];
    let layers = Layers::new(Size::new(4 * PAGE), layers).unwrap();
    assert_eq!(bytes(&restore(&layers).unwrap(), 4), [3, 0, 3, 4]);
    assert_eq!(layers.data().unwrap(), [(0, 1), (2, 2)]);
}

#[test]
fn restored_memory_is_read_as_it_is_touched_and_its_changes_are_its_own() {
    let all: Vec<u64> = (0..512).collect();
    let base = file(512, &all, 1);
    let layers = vec![
        Layer { file: base.try_clone().unwrap(), runs: None },
        diff(512, 2, vec![run(8, 8, false), run(32, 8, true)]),
    ];
    let layers = Layers::new(Size::mib(2), layers).unwrap();
    let (one, other) = (restore(&layers).unwrap(), restore(&layers).unwrap());
    for page in [0_u64, 9, 33] {
        one.write_obj(7_u8, GuestAddress(page * PAGE)).unwrap();
    }
    let first = |memory: &GuestMemory, page: u64| memory.read_obj::<u8>(GuestAddress(page * PAGE)).unwrap();
    assert_eq!([0, 9, 33].map(|page| first(&one, page)), [7, 7, 7]);
    assert_eq!([0, 9, 33].map(|page| first(&other, page)), [1, 2, 0]);
    let mut byte = [0];
    base.read_exact_at(&mut byte, 0).unwrap();
    assert_eq!(byte, [1]);
    // Whoever has files of the memory may close them.
    drop((layers, base));
    assert_eq!([0, 511].map(|page| first(&other, page)), [1, 1]);
}

#[test]
fn memory_is_unmapped_with_its_last_user() {
    let mapped = |start: u64| {
        std::fs::read_to_string("/proc/self/maps")
            .unwrap()
            .lines()
            .any(|line| line.starts_with(&format!("{start:x}-")))
    };
    let layers = vec![
        Layer { file: file(512, &[], 1), runs: None },
        diff(512, 2, vec![run(0, 8, false), run(32, 8, true)]),
    ];
    let memory = restore(&Layers::new(Size::mib(2), layers).unwrap()).unwrap();
    let start = memory.iter().next().unwrap().as_ptr() as u64;
    // Not the end, which a neighbour may be put right behind.
    let starts = [0, 8, 32, 40].map(|page| start + page * PAGE);
    assert!(starts.iter().all(|start| mapped(*start)));
    let clone = memory.clone();
    drop(memory);
    assert!(starts.iter().all(|start| mapped(*start)));
    let len = clone.iter().next().unwrap().len();
    assert_eq!(len, 2 << 20);
    drop(clone);
    // Another test may have been given the place, but not as four mappings that look the same.
    assert!(!starts.iter().all(|start| mapped(*start)));
}

#[test]
fn both_sides_of_the_hole_come_from_their_places() {
    let pages = HOLE_START / PAGE + 512;
    let low = HOLE_START / PAGE;
    let layers = vec![
        Layer { file: file(pages, &[low - 2, low - 1, low, low + 1, low + 4, pages - 1], 1), runs: None },
        diff(pages, 2, vec![run(low - 1, 2, false), run(low + 4, 1, true)]),
    ];
    let memory = restore(&Layers::new(Size::new(pages * PAGE), layers).unwrap()).unwrap();
    let read = |at| memory.read_obj::<u8>(GuestAddress(at)).unwrap();
    assert_eq!([HOLE_START - 2 * PAGE, HOLE_START - 1].map(read), [1, 2]);
    assert_eq!(
        [HOLE_END, HOLE_END + PAGE, HOLE_END + 4 * PAGE, HOLE_END + (2 << 20) - 1].map(read),
        [2, 1, 0, 1]
    );
    assert_eq!(resident(&memory, 0, 16), 0);
}

#[test]
fn more_parts_than_may_be_mapped_are_copied() {
    const PARTS: u64 = MOST_MAPPINGS as u64 + 100;
    let pages = PARTS * 4;
    let all: Vec<u64> = (0..pages).collect();
    // The last parts are longer than the others: these are mapped.
    let runs = (0..PARTS).map(|n| run(n * 4, 1 + u64::from(n >= PARTS - 10), n % 3 == 0)).collect();
    let layers = vec![Layer { file: file(pages, &all, 1), runs: None }, diff(pages, 2, runs)];
    let layers = Layers::new(Size::new(pages * PAGE), layers).unwrap();
    assert_eq!(layers.shortest_mapped(), 2);
    let memory = restore(&layers).unwrap();
    let expected: Vec<u8> = (0..pages)
        .map(|page| match (page / 4, page % 4) {
            (part, 0) => {
                if part % 3 == 0 {
                    0
                } else {
                    2
                }
            }
            (part, 1) if part >= PARTS - 10 => {
                if part % 3 == 0 {
                    0
                } else {
                    2
                }
            }
            _ => 1,
        })
        .collect();
    assert_eq!(bytes(&memory, pages), expected);
    let runs = (0..100).map(|n| run(n * 4, 1, false)).collect();
    let layers = vec![Layer { file: file(pages, &[], 1), runs: None }, diff(pages, 2, runs)];
    assert_eq!(Layers::new(Size::new(pages * PAGE), layers).unwrap().shortest_mapped(), 0);
}

#[test]
fn layers_that_do_not_fit_are_errors() {
    let size = Size::new(4 * PAGE);
    let base = || Layer { file: file(4, &[], 0), runs: None };
    let error = |layers| Layers::new(size, layers).unwrap_err().to_string();
    assert!(error(vec![]).contains("base is missing"));
    assert!(error(vec![diff(4, 1, vec![]), base()]).contains("base is missing"));
    assert!(
        error(vec![base(), Layer { file: file(3, &[], 0), runs: None }])
            .contains("file 1 of the memory has 12288 bytes")
    );
    for bad in [run(4, 1, false), run(3, 2, true), run(u64::MAX, 1, false), run(1, u64::MAX, true)] {
        let layer = Layer { file: file(4, &[], 0), runs: Some(vec![bad]) };
        let error = error(vec![base(), layer]);
        assert!(error.contains("file 1 of the memory is said to have"), "{error}");
    }
    let half = tempfile::tempfile().unwrap();
    half.set_len(100).unwrap();
    let error = Layers::new(Size::new(100), vec![Layer { file: half, runs: None }]).unwrap_err();
    assert!(matches!(error, Error::LayerLength { .. }), "{error}");
}
