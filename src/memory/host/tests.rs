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

#[test]
fn what_cannot_be_mapped_leaves_what_is_there() {
    let memory = allocate(Size::mib(16)).unwrap();
    memory.write_slice(&[7; 3 * 4096], GuestAddress(0)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    // Whoever may only write a file may not map it.
    let file = File::create(folder.path().join("file")).unwrap();
    file.set_len(1 << 20).unwrap();
    let part = parts(&memory, PAGE..2 * PAGE).unwrap();
    let mapped = || std::fs::read_to_string("/proc/self/maps").unwrap().matches("/file").count();
    assert_eq!(map_over(&part[0].1, Some((&file, 0))).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    let mut bytes = [0; 3 * 4096];
    memory.read_slice(&mut bytes, GuestAddress(0)).unwrap();
    assert_eq!(bytes, [7; 3 * 4096]);
    assert_eq!(mapped(), 0);
}

#[test]
fn what_cannot_be_a_hole_is_zeroes() {
    let folder = tempfile::tempdir().unwrap();
    let path = std::ffi::CString::new(folder.path().to_str().unwrap()).unwrap();
    // A file system without holes, for this thread alone.
    std::thread::spawn(move || {
        let (none, ram) = (c"none", c"ramfs");
        // SAFETY: the calls are given strings that live over them, and change this thread's mounts only.
        let mounted = unsafe {
            let private = libc::MS_REC | libc::MS_PRIVATE;
            libc::unshare(libc::CLONE_NEWNS) == 0
                && libc::mount(none.as_ptr(), c"/".as_ptr(), std::ptr::null(), private, std::ptr::null()) == 0
                && libc::mount(none.as_ptr(), path.as_ptr(), ram.as_ptr(), 0, std::ptr::null()) == 0
        };
        if !mounted {
            return crate::testing::skip(&format!("a ramfs: {}", io::Error::last_os_error()));
        }
        let path = std::path::Path::new(path.to_str().unwrap()).join("file");
        let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
        file.write_all_at(&vec![7; 3 << 20], 0).unwrap();
        punch(&file, 4096, 2 << 20).unwrap();
        let mut bytes = vec![1; 3 << 20];
        file.read_exact_at(&mut bytes, 0).unwrap();
        let zero = 4096..(2 << 20) + 4096;
        assert!(bytes.iter().enumerate().all(|(at, byte)| *byte == if zero.contains(&at) { 0 } else { 7 }));
        // All of it is data then, zeroes or not.
        assert_eq!(data(&file, 0..3 << 20).unwrap(), [0..3 << 20]);
    })
    .join()
    .unwrap();
}
