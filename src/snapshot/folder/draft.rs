//! A snapshot that is being made, and what becomes of those that never were finished.
//!
//! A draft is a hidden directory beside the place where the snapshot will be, locked as long as its process
//! lives. One that nobody has locked is left over from a process that was killed.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, RenameFlags};
use rustix::io::Errno;

use super::super::manifest::Id;
use super::{ATTEMPTS, Error, Folder, STATE, check_own, io as failed, is_at, open_dir};

/// How the names of drafts begin; process and random digits follow.
const PREFIX: &str = ".bantam-draft-";

/// A snapshot that is being made. Dropping it removes all of it.
#[derive(Debug)]
pub struct Draft {
    target: PathBuf,
    path: PathBuf,
    /// Keeps the lock, too.
    dir: OwnedFd,
}

impl Draft {
    /// Begins a snapshot that will be at `target`, where there may be one already. Removes what is left of
    /// drafts beside it that were never finished.
    ///
    /// # Errors
    /// There is something else at the path, or no directory can be made beside it.
    pub fn create(target: &Path) -> Result<Self, Error> {
        let target = place(target)?;
        if let Some(dir) = existing(&target)? {
            check_own(&target, &dir)?;
        }
        let parent = parent(&target)?;
        let _ = sweep(parent);
        let mut attempt = 1;
        loop {
            let path = hidden(parent)?;
            DirBuilder::new().mode(0o700).create(&path).map_err(|source| failed("make", &path, source))?;
            // Somebody may take it for one that is left over until it is locked.
            match open_dir(&path) {
                Ok(dir) if lock(&dir) && is_at(&dir, &path) => return Ok(Self { target, path, dir }),
                Ok(_) | Err(Error::NoSnapshot(_)) if attempt < ATTEMPTS => attempt += 1,
                Err(error) => return Err(error),
                Ok(_) => return Err(failed("lock", &path, Errno::AGAIN.into())),
            }
        }
    }

    /// Where the snapshot will be.
    #[must_use]
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// The directory of the draft.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a file in it, for reading and writing.
    ///
    /// # Errors
    /// There is one of this name, or it cannot be made.
    pub fn file(&self, name: &str) -> Result<File, Error> {
        let path = self.path.join(name);
        OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(|source| failed("make", &path, source))
    }

    /// One of its files cannot be written: the error, by the name that the file was to have.
    #[must_use]
    pub fn unwritten(&self, name: &str, source: io::Error) -> Error {
        failed("write", &self.target.join(name), source)
    }

    /// The path by which the new snapshot finds a base: a relative one when both are in the same directory,
    /// so that they can be moved together.
    ///
    /// # Errors
    /// There is no such directory, or it is the one that the new snapshot is to replace.
    pub fn path_to(&self, base: &Path) -> Result<PathBuf, Error> {
        let base = fs::canonicalize(base).map_err(|source| failed("find", base, source))?;
        if base == self.target {
            return Err(Error::ReplacesBase(base));
        }
        Ok(match base.file_name() {
            Some(name) if base.parent() == self.target.parent() => Path::new("..").join(name),
            _ => base,
        })
    }

    /// Writes the state, and puts the snapshot where it belongs: from one moment to the next it is there
    /// with everything in it, and a former one is not. All of it is on the disk by then.
    ///
    /// # Errors
    /// The files are no snapshot, it needs one that is not there or that it would replace, or something
    /// cannot be written. What was at the path is then still there, whole, or all of the new one is.
    pub fn commit(self, state: &[u8]) -> Result<(), Error> {
        let mut file = self.file(STATE)?;
        file.write_all(state).map_err(|source| self.unwritten(STATE, source))?;
        check_own(&self.path, &self.dir)?;
        // It lies in the same directory as it will, so that its base is where it will be.
        let folder = Folder::open(&self.path)?;
        if folder.bases()?.iter().any(|base| base.is_at(&self.target)) {
            return Err(Error::ReplacesBase(self.target.clone()));
        }
        if folder.stands_on()?.iter().any(|(_, file)| file.starts_with(&self.target)) {
            return Err(Error::ReplacesDisks(self.target.clone()));
        }
        let others = if existing(&self.target)?.is_some() { dependants(&self.target)? } else { Vec::new() };
        if let Some(by) = others.into_iter().find(|other| *other != self.path) {
            return Err(Error::ReplacesNeeded { path: self.target.clone(), by });
        }
        for entry in fs::read_dir(&self.path).map_err(|source| failed("read", &self.path, source))? {
            sync(&entry.map_err(|source| failed("read", &self.path, source))?.path())?;
        }
        sync(&self.path)?;
        self.put()
    }

