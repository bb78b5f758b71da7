//! A snapshot into a machine.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use super::Error;
use super::folder::{self, Folder, MEMORY, WORKING_SET};
use super::manifest::Manifest;
use crate::config::MachineConfig;
use crate::machine::{Builder, Kept, Lifeline, RunningMachine};
use crate::memory::fault::{self, Failed, Stream};
use crate::memory::{self, GuestMemory, Layer, Layers, Prefetch, WorkingSet};
use crate::virtio::Allow;
use crate::virtio::block::config::{Disk, Format, Overlay};

/// A snapshot, open: whole as far as its state goes, with everything that it is a diff to.
#[derive(Debug)]
pub struct Snapshot {
    folder: Folder,
    bases: Vec<Folder>,
    /// None of one that was opened without its memory.
    layers: Option<Arc<Layers>>,
}

/// How a machine comes to its memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MemorySource {
    /// The files are mapped: pages come when they are touched, and machines share what they do not change.
    #[default]
    Map,
    /// A thread brings in each page when it is touched (userfaultfd). The files can go once all have come.
    Fault,
    /// All of it is copied into huge pages.
    Huge,
}

/// How a machine goes on.
#[derive(Clone, Debug, Default)]
pub struct Restoring {
    /// What may differ.
    pub allow: Allow,
    /// How it comes to its memory.
    pub memory: MemorySource,
    /// These pages of mapped memory are brought in ahead of the guest: [`Snapshot::working_set`] gives those that
    /// were recorded.
    pub prefetch: Option<Arc<WorkingSet>>,
    /// What the guest touches is watched, so that [`Snapshot::record`] can record it. Not of memory that comes
    /// whether it is touched or not.
    pub record: bool,
    /// Changes of memory are tracked, so that a snapshot can be a diff to this one.
    pub track: bool,
}

