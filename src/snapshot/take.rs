//! A machine into a snapshot: what has to be done while it stands still, and what can be done afterwards.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::folder::{Draft, Folder, MEMORY};
use super::manifest::{Base, DiskCopy, Host, Id, Image, Manifest};
use super::{Error, Progress, format};
use crate::config::MachineConfig;
use crate::machine::PausedMachine;
use crate::memory::{self, DirtyPages, GuestMemory, Layers, image};
use crate::state::State;
use crate::virtio::block;

/// How a snapshot is made.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Only what has changed since this snapshot goes into the new one, which needs it from then on.
    pub base: Option<PathBuf>,
    /// Changes are tracked from then on, so that the next snapshot can be a diff to this one. The guest's
    /// first write to each page is slower then.
    pub track: bool,
}

/// What came of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Saved {
    /// Its id.
    pub id: Id,
    /// Bytes of memory that were written; pages of zeroes are not.
    pub memory_bytes: u64,
}

/// A snapshot of which everything is known, and that is not safe on the disk yet. The machine may go on.
/// Dropping it leaves nothing behind.
#[derive(Debug)]
pub struct Taken {
    draft: Draft,
    memory: File,
    /// The copies of overlays, by their devices.
    disks: Vec<(String, File)>,
    manifest: Manifest,
    state: State,
    /// What a diff holds.
    pages: DirtyPages,
    memory_bytes: u64,
}

impl Taken {
    /// Saves a paused machine.
    ///
    /// # Errors
    /// There is no room, the base does not fit, or a part of the machine cannot be kept. The machine is as
    /// it was.
    pub fn take(
        machine: &mut PausedMachine,
        target: &Path,
        options: &Options,
        progress: Progress<'_>,
    ) -> Result<Self, Error> {
        let mut begun = Begun::new(machine.tracked_since(), target, options)?;
        match begun.base() {
            None => begun.write_all(machine.memory(), machine.layers(), progress)?,
            Some(base) => {
                let changed = machine.changed_since(base)?.clone();
                begun.write(machine.memory(), &changed, progress)?;
            }
        }
        begun.take(machine, || Ok(()))
    }

    /// Computes the checksums, and puts the snapshot where it belongs.
    ///
    /// # Errors
    /// It cannot be written; what was there before is still there.
    pub fn finish(self, progress: Progress<'_>) -> Result<Saved, Error> {
        let Self { draft, memory, disks, mut manifest, mut state, pages, memory_bytes } = self;
        manifest.image.chunks = image::checksums(&memory, progress)?;
        if manifest.base.is_some() {
            let pages: Vec<_> = pages.runs().collect();
            manifest.image.runs = Some(image::runs(&memory, &pages)?);
        }
        for (device, copy) in disks {
            let described = DiskCopy::of(&device, &overlay_name(&device), &copy);
            manifest.disks.push(described.map_err(|source| Error::Overlay { device, source })?);
        }
        manifest.put(&mut state)?;
        draft.commit(&format::encode(state.sections())?)?;
        Ok(Saved { id: manifest.id, memory_bytes })
    }
}

/// A snapshot that has memory, and no state yet.
pub(super) struct Begun {
    draft: Draft,
    memory: File,
    base: Option<Base>,
    /// What a diff holds.
    pages: DirtyPages,
    memory_bytes: u64,
    track: bool,
}

impl Begun {
    /// Begins one of a machine whose changes are known since the moments `known`, the newest last.
    pub(super) fn new(
        known: impl Iterator<Item = u128>,
        target: &Path,
        options: &Options,
    ) -> Result<Self, Error> {
        let draft = Draft::create(target)?;
        let base = match &options.base {
            Some(path) => {
                let id = Folder::open(path)?.manifest().id;
                let known: Vec<_> = known.collect();
                if !known.contains(&id.number()) {
                    return Err(other_base(path, known.last().copied()));
                }
                Some(Base { path: draft.path_to(path)?, id })
            }
            None => None,
        };
        let memory = draft.file(MEMORY)?;
        let pages = DirtyPages::default();
        Ok(Self { draft, memory, base, pages, memory_bytes: 0, track: options.track })
    }

