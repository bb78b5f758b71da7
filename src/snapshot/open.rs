//! A snapshot into a machine.

use std::path::Path;
use std::sync::Arc;

use super::Error;
use super::folder::Folder;
use super::manifest::Manifest;
use crate::config::{MachineConfig, device_name};
use crate::machine::{Builder, Kept};
use crate::memory::{self, Layer, Layers};
use crate::virtio::Allow;
use crate::virtio::block::config::{Disk, Format, Overlay};

/// A snapshot, open: whole as far as its state goes, with everything that it is a diff to.
#[derive(Debug)]
pub struct Snapshot {
    folder: Folder,
    bases: Vec<Folder>,
    layers: Arc<Layers>,
}

/// How a machine goes on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Restoring {
    /// What may differ.
    pub allow: Allow,
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
        let bases = folder.bases()?;
        let mut layers = Vec::new();
        for folder in bases.iter().rev().chain([&folder]) {
            let runs = folder.manifest().image.runs.clone();
            layers.push(Layer { file: folder.memory().try_clone().map_err(Error::Descriptor)?, runs });
        }
        let layers = Arc::new(Layers::new(folder.manifest().config.memory, layers)?);
        Ok(Self { folder, bases, layers })
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
            let mut disks = config.devices.disk.iter_mut().enumerate();
            if let Some((_, disk)) =
                disks.find(|(index, disk)| device_name("disk", *index, *disk) == copy.device)
            {
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
        let kept = Kept {
            memory: memory::restore(&self.layers)?,
            layers: Some(Arc::clone(&self.layers)),
            state: self.folder.state().clone(),
            allow: how.allow,
            track_since: how.track.then(|| self.manifest().id.number()),
        };
        Ok(Builder::new(config).restore(kept))
    }
}
