//! The directory that a snapshot is: opening one and those it is a diff to, and making one appear whole or
//! not at all.

mod draft;
mod error;

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

pub use draft::{Draft, dependants, remove, sweep};
pub use error::Error;
use error::io;

use super::format;
use super::manifest::{Base, Manifest};
use crate::state::State;
use crate::virtio::block;

/// The file of the sections.
pub const STATE: &str = "state";
/// The image of guest memory.
pub const MEMORY: &str = "memory";
/// The pages that are needed first, if they have been recorded.
pub const WORKING_SET: &str = "working-set";
/// How the name of a working set begins that is being written.
const NEW_WORKING_SET: &str = "working-set.";
/// Most snapshots one on top of the other.
pub const MAX_CHAIN: usize = 64;
/// How often a directory is opened anew that is replaced meanwhile.
const ATTEMPTS: usize = 5;

/// Whether a file of this name can be the copy of a disk's overlay.
#[must_use]
pub fn is_copy_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    let only = matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None) if part == name);
    only && name.len() <= 255
        && !name.starts_with(NEW_WORKING_SET)
        && !name.starts_with('.')
        && !name.contains('\0')
        && ![STATE, MEMORY, WORKING_SET].contains(&name)
}

/// A snapshot that is open: its state has been read and its checksums are right. What it holds stays the
/// same when somebody replaces or removes it.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    dir: OwnedFd,
    format_version: u16,
    state_len: u64,
    manifest: Manifest,
    state: State,
    /// None of one that was opened without.
    memory: Option<File>,
}

