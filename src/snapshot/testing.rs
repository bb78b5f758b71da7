//! Small snapshots for the tests.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::folder::{Draft, Error, MEMORY};
use super::format;
use super::manifest::{Base, Host, Id, Image, Manifest};
use crate::config::{MachineConfig, Size};
use crate::memory::image::CHUNK;
use crate::state::{Section, State};

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
