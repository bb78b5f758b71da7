//! What can be opened, by whom, and what is said when it cannot.

use super::*;
use crate::virtio::block::config::{Cache, Overlay};
use crate::virtio::block::image::Error;

fn refused(disk: &Disk) -> Error {
    Image::open(disk).err().unwrap()
}

#[test]
fn what_is_no_disk_is_told_in_one_line() {
    let folder = folder();
    let path = |name: &str| folder.path().join(name);
    let said = |path: &Path| refused(&Disk::new(path)).to_string();
    assert!(said(&path("none")).contains("does not exist: make one"));
    assert!(said(folder.path()).contains("is a directory"));
    assert!(said(Path::new("/dev/null")).contains("neither a file nor a block device"));
    std::fs::write(path("empty"), "").unwrap();
    assert!(said(&path("empty")).contains("is empty"));
    std::fs::write(path("odd"), [0; 513]).unwrap();
    assert!(said(&path("odd")).contains("has 513 bytes, which is not a multiple of 512"));
    std::fs::write(path("raw.qcow2"), [0; 512]).unwrap();
    assert!(said(&path("raw.qcow2")).contains("is not a qcow2 image"));
    assert!(matches!(refused(&disk(&path("odd"), Format::Qcow2, EngineKind::Sync)), Error::NotQcow2(_)));
    std::fs::write(path("broken.qcow2"), [&b"QFI\xfb"[..], &[0xff; 508]].concat()).unwrap();
    assert!(matches!(refused(&Disk::new(path("broken.qcow2"))), Error::Qcow2 { .. }));
    std::fs::write(path("short.qcow2"), b"QFI\xfb").unwrap();
    assert!(matches!(refused(&Disk::new(path("short.qcow2"))), Error::Qcow2 { .. }));
    let contradiction = Disk { readonly: true, overlay: Some(Overlay::Temp), ..Disk::new(path("odd")) };
    assert!(matches!(refused(&contradiction), Error::Config(_)));
}

#[test]
fn a_guest_does_not_choose_the_format() {
    let folder = folder();
    let path = raw(folder.path(), "d.img", 1 << 20);
    let image = Image::open(&Disk::new(&path)).unwrap();
    let mut guest = Guest::new(&image);
    let mut header = b"QFI\xfb\0\0\0\x03".to_vec();
    header.resize(512, 0);
    guest.write(0, &header).unwrap();
    drop((guest, image));
    // The next start asks, also for reading; said to be raw it is.
    for readonly in [false, true] {
        assert!(matches!(refused(&Disk { readonly, ..Disk::new(&path) }), Error::Ambiguous(_)));
    }
    let image = Image::open(&disk(&path, Format::Raw, EngineKind::Sync)).unwrap();
    assert_eq!(Guest::new(&image).read(0, 512).unwrap(), header);
}

#[test]
fn backing_files_are_what_the_image_says() {
    let folder = folder();
    let base = raw(folder.path(), "base.img", 1 << 20);
    let top = folder.path().join("top.qcow2");
    let [base, top_name] = [&base, &top].map(|path| path.to_str().unwrap());
    let named = |name: &str, format: &str| {
        let words = ["create", "-q", "-f", "qcow2", "-u", "-b", name, "-F", format, top_name, "1M"];
        qemu_img(&words).map(|_| Image::open(&Disk::new(&top)).map(|image| image.capacity()))
    };
    let Some(found) = named("base.img", "raw") else { return };
    assert_eq!(found.unwrap(), 2048);
    assert_eq!(named(base, "raw").unwrap().unwrap(), 2048);
    assert!(matches!(named("top.qcow2", "qcow2"), Some(Err(Error::Written(_)))));
    assert!(matches!(named("none.img", "raw"), Some(Err(Error::Missing(_)))));
    assert!(matches!(named("nbd://host/disk", "raw"), Some(Err(Error::Backing { .. }))));
    assert!(matches!(named("base.img", "vmdk"), Some(Err(Error::Backing { .. }))));
    // Without a format nothing is guessed.
    qemu_img(&["rebase", "-u", "-b", base, "-F", "raw", top_name]);
    let mut bytes = std::fs::read(&top).unwrap();
    let at = bytes.windows(4).position(|word| word == 0xe279_2aca_u32.to_be_bytes()).unwrap();
    // The extension that holds the format becomes one that nobody knows, which readers skip.
    bytes[at..at + 4].copy_from_slice(&0x1234_5678_u32.to_be_bytes());
    std::fs::write(&top, bytes).unwrap();
    let error = refused(&Disk::new(&top));
    assert!(matches!(error, Error::BackingFormat { .. }), "{error:?}");
    // A ring of backing files ends.
    let (a, b) = (folder.path().join("a.qcow2"), folder.path().join("b.qcow2"));
    for (name, other) in [(&a, &b), (&b, &a)] {
        let [name, other] = [name, other].map(|path| path.to_str().unwrap());
        qemu_img(&["create", "-q", "-f", "qcow2", "-u", "-b", other, "-F", "qcow2", name, "1M"]);
    }
    let error = refused(&Disk { readonly: true, ..Disk::new(&a) });
    assert!(matches!(error, Error::Chain(_)), "{error:?}");
}