impl Folder {
    /// Opens the snapshot at this path. Its memory and the copies of its disks are there and have the right
    /// size; their bytes are not looked at.
    ///
    /// # Errors
    /// There is none, it is damaged, or a part of it is missing.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::attempt(path, true)
    }

    /// The same, but for its memory, which may not be there.
    ///
    /// # Errors
    /// There is none, it is damaged, or another part of it is missing.
    pub fn open_without_memory(path: &Path) -> Result<Self, Error> {
        Self::attempt(path, false)
    }

    fn attempt(path: &Path, has_memory: bool) -> Result<Self, Error> {
        let mut attempt = 1;
        loop {
            let dir = open_dir(path)?;
            match Self::read(path, &dir, has_memory) {
                Err(_) if attempt < ATTEMPTS && !is_at(&dir, path) => attempt += 1,
                Err(error) => return Err(error),
                Ok(folder) => return Ok(folder),
            }
        }
    }

    fn read(path: &Path, dir: &OwnedFd, has_memory: bool) -> Result<Self, Error> {
        let bytes = read_state(path, dir)?;
        let broken = |source| Error::State { path: path.join(STATE), source };
        let format_version = format::version(&bytes).map_err(broken)?;
        let sections = format::decode(&bytes).map_err(broken)?;
        let mut state: State = sections.into_iter().collect();
        let manifest = Manifest::take(&mut state)
            .map_err(|source| Error::Manifest { path: path.join(STATE), source })?;
        let sized = |name: &str, expected| match open_file(path, dir, name)? {
            (file, found) if found == expected => Ok(file),
            (_, found) => Err(Error::Size { path: path.join(name), expected, found }),
        };
        let memory = has_memory.then(|| sized(MEMORY, manifest.image.size)).transpose()?;
        for copy in &manifest.disks {
            sized(&copy.file, copy.len)?;
        }
        let dir = dir.try_clone().map_err(|source| io("open", path, source))?;
        let state_len = bytes.len() as u64;
        Ok(Self { path: path.to_owned(), dir, format_version, state_len, manifest, state, memory })
    }

    /// Where it was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The user whose directory it is. That user has said which files, sockets and taps of the host's its
    /// machine gets.
    ///
    /// # Errors
    /// The host does not say.
    pub fn owner(&self) -> Result<u32, Error> {
        let stat = rustix::fs::fstat(&self.dir).map_err(|errno| io("read", &self.path, errno.into()))?;
        Ok(stat.st_uid)
    }

    /// What it says of itself.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// What the machine's parts have kept.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The version of the format in which it was written.
    #[must_use]
    pub fn format_version(&self) -> u16 {
        self.format_version
    }

    /// The length of the state file.
    #[must_use]
    pub fn state_len(&self) -> u64 {
        self.state_len
    }

    /// The image of guest memory, for reading; as long as the machine has memory.
    ///
    /// # Errors
    /// It was opened without.
    pub fn memory(&self) -> Result<&File, Error> {
        self.memory.as_ref().ok_or_else(|| Error::Missing { path: self.path.join(MEMORY) })
    }

    /// Opens one of its files for reading: the copy of a disk, of the length that the manifest says.
    ///
    /// # Errors
    /// It is not there, or not a plain file.
    pub fn file(&self, name: &str) -> Result<File, Error> {
        open_file(&self.path, &self.dir, name).map(|(file, _)| file)
    }

    /// The recorded working set, if there is one.
    ///
    /// # Errors
    /// It is there, and cannot be opened.
    pub fn working_set(&self) -> Result<Option<File>, Error> {
        match self.file(WORKING_SET) {
            Ok(file) => Ok(Some(file)),
            Err(Error::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The snapshots that this one is a diff to, the nearest first; the last of them has all of the memory.
    ///
    /// # Errors
    /// One is missing or another than it was, they go in circles, or there are too many.
    pub fn bases(&self) -> Result<Vec<Self>, Error> {
        let mut bases: Vec<Self> = Vec::new();
        loop {
            let above = bases.last().unwrap_or(self);
            let Some(Base { path, id }) = &above.manifest.base else { return Ok(bases) };
            let (snapshot, base) = (above.path.clone(), above.path.join(path));
            if [self].into_iter().chain(&bases).any(|folder| folder.manifest.id == *id) {
                return Err(Error::Circle { snapshot, base });
            }
            if bases.len() + 1 >= MAX_CHAIN {
                return Err(Error::Chain { snapshot });
            }
            let folder = match Self::open(&base) {
                Ok(folder) => folder,
                Err(source) => return Err(Error::Base { snapshot, base, source: Box::new(source) }),
            };
            if folder.manifest.id != *id {
                let (expected, found) = (*id, folder.manifest.id);
                return Err(Error::OtherBase { snapshot, base, expected, found });
            }
            if folder.manifest.image.size != self.manifest.image.size {
                return Err(Error::BaseSize { snapshot, base });
            }
            bases.push(folder);
        }
    }

    /// The files elsewhere that the copies of disks lie over, the uppermost first, by the device: without them
    /// they are of no use. Those of a machine that was restored lie over those of its snapshot.
    ///
    /// # Errors
    /// One of them cannot be read.
    pub fn stands_on(&self) -> Result<Vec<(String, PathBuf)>, Error> {
        let mut files = Vec::new();
        for copy in &self.manifest.disks {
            let failed = |source| io("read what lies under", &self.path.join(&copy.file), source);
            let below = block::backing_files(&self.file(&copy.file)?, &self.path).map_err(failed)?;
            files.extend(below.into_iter().map(|path| (copy.device.clone(), path)));
        }
        Ok(files)
    }

    /// Whether it is of no use without the snapshot at this path, which has no links in it.
    fn needs(&self, path: &Path) -> Result<bool, Error> {
        let base = self.manifest.base.as_ref().map(|base| self.path.join(&base.path));
        let is_base = base.and_then(|base| base.canonicalize().ok()).is_some_and(|base| base == path);
        Ok(is_base || self.stands_on()?.iter().any(|(_, file)| file.starts_with(path)))
    }

    /// The error of a system call on it.
    pub(super) fn failed(&self, what: &'static str, source: io::Error) -> Error {
        io(what, &self.path, source)
    }

    /// Whether it is the directory at this path.
    #[must_use]
    pub fn is_at(&self, path: &Path) -> bool {
        is_at(&self.dir, path)
    }
}

/// Opens a directory itself, to read what is in it whatever its name is later.
fn open_dir(path: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| match errno {
        Errno::NOENT => Error::NoSnapshot(path.to_owned()),
        Errno::NOTDIR => Error::NotADirectory(path.to_owned()),
        errno => io("open", path, errno.into()),
    })
}

/// Whether what is at the path is this very directory.
fn is_at(dir: &OwnedFd, path: &Path) -> bool {
    match (rustix::fs::fstat(dir), rustix::fs::stat(path)) {
        (Ok(one), Ok(other)) => (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino),
        _ => false,
    }
}

/// A file in the directory, and its length. No link leads out of the directory, and nothing that is not a
/// file is waited for.
fn open_file(path: &Path, dir: &OwnedFd, name: &str) -> Result<(File, u64), Error> {
    let path = path.join(name);
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(dir, name, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Err(Error::Missing { path }),
        Err(Errno::LOOP) => return Err(Error::NotAFile(path)),
        Err(errno) => return Err(io("open", &path, errno.into())),
    };
    match file.metadata() {
        Ok(metadata) if metadata.is_file() => Ok((file, metadata.len())),
        Ok(_) => Err(Error::NotAFile(path)),
        Err(source) => Err(io("read", &path, source)),
    }
}

/// The bytes of the state file, no more than there may be.
fn read_state(path: &Path, dir: &OwnedFd) -> Result<Vec<u8>, Error> {
    let (file, len) = open_file(path, dir, STATE).map_err(|error| match error {
        Error::Missing { .. } => Error::NotASnapshot(path.to_owned()),
        error => error,
    })?;
    let path = path.join(STATE);
    if len > format::MAX_LEN {
        return Err(Error::State { path, source: format::Error::TooLarge(len) });
    }
    let mut bytes = Vec::new();
    file.take(format::MAX_LEN + 1).read_to_end(&mut bytes).map_err(|source| io("read", &path, source))?;
    Ok(bytes)
}

/// Checks that the directory holds a snapshot and nothing else.
fn check_own(path: &Path, dir: &OwnedFd) -> Result<(), Error> {
    let bytes = read_state(path, dir)?;
    if !bytes.starts_with(&format::MAGIC) {
        return Err(Error::NotASnapshot(path.to_owned()));
    }
    let manifest = format::decode(&bytes)
        .ok()
        .and_then(|sections| Manifest::take(&mut sections.into_iter().collect()).ok());
    let copies = manifest.map(|manifest| manifest.disks).unwrap_or_default();
    let failed = |errno: Errno| io("read", path, errno.into());
    for entry in rustix::fs::Dir::read_from(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_bytes();
        let own = [".", "..", STATE, MEMORY, WORKING_SET]
            .into_iter()
            .chain(copies.iter().map(|copy| copy.file.as_str()))
            .any(|own| own.as_bytes() == name)
            || name.starts_with(NEW_WORKING_SET.as_bytes());
        if !own {
            let name = entry.file_name().to_string_lossy().into_owned();
            return Err(Error::Foreign { path: path.to_owned(), name });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
