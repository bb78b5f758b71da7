//! Images in QEMU's copy-on-write format, by the `imago` crate over our own files.

mod header;
mod store;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use imago::qcow2::Qcow2 as Driver;
use imago::raw::Raw as RawDriver;
use imago::{FormatAccess, FormatCreateBuilder};

use super::config::Cache;
use super::engine::{Backend, Operation};
use super::host::{Access, Call, HostFile};
use super::image::{Error, MAX_CHAIN, check_size};
use super::raw::{AlignedBuffer, Rules};
pub use header::{backing_files, keep_backing};
use store::Store;

/// Most bytes that are copied between the guest's memory and ours at a time.
const CHUNK: u64 = 1 << 20;

/// What is in a file, decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Raw,
    Qcow2,
}

/// An image and those below it.
pub(super) struct Chain {
    host: Arc<HostFile>,
    /// The files that it stands on, each under the one before.
    below: Vec<Arc<HostFile>>,
    access: FormatAccess<Store>,
}

impl Chain {
    /// Bytes of the disk.
    pub(super) fn size(&self) -> u64 {
        self.access.size()
    }

    fn files(self) -> (Vec<Arc<HostFile>>, FormatAccess<Store>) {
        ([vec![self.host], self.below].concat(), self.access)
    }
}

/// Opens an image and, for reading, the files that it stands on.
pub(super) fn open(path: &Path, format: Format, access: Access, cache: Cache) -> Result<Chain, Error> {
    open_at(path, format, access, cache, MAX_CHAIN)
}

fn open_at(path: &Path, format: Format, access: Access, cache: Cache, depth: usize) -> Result<Chain, Error> {
    let depth = depth.checked_sub(1).ok_or_else(|| Error::Chain(path.to_owned()))?;
    let host = Arc::new(HostFile::open(path, access)?);
    if format == Format::Raw {
        let driver = RawDriver::open_image(Store::new(&host)?, access.write).map_err(failed(path))?;
        return Ok(Chain { host, below: Vec::new(), access: FormatAccess::new(driver) });
    }
    let below = match backing(&host)? {
        Some((path, format)) => {
            let reading = Access { write: false, durable: false, ..access };
            Some(open_at(&path, format, reading, cache, depth)?)
        }
        None => None,
    };
    assemble(host, below, access.write, cache)
}

/// Opens the overlay in `host` over an image.
pub(super) fn over(host: Arc<HostFile>, base: Chain, cache: Cache) -> Result<Chain, Error> {
    assemble(host, Some(base), true, cache)
}

fn assemble(host: Arc<HostFile>, below: Option<Chain>, write: bool, cache: Cache) -> Result<Chain, Error> {
    let store = Store::new(&host)?;
    // What is written to the tables is safe before what builds on it is written. That holds for the tables
    // only: the guest's data has its flushes.
    let data = store.data();
    let tables = if write && cache != Cache::Unsafe { store.in_order() } else { store };
    let mut driver = Driver::open_image(tables, write).map_err(failed(host.path()))?;
    if driver.requires_external_data_file() {
        return Err(Error::DataFile(host.path().to_owned()));
    }
    driver.set_data_file(write.then_some(data));
    let (below, backing) = below.map(Chain::files).unzip();
    driver.set_backing(backing);
    Ok(Chain { host, below: below.unwrap_or_default(), access: FormatAccess::new(driver) })
}

/// Writes an empty image into an empty file.
pub(super) fn create(host: &Arc<HostFile>, size: u64, base: Option<(&str, Format)>) -> Result<(), Error> {
    let mut builder = Driver::<Store>::create_builder(Store::new(host)?).size(size);
    if let Some((name, format)) = base {
        let format = if format == Format::Raw { "raw" } else { "qcow2" };
        builder = builder.backing(name.to_owned(), format.to_owned());
    }
    builder.create().and_then(|()| sync(host)).map_err(failed(host.path()))
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Qcow2 { path, source }
}

fn sync(host: &HostFile) -> io::Result<()> {
    host.perform(&Call::Sync).map(drop).map_err(io::Error::from_raw_os_error)
}

/// The backing file of the qcow2 image in `host`, and what is in it.
///
/// Only what the image says counts. Where it does not say what is in the backing file, looking there would
/// trust a file that was a guest's disk once.
pub(super) fn backing(host: &Arc<HostFile>) -> Result<Option<(PathBuf, Format)>, Error> {
    let path = host.path();
    let driver = Driver::<Store>::open_image(Store::new(host)?, false).map_err(failed(path))?;
    let Some(name) = driver.implicit_backing_file() else { return Ok(None) };
    let format = match driver.implicit_backing_format().map(String::as_str) {
        Some("raw" | "file") => Format::Raw,
        Some("qcow2") => Format::Qcow2,
        None => return Err(Error::BackingFormat { path: path.to_owned(), backing: name.clone() }),
        Some(_) => return Err(Error::Backing { path: path.to_owned(), backing: name.clone() }),
    };
    // A relative path is relative to the image, not to what a link to it is in.
    let file = header::path_of(name, path.parent().unwrap_or(Path::new("")));
    let file = file.ok_or_else(|| Error::Backing { path: path.to_owned(), backing: name.clone() })?;
    Ok(Some((file, format)))
}

