//! The files that a snapshot's memory comes from, one upon the other, and guest memory made of them.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vm_memory::{FileOffset, GuestRegionMmap};

use super::layout::PAGE_SIZE;
use super::{Error, GuestMemory, host, keep_all_private, parts, ranges};
use crate::config::Size;

/// How many parts of the layers are mapped at most; each takes up to two of a process's mappings, of which
/// Linux allows 65,530.
const MOST_MAPPINGS: usize = 4096;

/// Pages in a row, counted from the beginning of RAM (the hole below 4 GiB takes none).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The first one.
    pub first: u64,
    /// How many.
    pub count: u64,
    /// All of them are zeroes, and in no file.
    pub zero: bool,
}

/// One file of a snapshot's memory. Page `n` of RAM is at `n` pages in the file, which is as long as RAM.
#[derive(Debug)]
pub struct Layer {
    /// The file, open for reading.
    pub file: File,
    /// The pages that the file is about, or all.
    pub runs: Option<Vec<Run>>,
}

/// Where pages come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The file with this number.
    File(usize),
    /// No file: they are zeroes.
    Zero,
    /// No file: they come some other way, and may be anything.
    Elsewhere,
}

/// Pages in a row that come from one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) first: u64,
    pub(super) count: u64,
    pub(super) source: Source,
}

impl Piece {
    /// Its place in RAM, and in a file.
    pub(super) fn bytes(&self) -> Range<u64> {
        self.first * PAGE_SIZE..(self.first + self.count) * PAGE_SIZE
    }
}

/// The memory of a snapshot: what its layers come to.
#[derive(Clone, Debug)]
pub struct Layers {
    size: Size,
    files: Vec<Arc<File>>,
    /// The number of the last file that has all pages: none before it matters.
    base: usize,
    /// All of RAM, in order.
    pieces: Vec<Piece>,
}

impl Layers {
    /// So much memory from these files: first one that has all pages, then what changed, in order.
    ///
    /// # Errors
    /// The files are not as long as the memory, the first one does not have all pages, or a run goes beyond
    /// the memory.
    pub fn new(size: Size, layers: Vec<Layer>) -> Result<Self, Error> {
        let pages = size.bytes() / PAGE_SIZE;
        let mut map = BTreeMap::new();
        let mut files = Vec::new();
        let mut base = None;
        for (number, Layer { file, runs }) in layers.into_iter().enumerate() {
            check_length(number, &file, size)?;
            let all = [Run { first: 0, count: pages, zero: false }];
            if runs.is_none() {
                base = Some(number);
            }
            for run in runs.as_deref().unwrap_or(&all) {
                let end = run.first.checked_add(run.count).filter(|end| *end <= pages);
                let end =
                    end.ok_or(Error::Run { layer: number, first: run.first, count: run.count, pages })?;
                lay(&mut map, run.first..end, if run.zero { Source::Zero } else { Source::File(number) });
            }
            files.push(Arc::new(file));
            if base.is_none() {
                return Err(Error::NoBase);
            }
        }
        let mut pieces: Vec<Piece> = Vec::new();
        for (first, (end, source)) in map {
            match pieces.last_mut() {
                Some(last) if last.source == source => last.count += end - first,
                _ => pieces.push(Piece { first, count: end - first, source }),
            }
        }
        Ok(Self { size, files, base: base.ok_or(Error::NoBase)?, pieces })
    }

    /// So much memory that comes some other way than from files. Nothing is known of it, and it cannot be made
    /// from this.
    #[must_use]
    pub fn elsewhere(size: Size) -> Self {
        let piece = Piece { first: 0, count: size.bytes() / PAGE_SIZE, source: Source::Elsewhere };
        Self { size, files: Vec::new(), base: 0, pieces: vec![piece] }
    }

    /// How much memory it is.
    #[must_use]
    pub fn size(&self) -> Size {
        self.size
    }

    pub(super) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    pub(super) fn files(&self) -> &[Arc<File>] {
        &self.files
    }

    pub(super) fn file(&self, number: usize) -> Option<&Arc<File>> {
        self.files.get(number)
    }

    /// The files are still as long as they were: what somebody has cut off is no hole.
    pub(super) fn check_lengths(&self) -> Result<(), Error> {
        self.files.iter().enumerate().try_for_each(|(number, file)| check_length(number, file, self.size))
    }

