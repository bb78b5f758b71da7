//! Small snapshots for the tests.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::folder::{Draft, Error, MEMORY};
use super::format;
use super::manifest::{Base, DiskCopy, Host, Id, Image, Manifest};
use crate::config::{MachineConfig, Size};
use crate::memory::image::CHUNK;
use crate::state::{Section, State};
use crate::virtio::block::config::Disk;

/// The memory of the snapshots that this makes.
pub(super) const SIZE: u64 = 16 << 20;

pub(super) fn host() -> Host {
    Host {
        vendor: "GenuineIntel".into(),
        family: 6,
        model: 106,
        tsc_khz: 2_500_000,
        kernel: "6.18.44".into(),
    }
}

/// A snapshot whose memory has this in every chunk's first byte and is zero elsewhere.
pub(crate) fn manifest(number: u8) -> Manifest {
    let mut chunk = vec![0; usize::try_from(CHUNK).unwrap()];
    chunk[0] = number;
    let chunks = vec![crc32fast::hash(&chunk); usize::try_from(SIZE / CHUNK).unwrap()];
    let config = MachineConfig { memory: Size::new(SIZE), ..MachineConfig::default() };
    Manifest::new(config, Image { size: SIZE, chunks, runs: None }, host()).unwrap()
}

/// The same as a diff to another one.
pub(super) fn diff(number: u8, base: &Path, id: Id) -> Manifest {
    let manifest = manifest(number);
    let base = Some(Base { path: base.to_owned(), id });
    Manifest { base, image: Image { runs: Some(Vec::new()), ..manifest.image }, ..manifest }
}

pub(super) fn state(manifest: &Manifest) -> Vec<u8> {
    let mut state = State::default();
    manifest.put(&mut state).unwrap();
    let payload = b"a machine's part".to_vec();
    state.push(Section { id: "vcpu0".into(), kind: "registers".into(), version: 1, payload });
    format::encode(state.sections()).unwrap()
}

pub(super) fn fill(memory: &File, number: u8) {
    memory.set_len(SIZE).unwrap();
    for at in (0..SIZE).step_by(usize::try_from(CHUNK).unwrap()) {
        memory.write_all_at(&[number], at).unwrap();
    }
}

/// Makes the snapshot, whose memory is of this number.
pub(crate) fn save(path: &Path, number: u8, manifest: &Manifest) -> Result<(), Error> {
    let draft = Draft::create(path)?;
    fill(&draft.file(MEMORY)?, number);
    for copy in &manifest.disks {
        draft.file(&copy.file)?;
    }
    draft.commit(&state(manifest))
}

/// The copy of an overlay that lies over the raw image with this name; there is nothing in it.
pub(crate) fn overlay(name: &str) -> Vec<u8> {
    // A header of version 2 with clusters of 64 KiB, the format of the image, and the name.
    let len = u32::try_from(name.len()).unwrap();
    let mut bytes =
        [&b"QFI\xfb"[..], &2_u32.to_be_bytes(), &96_u64.to_be_bytes(), &len.to_be_bytes()].concat();
    bytes.extend(16_u32.to_be_bytes());
    bytes.resize(72, 0);
    bytes.extend([&0xe279_2aca_u32.to_be_bytes()[..], &3_u32.to_be_bytes(), b"raw\0\0\0\0\0"].concat());
    bytes.resize(96, 0);
    bytes.extend(name.bytes());
    bytes
}

/// Makes the snapshot of a machine whose disk lies over an image.
pub(crate) fn save_over(path: &Path, manifest: &Manifest, image: &Path) -> Result<(), Error> {
    let draft = Draft::create(path)?;
    fill(&draft.file(MEMORY)?, 1);
    let copy = draft.file("disk0.qcow2")?;
    copy.write_all_at(&overlay(image.to_str().unwrap()), 0).unwrap();
    let mut manifest = manifest.clone();
    manifest.config.devices.disk = vec![Disk::new(image)];
    manifest.disks = vec![DiskCopy::of("disk0", "disk0.qcow2", &copy).unwrap()];
    draft.commit(&state(&manifest))
}