/// A qcow2 image as a disk.
pub(super) struct Qcow2 {
    /// Alone for what moves clusters about, together for all else.
    chain: RwLock<Chain>,
    rules: Rules,
    /// Gone when it is closed: nothing has to be written for later.
    temporary: bool,
}

impl Qcow2 {
    pub(super) fn new(chain: Chain, readonly: bool, cache: Cache) -> Result<Self, Error> {
        let rules = Rules::new(readonly, cache, chain.host.alignment(), chain.size());
        check_size(chain.host.path(), &rules)?;
        Ok(Self { chain: RwLock::new(chain), rules, temporary: false })
    }

    pub(super) fn temporary(chain: Chain) -> Result<Self, Error> {
        Ok(Self { temporary: true, ..Self::new(chain, false, Cache::Unsafe)? })
    }

    pub(super) fn rules(&self) -> &Rules {
        &self.rules
    }

    /// The file that is written, and those that it stands on.
    pub(super) fn files(&self) -> Vec<Arc<HostFile>> {
        let chain = self.chain.read().unwrap_or_else(PoisonError::into_inner);
        [vec![Arc::clone(&chain.host)], chain.below.clone()].concat()
    }

    /// Brings to the file what is not there yet, also of an image that is gone when it is closed.
    pub(super) fn settle(&self) -> io::Result<()> {
        match self.rules.readonly {
            true => Ok(()),
            false if self.temporary => self.shared(|chain| chain.access.flush()),
            false => self.flush(),
        }
    }

    fn shared<T>(&self, work: impl FnOnce(&Chain) -> io::Result<T>) -> io::Result<T> {
        work(&self.chain.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Data before the tables that lead to it, and then these.
    fn flush(&self) -> io::Result<()> {
        let safe = self.rules.cache != Cache::Unsafe;
        match (self.temporary, safe) {
            (true, _) => Ok(()),
            (false, false) => self.shared(|chain| chain.access.flush()),
            (false, true) => self.shared(|chain| {
                sync(&chain.host)?;
                chain.access.flush()?;
                sync(&chain.host)
            }),
        }
    }

    /// Transfers in pieces, through memory of our own: the guest may change its any time, and no reference
    /// to that is made.
    fn transfer(
        &self,
        offset: u64,
        len: u64,
        mut piece: impl FnMut(&Chain, &mut [u8], u64) -> io::Result<()>,
    ) -> io::Result<u64> {
        let block = usize::try_from(self.rules.block_size()).unwrap_or(4096);
        let size = usize::try_from(len.min(CHUNK)).unwrap_or(4096);
        let mut buffer = AlignedBuffer::new(size, self.rules.alignment.memory.max(block))?;
        let mut done = 0;
        while done < len {
            let count = (len - done).min(CHUNK);
            let bytes = usize::try_from(count).ok().and_then(|count| buffer.bytes_mut().get_mut(..count));
            let bytes = bytes.ok_or(io::ErrorKind::OutOfMemory)?;
            self.shared(|chain| piece(chain, bytes, offset + done))?;
            done += count;
        }
        Ok(len)
    }
}

impl Backend for Qcow2 {
    fn run(&self, operation: Operation) -> io::Result<u64> {
        self.rules.check(&operation)?;
        let (offset, len) = operation.extent();
        let writes = operation.writes();
        let done = match operation {
            Operation::Read { mut buffers, .. } => self.transfer(offset, len, |chain, bytes, at| {
                chain.access.read(&mut *bytes, at)?;
                buffers.copy_from(bytes);
                buffers.advance(bytes.len() as u64);
                Ok(())
            })?,
            Operation::Write { mut buffers, .. } => self.transfer(offset, len, |chain, bytes, at| {
                buffers.copy_to(bytes);
                buffers.advance(bytes.len() as u64);
                chain.access.write(&*bytes, at)
            })?,
            Operation::Flush => return self.flush().map(|()| 0),
            Operation::Discard { .. } => {
                let mut chain = self.chain.write().unwrap_or_else(PoisonError::into_inner);
                match chain.access.discard_to_any(offset, len) {
                    // What cannot be discarded stays.
                    Err(error) if error.kind() == io::ErrorKind::Unsupported => 0,
                    result => result.map(|()| 0)?,
                }
            }
            Operation::WriteZeroes { unmap: true, .. } => {
                let mut chain = self.chain.write().unwrap_or_else(PoisonError::into_inner);
                match chain.access.discard_to_zero(offset, len) {
                    // Version 2 of the format has no zero clusters.
                    Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                        drop(chain);
                        self.write_zeroes(offset, len)?
                    }
                    result => result.map(|()| 0)?,
                }
            }
            Operation::WriteZeroes { unmap: false, .. } => self.write_zeroes(offset, len)?,
        };
        if writes && self.rules.cache == Cache::Writethrough {
            self.flush()?;
        }
        Ok(done)
    }
}

impl Qcow2 {
    fn write_zeroes(&self, offset: u64, len: u64) -> io::Result<u64> {
        match self.shared(|chain| chain.access.write_zeroes(offset, len)) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                self.transfer(offset, len, |chain, bytes, at| chain.access.write(&*bytes, at))?;
            }
            result => result?,
        }
        Ok(0)
    }
}
