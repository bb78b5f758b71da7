//! Reading all of a snapshot, to know that it is what was written.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::Progress;
use super::folder::{self, Folder, MEMORY};
use super::manifest::DiskCopy;
use crate::memory::{self, image};

/// A snapshot that is not what was written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// A part of the memory is not.
    #[error("{path} is damaged: the checksum of the {len} bytes from {at:#x} on is wrong")]
    Memory {
        /// The file.
        path: PathBuf,
        /// Where, in the file.
        at: u64,
        /// How much.
        len: u64,
    },
    /// The copy of a disk is not.
    #[error("{0} is damaged: its checksum is wrong")]
    Disk(PathBuf),
    /// What the copy of a disk lies over is gone.
    #[error("the copy of {device} lies over {path}, which is not there any more")]
    DiskBase {
        /// The device.
        device: String,
        /// The file.
        path: PathBuf,
    },
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// The memory cannot be read, or nobody wanted the rest.
    #[error(transparent)]
    Image(#[from] memory::Error),
    /// A file cannot be opened.
    #[error(transparent)]
    Open(#[from] folder::Error),
}

/// Checks what opening it has left: all of its memory, and the copies of its disks. The snapshots that it is
/// a diff to are not looked at, and what its disks lie over only has to be there.
///
/// # Errors
/// The first thing that is wrong.
pub fn verify(folder: &Folder, progress: Progress<'_>) -> Result<(), Error> {
    let manifest = folder.manifest();
    if let Some(chunk) = image::verify(folder.memory()?, &manifest.image.chunks, progress)? {
        let at = chunk * image::CHUNK;
        let len = image::CHUNK.min(manifest.image.size.saturating_sub(at));
        return Err(Error::Memory { path: folder.path().join(MEMORY), at, len });
    }
    for copy in &manifest.disks {
        let path = folder.path().join(&copy.file);
        let file = folder.file(&copy.file)?;
        let found = DiskCopy::sum(&file).map_err(|source| Error::Read { path: path.clone(), source })?;
        if found != (copy.len, copy.crc) {
            return Err(Error::Disk(path));
        }
    }
    match folder.stands_on()?.into_iter().find(|(_, path)| !path.exists()) {
        Some((device, path)) => Err(Error::DiskBase { device, path }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
