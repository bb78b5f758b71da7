//! Overlays: the writes to a disk whose image stays as it is.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Error, has_magic};
use crate::virtio::block::config::{Cache, Disk, Overlay};
use crate::virtio::block::host::{Access, HostFile};
use crate::virtio::block::qcow2::{self, Format, Qcow2};

/// Opens a disk's image for reading and, over it, the overlay. Whether that is a new one.
pub(super) fn open(
    disk: &Disk,
    overlay: &Overlay,
    format: Format,
    access: Access,
) -> Result<(Qcow2, bool), Error> {
    let reading = Access { write: false, durable: false, ..access };
    let base = qcow2::open(&disk.path, format, reading, disk.cache)?;
    match overlay {
        Overlay::Temp => {
            // Nothing outlives the machine: there is nothing to make safe.
            let access = Access { durable: false, ..access };
            let host = Arc::new(HostFile::unnamed(&temporary_folder(), access)?);
            // A snapshot's copy of it has a name, and says what it lies over.
            qcow2::create(&host, base.size(), Some((&absolute(&disk.path)?, format)))?;
            let chain = qcow2::over(host, base, Cache::Unsafe)?;
            Ok((Qcow2::temporary(chain)?, true))
        }
        Overlay::Path(path) => {
            let (host, is_new) = match path.metadata() {
                Ok(_) => (existing(path, &disk.path, access)?, false),
                Err(_) => (made(path, disk, base.size(), format, access)?, true),
            };
            Ok((Qcow2::new(qcow2::over(host, base, disk.cache)?, false, disk.cache)?, is_new))
        }
    }
}

/// An overlay of earlier, which has to be one of this image.
fn existing(path: &Path, base: &Path, access: Access) -> Result<Arc<HostFile>, Error> {
    let host = Arc::new(HostFile::open(path, access)?);
    if !has_magic(path)? {
        return Err(Error::NotQcow2(path.to_owned()));
    }
    let other = || Error::OtherBase { overlay: path.to_owned(), base: base.to_owned() };
    let (backing, _) = qcow2::backing(&host)?.ok_or_else(other)?;
    let same = |path: &Path| path.canonicalize().ok();
    match (same(&backing), same(base)) {
        (Some(named), Some(base)) if named == base => Ok(host),
        _ => Err(other()),
    }
}

/// A new overlay.
fn made(path: &Path, disk: &Disk, size: u64, format: Format, access: Access) -> Result<Arc<HostFile>, Error> {
    let name = absolute(&disk.path)?;
    let host = Arc::new(HostFile::create(path, access)?);
    // Half an overlay would be in the way of the next attempt.
    qcow2::create(&host, size, Some((&name, format))).inspect_err(|_| {
        let _ = std::fs::remove_file(path);
    })?;
    Ok(host)
}

/// The name by which an overlay finds its image.
fn absolute(path: &Path) -> Result<String, Error> {
    let path = path.canonicalize().map_err(|source| Error::open(path, false, source))?;
    path.into_os_string().into_string().map_err(|name| Error::Name(name.into()))
}

/// Where files go that may be as large as a disk: not where that is memory, as `/tmp` often is.
fn temporary_folder() -> PathBuf {
    let usual = Path::new("/var/tmp");
    match std::env::var_os("TMPDIR") {
        Some(folder) if !folder.is_empty() => folder.into(),
        _ if usual.is_dir() => usual.to_owned(),
        _ => std::env::temp_dir(),
    }
}