    /// The moment since which a diff has the changes.
    pub(super) fn base(&self) -> Option<u128> {
        self.base.as_ref().map(|base| base.id.number())
    }

    /// Bytes that were written so far.
    pub(super) fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// Writes all of a memory.
    pub(super) fn write_all(
        &mut self,
        memory: &GuestMemory,
        layers: Option<&Layers>,
        progress: Progress<'_>,
    ) -> Result<(), Error> {
        let written = image::write(memory, layers, &self.memory, progress);
        self.memory_bytes += written.map_err(|error| self.unwritten(error))?;
        Ok(())
    }

    /// Writes some pages, anew if they are there.
    pub(super) fn write(
        &mut self,
        memory: &GuestMemory,
        pages: &DirtyPages,
        progress: Progress<'_>,
    ) -> Result<(), Error> {
        let runs: Vec<_> = pages.runs().collect();
        let written = image::write_pages(memory, &runs, &self.memory, progress);
        self.memory_bytes += written.map_err(|error| self.unwritten(error))?;
        if self.base.is_some() {
            self.pages = self.pages.union(pages);
        }
        Ok(())
    }

    /// What the image does not know is where it was to go.
    fn unwritten(&self, error: memory::Error) -> Error {
        match error {
            memory::Error::Write(source) => self.draft.unwritten(MEMORY, source).into(),
            error => error.into(),
        }
    }

    /// Adds the state of the machine whose memory this is. `in_time` ends it while the guest could go on as if
    /// nothing had been.
    pub(super) fn take(
        self,
        machine: &mut PausedMachine,
        in_time: impl Fn() -> Result<(), Error>,
    ) -> Result<Taken, Error> {
        let Self { draft, memory, base, pages, memory_bytes, track } = self;
        let state = machine.save_in_time(&in_time)?;
        in_time()?;
        let mut disks = Vec::new();
        for (device, overlay) in machine.overlays() {
            if let Some(path) = missing_image(machine.config(), device) {
                return Err(Error::ImageGone { device: device.to_owned(), path });
            }
            let copy = draft.file(&overlay_name(device))?;
            let go_on = || in_time().is_ok();
            let copied = File::open(&overlay).and_then(|overlay| image::copy(&overlay, &copy, go_on));
            in_time()?;
            // It lies elsewhere, and is to find what it lies over all the same.
            let folder = overlay.parent().unwrap_or(Path::new(""));
            copied
                .and_then(|()| block::keep_backing(&copy, folder))
                .map_err(|source| Error::Overlay { device: device.to_owned(), source })?;
            disks.push((device.to_owned(), copy));
        }
        let host = Host::of(&state.get("vcpu0")?);
        let config = machine.config().clone();
        let image = Image { size: config.memory.bytes(), chunks: Vec::new(), runs: None };
        let new = Manifest::new(config, image, host).map_err(Error::Random)?;
        if track {
            machine.track_since(new.id.number())?;
        }
        Ok(Taken { draft, memory, disks, manifest: Manifest { base, ..new }, state, pages, memory_bytes })
    }
}

/// The file of an overlay's copy.
fn overlay_name(device: &str) -> String {
    format!("{device}.qcow2")
}

/// The image that a disk's overlay lies over, if it is not there any more: nobody could use a copy.
fn missing_image(config: &MachineConfig, device: &str) -> Option<PathBuf> {
    let disk = config.devices.disk.get(config.devices.disk_number(device)?)?;
    (!disk.path.exists()).then(|| disk.path.clone())
}

fn other_base(base: &Path, known: Option<u128>) -> Error {
    let known = match known {
        Some(known) => format!("it is known since the snapshot {known:032x}"),
        None => "save all of the memory first, and have its changes tracked from then on".to_owned(),
    };
    Error::OtherBase { base: base.to_owned(), known }
}

#[cfg(test)]
mod tests;
