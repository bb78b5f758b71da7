//! The pages that a restored guest touches first: recorded once, and brought in ahead of the guest ever after.

use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use super::host::{self, Pagemap};
use super::layers::{Layers, Source};
use super::layout::PAGE_SIZE;
use super::{Error, GuestMemory, parts, size};
use crate::state::{Saved, Section, saved};

/// What a file of a working set begins with. The version of [`WorkingSet`] follows (u16), then the CRC-32 of
/// the rest (u32), both little-endian, then the set itself in postcard.
const MAGIC: [u8; 8] = *b"BANTAMWS";
/// The bytes before the set.
const HEADER: usize = MAGIC.len() + size_of::<u16>() + size_of::<u32>();
/// The longest file that is read. A guest that touched so many scattered pages is not made faster.
const LONGEST: u64 = 16 << 20;
/// Pages between two runs that are read along with them: less work than another request.
const GAP: u64 = 8;
/// Bytes that are read ahead with one request. Linux reads no more at a time than its read-ahead window.
const REQUEST: u64 = 128 << 10;

saved! {
    "working-set", version 1, fingerprint 2699271069;
    /// The pages of a snapshot's memory that a guest touches soon after it goes on.
    pub struct WorkingSet {
        /// How many pages the memory has.
        pages: u64,
        /// The runs of touched pages, as (first, count), in order: page 0 is the first of RAM.
        runs: Vec<(u64, u64)>,
    }
}

impl WorkingSet {
    /// Has a memory that was restored just now be watched, before its guest runs: the host brings in just
    /// the pages that are touched, and no neighbours, until [`WorkingSet::record`].
    ///
    /// What is in the host's page cache already comes with its neighbours all the same: up to 64 KiB at a
    /// time. The files of the layers are dropped from it, as far as nobody else has them mapped.
    ///
    /// # Errors
    /// The host refuses.
    pub fn watch(memory: &GuestMemory, layers: &Layers) -> Result<(), Error> {
        for file in layers.files() {
            // Best effort: those that stay make the record larger, not wrong.
            let _ = host::advise_file(file, 0..layers.size().bytes(), libc::POSIX_FADV_DONTNEED);
        }
        advise(memory, libc::MADV_RANDOM)
    }

    /// The pages that have been touched since a memory was restored, as far as they have come from a file.
    ///
    /// # Errors
    /// The host does not say.
    pub fn record(memory: &GuestMemory, layers: &Layers) -> Result<Self, Error> {
        let pagemap = Pagemap::open().map_err(Error::Pages)?;
        let mut held = Vec::new();
        for (at, slice) in parts(memory, 0..size(memory))? {
            for (first, count) in pagemap.held(&slice).map_err(Error::Pages)? {
                host::append(&mut held, (at / PAGE_SIZE + first, count));
            }
        }
        advise(memory, libc::MADV_NORMAL)?;
        let mut runs = Vec::new();
        for (first, count) in layers.data()? {
            within(&held, first..first + count).for_each(|run| host::append(&mut runs, run));
        }
        Ok(Self { pages: size(memory) / PAGE_SIZE, runs })
    }

    /// How many bytes its pages have.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.runs.iter().map(|(_, count)| count * PAGE_SIZE).sum()
    }

    /// Writes it into a file, all or nothing: a file that was there before stays until this one is on disk.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        let failed = |source| Error::WorkingSetFile { path: path.to_owned(), source };
        let mut new = path.as_os_str().to_owned();
        let unlikely = RandomState::new().hash_one(std::process::id());
        new.push(format!(".{unlikely:x}.new"));
        let new = PathBuf::from(new);
        let written = self.encode().and_then(|bytes| {
            // No link is followed, and no file of another's written.
            let mut file = File::create_new(&new)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&new, path)?;
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
        });
        written.map_err(|error| {
            // It may not even be there.
            let _ = fs::remove_file(&new);
            failed(error)
        })
    }

    fn encode(&self) -> io::Result<Vec<u8>> {
        let section = Section::of(Self::KIND, self).map_err(io::Error::other)?;
        let mut bytes = MAGIC.to_vec();
        bytes.extend(section.version.to_le_bytes());
        bytes.extend(crc32fast::hash(&section.payload).to_le_bytes());
        bytes.extend(section.payload);
        if bytes.len() as u64 > LONGEST {
            return Err(io::Error::other("it has too many scattered pages"));
        }
        Ok(bytes)
    }

    /// Reads one from a file, which an error calls by its path.
    ///
    /// # Errors
    /// The file cannot be read, or is no working set, or damaged, or of a version that is not known.
    pub fn read(file: &File, path: &Path) -> Result<Self, Error> {
        let mut bytes = Vec::new();
        file.take(LONGEST + 1)
            .read_to_end(&mut bytes)
            .map_err(|source| Error::WorkingSetFile { path: path.to_owned(), source })?;
        Self::decode(&bytes).map_err(|reason| Error::WorkingSet { path: path.to_owned(), reason })
    }

    /// The set in the bytes of a file.
    ///
    /// # Errors
    /// What is wrong with them.
    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let (header, payload) = bytes.split_at_checked(HEADER).ok_or("it is too short")?;
        let Some(([version @ .., c0, c1, c2, c3], [])) =
            header.strip_prefix(&MAGIC).ok_or("it does not begin like one")?.split_first_chunk::<6>()
        else {
            return Err("it is too short".to_owned());
        };
        if bytes.len() as u64 > LONGEST {
            return Err("it is too long".to_owned());
        }
        if crc32fast::hash(payload) != u32::from_le_bytes([*c0, *c1, *c2, *c3]) {
            return Err("its checksum is wrong".to_owned());
        }
        let section = Section {
            id: Self::KIND.to_owned(),
            kind: Self::KIND.to_owned(),
            version: u16::from_le_bytes(*version),
            payload: payload.to_vec(),
        };
        let set: Self = section.open().map_err(|error| error.to_string())?;
        let ends = set.runs.iter().try_fold(0, |end, (first, count)| {
            first.checked_add(*count).filter(|next| *first >= end && *count > 0 && *next <= set.pages)
        });
        let possible = ends.is_some() && set.pages.checked_mul(PAGE_SIZE).is_some();
        if possible { Ok(set) } else { Err("its pages are out of order, or beyond the memory".to_owned()) }
    }
}

