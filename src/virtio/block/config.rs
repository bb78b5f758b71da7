//! A disk as inert data.

use std::convert::Infallible;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::config::{DeviceConfig, Rate};

/// Longest serial number, `VIRTIO_BLK_ID_BYTES` of `linux/virtio_blk.h`.
pub const MAX_SERIAL: usize = 20;

/// A disk of a guest's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// The image: a file, or a block device.
    pub path: PathBuf,
    /// The guest cannot write; others may read the image at the same time.
    #[serde(default)]
    pub readonly: bool,
    /// The name by which the disk is spoken of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The serial number that the guest sees, at most [`MAX_SERIAL`] bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// What is in the image.
    #[serde(default)]
    pub format: Format,
    /// How reads and writes are carried out.
    #[serde(default)]
    pub engine: EngineKind,
    /// Past the host's page cache (`O_DIRECT`).
    #[serde(default)]
    pub direct: bool,
    /// When a write is safe from a failure of the host's.
    #[serde(default)]
    pub cache: Cache,
    /// How much may pass in a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// The thread that serves the disk, by its name; the event loop's own where none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iothread: Option<String>,
    /// The guest's kernel is to take it for its root file system.
    #[serde(default)]
    pub root: bool,
    /// Number of request queues [default: one for each vCPU, at most [`MAX_QUEUES`]].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queues: Option<u16>,
    /// Where writes go instead of the image, which is then only read and may serve many machines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlay: Option<Overlay>,
}

/// Most queues that a disk has if nobody says how many.
pub const MAX_QUEUES: u16 = 4;

impl DeviceConfig for Disk {
    const HELP: &'static str = "  path=FILE            the image: a file or a block device
  readonly             the guest cannot write; others may read the image, too
  format=FORMAT        raw, qcow2, or auto: qcow2 if the name ends in .qcow2 [auto]
  overlay=FILE|temp    writes go to this qcow2 file, or to one that is gone afterwards; the image
                       stays as it is and may serve many machines
  engine=ENGINE        io_uring, threads or sync [io_uring, or threads where the host has none]
  direct               past the host's page cache
  cache=MODE           when it is safe: writeback, when flushed; writethrough, when written; unsafe,
                       when the host sees fit [writeback]
  rate=RATE            limit: BYTES[/REQUESTS][:BURST[/REQUESTS]] a second
  queues=N             request queues [one for each vCPU, at most 4]
  root                 the kernel is told to take it for its root file system (as --root does)
  serial=TEXT          serial number, at most 20 bytes [the id]
  id=NAME, iothread=NAME
  Examples: --root path=root.ext4   --disk path=data.img,rate=100M/2000,iothread=disks
            --disk path=base.img,overlay=temp   --disk path=/dev/sdb,readonly,direct";

    fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    fn iothread(&self) -> Option<&str> {
        self.iothread.as_deref()
    }

    fn check(&self) -> Result<(), String> {
        self.validate().map_err(|error| error.to_string())
    }
}

/// What is in an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// By the file's name: qcow2 when that ends in `.qcow2`, otherwise raw. The file's first bytes have to
    /// agree, or the image is not opened.
    ///
    /// The first bytes alone would not do. A guest can write those of a raw disk, and could make it a
    /// qcow2 image that names any file of the host's as its backing file: the next start would let the
    /// guest read it.
    #[default]
    Auto,
    /// The disk's bytes and nothing else.
    Raw,
    /// QEMU's copy-on-write format, version 2 or 3.
    Qcow2,
}

/// How reads and writes are carried out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EngineKind {
    /// By the kernel's `io_uring`; by threads where the host refuses that, or for qcow2.
    #[default]
    IoUring,
    /// By a few threads that block.
    Threads,
    /// At once, by the thread that serves the disk.
    Sync,
}

/// When a write is safe from a failure of the host's, and what a guest's flush does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cache {
    /// With the next flush, which waits for the host's storage.
    #[default]
    Writeback,
    /// When it is done.
    Writethrough,
    /// When the host sees fit: a flush does nothing. For disks that may be lost. A machine's end is no
    /// failure of the host's, it loses nothing.
    Unsafe,
}

/// Where the writes to a disk go whose image stays as it is. Written as `temp` or a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", from = "String")]
pub enum Overlay {
    /// Into a file without a name, gone with the machine. It is in `$TMPDIR`, or else `/var/tmp`.
    Temp,
    /// Into this qcow2 file, which is made when it does not exist. (A file that is called `temp` is
    /// written `./temp`.)
    Path(PathBuf),
}

impl From<String> for Overlay {
    fn from(word: String) -> Self {
        if word == "temp" { Self::Temp } else { Self::Path(word.into()) }
    }
}

impl FromStr for Overlay {
    type Err = Infallible;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        Ok(word.to_owned().into())
    }
}

impl From<Overlay> for String {
    fn from(overlay: Overlay) -> Self {
        match overlay {
            Overlay::Temp => "temp".to_owned(),
            Overlay::Path(path) => path.to_string_lossy().into_owned(),
        }
    }
}

/// A disk that cannot be.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Error {
    /// No path.
    #[error("a disk needs a path")]
    Path,
    /// An overlay without a path.
    #[error("disk {0}: the overlay has no path: give overlay=PATH or overlay=temp")]
    OverlayPath(PathBuf),
    /// The overlay is the image.
    #[error("disk {0} is its own overlay: give the overlay another path")]
    OverlayIsImage(PathBuf),
    /// An overlay for a disk that is not written.
    #[error("disk {0}: readonly and overlay exclude each other: leave out one of them")]
    ReadonlyOverlay(PathBuf),
    /// A serial number that does not fit.
    #[error("disk {path}: the serial number '{serial}' is not 1 to {MAX_SERIAL} printable ASCII characters")]
    Serial {
        /// The disk.
        path: PathBuf,
        /// The serial number.
        serial: String,
    },
    /// An identifier without letters.
    #[error("disk {0}: the id is empty")]
    Id(PathBuf),
}

impl Disk {
    /// A disk of this image, all else as usual.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            readonly: false,
            id: None,
            serial: None,
            format: Format::default(),
            engine: EngineKind::default(),
            direct: false,
            cache: Cache::default(),
            rate: None,
            iothread: None,
            root: false,
            queues: None,
            overlay: None,
        }
    }

    /// Checks everything that can be checked without looking at the host.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn validate(&self) -> Result<(), Error> {
        let path = || self.path.clone();
        if self.path.as_os_str().is_empty() {
            return Err(Error::Path);
        }
        if let Some(overlay) = &self.overlay {
            if self.readonly {
                return Err(Error::ReadonlyOverlay(path()));
            }
            match overlay {
                Overlay::Path(file) if file.as_os_str().is_empty() => return Err(Error::OverlayPath(path())),
                Overlay::Path(file) if *file == self.path => return Err(Error::OverlayIsImage(path())),
                Overlay::Path(_) | Overlay::Temp => {}
            }
        }
        if self.id.as_ref().is_some_and(String::is_empty) {
            return Err(Error::Id(path()));
        }
        let fits = |serial: &String| {
            (1..=MAX_SERIAL).contains(&serial.len())
                && serial.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ')
        };
        match self.serial.as_ref().filter(|serial| !fits(serial)) {
            Some(serial) => Err(Error::Serial { path: path(), serial: serial.clone() }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
