//! Reading all of a snapshot, to know that it is what was written.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rustix::fs::SeekFrom;
use rustix::io::Errno;
use thiserror::Error;

use super::folder::{self, Folder, MEMORY};
use super::manifest::{CHUNK, DiskCopy};

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
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// A file cannot be opened.
    #[error(transparent)]
    Open(#[from] folder::Error),
}

/// Checks what opening it has left: all of its memory, and the copies of its disks. The snapshots that it is
/// a diff to are not looked at. `progress` is told how many bytes are done, and of how many.
///
/// # Errors
/// The first thing that is wrong.
pub fn verify(folder: &Folder, progress: &mut dyn FnMut(u64, u64)) -> Result<(), Error> {
    let manifest = folder.manifest();
    let total = manifest.disks.iter().fold(manifest.image.size, |sum, copy| sum.saturating_add(copy.len));
    let path = folder.path().join(MEMORY);
    let mut chunks = Chunks::new(folder.memory(), manifest.image.size);
    let mut done = 0;
    for expected in &manifest.image.chunks {
        let (len, found) = chunks.next().map_err(|source| Error::Read { path: path.clone(), source })?;
        if found != *expected {
            return Err(Error::Memory { path, at: done, len });
        }
        done += len;
        progress(done, total);
    }
    for copy in &manifest.disks {
        let path = folder.path().join(&copy.file);
        let file = folder.file(&copy.file)?;
        let found = DiskCopy::sum(&file).map_err(|source| Error::Read { path: path.clone(), source })?;
        if found != (copy.len, copy.crc) {
            return Err(Error::Disk(path));
        }
        done = done.saturating_add(copy.len);
        progress(done, total);
    }
    Ok(())
}

/// The chunks of a file one after the other. What lies in holes is not read.
struct Chunks<'a> {
    file: &'a File,
    size: u64,
    at: u64,
    /// Up to here there is nothing but a hole.
    data: u64,
    zero: u32,
    buffer: Vec<u8>,
}

impl<'a> Chunks<'a> {
    fn new(file: &'a File, size: u64) -> Self {
        let buffer = vec![0; usize::try_from(CHUNK.min(size)).unwrap_or_default()];
        Self { file, size, at: 0, data: 0, zero: crc32fast::hash(&buffer), buffer }
    }

    /// The next one's length and CRC-32.
    fn next(&mut self) -> io::Result<(u64, u32)> {
        let (at, len) = (self.at, CHUNK.min(self.size - self.at));
        self.at += len;
        if self.data < self.at {
            self.data = match rustix::fs::seek(self.file, SeekFrom::Data(self.data.max(at))) {
                Ok(data) => data,
                Err(Errno::NXIO) => self.size,
                // A file system that knows no holes.
                Err(_) => at,
            };
        }
        if self.data >= self.at && len == CHUNK {
            return Ok((len, self.zero));
        }
        let buffer = usize::try_from(len).ok().and_then(|len| self.buffer.get_mut(..len)).unwrap_or_default();
        self.file.read_exact_at(buffer, at)?;
        Ok((len, crc32fast::hash(buffer)))
    }
}

#[cfg(test)]
mod tests;
