use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;

use super::super::super::layers::{Layer, Run};
use super::super::super::layout::PAGE_SIZE;
use super::*;
use crate::config::Size;

const PAGE: u64 = PAGE_SIZE;

fn file(pages: u64, filled: &[(u64, u8)]) -> File {
    let file = tempfile::tempfile().unwrap();
    file.set_len(pages * PAGE).unwrap();
    for (page, byte) in filled {
        file.write_all_at(&[*byte; 4096], page * PAGE).unwrap();
    }
    file
}

fn layers() -> Layers {
    let run = |first, count, zero| Run { first, count, zero };
    let layers = vec![
        Layer { file: file(2048, &[(0, 1), (1, 1), (2, 1), (3, 1), (2047, 1)]), runs: None },
        Layer {
            file: file(2048, &[(1, 2), (900, 2)]),
            runs: Some(vec![run(1, 1, false), run(2, 1, true), run(900, 1, false)]),
        },
        // A file may have something that is not said to be in it.
        Layer { file: file(2048, &[(3, 3), (5, 3)]), runs: Some(vec![run(3, 1, false), run(900, 1, true)]) },
    ];
    Layers::new(Size::mib(8), layers).unwrap()
}

fn check(merged: &File) {
    assert_eq!(merged.metadata().unwrap().len(), 8 << 20);
    let mut bytes = vec![9; 8 << 20];
    merged.read_exact_at(&mut bytes, 0).unwrap();
    for (page, bytes) in bytes.chunks(4096).enumerate() {
        let byte = match page {
            0 | 2047 => 1,
            1 => 2,
            3 => 3,
            _ => 0,
        };
        assert!(bytes.iter().all(|b| *b == byte), "page {page}");
    }
    assert_eq!(
        host::data(merged, 0..8 << 20).unwrap(),
        [0..2 * PAGE, 3 * PAGE..4 * PAGE, 2047 * PAGE..8 << 20]
    );
}

#[test]
fn layers_become_one_image_with_their_holes() {
    let merged = file(4096, &[(5, 9), (2100, 9)]);
    let mut seen = Vec::new();
    assert_eq!(
        merge(&layers(), &merged, &mut |done, total| {
            seen.push((done, total));
            ControlFlow::Continue(())
        })
        .unwrap(),
        4 * PAGE
    );
    check(&merged);
    assert_eq!(seen.last(), Some(&(4 * PAGE, 4 * PAGE)));
}

#[test]
fn an_image_can_go_to_another_file_system() {
    // Memory is one of its own.
    // SAFETY: the name is a string with its end; the result is checked, and is a new descriptor.
    let merged = unsafe {
        let fd = libc::memfd_create(c"merged".as_ptr(), libc::MFD_CLOEXEC);
        assert!(fd >= 0);
        <File as std::os::fd::FromRawFd>::from_raw_fd(fd)
    };
    merge(&layers(), &merged, &mut |_, _| ControlFlow::Continue(())).unwrap();
    check(&merged);
}

#[test]
fn a_file_that_takes_nothing_is_an_error() {
    let path = tempfile::NamedTempFile::new().unwrap();
    let read_only = File::open(path.path()).unwrap();
    let error = merge(&layers(), &read_only, &mut |_, _| ControlFlow::Continue(())).unwrap_err();
    assert!(matches!(error, Error::Write(_)), "{error}");
}
