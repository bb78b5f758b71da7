use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::virtio::block::config;

/// An image that does not become a disk.
#[derive(Debug, Error)]
pub enum Error {
    /// The configuration contradicts itself.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// There is no such file.
    #[error("disk {0} does not exist: make one, for example with truncate -s 4G {0}")]
    Missing(PathBuf),
    /// It may not be opened.
    #[error("disk {path}: permission denied to {what} it: change its mode or owner{hint}")]
    Permission {
        /// The image.
        path: PathBuf,
        /// Read, or read and write.
        what: &'static str,
        /// What else could help.
        hint: &'static str,
    },
    /// Its file system cannot be written.
    #[error("disk {0} is on a read-only file system: use readonly or overlay=temp")]
    ReadonlyFileSystem(PathBuf),
    /// A folder.
    #[error("disk {0} is a directory: give a file or a block device")]
    Directory(PathBuf),
    /// A pipe, a socket, a character device.
    #[error("disk {0} is neither a file nor a block device")]
    Kind(PathBuf),
    /// Opening fails in another way.
    #[error("cannot open disk {path}")]
    Open {
        /// The image.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// Making a file fails.
    #[error("cannot make the overlay {path}")]
    Create {
        /// The file or its folder.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// Reading what is needed to open it fails.
    #[error("cannot read disk {path}")]
    Read {
        /// The image.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// Someone writes it.
    #[error(
        "disk {0} is in use: another machine has it open for writing; stop that machine, or give each one an overlay of it"
    )]
    Written(PathBuf),
    /// Someone reads it, and it is to be written.
    #[error("disk {0} is in use: another machine reads it; use readonly or overlay=temp")]
    ReadByOthers(PathBuf),
    /// Locking fails in another way.
    #[error("cannot lock disk {path}")]
    Lock {
        /// The image.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// The file does not take direct transfers.
    #[error("disk {0} is on a file system that knows no direct transfers: leave out direct")]
    Direct(PathBuf),
    /// Nothing is in it.
    #[error("disk {0} is empty: give it a size, for example with truncate -s 4G {0}")]
    Empty(PathBuf),
    /// The last sector is not whole.
    #[error("disk {path} has {size} bytes, which is not a multiple of {block}{hint}")]
    Size {
        /// The image.
        path: PathBuf,
        /// Its size.
        size: u64,
        /// Of what the size should be a multiple.
        block: u32,
        /// What to do.
        hint: &'static str,
    },
    /// What is in it is not what its name says.
    #[error(
        "disk {0} starts as a qcow2 image does but is not called .qcow2: say format=qcow2 when you trust who wrote it, format=raw when it is a raw disk"
    )]
    Ambiguous(PathBuf),
    /// It is no qcow2 image.
    #[error("disk {0} is not a qcow2 image: say format=raw when it is a raw disk")]
    NotQcow2(PathBuf),
    /// The qcow2 image cannot be used.
    #[error("cannot use the qcow2 image {path}")]
    Qcow2 {
        /// The image.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The data of a qcow2 image is in another file.
    #[error("the qcow2 image {0} keeps its data in another file: copy it with qemu-img convert -O qcow2")]
    DataFile(PathBuf),
    /// A qcow2 image does not say what its backing file is.
    #[error(
        "the qcow2 image {path} does not say what is in its backing file {backing}: record it with qemu-img rebase -u -F raw|qcow2 -b {backing} {path}"
    )]
    BackingFormat {
        /// The image.
        path: PathBuf,
        /// Its backing file as written in the image.
        backing: String,
    },
    /// A qcow2 image's backing file is nothing that can be opened.
    #[error(
        "the backing file '{backing}' of the qcow2 image {path} is no file, or in a format other than raw and qcow2"
    )]
    Backing {
        /// The image.
        path: PathBuf,
        /// Its backing file as written in the image.
        backing: String,
    },
    /// Backing files without end.
    #[error("the qcow2 image {0} has more backing files in a row than {max}", max = super::MAX_CHAIN)]
    Chain(PathBuf),
    /// The overlay that exists is another image's.
    #[error("overlay {overlay} is not one of {base}: give another path, or remove it when it is not needed")]
    OtherBase {
        /// The overlay.
        overlay: PathBuf,
        /// The image that it should lie over.
        base: PathBuf,
    },
    /// A name that cannot be written into an image.
    #[error("the path of disk {0} is not UTF-8: an overlay cannot name it")]
    Name(PathBuf),
    /// What the guest has written does not get into the file.
    #[error("cannot write to disk {path} what its guest has written")]
    Settle {
        /// The image.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// The engine has no thread or no descriptor.
    #[error("cannot start the {engine} engine of disk {path}")]
    Engine {
        /// The image.
        path: PathBuf,
        /// Which engine.
        engine: &'static str,
        /// What the host said.
        source: io::Error,
    },
}

impl Error {
    /// Why a file is not opened.
    pub(in crate::virtio::block) fn open(path: &Path, write: bool, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::NotFound => Self::Missing(path),
            io::ErrorKind::PermissionDenied if write => Self::Permission {
                path,
                what: "read and write",
                hint: ", or use readonly or overlay=temp when it may be read",
            },
            io::ErrorKind::PermissionDenied => Self::Permission { path, what: "read", hint: "" },
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadonlyFileSystem(path),
            _ => Self::Open { path, source },
        }
    }

    /// Why a lock is not given.
    pub(in crate::virtio::block) fn locked(path: &Path, write: bool, by_writer: bool) -> Self {
        let path = path.to_owned();
        if write && !by_writer { Self::ReadByOthers(path) } else { Self::Written(path) }
    }
}