fn advise(memory: &GuestMemory, advice: libc::c_int) -> Result<(), Error> {
    parts(memory, 0..size(memory))?
        .iter()
        .try_for_each(|(_, slice)| host::advise(slice, advice).map_err(Error::Pages))
}

/// What a range has of runs that are in order.
fn within(runs: &[(u64, u64)], range: Range<u64>) -> impl Iterator<Item = (u64, u64)> {
    let before = runs.partition_point(|(first, count)| first + count <= range.start);
    runs.get(before..).unwrap_or_default().iter().take_while(move |(first, _)| *first < range.end).map(
        move |(first, count)| {
            let (from, to) = ((*first).max(range.start), (first + count).min(range.end));
            (from, to - from)
        },
    )
}

/// A working set that is being brought in. It ends when this is dropped, and keeps the memory until then.
#[derive(Debug)]
pub struct Prefetch {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Prefetch {
    /// Has a thread bring in the pages of a working set, while the guest runs: first all reads are begun,
    /// the longest possible, then the pages are mapped as they come, so that the guest finds them.
    ///
    /// It is a help and no more: what cannot be brought in comes when it is touched.
    ///
    /// # Errors
    /// The set is of another memory, or the host gives no thread.
    pub fn start(memory: &GuestMemory, layers: &Layers, set: &WorkingSet) -> Result<Self, Error> {
        let pages = size(memory) / PAGE_SIZE;
        if set.pages != pages || layers.size().bytes() != size(memory) {
            return Err(Error::ForeignWorkingSet { found: set.pages, pages });
        }
        let reads = reads(layers, set);
        let stop = Arc::new(AtomicBool::new(false));
        let (memory, runs, stopped) = (memory.clone(), set.runs.clone(), Arc::clone(&stop));
        let thread = thread::Builder::new()
            .name("prefetch".to_owned())
            .spawn(move || {
                let _ = bring_in(&memory, &reads, &runs, &stopped);
            })
            .map_err(Error::Prefetch)?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Waits for all of it to be there.
    pub fn wait(mut self) {
        self.join();
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            // It does not panic, and if it did, nothing would be lost.
            let _ = thread.join();
        }
    }
}

impl Drop for Prefetch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.join();
    }
}

/// The parts of files to read for a working set, with small gaps read along.
fn reads(layers: &Layers, set: &WorkingSet) -> Vec<(Arc<File>, Range<u64>)> {
    let mut reads: Vec<(Arc<File>, Range<u64>)> = Vec::new();
    for piece in layers.pieces() {
        let Source::File(number) = piece.source else { continue };
        let Some(file) = layers.file(number) else { continue };
        for (first, count) in within(&set.runs, piece.first..piece.first + piece.count) {
            let range = first * PAGE_SIZE..(first + count) * PAGE_SIZE;
            match reads.last_mut() {
                Some((last, before))
                    if Arc::ptr_eq(last, file) && range.start - before.end <= GAP * PAGE_SIZE =>
                {
                    before.end = range.end;
                }
                _ => reads.push((Arc::clone(file), range)),
            }
        }
    }
    reads
}

fn bring_in(
    memory: &GuestMemory,
    reads: &[(Arc<File>, Range<u64>)],
    runs: &[(u64, u64)],
    stop: &AtomicBool,
) -> Result<(), Error> {
    for (file, range) in reads {
        let mut at = range.start;
        while at < range.end && !stop.load(Ordering::Relaxed) {
            let next = range.end.min(at + REQUEST);
            // What is not read ahead is read below.
            let _ = host::advise_file(file, at..next, libc::POSIX_FADV_WILLNEED);
            at = next;
        }
    }
    for (first, count) in runs {
        let (mut at, end) = (first * PAGE_SIZE, (first + count) * PAGE_SIZE);
        while at < end {
            if stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            let next = end.min(at + REQUEST);
            for (_, slice) in parts(memory, at..next)? {
                host::advise(&slice, libc::MADV_POPULATE_READ).map_err(Error::Prefetch)?;
            }
            at = next;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
