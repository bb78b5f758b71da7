use std::fs::{self, File};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;

use tempfile::tempdir;

use super::*;
use crate::memory::Run;
use crate::memory::image::CHUNK;
use crate::snapshot::folder::Folder;
use crate::snapshot::manifest::{Base, DiskCopy};
use crate::snapshot::testing::{SIZE, manifest, save, state};
use crate::virtio::block::config::Disk;

fn quiet(_: u64, _: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// A diff to the snapshot at `base` with a new first page, a second chunk of zeroes and the copy of a disk.
fn save_diff(path: &Path, base: &Path) {
    let id = Folder::open(base).unwrap().manifest().id;
    let draft = Draft::create(path).unwrap();
    let memory = draft.file(MEMORY).unwrap();
    memory.set_len(SIZE).unwrap();
    memory.write_all_at(&[9], 5).unwrap();
    let disk = draft.file("disk0.qcow2").unwrap();
    disk.write_all_at(b"an overlay", 0).unwrap();
    let chunk = CHUNK / 4096;
    let runs =
        Some(vec![Run { first: 0, count: 1, zero: false }, Run { first: chunk, count: chunk, zero: true }]);
    let chunks = image::checksums(&memory, &mut quiet).unwrap();
    let mut saved = manifest(0);
    saved.config.devices.disk.push(Disk::new("disk.img"));
    let manifest = Manifest {
        base: Some(Base { path: draft.path_to(base).unwrap(), id }),
        image: Image { runs, chunks, ..saved.image },
        disks: vec![DiskCopy::of("disk0", "disk0.qcow2", &disk).unwrap()],
        ..saved
    };
    draft.commit(&state(&manifest)).unwrap();
}

fn byte(folder: &Folder, at: u64) -> u8 {
    let mut byte = [0];
    folder.memory().unwrap().read_exact_at(&mut byte, at).unwrap();
    byte[0]
}

#[test]
fn what_is_merged_needs_no_other() {
    let dir = tempdir().unwrap();
    let [base, diff, new] = ["base", "diff", "new"].map(|name| dir.path().join(name));
    save(&base, 1, &manifest(1)).unwrap();
    save_diff(&diff, &base);
    fs::write(diff.join(WORKING_SET), "pages").unwrap();
    let snapshot = Snapshot::open(&diff).unwrap();
    let old = snapshot.manifest().clone();
    let mut steps = 0;
    let saved = snapshot
        .merge(&new, &mut |_, _| {
            steps += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
    assert!(steps > 3);
    fs::remove_dir_all(&base).unwrap();
    fs::remove_dir_all(&diff).unwrap();
    let merged = Folder::open(&new).unwrap();
    verify(&merged, &mut quiet).unwrap();
    assert!(merged.bases().unwrap().is_empty());
    let said = merged.manifest();
    assert_eq!((said.id, &said.base, &said.image.runs), (saved.id, &None, &None));
    assert!(said.id != old.id && said.created == old.created && said.disks == old.disks);
    assert_eq!(merged.state().sections(), snapshot.folder().state().sections());
    assert_eq!([0, 5, CHUNK, 2 * CHUNK].map(|at| byte(&merged, at)), [0, 9, 0, 1]);
    assert_eq!(fs::read(new.join("disk0.qcow2")).unwrap(), b"an overlay");
    assert_eq!(fs::read(new.join(WORKING_SET)).unwrap(), b"pages");
}

#[test]
fn it_may_take_the_place_of_the_diff_and_not_of_a_base() {
    let dir = tempdir().unwrap();
    let [base, diff] = ["base", "diff"].map(|name| dir.path().join(name));
    save(&base, 1, &manifest(1)).unwrap();
    save_diff(&diff, &base);
    let refused = Snapshot::open(&diff).unwrap().merge(&base, &mut quiet);
    assert!(matches!(refused, Err(Error::ReplacesPart(_))), "{refused:?}");
    let saved = Snapshot::open(&diff).unwrap().merge(&diff, &mut quiet).unwrap();
    assert_eq!(Folder::open(&diff).unwrap().manifest().id, saved.id);
    fs::remove_dir_all(&base).unwrap();
    assert!(Snapshot::open(&diff).is_ok());
}

/// Damage is not made right by new checksums, and nothing is left of what could not be.
#[test]
fn what_is_damaged_is_not_merged() {
    for damaged in ["base/memory", "diff/memory", "diff/disk0.qcow2"] {
        let dir = tempdir().unwrap();
        let [base, diff, new] = ["base", "diff", "new"].map(|name| dir.path().join(name));
        save(&base, 1, &manifest(1)).unwrap();
        save_diff(&diff, &base);
        let file = File::options().write(true).open(dir.path().join(damaged)).unwrap();
        file.write_all_at(b"?", 7).unwrap();
        let refused = Snapshot::open(&diff).unwrap().merge(&new, &mut quiet);
        assert!(matches!(refused, Err(Error::Damaged(_))), "{damaged}: {refused:?}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "{damaged}");
    }
}
