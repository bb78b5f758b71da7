use std::io::Write;
use std::os::unix::net::UnixListener;

use super::super::testing::{MIB, bytes_at, memory};
use super::*;

fn file(bytes: &[u8]) -> (tempfile::NamedTempFile, Image) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    let image = Image::open(file.path()).unwrap();
    (file, image)
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|index| u8::try_from(index % 251).unwrap()).collect()
}

#[test]
fn files_and_bytes_read_alike() {
    let bytes = pattern(10_000);
    let (_file, file) = file(&bytes);
    for image in [file, Image::from_bytes(bytes.clone(), "bytes")] {
        assert_eq!((image.len(), image.is_empty()), (10_000, false));
        for (offset, len, expected) in [
            (0, 100, &bytes[..100]),
            (9_950, 100, &bytes[9_950..]),
            (10_000, 100, &[]),
            (10_001, 100, &[]),
            (u64::MAX, 100, &[]),
            (5, 0, &[]),
        ] {
            let mut buffer = vec![0; len];
            assert_eq!(image.read_at(offset, &mut buffer).unwrap(), expected.len(), "{offset}");
            assert_eq!(&buffer[..expected.len()], expected, "{offset}");
        }
        let error = image.read_exact_at(9_999, &mut [0; 2], Part::Header).unwrap_err();
        assert!(matches!(error, Error::Truncated { end: 10_001, len: 10_000, .. }), "{error:?}");
        let error = image.read_exact_at(u64::MAX, &mut [0; 2], Part::Header).unwrap_err();
        assert!(matches!(error, Error::Truncated { end: u64::MAX, .. }), "{error:?}");
    }
}

#[test]
fn copies_cross_regions_of_memory() {
    let bytes = pattern(10_000);
    let (_file, file) = file(&bytes);
    for image in [file, Image::from_bytes(bytes.clone(), "bytes")] {
        let memory = memory(&[(0, MIB), (MIB, MIB)]);
        // Twice, because a file has a position.
        for address in [MIB - 5_000, MIB - 4_000] {
            image.copy_to(&memory, 100, address, 9_000).unwrap();
            assert_eq!(bytes_at(&memory, address, 9_000), &bytes[100..9_100]);
            assert_eq!(bytes_at(&memory, address + 9_000, 1), [0]);
        }
        image.copy_to(&memory, 0, 0, 0).unwrap();
        let error = image.copy_to(&memory, 0, 2 * MIB - 10, 100).unwrap_err();
        assert!(matches!(error, Error::Read { .. }), "{error:?}");
    }
}

#[test]
fn a_file_that_shrinks_is_an_error() {
    let (file, image) = file(&pattern(10_000));
    file.as_file().set_len(5_000).unwrap();
    let memory = memory(&[(0, MIB)]);
    let error = image.copy_to(&memory, 0, 0, 10_000).unwrap_err();
    assert!(matches!(error, Error::Read { .. }), "{error:?}");
    let error = image.read_exact_at(4_000, &mut [0; 2_000], Part::Header).unwrap_err();
    assert!(matches!(error, Error::Read { .. }), "{error:?}");
}

#[test]
fn only_regular_files_open() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    let fifo = dir.path().join("fifo");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status().unwrap();
    assert!(made.success());
    for (path, kind) in [
        (dir.path(), "a directory"),
        ("/dev/null".as_ref(), "a device"),
        (&socket, "a socket or a device"),
        (&fifo, "a pipe"),
    ] {
        let error = Image::open(path).unwrap_err();
        assert_eq!(error.to_string(), format!("{} is {kind}, not a file", path.display()));
    }
    let missing = dir.path().join("missing");
    let error = Image::open(&missing).unwrap_err();
    assert_eq!(error.to_string(), format!("cannot open {}", missing.display()));
    let source = std::error::Error::source(&error).unwrap();
    assert_eq!(source.to_string(), "No such file or directory (os error 2)");
}
