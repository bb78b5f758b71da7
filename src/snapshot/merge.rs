//! A snapshot and those that it is a diff to, in one.

use std::path::Path;

use super::folder::{self, Draft, MEMORY, WORKING_SET};
use super::manifest::{Image, Manifest};
use super::verify::verify;
use super::{Error, Progress, Saved, Snapshot, format};
use crate::memory::image;

impl Snapshot {
    /// Makes a snapshot of the same moment that is a diff to no other one: with all of the memory, the copies of
    /// disks, which lie over what they lay over, and the record of what is needed first. It has an id of its own,
    /// so that diffs to this one stay diffs to this one. It may take this one's place.
    ///
    /// # Errors
    /// One of the files is damaged, which is looked for first; the new one would take the place of one that
    /// this is a diff to; or it cannot be written, and then nothing is left of it.
    pub fn merge(&self, target: &Path, progress: Progress<'_>) -> Result<Saved, Error> {
        let draft = Draft::create(target)?;
        let folder = self.folder();
        if self.bases().iter().any(|base| base.is_at(draft.target())) {
            return Err(Error::ReplacesPart(draft.target().to_owned()));
        }
        // New checksums would make right what is wrong.
        for folder in std::iter::once(folder).chain(self.bases()) {
            verify(folder, progress)?;
        }
        let memory = draft.file(MEMORY)?;
        let memory_bytes = image::merge(self.layers()?, &memory, progress)?;
        let copies = self.manifest().disks.iter().map(|copy| copy.file.as_str());
        let copies = copies.map(|name| Ok((name, folder.file(name)?)));
        let set = folder.working_set().transpose().map(|set| Ok((WORKING_SET, set?)));
        for copy in copies.chain(set) {
            let (name, from) = copy.map_err(|error: folder::Error| error)?;
            let copied = image::copy(&from, &draft.file(name)?, || true);
            copied.map_err(|source| Error::Copy { path: folder.path().join(name), source })?;
        }
        let chunks = image::checksums(&memory, progress)?;
        let Manifest { config, host, disks, .. } = self.manifest().clone();
        let image = Image { size: config.memory.bytes(), chunks, runs: None };
        let created = self.manifest().created;
        let new = Manifest::new(config, image, host).map_err(Error::Random)?;
        let manifest = Manifest { created, disks, ..new };
        let mut state = folder.state().clone();
        manifest.put(&mut state)?;
        draft.commit(&format::encode(state.sections())?)?;
        Ok(Saved { id: manifest.id, memory_bytes })
    }
}

#[cfg(test)]
mod tests;
