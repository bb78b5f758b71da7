//! A kernel or an initial ramdisk before it is in guest memory: a file or bytes that we hold.

use std::borrow::Cow;
use std::fs::{File, FileType, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

use vm_memory::{ByteValued, GuestAddress, GuestMemoryBackend, ReadVolatile, VolatileMemoryError};

use super::error::{Error, Part};
use crate::memory::GuestMemory;

/// A kernel or an initial ramdisk, with the name that errors call it by.
#[derive(Debug)]
pub struct Image {
    source: Source,
    len: u64,
    name: String,
}

#[derive(Debug)]
enum Source {
    File(File),
    Bytes(Cow<'static, [u8]>),
}

impl Image {
    /// Opens a file.
    ///
    /// # Errors
    /// It cannot be opened, or is a directory, a device, a pipe or a socket.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let name = path.display().to_string();
        // O_NONBLOCK: a pipe without a writer must become an error, not a wait. It changes nothing
        // for a regular file. O_NOCTTY: opening a terminal must not make it ours.
        let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path);
        match opened {
            Ok(file) => Self::from_file(file, name),
            // What open says of a socket, and of a device without a driver.
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => {
                Err(Error::NotRegular { name, kind: "a socket or a device" })
            }
            Err(source) => Err(Error::Open { name, source }),
        }
    }

    /// Takes an open file. Its position will move.
    ///
    /// # Errors
    /// It is not a regular file.
    pub fn from_file(file: File, name: impl Into<String>) -> Result<Self, Error> {
        let name = name.into();
        let metadata = match file.metadata() {
            Ok(metadata) => metadata,
            Err(source) => return Err(Error::Read { name, source }),
        };
        if !metadata.is_file() {
            return Err(Error::NotRegular { name, kind: kind_of(metadata.file_type()) });
        }
        Ok(Self { source: Source::File(file), len: metadata.len(), name })
    }

    /// Takes bytes, such as a kernel that is part of this program.
    #[must_use]
    pub fn from_bytes(bytes: impl Into<Cow<'static, [u8]>>, name: impl Into<String>) -> Self {
        let bytes = bytes.into();
        let len = bytes.len() as u64;
        Self { source: Source::Bytes(bytes), len, name: name.into() }
    }

    /// The name that errors call it by.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Says that `what`, which ends at `end`, is not in this image, unless it is.
    pub(super) fn check_extent(&self, offset: u64, size: u64, what: Part) -> Result<(), Error> {
        match offset.checked_add(size) {
            Some(end) if end <= self.len => Ok(()),
            end => Err(Error::Truncated {
                name: self.name.clone(),
                what,
                end: end.unwrap_or(u64::MAX),
                len: self.len,
            }),
        }
    }

    /// Fills as much of `buffer` as there is from `offset` on, and says how much that is.
    pub(super) fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Error> {
        match &self.source {
            Source::File(file) => {
                let mut filled = 0;
                while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
                    let Some(at) = offset.checked_add(filled as u64).filter(|at| *at < self.len) else {
                        break;
                    };
                    match file.read_at(rest, at) {
                        Ok(0) => break,
                        Ok(count) => filled += count,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(source) => return Err(self.read_error(source)),
                    }
                }
                Ok(filled)
            }
            Source::Bytes(bytes) => {
                let from = usize::try_from(offset).unwrap_or(usize::MAX);
                let rest = bytes.get(from..).unwrap_or_default();
                let count = rest.len().min(buffer.len());
                if let (Some(to), Some(from)) = (buffer.get_mut(..count), rest.get(..count)) {
                    to.copy_from_slice(from);
                }
                Ok(count)
            }
        }
    }

    /// Fills `buffer` with `what`, which is at `offset`.
    pub(super) fn read_exact_at(&self, offset: u64, buffer: &mut [u8], what: Part) -> Result<(), Error> {
        self.check_extent(offset, buffer.len() as u64, what)?;
        if self.read_at(offset, buffer)? < buffer.len() {
            return Err(self.read_error(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(())
    }

    /// Copies `len` bytes from `offset` straight to guest memory at `address`.
    pub(super) fn copy_to(
        &self,
        memory: &GuestMemory,
        offset: u64,
        address: u64,
        len: u64,
    ) -> Result<(), Error> {
        let copied = match &self.source {
            Source::File(file) => {
                let mut file = file;
                file.seek(SeekFrom::Start(offset)).and_then(|_| fill(memory, address, len, &mut file))
            }
            Source::Bytes(bytes) => {
                let mut rest =
                    usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..)).unwrap_or_default();
                fill(memory, address, len, &mut rest)
            }
        };
        copied.map_err(|source| self.read_error(source))
    }

    fn read_error(&self, source: io::Error) -> Error {
        Error::Read { name: self.name.clone(), source }
    }
}

fn kind_of(file_type: FileType) -> &'static str {
    if file_type.is_dir() {
        "a directory"
    } else if file_type.is_fifo() {
        "a pipe"
    } else if file_type.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

/// Reads until `len` bytes of guest memory from `address` on are filled, however short the host's
/// reads are (vm-memory's own `read_exact_volatile_from` gives up after a short one).
fn fill(
    memory: &GuestMemory,
    address: u64,
    len: u64,
    source: &mut impl ReadVolatile,
) -> Result<(), io::Error> {
    let len = usize::try_from(len).map_err(io::Error::other)?;
    for slice in memory.get_slices(GuestAddress(address), len) {
        let mut slice = slice.map_err(io::Error::other)?;
        source.read_exact_volatile(&mut slice).map_err(|error| match error {
            VolatileMemoryError::IOError(error) => error,
            other => io::Error::other(other),
        })?;
    }
    Ok(())
}

/// The first bytes of an image, in which both formats keep nearly all that must be known of them:
/// read once.
pub(super) struct Head {
    bytes: [u8; Self::SIZE],
    len: usize,
}

impl Head {
    const SIZE: usize = 4096;

    pub(super) fn read(image: &Image) -> Result<Self, Error> {
        let mut bytes = [0; Self::SIZE];
        let len = image.read_at(0, &mut bytes)?;
        Ok(Self { bytes, len })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    pub(super) fn has(&self, offset: usize, magic: &[u8]) -> bool {
        self.bytes().get(offset..).is_some_and(|rest| rest.starts_with(magic))
    }
}

/// The structure at `offset` of `bytes`, whatever its alignment; none if it is not all there.
pub(super) fn structure<T: ByteValued + Default>(bytes: &[u8], offset: usize) -> Option<T> {
    let mut value = T::default();
    let end = offset.checked_add(size_of::<T>())?;
    value.as_mut_slice().copy_from_slice(bytes.get(offset..end)?);
    Some(value)
}

#[cfg(test)]
mod tests;
