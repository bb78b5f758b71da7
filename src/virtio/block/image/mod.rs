//! Images: a disk's file is opened, locked and understood, and starts engines.

mod error;
mod overlay;
mod saved;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use error::Error;
pub(super) use saved::DiskState;

use super::config::{Cache, Disk, EngineKind, Format};
use super::engine::{Backend, Engine, Inline, Threads, Uring};
use super::host::{Access, HostFile};
use super::qcow2::{self, Qcow2};
use super::raw::{Raw, Rules};

/// The unit of a disk's size (VIRTIO 1.2, section 5.2.4).
pub const SECTOR: u32 = 512;
/// Most images in a row, each the backing file of the one before.
pub const MAX_CHAIN: usize = 32;

/// The first bytes of a qcow2 image.
const QCOW2_MAGIC: [u8; 4] = *b"QFI\xfb";

/// An open image. It is locked as long as it or one of its engines lives.
pub struct Image {
    path: PathBuf,
    engine: EngineKind,
    kind: Kind,
    /// It has an overlay.
    is_overlay: bool,
    /// Which was made when it was opened.
    is_new: bool,
}

enum Kind {
    Raw(Arc<Raw>),
    Qcow2(Arc<Qcow2>),
}

impl Image {
    /// Opens a disk's image.
    ///
    /// # Errors
    /// The configuration contradicts itself; the image is not there, in use, or not what it is said to be.
    pub fn open(disk: &Disk) -> Result<Self, Error> {
        disk.validate()?;
        let format = resolve(&disk.path, disk.format)?;
        let access = Access {
            write: !disk.readonly,
            direct: disk.direct,
            durable: disk.cache == Cache::Writethrough && !disk.readonly,
        };
        let mut is_new = false;
        let kind = match &disk.overlay {
            Some(overlay) => {
                let (image, made) = overlay::open(disk, overlay, format, access)?;
                is_new = made;
                Kind::Qcow2(Arc::new(image))
            }
            None if format == qcow2::Format::Qcow2 => {
                let chain = qcow2::open(&disk.path, format, access, disk.cache)?;
                Kind::Qcow2(Arc::new(Qcow2::new(chain, disk.readonly, disk.cache)?))
            }
            None => Kind::Raw(Arc::new(open_raw(disk, access)?)),
        };
        Ok(Self {
            path: disk.path.clone(),
            engine: disk.engine,
            kind,
            is_overlay: disk.overlay.is_some(),
            is_new,
        })
    }

    fn rules(&self) -> &Rules {
        match &self.kind {
            Kind::Raw(raw) => raw.rules(),
            Kind::Qcow2(qcow2) => qcow2.rules(),
        }
    }

    /// Size in sectors of [`SECTOR`] bytes.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.rules().capacity() / u64::from(SECTOR)
    }

    /// The unit of what can be transferred, which the guest has to be told: other operations fail.
    #[must_use]
    pub fn block_size(&self) -> u32 {
        self.rules().block_size()
    }

    /// Whether operations that write fail.
    #[must_use]
    pub fn readonly(&self) -> bool {
        self.rules().readonly
    }

    /// When a write is safe from a failure of the host's.
    #[must_use]
    pub fn cache(&self) -> Cache {
        self.rules().cache
    }

    /// The image's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Looks how large the image is now, and gives the size in sectors: someone may have made the file or the
    /// device larger. Engines keep to the new size from then on. A qcow2 image does not change.
    ///
    /// # Errors
    /// The host does not tell.
    pub fn refresh_size(&self) -> Result<u64, Error> {
        if let Kind::Raw(raw) = &self.kind {
            let size = raw.host().size().map_err(|source| Error::Read { path: self.path.clone(), source })?;
            // What is left of a block at the end is not the disk's.
            raw.rules().set_capacity(size - size % u64::from(raw.rules().block_size()));
        }
        Ok(self.capacity())
    }

    /// Starts an engine: the one that was asked for, or threads where the host has no `io_uring` for it.
    /// Each queue of a device may have its own.
    ///
    /// # Errors
    /// The host gives no thread or no descriptor.
    pub fn start_engine(&self) -> Result<Box<dyn Engine>, Error> {
        let path = self.path.display();
        let backend: Arc<dyn Backend> = match &self.kind {
            Kind::Raw(raw) => Arc::clone(raw) as _,
            Kind::Qcow2(qcow2) => Arc::clone(qcow2) as _,
        };
        match (self.engine, &self.kind) {
            (EngineKind::Sync, _) => return Ok(Box::new(Inline::new(backend))),
            (EngineKind::IoUring, Kind::Raw(raw)) => match Uring::start(Arc::clone(raw)) {
                Ok(engine) => return Ok(Box::new(engine)),
                Err(error) => log::info!("disk {path}: no io_uring ({error}), it is served by threads"),
            },
            (EngineKind::IoUring, Kind::Qcow2(_)) => {
                log::info!("disk {path}: a qcow2 image, it is served by threads");
            }
            (EngineKind::Threads, _) => {}
        }
        let failed = |source| Error::Engine { path: self.path.clone(), engine: "threads", source };
        Ok(Box::new(Threads::start(backend).map_err(failed)?))
    }
}

/// Opens a raw image.
fn open_raw(disk: &Disk, access: Access) -> Result<Raw, Error> {
    let host = HostFile::open(&disk.path, access)?;
    let size = host.size().map_err(|source| Error::Read { path: disk.path.clone(), source })?;
    let rules = Rules::new(disk.readonly, disk.cache, host.alignment(), size);
    check_size(&disk.path, &rules)?;
    Ok(Raw::new(host, rules))
}

/// Whether a disk can have this size.
pub(super) fn check_size(path: &Path, rules: &Rules) -> Result<(), Error> {
    let (size, block) = (rules.capacity(), rules.block_size());
    if size == 0 {
        return Err(Error::Empty(path.to_owned()));
    }
    if size.is_multiple_of(block.into()) {
        return Ok(());
    }
    let hint = if block == SECTOR {
        ": is it a disk? truncate -s %512 makes it one"
    } else {
        ", the block of direct transfers there: leave out direct"
    };
    Err(Error::Size { path: path.to_owned(), size, block, hint })
}

/// What is in an image, by what the user says and what the image's first bytes are.
fn resolve(path: &Path, format: Format) -> Result<qcow2::Format, Error> {
    if format == Format::Raw {
        return Ok(qcow2::Format::Raw);
    }
    let named = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("qcow2"));
    match (format, named, has_magic(path)?) {
        (Format::Qcow2, _, true) | (_, true, true) => Ok(qcow2::Format::Qcow2),
        (Format::Qcow2, _, false) | (_, true, false) => Err(Error::NotQcow2(path.to_owned())),
        (_, false, true) => Err(Error::Ambiguous(path.to_owned())),
        (_, false, false) => Ok(qcow2::Format::Raw),
    }
}

/// Whether a file starts as a qcow2 image does.
fn has_magic(path: &Path) -> Result<bool, Error> {
    let failed = |source| Error::open(path, false, source);
    // What others are is said when they are opened; reading a pipe would wait.
    if !HostFile::is_kind(std::fs::metadata(path).map_err(failed)?.file_type()) {
        return Ok(false);
    }
    let mut start = Vec::new();
    File::open(path)
        .map_err(failed)?
        .take(QCOW2_MAGIC.len() as u64)
        .read_to_end(&mut start)
        .map_err(|source| Error::Read { path: path.to_owned(), source })?;
    Ok(start == QCOW2_MAGIC)
}
