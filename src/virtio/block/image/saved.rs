//! By what an image is known again.

use std::path::{Path, PathBuf};

use super::{Error, Image, Kind};
use crate::state::saved;
use crate::virtio::block::config::Cache;
use crate::virtio::block::engine::{Backend, Operation};
use crate::virtio::block::host::{HostFile, Stamp};

saved! {
    "virtio-blk", version 1, fingerprint 3141569277;
    /// What a disk is to its guest, and what its files are like.
    pub(in crate::virtio::block) struct DiskState {
        /// In sectors.
        capacity: u64,
        block_size: u32,
        readonly: bool,
        /// The image, and the files that it stands on.
        files: Vec<Stamp>,
    }
}

impl Image {
    /// Brings all that was written to the file, and tells what it is like then. Nothing may be in flight.
    pub(in crate::virtio::block) fn save(&self) -> Result<DiskState, Error> {
        let settled = match &self.kind {
            Kind::Raw(_) if self.readonly() || self.cache() == Cache::Unsafe => Ok(()),
            Kind::Raw(raw) => raw.run(Operation::Flush).map(drop),
            Kind::Qcow2(qcow2) => qcow2.settle(),
        };
        settled.map_err(|source| Error::Settle { path: self.path.clone(), source })?;
        let stamp = |file: &HostFile| {
            file.stamp().map_err(|source| Error::Read { path: file.path().to_owned(), source })
        };
        Ok(DiskState {
            capacity: self.capacity(),
            block_size: self.block_size(),
            readonly: self.readonly(),
            files: self.files(stamp).into_iter().collect::<Result<_, _>>()?,
        })
    }

    /// Where its overlay is, if it has one.
    pub(in crate::virtio::block) fn overlay(&self) -> Option<PathBuf> {
        self.files(HostFile::reachable).into_iter().next().filter(|_| self.is_overlay)
    }

    /// The image's file and those that it stands on.
    fn files<T>(&self, look: impl Fn(&HostFile) -> T) -> Vec<T> {
        match &self.kind {
            Kind::Raw(raw) => vec![look(raw.host())],
            Kind::Qcow2(qcow2) => qcow2.files().iter().map(|file| look(file)).collect(),
        }
    }

    /// In which file the disk, as it was opened, is not what it was, and how.
    pub(in crate::virtio::block) fn difference(&self, saved: &DiskState) -> Option<(PathBuf, String)> {
        let image = |differs: String| Some((self.path.clone(), differs));
        let files = self.files(|file| (file.path().to_owned(), file.opened()));
        // Nothing is in a new overlay: below it is what the guest had.
        let above = files.len().saturating_sub(saved.files.len());
        if files.len() - above != saved.files.len() || above > usize::from(self.is_new) {
            let (had, has) = (saved.files.len(), files.len());
            return image(format!("it was in {had} files, one over the other, and is in {has} now"));
        }
        if above == 0 && self.is_new {
            return image("its overlay is a new one: give it (a copy of) the one that it had".to_owned());
        }
        let mut pairs = files.iter().skip(above).zip(&saved.files);
        if let Some(found) = pairs.find_map(|((path, now), then)| changed(path, *now, *then)) {
            return Some(found);
        }
        if self.capacity() != saved.capacity {
            return image(format!("it had {} sectors, and has {}", saved.capacity, self.capacity()));
        }
        (self.readonly() != saved.readonly).then(|| {
            let now = if self.readonly() { "it cannot be written now" } else { "it can be written now" };
            (self.path.clone(), now.to_owned())
        })
    }

    /// Whether the guest can transfer what it could.
    pub(in crate::virtio::block) fn takes_blocks_of(&self, saved: &DiskState) -> bool {
        saved.block_size.is_multiple_of(self.block_size())
    }
}

fn changed(path: &Path, now: Stamp, then: Stamp) -> Option<(PathBuf, String)> {
    let differs = if now.len != then.len {
        format!("it had {} bytes, and has {}", then.len, now.len)
    } else if now.modified != then.modified {
        "it was written at another time (a copy keeps the time with cp --preserve)".to_owned()
    } else {
        return None;
    };
    Some((path.to_owned(), differs))
}