    /// The runs of pages, as (first, count), that some file has data for, or that come some other way. All
    /// others are zeroes.
    pub(super) fn data(&self) -> Result<Vec<(u64, u64)>, Error> {
        self.check_lengths()?;
        let mut runs = Vec::new();
        for piece in &self.pieces {
            let number = match piece.source {
                Source::File(number) if number == self.base => number,
                Source::File(_) | Source::Elsewhere => {
                    host::append(&mut runs, (piece.first, piece.count));
                    continue;
                }
                Source::Zero => continue,
            };
            let Some(file) = self.file(number) else { continue };
            let found = host::data(file, piece.bytes());
            for data in found.map_err(|source| Error::Layer { layer: number, source })? {
                let first = data.start / PAGE_SIZE;
                host::append(&mut runs, (first, data.end.div_ceil(PAGE_SIZE) - first));
            }
        }
        Ok(runs)
    }

    /// How long a piece has to be for being mapped, so that there are not too many mappings.
    fn shortest_mapped(&self) -> u64 {
        let mut counts: Vec<u64> =
            self.pieces.iter().filter(|p| p.source != Source::File(self.base)).map(|p| p.count).collect();
        counts.sort_unstable_by(|one, other| other.cmp(one));
        counts.get(MOST_MAPPINGS).map_or(0, |count| count + 1)
    }
}

fn check_length(layer: usize, file: &File, size: Size) -> Result<(), Error> {
    let found = file.metadata().map_err(|source| Error::Layer { layer, source })?.len();
    if found == size.bytes() && found.is_multiple_of(PAGE_SIZE) {
        Ok(())
    } else {
        Err(Error::LayerLength { layer, found, size })
    }
}

/// Puts a range on top of what there is: what lies below it goes, and what sticks out stays.
fn lay(map: &mut BTreeMap<u64, (u64, Source)>, range: Range<u64>, source: Source) {
    if range.is_empty() {
        return;
    }
    for at in [range.start, range.end] {
        if let Some((_, below)) = map.range_mut(..at).next_back()
            && below.0 > at
        {
            let above = *below;
            below.0 = at;
            map.insert(at, above);
        }
    }
    while let Some((first, _)) = map.range(range.clone()).next() {
        let first = *first;
        map.remove(&first);
    }
    map.insert(range.start, (range.end, source));
}

/// Makes guest memory of a snapshot's. Nothing is read before the guest touches it, and what the guest
/// changes is its own: the files stay as they are. They must not be changed or become shorter as long as the
/// memory lives.
///
/// # Errors
/// The host does not map a file, or has no room.
pub fn restore(layers: &Layers) -> Result<GuestMemory, Error> {
    let size = layers.size;
    let base = layers.file(layers.base).ok_or(Error::NoBase)?;
    let mut regions = Vec::new();
    let mut at = 0;
    for (start, len) in ranges(size)? {
        let map = host::map(Some(FileOffset::from_arc(Arc::clone(base), at)), len, libc::MAP_NORESERVE)
            .map_err(|error| Error::Map { size, source: error.into() })?;
        at += map.size() as u64;
        regions.extend(GuestRegionMmap::new(map, start));
    }
    let memory = GuestMemory::from_regions(regions).map_err(|e| Error::Map { size, source: e.into() })?;
    let shortest_mapped = layers.shortest_mapped();
    for piece in &layers.pieces {
        if piece.source != Source::File(layers.base) {
            fill(&memory, layers, piece, piece.count >= shortest_mapped)?;
        }
    }
    keep_all_private(&memory)?;
    Ok(memory)
}

/// Gives pages their contents, by another mapping or by a copy.
fn fill(memory: &GuestMemory, layers: &Layers, piece: &Piece, map: bool) -> Result<(), Error> {
    let (number, file) = match piece.source {
        Source::File(number) => (number, layers.file(number)),
        Source::Zero | Source::Elsewhere => (layers.base, None),
    };
    for (at, slice) in parts(memory, piece.bytes())? {
        match file {
            _ if map => host::map_over(&slice, file.map(|file| (&**file, at))),
            Some(file) => host::read_at(file, &slice, at),
            None => host::clear(&slice),
        }
        .map_err(|source| Error::Layer { layer: number, source })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
