//! The pages that a restored guest touches first: recorded once, and brought in ahead of the guest ever after.

use std::cmp::Reverse;
use std::collections::BTreeMap;
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
/// Pages between two runs that are read along with them: less work than another request, where a disk reads some
/// hundred MiB a second and takes some ten thousand requests.
const GAP: u64 = 2;
/// The pages of a block that the host can map as one, where a file system keeps it in one piece.
const BLOCK: u64 = (2 << 20) / PAGE_SIZE;
/// As many of a block's pages as make it worth while to bring in the whole block: one read then stands for as many,
/// and one fault of the guest's. It is the host's page cache that takes more, which copies share.
const DENSE: u64 = BLOCK / 8;
/// Runs of such blocks, the longest, for which the host is asked for one piece each: every one cuts the memory's
/// mapping for good, and of those a process has some ten thousand for all its machines.
const MOST_ADVISED: usize = 8;
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
    /// Has a thread bring in the pages of a working set, while the guest runs: first all reads of scattered pages
    /// are begun, the longest possible; then come whole blocks of which the set has many pages, in one piece if the
    /// file system can; then the scattered pages are mapped, so that the guest finds them. Meanwhile what
    /// the guest misses comes without its neighbours, for which these reads would have to wait.
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
        let plan = Plan::new(layers, set);
        let stop = Arc::new(AtomicBool::new(false));
        let (memory, stopped) = (memory.clone(), Arc::clone(&stop));
        let thread = thread::Builder::new()
            .name("prefetch".to_owned())
            .spawn(move || {
                host::leave_signals();
                // All of it is advice: without it, pages come when they are touched.
                let _ = advise(&memory, libc::MADV_RANDOM);
                let _ = plan.bring_in(&memory, &stopped);
                let _ = advise(&memory, libc::MADV_NORMAL);
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

/// How a working set is brought in.
#[derive(Debug)]
struct Plan {
    /// Runs of whole blocks.
    dense: Vec<(u64, u64)>,
    /// The runs of the set's pages that are in none of them.
    scattered: Vec<(u64, u64)>,
    /// The parts of files that hold the scattered pages.
    reads: Vec<(Arc<File>, Range<u64>)>,
}

impl Plan {
    fn new(layers: &Layers, set: &WorkingSet) -> Self {
        let mut dense = Vec::new();
        for (block, pages) in pages_in_blocks(&set.runs) {
            if pages >= DENSE {
                let first = block * BLOCK;
                host::append(&mut dense, (first, BLOCK.min(set.pages - first)));
            }
        }
        let mut scattered = Vec::new();
        let mut end = 0;
        for (first, count) in dense.iter().copied().chain([(set.pages, 0)]) {
            scattered.extend(within(&set.runs, end..first));
            end = first + count;
        }
        let reads = reads(layers, &scattered);
        Self { dense, scattered, reads }
    }

    fn bring_in(&self, memory: &GuestMemory, stop: &AtomicBool) -> Result<(), Error> {
        for (file, range) in &self.reads {
            steps(range.clone(), REQUEST, stop, |part| {
                // What is not read ahead is read below.
                let _ = host::advise_file(file, part, libc::POSIX_FADV_WILLNEED);
                Ok(())
            })?;
        }
        let mut longest = self.dense.clone();
        longest.sort_by_key(|(_, count)| Reverse(*count));
        for (first, count) in longest.iter().take(MOST_ADVISED) {
            for (_, slice) in parts(memory, first * PAGE_SIZE..(first + count) * PAGE_SIZE)? {
                // Without it, blocks come in smaller pieces.
                let _ = host::advise(&slice, libc::MADV_HUGEPAGE);
            }
        }
        for (first, count) in &self.dense {
            let range = first * PAGE_SIZE..(first + count) * PAGE_SIZE;
            steps(range, BLOCK * PAGE_SIZE, stop, |part| populate(memory, part))?;
        }
        for (first, count) in &self.scattered {
            let range = first * PAGE_SIZE..(first + count) * PAGE_SIZE;
            steps(range, REQUEST, stop, |part| populate(memory, part))?;
        }
        Ok(())
    }
}

/// Each block that has pages of these runs, and how many.
fn pages_in_blocks(runs: &[(u64, u64)]) -> BTreeMap<u64, u64> {
    let mut blocks = BTreeMap::new();
    for (first, count) in runs {
        let (mut at, end) = (*first, first + count);
        while at < end {
            let next = end.min((at / BLOCK + 1) * BLOCK);
            *blocks.entry(at / BLOCK).or_default() += next - at;
            at = next;
        }
    }
    blocks
}

/// The parts of files to read for runs of pages, with small gaps read along.
fn reads(layers: &Layers, runs: &[(u64, u64)]) -> Vec<(Arc<File>, Range<u64>)> {
    let mut reads: Vec<(Arc<File>, Range<u64>)> = Vec::new();
    for piece in layers.pieces() {
        let Source::File(number) = piece.source else { continue };
        let Some(file) = layers.file(number) else { continue };
        for (first, count) in within(runs, piece.first..piece.first + piece.count) {
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

/// Does something with a range in steps, until told to stop.
fn steps(
    range: Range<u64>,
    step: u64,
    stop: &AtomicBool,
    mut each: impl FnMut(Range<u64>) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut at = range.start;
    while at < range.end && !stop.load(Ordering::Relaxed) {
        let next = range.end.min(at + step);
        each(at..next)?;
        at = next;
    }
    Ok(())
}

/// Has the host map a range of the memory, whose bytes are read first if they have to.
fn populate(memory: &GuestMemory, range: Range<u64>) -> Result<(), Error> {
    parts(memory, range)?
        .iter()
        .try_for_each(|(_, slice)| host::advise(slice, libc::MADV_POPULATE_READ).map_err(Error::Prefetch))
}

#[cfg(test)]
mod tests;