impl Snapshot {
    /// Opens the snapshot at this path.
    ///
    /// # Errors
    /// There is none, a part of it or of its bases is missing, or its state is damaged.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let folder = Folder::open(path)?;
        check_copies(&folder)?;
        let bases = folder.bases()?;
        let mut layers = Vec::new();
        for folder in bases.iter().rev().chain([&folder]) {
            let runs = folder.manifest().image.runs.clone();
            layers.push(Layer { file: folder.memory()?.try_clone().map_err(Error::Descriptor)?, runs });
        }
        let layers = Some(Arc::new(Layers::new(folder.manifest().config.memory, layers)?));
        Ok(Self { folder, bases, layers })
    }

    /// Opens the snapshot at this path, but for its memory, which may not be there: for
    /// [`Self::builder_of_stream`].
    ///
    /// # Errors
    /// There is none, another part of it is missing, its state is damaged, or it has not all of its memory
    /// itself.
    pub fn open_without_memory(path: &Path) -> Result<Self, Error> {
        let folder = Folder::open_without_memory(path)?;
        if folder.manifest().base.is_some() {
            return Err(Error::StreamOfDiff(path.to_owned()));
        }
        check_copies(&folder)?;
        Ok(Self { folder, bases: Vec::new(), layers: None })
    }

    /// Its directory, and what is in it.
    #[must_use]
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// The snapshots that it is a diff to, the nearest first.
    #[must_use]
    pub fn bases(&self) -> &[Folder] {
        &self.bases
    }

    /// What its memory comes to.
    pub(super) fn layers(&self) -> Result<&Arc<Layers>, Error> {
        match &self.layers {
            Some(layers) => Ok(layers),
            None => Err(Error::Folder(folder::Error::Missing { path: self.folder.path().join(MEMORY) })),
        }
    }

    /// What it says of itself.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        self.folder.manifest()
    }

    /// The configuration of a machine that goes on from here: the saved one's, with the copies of its
    /// overlays in the place of the disks. Those stay as they are: what the machine writes goes into
    /// overlays of its own, which are gone with it unless the caller gives them a path.
    #[must_use]
    pub fn config(&self) -> MachineConfig {
        let mut config = self.manifest().config.clone();
        for copy in &self.manifest().disks {
            let path = self.folder.path().join(&copy.file);
            let number = config.devices.disk_number(&copy.device);
            if let Some(disk) = number.and_then(|number| config.devices.disk.get_mut(number)) {
                *disk = Disk { path, format: Format::Qcow2, overlay: Some(Overlay::Temp), ..disk.clone() };
            }
        }
        config
    }

    /// A builder of a machine that goes on from here, with this configuration: that of [`Self::config`],
    /// but for what the guest does not see, and for addresses.
    ///
    /// # Errors
    /// The memory cannot be mapped.
    pub fn builder(&self, config: MachineConfig, how: Restoring) -> Result<Builder, Error> {
        let lifeline = Arc::new(Lifeline::default());
        let layers = self.layers()?;
        let memory = match how.memory {
            MemorySource::Map => memory::restore(layers)?,
            MemorySource::Huge => memory::restore_huge(layers)?,
            MemorySource::Fault => {
                fault::serve(layers.size(), Layers::clone(layers), lost(Arc::clone(&lifeline)))?
            }
        };
        let mut prefetch = None;
        if how.memory == MemorySource::Map {
            if how.record {
                WorkingSet::watch(&memory, layers)?;
            }
            // It is a help and no more: a machine goes on without it.
            prefetch = how.prefetch.as_ref().and_then(|set| {
                let started = Prefetch::start(&memory, layers, set);
                started.inspect_err(|error| log::warn!("nothing is brought in ahead: {error}")).ok()
            });
        }
        // Pages that have not been touched are not in memory: a snapshot of it has them from there.
        let layers = (how.memory != MemorySource::Huge).then(|| Arc::clone(layers));
        Ok(self.restore(config, &how, Memory { memory, layers, prefetch, lifeline }))
    }

    /// The same, of a machine whose memory a stream brings: the bytes of the snapshot's `memory`, from the first
    /// to the last. It begins at once, and waits for a page that it touches until that has come by. What comes is
    /// looked at against the checksums that were saved, a MiB at a time, before the machine has any of it. A
    /// stream that is not the snapshot's, or has an end before its time, is the machine's.
    ///
    /// # Errors
    /// The host does not let this process serve pages.
    pub fn builder_of_stream(
        &self,
        config: MachineConfig,
        how: &Restoring,
        stream: impl Read + AsFd + Send + 'static,
    ) -> Result<Builder, Error> {
        let lifeline = Arc::new(Lifeline::default());
        let Manifest { config: MachineConfig { memory: size, .. }, image, .. } = self.manifest();
        let machine = Arc::clone(&lifeline);
        let stream = Stream::new(stream, *size, image.chunks.clone(), move || machine.has_ended());
        let memory = fault::serve_stream(*size, stream, lost(Arc::clone(&lifeline)))?;
        let layers = Some(Arc::new(Layers::elsewhere(*size)));
        Ok(self.restore(config, how, Memory { memory, layers, prefetch: None, lifeline }))
    }

    fn restore(&self, config: MachineConfig, how: &Restoring, memory: Memory) -> Builder {
        let Memory { memory, layers, prefetch, lifeline } = memory;
        Builder::new(config).restore(Kept {
            memory,
            layers,
            state: self.folder.state().clone(),
            allow: how.allow,
            track_since: how.track.then(|| self.manifest().id.number()),
            prefetch,
            lifeline: Some(lifeline),
        })
    }

    /// The pages that were recorded, if they were.
    ///
    /// # Errors
    /// The record cannot be read, or is damaged.
    pub fn working_set(&self) -> Result<Option<WorkingSet>, Error> {
        let path = self.folder.path().join(WORKING_SET);
        let file = self.folder.working_set()?;
        Ok(file.map(|file| WorkingSet::read(&file, &path)).transpose()?)
    }

    /// Records which pages a machine has touched that was restored with [`Restoring::record`], for those that
    /// are restored later.
    ///
    /// # Errors
    /// The host does not say, or the record cannot be written.
    pub fn record(&self, machine: &RunningMachine) -> Result<WorkingSet, Error> {
        let set = WorkingSet::record(machine.memory(), self.layers()?)?;
        set.save(&self.folder.path().join(WORKING_SET))?;
        Ok(set)
    }
}

/// Whether each copy is of a device that the machine has: a disk, or one of an embedder's own.
fn check_copies(folder: &Folder) -> Result<(), Error> {
    let devices = &folder.manifest().config.devices;
    let has = |name: &str| {
        devices.disk_number(name).is_some() || folder.state().sections().iter().any(|part| part.id == name)
    };
    match folder.manifest().disks.iter().find(|copy| !has(&copy.device)) {
        Some(copy) => {
            let (path, device) = (folder.path().join(&copy.file), copy.device.clone());
            Err(Error::StrayCopy { path, device })
        }
        None => Ok(()),
    }
}

/// A machine's memory, and what has to do with where it comes from.
struct Memory {
    memory: GuestMemory,
    layers: Option<Arc<Layers>>,
    prefetch: Option<Prefetch>,
    lifeline: Arc<Lifeline>,
}

/// A page that cannot be had is the machine's end.
fn lost(lifeline: Arc<Lifeline>) -> Failed {
    Box::new(move |at, error: io::Error| {
        if lifeline.has_ended() {
            lifeline.see_it_end();
            return log::debug!("memory from {at:#x} on is not waited for: {error}");
        }
        lifeline.cut();
        log::error!("the machine is stopped: its memory at {at:#x} cannot be had: {error}");
    })
}

#[cfg(test)]
mod tests;
