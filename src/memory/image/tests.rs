#![allow(clippy::single_range_in_vec_init, reason = "one range is what is meant")]

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::os::unix::fs::{FileExt, MetadataExt};

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::super::layers::Layer;
use super::super::layout::{HOLE_END, HOLE_START};
use super::super::tests::{PAGES, resident};
use super::super::{allocate, discard, restore};
use super::*;
use crate::config::Size;

const PAGE: u64 = PAGE_SIZE;

fn file() -> File {
    tempfile::tempfile().unwrap()
}

fn quiet(_: u64, _: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn run(first: u64, count: u64, zero: bool) -> Run {
    Run { first, count, zero }
}

/// A guest address for a place in RAM.
fn address(at: u64) -> GuestAddress {
    GuestAddress(if at < HOLE_START { at } else { at - HOLE_START + HOLE_END })
}

/// The image is what a reader of memory sees; both sparse, so that a look at the rest is cheap.
fn assert_same(memory: &GuestMemory, file: &File, ranges: &[std::ops::Range<u64>]) {
    assert_eq!(file.metadata().unwrap().len(), size(memory));
    let mut page = [0; 4096];
    for at in ranges.iter().flat_map(|range| range.clone().step_by(4096)) {
        let mut expected = [0; 4096];
        memory.read_slice(&mut expected, address(at)).unwrap();
        file.read_exact_at(&mut page, at).unwrap();
        assert!(page == expected, "the page at {at:#x} differs");
    }
}

fn layers(size: u64, files: Vec<(&File, Option<Vec<Run>>)>) -> Layers {
    let layers = files.into_iter().map(|(file, runs)| Layer { file: file.try_clone().unwrap(), runs });
    Layers::new(Size::new(size), layers.collect()).unwrap()
}

#[test]
fn an_image_has_what_is_not_zero_and_holes() {
    let memory = allocate(Size::mib(2)).unwrap();
    memory.write_slice(&[7; 3 * 4096], GuestAddress(PAGE)).unwrap();
    memory.write_obj(1_u8, GuestAddress(10 * PAGE + 4095)).unwrap();
    memory.write_obj(0_u8, GuestAddress(11 * PAGE)).unwrap();
    memory.read_obj::<u8>(GuestAddress(20 * PAGE)).unwrap();
    let image = file();
    image.write_all_at(&[9; 8192], 3 << 20).unwrap();
    image.write_all_at(&[9; 8192], 0).unwrap();
    let written = write(&memory, None, &image, &mut quiet).unwrap();
    assert_eq!(written, 4 * PAGE);
    assert_eq!(image.metadata().unwrap().blocks() * 512, 4 * PAGE);
    assert_eq!(host::data(&image, 0..2 << 20).unwrap(), [PAGE..4 * PAGE, 10 * PAGE..11 * PAGE]);
    // What nobody has touched is still untouched.
    assert_eq!(resident(&memory, 0, PAGES), 6);
    assert_same(&memory, &image, &[0..2 << 20]);
}

#[test]
fn given_pages_are_written_over_what_there_was() {
    let memory = allocate(Size::mib(2)).unwrap();
    memory.write_slice(&[7; 8 * 4096], GuestAddress(0)).unwrap();
    let image = file();
    let written = write_pages(&memory, &[(0, 2), (4, 2), (100, 3)], &image, &mut quiet).unwrap();
    assert_eq!(written, 4 * PAGE);
    let found = runs(&image, &[(100, 3), (4, 2), (0, 2)]).unwrap();
    assert_eq!(found, [run(0, 2, false), run(4, 2, false), run(100, 3, true)]);
    assert_eq!(host::data(&image, 0..2 << 20).unwrap(), [0..2 * PAGE, 4 * PAGE..6 * PAGE]);
    // The guest goes on: a page becomes another, one becomes zeroes, one is no longer zeroes.
    memory.write_slice(&[8; 4096], GuestAddress(0)).unwrap();
    memory.write_slice(&[0; 4096], GuestAddress(PAGE)).unwrap();
    memory.write_slice(&[9; 4096], GuestAddress(101 * PAGE)).unwrap();
    assert_eq!(write_pages(&memory, &[(0, 2), (101, 1)], &image, &mut quiet).unwrap(), 2 * PAGE);
    let found = runs(&image, &[(0, 2), (100, 3)]).unwrap();
    assert_eq!(
        found,
        [run(0, 1, false), run(1, 1, true), run(100, 1, true), run(101, 1, false), run(102, 1, true)]
    );
    let data = [0..PAGE, 4 * PAGE..6 * PAGE, 101 * PAGE..102 * PAGE];
    assert_eq!(host::data(&image, 0..2 << 20).unwrap(), data);
    assert_same(&memory, &image, &data);
}

#[test]
fn progress_goes_up_to_the_total() {
    let memory = allocate(Size::mib(16)).unwrap();
    memory.write_slice(&vec![1; 9 << 20], GuestAddress(0)).unwrap();
    let mut seen = Vec::new();
    write_pages(&memory, &[(0, 9 << 8)], &file(), &mut |done, total| {
        seen.push((done, total));
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(seen, [(4 << 20, 9 << 20), (8 << 20, 9 << 20), (9 << 20, 9 << 20)]);
}

#[test]
fn pages_that_the_memory_does_not_have_are_errors() {
    let memory = allocate(Size::mib(2)).unwrap();
    for bad in [(512, 1), (511, 2), (u64::MAX, 1), (1 << 60, 1 << 60), (0, u64::MAX)] {
        let error = write_pages(&memory, &[bad], &file(), &mut quiet).unwrap_err();
        assert!(matches!(error, Error::Outside { .. }), "{bad:?}: {error}");
    }
}

#[test]
fn a_file_that_takes_nothing_is_an_error() {
    let memory = allocate(Size::mib(2)).unwrap();
    memory.write_obj(1_u8, GuestAddress(0)).unwrap();
    let path = tempfile::NamedTempFile::new().unwrap();
    let read_only = File::open(path.path()).unwrap();
    let error = write(&memory, None, &read_only, &mut quiet).unwrap_err();
    assert!(matches!(error, Error::Write(_)), "{error}");
}

#[test]
fn restored_memory_is_written_with_all_its_pages() {
    const SIZE: u64 = 2 << 20;
    let memory = allocate(Size::new(SIZE)).unwrap();
    for page in (0..512_u64).filter(|page| page % 5 != 0) {
        memory.write_slice(&[page.to_le_bytes()[0] | 1; 4096], GuestAddress(page * PAGE)).unwrap();
    }
    let base = file();
    write(&memory, None, &base, &mut quiet).unwrap();
    // A diff on it.
    memory.write_slice(&[2; 20 * 4096], GuestAddress(100 * PAGE)).unwrap();
    memory.write_slice(&[0; 20 * 4096], GuestAddress(200 * PAGE)).unwrap();
    let change = file();
    let pages = [(100, 20), (200, 20)];
    write_pages(&memory, &pages, &change, &mut quiet).unwrap();
    let runs = runs(&change, &pages).unwrap();
    let layers = layers(SIZE, vec![(&base, None), (&change, Some(runs))]);
    let restored = restore(&layers).unwrap();
    assert_same(&memory, &base, &[0..100 * PAGE, 220 * PAGE..SIZE]);
    // The restored guest goes on: in the base's pages and the change's, from and to zeroes.
    let write_page =
        |page: u64, byte: u8| restored.write_slice(&[byte; 4096], GuestAddress(page * PAGE)).unwrap();
    for (page, byte) in [(1, 9), (2, 0), (5, 9), (101, 9), (102, 0), (201, 9), (202, 0), (511, 0)] {
        write_page(page, byte);
    }
    let part = restored.get_slice(GuestAddress(110 * PAGE), 4 * 4096).unwrap();
    assert_eq!(discard(&restored, &part).unwrap(), 4 * PAGE);
    let part = restored.get_slice(GuestAddress(300 * PAGE), 4 * 4096).unwrap();
    assert_eq!(discard(&restored, &part).unwrap(), 4 * PAGE);
    let again = file();
    write(&restored, Some(&layers), &again, &mut quiet).unwrap();
    assert_same(&restored, &again, &[0..SIZE]);
    let bytes = [1, 2, 3, 5, 6, 101, 102, 103, 110, 201, 202, 203, 300, 304, 511].map(|page| {
        let mut byte = [0];
        again.read_exact_at(&mut byte, page * PAGE).unwrap();
        byte[0]
    });
    assert_eq!(bytes, [9, 0, 3, 9, 7, 9, 0, 2, 0, 9, 0, 0, 0, 304_u16.to_le_bytes()[0] | 1, 0]);
}

#[test]
fn a_big_machine_with_little_in_it_is_a_small_image() {
    let total = HOLE_START + (64 << 20);
    let memory = allocate(Size::new(total)).unwrap();
    let places = [0, 1 << 30, HOLE_START - PAGE, HOLE_START, HOLE_START + (32 << 20), total - PAGE];
    for (byte, at) in (1_u8..).zip(places) {
        memory.write_slice(&[byte; 4096], address(at)).unwrap();
    }
    let image = file();
    let written = write(&memory, None, &image, &mut quiet).unwrap();
    assert_eq!(written, 6 * PAGE);
    let near = places.map(|at| at.saturating_sub(2 * PAGE)..(at + 3 * PAGE).min(total));
    assert_same(&memory, &image, &near);
    let expected: BTreeMap<_, _> = places.map(|at| (at, at + PAGE)).into();
    let data: Vec<_> = host::data(&image, 0..total).unwrap();
    assert_eq!(data.iter().map(|range| range.end - range.start).sum::<u64>(), 6 * PAGE);
    assert!(data.iter().all(|range| expected.contains_key(&range.start)));
    // A run across the border of the two parts of memory.
    let change = file();
    let border = HOLE_START / PAGE;
    write_pages(&memory, &[(border - 2, 4)], &change, &mut quiet).unwrap();
    let runs = runs(&change, &[(border - 2, 4)]).unwrap();
    assert_eq!(runs, [run(border - 2, 1, true), run(border - 1, 2, false), run(border + 1, 1, true)]);
    let layers = layers(total, vec![(&image, None), (&change, Some(runs))]);
    let restored = restore(&layers).unwrap();
    restored.write_slice(&[77; 4096], address(HOLE_START + PAGE)).unwrap();
    restored.write_slice(&[0; 4096], address(HOLE_START)).unwrap();
    let again = file();
    assert_eq!(write(&restored, Some(&layers), &again, &mut quiet).unwrap(), 6 * PAGE);
    assert_same(&restored, &again, &near);
}

#[test]
fn runs_are_joined_in_order() {
    let runs = vec![(10, 5), (0, 2), (2, 1), (12, 1), (14, 4), (30, 1), (30, 1)];
    assert_eq!(union(runs), [(0, 3), (10, 8), (30, 1)]);
    assert_eq!(union(vec![]), []);
}

#[test]
fn a_layer_that_is_cut_short_is_an_error_and_the_memory_lives_on() {
    let memory = allocate(Size::mib(2)).unwrap();
    memory.write_slice(&vec![1; 2 << 20], GuestAddress(0)).unwrap();
    let base = file();
    write(&memory, None, &base, &mut quiet).unwrap();
    let layers = layers(2 << 20, vec![(&base, None)]);
    let restored = restore(&layers).unwrap();
    base.set_len(1 << 20).unwrap();
    restored.write_obj(7_u8, GuestAddress(0)).unwrap();
    let every = [(0, 512)];
    let error = write_pages(&restored, &every, &file(), &mut quiet).unwrap_err();
    assert!(matches!(error, Error::Unreadable(_)), "{error}");
    assert_eq!(restored.read_obj::<u8>(GuestAddress(0)).unwrap(), 7);
    let error = write(&restored, Some(&layers), &file(), &mut quiet).unwrap_err();
    assert!(matches!(error, Error::LayerLength { layer: 0, .. }), "{error}");
    let error = merge(&layers, &file(), &mut quiet).unwrap_err();
    assert!(matches!(error, Error::LayerLength { layer: 0, .. }), "{error}");
}

#[test]
fn a_copy_that_takes_too_long_is_ended() {
    let (from, to) = (file(), file());
    let bytes = vec![7; 12 << 20];
    from.write_all_at(&bytes, 0).unwrap();
    let asked = std::cell::Cell::new(0);
    let copied = copy(&from, &to, || {
        asked.set(asked.get() + 1);
        asked.get() < 2
    });
    let mut found = vec![0; bytes.len()];
    to.read_exact_at(&mut found, 0).unwrap();
    match copied {
        // The files share what is in them.
        Ok(()) => assert_eq!((asked.get(), found), (0, bytes)),
        Err(error) => {
            assert_eq!((asked.get(), error.kind()), (2, io::ErrorKind::TimedOut));
            assert_eq!(found, [&bytes[..8 << 20], &[0; 4 << 20]].concat());
        }
    }
}
