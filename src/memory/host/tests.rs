#![allow(clippy::single_range_in_vec_init, reason = "one range is what is meant")]

use std::io::Write;

use vm_memory::{Bytes, GuestAddress};

use super::super::tests::{PAGES, resident};
use super::super::{allocate, parts};
use super::*;
use crate::config::Size;

const PAGE: u64 = PAGE_SIZE;

#[test]
fn only_what_is_held_is_found_and_nothing_is_touched() {
    let memory = allocate(Size::mib(16)).unwrap();
    // The first 2 MiB have small pages only.
    for page in [0, 1, 2, 7, 511] {
        memory.write_obj(1_u8, GuestAddress(page * PAGE)).unwrap();
    }
    let all = parts(&memory, 0..2 << 20).unwrap();
    let held = Pagemap::open().unwrap().held(&all[0].1).unwrap();
    assert_eq!(held, [(0, 3), (7, 1), (511, 1)]);
    let some = parts(&memory, PAGE..8 * PAGE).unwrap();
    assert_eq!(Pagemap::open().unwrap().held(&some[0].1).unwrap(), [(0, 2), (6, 1)]);
    assert_eq!(resident(&memory, 0, PAGES), 5);
}

#[test]
fn data_is_between_the_holes() {
    let mut file = tempfile::tempfile().unwrap();
    file.set_len(1 << 20).unwrap();
    assert_eq!(data(&file, 0..1 << 20).unwrap(), []);
    file.write_all_at(&[1; 4096], 64 << 10).unwrap();
    file.write_all_at(&[1; 8192], 128 << 10).unwrap();
    let (one, other) = (64 << 10..68 << 10, 128 << 10..136 << 10);
    assert_eq!(data(&file, 0..1 << 20).unwrap(), [one.clone(), other.clone()]);
    assert_eq!(data(&file, 65 << 10..132 << 10).unwrap(), [65 << 10..68 << 10, 128 << 10..132 << 10]);
    assert_eq!(data(&file, 68 << 10..128 << 10).unwrap(), []);
    punch(&file, 64 << 10, 4096).unwrap();
    assert_eq!(data(&file, 0..1 << 20).unwrap(), [other]);
    // To the end of the file, and beyond it.
    file.write_all_at(&[1; 4096], (1 << 20) - 4096).unwrap();
    assert_eq!(data(&file, (1 << 20) - 4096..1 << 20).unwrap(), [(1 << 20) - 4096..1 << 20]);
    assert_eq!(data(&file, 2 << 20..3 << 20).unwrap(), []);
    file.flush().unwrap();
}

#[test]
fn a_file_that_ends_too_early_is_an_error() {
    let memory = allocate(Size::mib(16)).unwrap();
    let file = tempfile::tempfile().unwrap();
    file.set_len(PAGE).unwrap();
    let all = parts(&memory, 0..2 * PAGE).unwrap();
    let error = read_at(&file, &all[0].1, 0).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    let error = write_at(&file, &all[0].1, u64::MAX).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
}

#[test]
fn only_whole_pages_are_mapped_over() {
    let memory = allocate(Size::mib(16)).unwrap();
    memory.write_slice(&[7; 3 * 4096], GuestAddress(0)).unwrap();
    for range in [1..PAGE, 0..PAGE - 1, PAGE + 8..2 * PAGE + 8] {
        let part = parts(&memory, range).unwrap();
        assert_eq!(map_over(&part[0].1, None).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
    map_over(&parts(&memory, PAGE..2 * PAGE).unwrap()[0].1, None).unwrap();
    let read = |at| memory.read_obj::<u8>(GuestAddress(at)).unwrap();
    assert_eq!([read(PAGE - 1), read(PAGE), read(2 * PAGE - 1), read(2 * PAGE)], [7, 0, 0, 7]);
}