    fn put(&self) -> Result<(), Error> {
        let parent = parent(&self.target)?;
        let Some(old) = existing(&self.target)? else {
            // A directory takes the place of nothing, or of an empty directory.
            fs::rename(&self.path, &self.target).map_err(|source| failed("make", &self.target, source))?;
            return sync(parent);
        };
        check_own(&self.target, &old)?;
        let exchange =
            || rustix::fs::renameat_with(CWD, &self.path, CWD, &self.target, RenameFlags::EXCHANGE);
        exchange().map_err(|errno| match errno {
            Errno::INVAL | Errno::NOSYS => {
                Error::Exchange { path: self.target.clone(), source: errno.into() }
            }
            errno => failed("replace", &self.target, errno.into()),
        })?;
        if !is_at(&old, &self.path) {
            // What was looked at is not what was there.
            exchange().map_err(|errno| failed("put back", &self.target, errno.into()))?;
            return Err(failed("replace", &self.target, io::ErrorKind::ResourceBusy.into()));
        }
        sync(parent)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // The draft, or the snapshot that it has replaced; nothing, if there was none.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes a snapshot: from one moment to the next it is gone.
///
/// # Errors
/// There is none, or the directory holds what is no part of it.
pub fn remove(path: &Path) -> Result<(), Error> {
    let target = place(path)?;
    let Some(dir) = existing(&target)? else { return Err(Error::NoSnapshot(path.to_owned())) };
    check_own(&target, &dir)?;
    let parent = parent(&target)?;
    let _ = sweep(parent);
    let hidden = hidden(parent)?;
    fs::rename(&target, &hidden).map_err(|source| failed("remove", &target, source))?;
    sync(parent)?;
    gone(fs::remove_dir_all(&hidden)).map_err(|source| failed("remove", &hidden, source))
}

/// The snapshots in the same directory that are of no use without the one at this path: diffs to it, and those
/// of machines that were restored from it and whose disks lie over its copies. Others elsewhere nobody knows.
///
/// # Errors
/// The directory cannot be read.
pub fn dependants(path: &Path) -> Result<Vec<PathBuf>, Error> {
    let target = place(path)?;
    let parent = parent(&target)?;
    let mut found = Vec::new();
    for entry in fs::read_dir(parent).map_err(|source| failed("read", parent, source))? {
        let other = entry.map_err(|source| failed("read", parent, source))?.path();
        // What is damaged or no snapshot is in nobody's way; one that does not say what it needs may be.
        let needs = |folder: Folder| folder.needs(&target).unwrap_or(true);
        if other != target && Folder::open_without_memory(&other).is_ok_and(needs) {
            found.push(other);
        }
    }
    found.sort();
    Ok(found)
}

/// Removes the drafts in a directory whose processes have ended without finishing them. Those of other
/// users stay.
///
/// # Errors
/// The directory cannot be read, or a draft in it not be removed.
pub fn sweep(parent: &Path) -> Result<(), Error> {
    let reading = |source| failed("read", parent, source);
    let own = rustix::process::geteuid().as_raw();
    for entry in fs::read_dir(parent).map_err(reading)? {
        let entry = entry.map_err(reading)?;
        if !entry.file_name().to_str().is_some_and(is_draft) {
            continue;
        }
        let path = entry.path();
        let Ok(dir) = open_dir(&path) else { continue };
        let owner = rustix::fs::fstat(&dir).map(|stat| stat.st_uid);
        // Where there are no locks, nobody knows whether somebody is still at work on it.
        let is_free = rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive).is_ok();
        if owner == Ok(own) && is_free && is_at(&dir, &path) {
            gone(fs::remove_dir_all(&path)).map_err(|source| failed("remove", &path, source))?;
        }
    }
    Ok(())
}

/// Whether it has been removed, by whomever.
fn gone(removed: io::Result<()>) -> io::Result<()> {
    removed.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

/// Where a snapshot's path leads to: no links, and no `..`, are left in it.
fn place(target: &Path) -> Result<PathBuf, Error> {
    if let Ok(place) = fs::canonicalize(target) {
        return Ok(place);
    }
    let name = target.file_name().ok_or_else(|| Error::Target(target.to_owned()))?;
    let parent = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let parent = fs::canonicalize(parent).map_err(|source| failed("find the directory", parent, source))?;
    Ok(parent.join(name))
}

fn parent(target: &Path) -> Result<&Path, Error> {
    target.parent().ok_or_else(|| Error::Target(target.to_owned()))
}

/// The directory at a path, if anything is there.
fn existing(path: &Path) -> Result<Option<OwnedFd>, Error> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(failed("read", path, source)),
        Ok(metadata) if metadata.is_dir() => open_dir(path).map(Some),
        Ok(_) => Err(Error::NotADirectory(path.to_owned())),
    }
}

/// A new draft's path.
fn hidden(parent: &Path) -> Result<PathBuf, Error> {
    let random = Id::random().map_err(|source| failed("name a directory in", parent, source))?;
    Ok(parent.join(format!("{PREFIX}{}-{random}", std::process::id())))
}

fn is_draft(name: &str) -> bool {
    let parts = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-'));
    parts.is_some_and(|(pid, random)| pid.parse::<u32>().is_ok() && random.parse::<Id>().is_ok())
}

/// Locks a directory as long as it is open. Nobody locks where the file system has no locks.
fn lock(dir: &impl AsFd) -> bool {
    !matches!(rustix::fs::flock(dir, FlockOperation::NonBlockingLockExclusive), Err(Errno::WOULDBLOCK))
}

/// Brings a file or a directory to the disk.
fn sync(path: &Path) -> Result<(), Error> {
    File::open(path).and_then(|file| file.sync_all()).map_err(|source| failed("write", path, source))
}