#[test]
fn one_writes_or_many_read() {
    let folder = folder();
    let path = raw(folder.path(), "d.img", 1 << 20);
    let writing = Disk::new(&path);
    let reading = Disk { readonly: true, ..Disk::new(&path) };
    let over = Disk { overlay: Some(Overlay::Temp), ..Disk::new(&path) };
    let writer = Image::open(&writing).unwrap();
    for disk in [&writing, &reading, &over] {
        let error = refused(disk).to_string();
        assert!(error.contains("another machine has it open for writing"), "{error}");
    }
    // An engine holds the lock too.
    let guest = Guest::new(&writer);
    drop(writer);
    assert!(matches!(refused(&reading), Error::Written(_)));
    drop(guest);
    let readers = [&reading, &over, &reading, &over].map(|disk| Image::open(disk).unwrap());
    let error = refused(&writing).to_string();
    assert!(error.contains("another machine reads it; use readonly or overlay=temp"), "{error}");
    drop(readers);
    Image::open(&writing).unwrap();
}

#[test]
fn a_readonly_disk_is_not_written() {
    let folder = folder();
    let path = raw(folder.path(), "d.img", 1 << 20);
    for engine in ENGINES {
        let image = Image::open(&Disk { readonly: true, ..disk(&path, Format::Raw, engine) }).unwrap();
        assert!(image.readonly());
        let mut guest = Guest::new(&image);
        for operation in [
            Operation::Write { offset: 0, buffers: guest.buffers(0, 512) },
            Operation::Discard { offset: 0, len: 512 },
            Operation::WriteZeroes { offset: 0, len: 512, unmap: true },
        ] {
            let kind = guest.run(operation).unwrap_err().kind();
            assert_eq!(kind, std::io::ErrorKind::ReadOnlyFilesystem);
        }
        guest.run(Operation::Flush).unwrap();
        assert_eq!(guest.read(512, 512).unwrap(), [0; 512]);
    }
}

#[test]
fn a_file_that_got_shorter_is_an_error_and_no_stale_data() {
    let folder = folder();
    for engine in ENGINES {
        let path = raw(folder.path(), "d.img", 1 << 20);
        let image = Image::open(&disk(&path, Format::Raw, engine)).unwrap();
        let mut guest = Guest::new(&image);
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(600 << 10).unwrap();
        for (offset, len) in [(700 << 10, 4096), ((600 << 10) - 512, 1024)] {
            let kind = guest.read(offset, len).unwrap_err().kind();
            assert_eq!(kind, std::io::ErrorKind::UnexpectedEof);
        }
        assert_eq!(image.refresh_size().unwrap(), 1200);
        let kind = guest.read(700 << 10, 512).unwrap_err().kind();
        assert_eq!(kind, std::io::ErrorKind::InvalidInput);
        // And one that got longer has room.
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len((2 << 20) + 100).unwrap();
        assert_eq!(image.refresh_size().unwrap(), 4096);
        guest.write((2 << 20) - 512, &[1; 512]).unwrap();
    }
}

#[test]
fn guests_that_ask_for_more_than_there_is_get_an_error() {
    let folder = folder();
    let base = raw(folder.path(), "d.img", 1 << 20);
    for engine in ENGINES {
        for overlay in [None, Some(Overlay::Temp)] {
            let image = Image::open(&Disk { overlay, ..disk(&base, Format::Raw, engine) }).unwrap();
            let mut guest = Guest::new(&image);
            for offset in [1 << 20, (1 << 20) - 512, u64::MAX - 511, u64::MAX - 1023, 1 << 63, 100] {
                assert!(guest.read(offset, 1024).is_err(), "{offset}");
                assert!(guest.write(offset, &[0; 1024]).is_err(), "{offset}");
                for unmap in [false, true] {
                    let zeroes = Operation::WriteZeroes { offset, len: u64::MAX - 511, unmap };
                    assert!(guest.run(zeroes).is_err());
                }
                assert!(guest.run(Operation::Discard { offset, len: 1 << 40 }).is_err());
            }
            assert_eq!(guest.run(Operation::Discard { offset: 0, len: 0 }).unwrap(), 0);
            guest.read((1 << 20) - 512, 512).unwrap();
        }
    }
    assert_eq!(std::fs::metadata(base).unwrap().len(), 1 << 20);
}

#[test]
fn a_full_host_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().to_str().unwrap();
    let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "none", place]).output();
    if !mount.is_ok_and(|output| output.status.success()) {
        return skip("a tmpfs cannot be mounted here");
    }
    for engine in ENGINES {
        for cache in [Cache::Writeback, Cache::Writethrough] {
            let path = raw(folder.path(), "d.img", 8 << 20);
            let image = Image::open(&Disk { cache, ..disk(&path, Format::Raw, engine) }).unwrap();
            let mut guest = Guest::new(&image);
            let error = guest.write(0, &vec![1; 2 << 20]).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
            // Room that is given back can be used.
            guest.run(Operation::Discard { offset: 0, len: 8 << 20 }).unwrap();
            guest.write(4 << 20, &[1; 4096]).unwrap();
            assert_eq!(guest.read(0, 512).unwrap(), [0; 512]);
            drop((guest, image));
            std::fs::remove_file(&path).unwrap();
            // The overlay fills up, and reads what was written all the same.
            let base = raw(folder.path(), "b.img", 8 << 20);
            let overlay = Some(Overlay::Path(folder.path().join("o.qcow2")));
            let over = Disk { overlay, cache, ..disk(&base, Format::Raw, engine) };
            let image = Image::open(&over).unwrap();
            let mut guest = Guest::new(&image);
            guest.write(0, &[7; 512]).unwrap();
            assert!(guest.write(1 << 20, &vec![1; 2 << 20]).is_err());
            assert_eq!(guest.read(0, 512).unwrap(), [7; 512]);
            drop((guest, image));
            check(&folder.path().join("o.qcow2"));
            std::fs::remove_file(folder.path().join("o.qcow2")).unwrap();
        }
    }
    let unmounted = Command::new("umount").arg(place).status().unwrap();
    assert!(unmounted.success());
}
