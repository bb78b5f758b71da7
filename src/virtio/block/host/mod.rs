//! A file or a block device of the host's that holds an image.

mod sys;

use std::fs::{File, FileType, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::state::saved;
use crate::virtio::block::image::Error;

/// A call to the kernel about an image.
#[derive(Debug)]
pub(super) enum Call<'a> {
    Read { buffers: &'a [libc::iovec], offset: u64 },
    Write { buffers: &'a [libc::iovec], offset: u64 },
    Allocate { mode: i32, offset: u64, len: u64 },
    Sync,
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Access {
    pub(super) write: bool,
    /// Past the page cache.
    pub(super) direct: bool,
    /// A write is safe when it is done.
    pub(super) durable: bool,
}

/// What addresses and lengths in memory, and offsets and lengths in the file, have to be multiples of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Alignment {
    pub(super) memory: usize,
    pub(super) offset: u32,
}

impl Alignment {
    /// The page cache takes anything.
    const NONE: Self = Self { memory: 1, offset: 1 };
}

saved! {
    "disk-file", version 1, fingerprint 1723223528;
    /// By what it shows that a file was changed.
    #[derive(Copy, Eq)]
    pub(super) struct Stamp {
        /// Bytes of it.
        pub(super) len: u64,
        /// When it was changed last, in seconds and nanoseconds; what is in a block device does not tell.
        pub(super) modified: Option<(i64, i64)>,
    }
}

/// The file, locked.
#[derive(Debug)]
pub(super) struct HostFile {
    file: File,
    path: PathBuf,
    block_device: bool,
    /// Nobody finds it by its path.
    unnamed: bool,
    alignment: Alignment,
    /// As it was when it was opened.
    opened: Stamp,
}

impl HostFile {
    /// Opens and locks an image that exists.
    pub(super) fn open(path: &Path, access: Access) -> Result<Self, Error> {
        let failed = |source: io::Error| Error::open(path, access.write, source);
        // Before it is opened: that of a pipe would wait.
        let kind = std::fs::metadata(path).map_err(failed)?.file_type();
        if kind.is_dir() {
            return Err(Error::Directory(path.to_owned()));
        }
        if !Self::is_kind(kind) {
            return Err(Error::Kind(path.to_owned()));
        }
        let file = OpenOptions::new()
            .read(true)
            .write(access.write)
            .custom_flags(Self::flags(access))
            .open(path)
            .map_err(|source| match source.raw_os_error() {
                Some(libc::EINVAL) if access.direct => Error::Direct(path.to_owned()),
                _ => failed(source),
            })?;
        Self::new(file, path.to_owned(), access, kind.is_block_device())
    }

    /// Whether an image can be in what a path leads to.
    pub(super) fn is_kind(kind: FileType) -> bool {
        kind.is_file() || kind.is_block_device()
    }

    /// Makes and locks a file that does not exist.
    pub(super) fn create(path: &Path, access: Access) -> Result<Self, Error> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .custom_flags(Self::flags(access))
            .open(path)
            .map_err(|source| Error::Create { path: path.to_owned(), source })?;
        Self::new(file, path.to_owned(), access, false)
    }

    /// Makes a file without a name in `folder`.
    pub(super) fn unnamed(folder: &Path, access: Access) -> Result<Self, Error> {
        let failed = |source| Error::Create { path: folder.to_owned(), source };
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o600);
        let unnamed = options.clone().custom_flags(Self::flags(access) | libc::O_TMPFILE).open(folder);
        let file = unnamed.or_else(|error| match error.raw_os_error() {
            // The file system knows no such files.
            Some(libc::EOPNOTSUPP | libc::EISDIR) => {
                let path =
                    folder.join(format!(".disk-{}-{:?}", std::process::id(), std::time::Instant::now()));
                let file = options.create_new(true).custom_flags(Self::flags(access)).open(&path)?;
                std::fs::remove_file(path)?;
                Ok(file)
            }
            _ => Err(error),
        });
        let mut host = Self::new(file.map_err(failed)?, folder.join("(temporary)"), access, false)?;
        host.unnamed = true;
        Ok(host)
    }

    fn flags(access: Access) -> i32 {
        (if access.direct { libc::O_DIRECT } else { 0 }) | (if access.durable { libc::O_DSYNC } else { 0 })
    }

    fn new(file: File, path: PathBuf, access: Access, block_device: bool) -> Result<Self, Error> {
        sys::lock(&file, access.write).map_err(|refusal| match refusal {
            sys::Refusal::Held { by_writer } => Error::locked(&path, access.write, by_writer),
            sys::Refusal::Failed(source) => Error::Lock { path: path.clone(), source },
        })?;
        let alignment = if access.direct {
            sys::direct_alignment(&file, block_device).ok_or_else(|| Error::Direct(path.clone()))?
        } else {
            Alignment::NONE
        };
        let opened =
            stamp(&file, block_device).map_err(|source| Error::Read { path: path.clone(), source })?;
        Ok(Self { file, path, block_device, unnamed: false, alignment, opened })
    }

    /// By what a change shows that was made before it was opened.
    pub(super) fn opened(&self) -> Stamp {
        self.opened
    }

    /// By what a change shows that is made from now on.
    pub(super) fn stamp(&self) -> io::Result<Stamp> {
        stamp(&self.file, self.block_device)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A path by which this process can open it once more.
    pub(super) fn reachable(&self) -> PathBuf {
        if self.unnamed { format!("/proc/self/fd/{}", self.as_raw_fd()).into() } else { self.path.clone() }
    }

    pub(super) fn alignment(&self) -> Alignment {
        self.alignment
    }

    /// Bytes of the file or the device.
    pub(super) fn size(&self) -> io::Result<u64> {
        if self.block_device { sys::device_size(&self.file) } else { Ok(self.file.metadata()?.len()) }
    }

    pub(super) fn set_size(&self, size: u64) -> io::Result<()> {
        self.file.set_len(size)
    }

    /// Makes a call and blocks. Gives bytes, or an error's number; a call may do less than it was asked.
    pub(super) fn perform(&self, call: &Call<'_>) -> Result<u64, i32> {
        sys::perform(&self.file, call, false)
    }

    /// The same; what is written is safe when the call returns.
    pub(super) fn perform_durably(&self, call: &Call<'_>) -> Result<u64, i32> {
        sys::perform(&self.file, call, true)
    }
}

fn stamp(file: &File, block_device: bool) -> io::Result<Stamp> {
    if block_device {
        return Ok(Stamp { len: sys::device_size(file)?, modified: None });
    }
    let metadata = file.metadata()?;
    Ok(Stamp { len: metadata.len(), modified: Some((metadata.mtime(), metadata.mtime_nsec())) })
}

impl Drop for HostFile {
    fn drop(&mut self) {
        // A ring that had the file lets go of it some time after its end: the lock does not wait for that.
        sys::unlock(&self.file);
    }
}

impl AsRawFd for HostFile {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}
