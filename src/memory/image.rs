//! The image of a machine's memory: a file as long as RAM, with every page at its offset in RAM, and with
//! holes for the pages that are zeroes.

mod merge;
mod sums;

use std::fs::{File, FileTimes};
use std::io;

use vm_memory::{GuestMemoryBackend, GuestMemoryRegion, VolatileMemory};

use super::host::{self, Pagemap};
use super::layers::{Layers, Run};
use super::layout::PAGE_SIZE;
use super::{Error, GuestMemory, GuestSlice, Progress, fault, parts, report, size};

pub use merge::merge;
pub use sums::{CHUNK, checksums, verify};

/// Bytes that are written between two reports of progress.
const STEP: u64 = 4 << 20;

/// Writes all of a memory. The file's former contents are gone; every page that is not written is a hole.
///
/// A page that the guest never touched is not touched by this either. `layers` are those that the memory was
/// restored from: its pages that are still only in their files come from there. Gives the bytes that went into
/// the file; zeroes do not.
///
/// # Errors
/// The host does not say which pages there are, or the file cannot be written.
pub fn write(
    memory: &GuestMemory,
    layers: Option<&Layers>,
    file: &File,
    progress: Progress<'_>,
) -> Result<u64, Error> {
    file.set_len(0).map_err(Error::Write)?;
    let runs = touched(memory, layers)?;
    Writer::new(memory, file, false)?.all(&runs, progress)
}

/// Writes these pages, runs of (first, count), and leaves the rest of the file as it is: holes, if it is new.
/// Pages that are zeroes become holes. Gives the bytes that went into the file.
///
/// The guest may run meanwhile. A page that it writes at the same time may be half old and half new, and has
/// to be written again.
///
/// # Errors
/// There are no such pages, or the file cannot be written.
pub fn write_pages(
    memory: &GuestMemory,
    runs: &[(u64, u64)],
    file: &File,
    progress: Progress<'_>,
) -> Result<u64, Error> {
    Writer::new(memory, file, true)?.all(runs, progress)
}

/// These pages, in order and each once, as they are in a file: those in its holes are zeroes.
///
/// # Errors
/// The host does not say where the holes are.
pub fn runs(file: &File, pages: &[(u64, u64)]) -> Result<Vec<Run>, Error> {
    let mut runs = Vec::new();
    for (first, count) in union(pages.to_vec()) {
        let end = first + count;
        let mut next = first;
        for data in host::data(file, first * PAGE_SIZE..end * PAGE_SIZE).map_err(Error::Read)? {
            let (start, behind) = (data.start / PAGE_SIZE, data.end.div_ceil(PAGE_SIZE).min(end));
            runs.extend((next < start).then(|| Run { first: next, count: start - next, zero: true }));
            runs.push(Run { first: start, count: behind - start, zero: false });
            next = behind;
        }
        runs.extend((next < end).then(|| Run { first: next, count: end - next, zero: true }));
    }
    Ok(runs)
}

/// Makes a copy of a file that has its holes and its times, by sharing blocks where the file system can. It asks
/// now and then whether it is to go on.
///
/// # Errors
/// One of the files cannot be read or written, or it was not to go on.
pub fn copy(from: &File, to: &File, go_on: impl Fn() -> bool) -> io::Result<()> {
    let metadata = from.metadata()?;
    if rustix::fs::ioctl_ficlone(to, from).is_err() {
        to.set_len(metadata.len())?;
        for range in host::data(from, 0..metadata.len())? {
            let mut at = range.start;
            while at < range.end {
                let next = range.end.min(at + STEP);
                host::copy(from, to, at..next)?;
                at = next;
                if !go_on() {
                    return Err(io::ErrorKind::TimedOut.into());
                }
            }
        }
    }
    to.set_times(FileTimes::new().set_modified(metadata.modified()?))
}

