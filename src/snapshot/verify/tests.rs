use std::fs::File;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::Path;

use tempfile::tempdir;

use super::*;
use crate::config::Size;
use crate::memory::image::CHUNK;
use crate::snapshot::folder::Draft;
use crate::snapshot::manifest::{Image, Manifest};
use crate::snapshot::testing::{SIZE, manifest, save, save_over, state};

fn write(path: &Path, byte: u8, at: u64) {
    File::options().write(true).open(path).unwrap().write_all_at(&[byte], at).unwrap();
}

fn verified(folder: &Folder) -> Result<(), Error> {
    verify(folder, &mut |_, _| ControlFlow::Continue(()))
}

#[test]
fn every_byte_of_memory_counts() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("snap");
    save(&path, 7, &manifest(7)).unwrap();
    let folder = Folder::open(&path).unwrap();
    let mut steps = Vec::new();
    verify(&folder, &mut |done, total| {
        steps.push((done, total));
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(steps, (1..=16).map(|chunk| (chunk * CHUNK, SIZE)).collect::<Vec<_>>());
    let memory = path.join(MEMORY);
    for (at, right, wrong) in
        [(0, 7, 6), (CHUNK, 7, 0), (CHUNK - 1, 0, 1), (SIZE - 1, 0, 0x80), (5_000_000, 0, 1)]
    {
        write(&memory, wrong, at);
        match verified(&folder) {
            Err(Error::Memory { at: found, len: CHUNK, .. }) => assert_eq!(found, at / CHUNK * CHUNK),
            other => panic!("byte {at}: {other:?}"),
        }
        write(&memory, right, at);
        verified(&folder).unwrap();
    }
}

/// Holes of every length before data that begin anywhere, and a last chunk that is shorter.
#[test]
fn holes_are_zeroes() {
    let dir = tempdir().unwrap();
    let size = SIZE + 4096 * 3;
    let zero = vec![0; 1 << 20];
    for (number, data) in
        [vec![], vec![0], vec![size - 1], vec![CHUNK + 8192, 9 * CHUNK - 1]].iter().enumerate()
    {
        let path = dir.path().join(number.to_string());
        let draft = Draft::create(&path).unwrap();
        let memory = draft.file(MEMORY).unwrap();
        memory.set_len(size).unwrap();
        let mut bytes = vec![0; usize::try_from(size).unwrap()];
        for at in data {
            memory.write_all_at(&[1], *at).unwrap();
            bytes[usize::try_from(*at).unwrap()] = 1;
        }
        let chunks: Vec<_> = bytes.chunks(zero.len()).map(crc32fast::hash).collect();
        assert_eq!(chunks.len(), 17);
        let mut manifest = manifest(0);
        manifest.config.memory = Size::new(size);
        let manifest = Manifest { image: Image { size, chunks, runs: None }, ..manifest };
        draft.commit(&state(&manifest)).unwrap();
        let folder = Folder::open(&path).unwrap();
        verified(&folder).unwrap();
        write(&path.join(MEMORY), 2, size - 1);
        assert!(matches!(verified(&folder), Err(Error::Memory { at: SIZE, len: 12288, .. })));
    }
}

#[test]
fn copies_of_disks_count() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("snap");
    let draft = Draft::create(&path).unwrap();
    draft.file(MEMORY).unwrap().set_len(SIZE).unwrap();
    let disk = draft.file("disk0.qcow2").unwrap();
    disk.write_all_at(&vec![5; 3 << 20], 10).unwrap();
    let copy = DiskCopy::of("disk0", "disk0.qcow2", &disk).unwrap();
    assert_eq!(copy.len, (3 << 20) + 10);
    let manifest = manifest(0);
    draft.commit(&state(&Manifest { disks: vec![copy], ..manifest })).unwrap();
    let folder = Folder::open(&path).unwrap();
    verified(&folder).unwrap();
    write(&path.join("disk0.qcow2"), 4, 2 << 20);
    assert!(matches!(verified(&folder), Err(Error::Disk(_))));
    // A shorter one is seen at once.
    disk.set_len(10).unwrap();
    assert!(matches!(Folder::open(&path), Err(folder::Error::Size { found: 10, .. })));
}

#[test]
fn what_a_disk_lies_over_has_to_be_there() {
    let dir = tempdir().unwrap();
    let [path, image] = ["snap", "base.img"].map(|name| dir.path().join(name));
    std::fs::write(&image, b"a disk").unwrap();
    save_over(&path, &manifest(1), &image).unwrap();
    let folder = Folder::open(&path).unwrap();
    verified(&folder).unwrap();
    std::fs::remove_file(&image).unwrap();
    assert!(matches!(verified(&folder), Err(Error::DiskBase { path, .. }) if path == image));
}