/// The runs of pages that may be anything but zeroes.
fn touched(memory: &GuestMemory, layers: Option<&Layers>) -> Result<Vec<(u64, u64)>, Error> {
    let pagemap = Pagemap::open().map_err(Error::Pages)?;
    let mut runs = layers.map_or_else(|| Ok(Vec::new()), Layers::data)?;
    for (at, slice) in parts(memory, 0..size(memory))? {
        let first = at / PAGE_SIZE;
        runs.extend(pagemap.held(&slice).map_err(Error::Pages)?.iter().map(|(page, n)| (first + page, *n)));
    }
    // Pages of a file that others map as well can be there without being in this process.
    let mut first = 0;
    for region in memory.iter() {
        let count = region.len() / PAGE_SIZE;
        if region.flags() & libc::MAP_SHARED != 0 {
            runs.push((first, count));
        }
        first += count;
    }
    Ok(union(runs))
}

/// The same pages, in order, each once.
fn union(mut runs: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    runs.sort_unstable();
    let mut all: Vec<(u64, u64)> = Vec::with_capacity(runs.len());
    for (first, count) in runs {
        match all.last_mut() {
            Some((start, pages)) if first <= *start + *pages => {
                *pages = (*pages).max(first + count - *start);
            }
            _ => all.push((first, count)),
        }
    }
    all
}

struct Writer<'a> {
    memory: &'a GuestMemory,
    file: &'a File,
    /// The file may have data where there are zeroes now.
    punch: bool,
    bytes: u64,
}

impl<'a> Writer<'a> {
    fn new(memory: &'a GuestMemory, file: &'a File, punch: bool) -> Result<Self, Error> {
        file.set_len(size(memory)).map_err(Error::Write)?;
        Ok(Self { memory, file, punch, bytes: 0 })
    }

    fn all(mut self, runs: &[(u64, u64)], progress: Progress<'_>) -> Result<u64, Error> {
        let total = runs.iter().fold(0, |sum: u64, (_, count)| sum.saturating_add(*count));
        let total = total.saturating_mul(PAGE_SIZE);
        let mut done = 0;
        for (first, count) in runs {
            let outside = || Error::Outside { first: *first, count: *count };
            let end =
                first.checked_add(*count).and_then(|end| end.checked_mul(PAGE_SIZE)).ok_or_else(outside)?;
            let mut at = first * PAGE_SIZE;
            while at < end {
                let next = end.min(at + STEP);
                for (at, slice) in parts(self.memory, at..next)? {
                    readable(&slice)?;
                    self.slice(at, &slice).map_err(Error::Write)?;
                }
                done += next - at;
                at = next;
                report(progress, done, total)?;
            }
        }
        if fault::has_failed(self.memory) { Err(Error::SourceFailed) } else { Ok(self.bytes) }
    }

    fn slice(&mut self, at: u64, slice: &GuestSlice<'_>) -> io::Result<()> {
        let page = usize::try_from(PAGE_SIZE).map_err(io::Error::other)?;
        let mut start = 0;
        while start < slice.len() {
            let zero = is_zero(slice, start, page);
            let mut end = start + page;
            while end < slice.len() && is_zero(slice, end, page) == zero {
                end += page;
            }
            let part = slice.subslice(start, end - start).map_err(io::Error::other)?;
            let (at, len) = (at + start as u64, part.len() as u64);
            if !zero {
                host::write_at(self.file, &part, at)?;
                self.bytes += len;
            } else if self.punch {
                host::punch(self.file, at, len)?;
            }
            start = end;
        }
        Ok(())
    }
}

/// Brings in the pages of restored memory: one that its file does not give is an error here, and would
/// be a signal (SIGBUS) where it is read.
fn readable(slice: &GuestSlice<'_>) -> Result<(), Error> {
    match host::advise(slice, libc::MADV_POPULATE_READ) {
        // Linux before 5.14 does not know it.
        Err(error) if error.raw_os_error() != Some(libc::EINVAL) => Err(Error::Unreadable(error)),
        _ => Ok(()),
    }
}

/// Whether a page is zeroes. Most that are not say so early.
fn is_zero(slice: &GuestSlice<'_>, at: usize, page: usize) -> bool {
    let words = page / size_of::<u64>();
    slice.get_array_ref::<u64>(at, words).is_ok_and(|page| (0..words).all(|word| page.load(word) == 0))
}

#[cfg(test)]
mod tests;
