//! Guest memory whose pages come when they are touched, from anywhere: by userfaultfd.
//!
//! A thread waits for faults, asks a [`PageSource`] for the page, and puts it in. It holds no part of the
//! memory: the kernel says when that is unmapped, and then it ends.

mod uffd;

use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use vm_memory::mmap::MmapRegion;
use vm_memory::{GuestMemoryBackend, VolatileMemory};

use super::host;
use super::layers::{Layers, Source};
use super::layout::PAGE_SIZE;
use super::{Error, GuestMemory, GuestSlice, keep_all_private, parts, ranges, size};
use crate::config::Size;
use uffd::{Event, Put, Uffd};

/// Milliseconds to the next try for a page while the mapping changes.
const AGAIN: i32 = 1;

/// Where the pages of a memory come from.
pub trait PageSource: Send {
    /// Fills a page with what memory has at an offset in RAM. It is called for a page each time that it is
    /// missing, which is once, and perhaps again soon after.
    ///
    /// # Errors
    /// The page cannot be had, now or ever: the machine cannot go on.
    fn read(&mut self, offset: u64, page: &mut [u8]) -> io::Result<()>;
}

impl PageSource for Layers {
    fn read(&mut self, offset: u64, page: &mut [u8]) -> io::Result<()> {
        let at = self.pieces().partition_point(|piece| piece.bytes().end <= offset);
        let file = match self.pieces().get(at).map(|piece| piece.source) {
            Some(Source::File(number)) => self.file(number),
            Some(Source::Zero) => None,
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
        };
        match file {
            Some(file) => file.read_exact_at(page, offset),
            None => {
                page.fill(0);
                Ok(())
            }
        }
    }
}

/// What is called when a page cannot be had: with its offset in RAM, and the reason.
pub type Failed = Box<dyn FnOnce(u64, io::Error) + Send>;

/// Stands between memory whose source has failed and whoever takes bytes out of it. It is down from before the
/// first page is zeroes that had other contents, so that nobody who finds it up afterwards has read such a page.
#[derive(Clone, Debug, Default)]
pub(super) struct Fence(Arc<AtomicBool>);

impl Fence {
    fn lower(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    fn is_down(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

fn fence(memory: &GuestMemory) -> Option<&Fence> {
    memory.iter().next().and_then(|region| MmapRegion::bitmap(region).fence())
}

/// Whether the source of a memory's pages has failed: what has been read from it by now may have been zeroes
/// in the place of what was there.
#[must_use]
pub fn has_failed(memory: &GuestMemory) -> bool {
    fence(memory).is_some_and(Fence::is_down)
}

/// Has the pages of these parts come, if they come from elsewhere; false if the source has failed by then. If it
/// has not, what the parts hold is what it should be however late it is read, by the host's kernel say.
#[must_use]
pub fn bring(memory: &GuestMemory, slices: &[GuestSlice<'_>]) -> bool {
    let Some(fence) = fence(memory) else { return true };
    let page = usize::try_from(PAGE_SIZE).unwrap_or(usize::MAX);
    for slice in slices {
        let last = slice.len().checked_sub(1);
        for at in (0..slice.len()).step_by(page).chain(last) {
            let _ = slice.get_ref::<u8>(at).map(|byte| byte.load());
        }
    }
    !fence.is_down()
}

/// Maps so much guest memory, each page of which is asked for when it is touched first. Pages that are
/// discarded come again as zeroes, whether they were touched or not.
///
/// When the source has an error, whoever touched the page keeps waiting, and `failed` is called, once, on
/// the thread that serves the pages. **When it returns, all that has not come is zeroes**, so it has to see to
/// it first that no guest code will run on them: every vCPU has been told to stop, and sent a signal that is
/// pending when its page comes. What waits in the VMM itself goes on then, to the end, and nothing of such zeroes
/// gets out of it: virtio queues take no buffer from before the call on ([`bring`]), those that they have taken
/// have come whole, and images of the memory are errors. (The kernel could be told to fail accesses to these
/// pages in place of that, but those of our own threads would then be signals that end the process, and with it
/// other machines.)
///
/// The memory's last user waits for the source, if that is asked for a page just then.
///
/// # Errors
/// The host has no room, or does not let this process have a userfaultfd for KVM's faults.
pub fn serve(size: Size, source: impl PageSource + 'static, failed: Failed) -> Result<GuestMemory, Error> {
    // No huge pages: the kernel would take one for each fault, and give it back.
    let memory = GuestMemory::from_ranges(&ranges(size)?).map_err(|source| Error::Map { size, source })?;
    keep_all_private(&memory)?;
    let uffd = Uffd::open().map_err(Error::Userfaultfd)?;
    let fence = Fence::default();
    memory.iter().for_each(|region| MmapRegion::bitmap(region).set_fence(&fence));
    let mut regions = Vec::new();
    for (at, slice) in parts(&memory, 0..size.bytes())? {
        let start = slice.ptr_guard().as_ptr() as u64;
        let range = start..start + slice.len() as u64;
        uffd.register(&range).map_err(Error::Userfaultfd)?;
        regions.push((at, range));
    }
    let mapped = size.bytes();
    let removed = Pages::new(mapped);
    let mut pager = Pager { uffd, source, regions, mapped, removed, waiting: Vec::new() };
    thread::Builder::new()
        .name("pages".to_owned())
        .spawn(move || {
            // A source that panics must not let the guest go on with zeroes either.
            let end = catch_unwind(AssertUnwindSafe(|| pager.run()));
            let end = end.unwrap_or_else(|_| Err((0, io::Error::other("the source of the pages panicked"))));
            if let Err((at, error)) = end {
                fence.lower();
                failed(at, error);
            }
            // Its end wakes whoever waits, and missing pages are ordinary ones from here on.
            drop(pager);
        })
        .map_err(Error::Userfaultfd)?;
    Ok(memory)
}

/// Has all pages of a memory come that have not yet. One whose pages come from elsewhere than from layers
/// needs it before it is written as an image.
///
/// # Errors
/// A page does not come.
pub fn fetch(memory: &GuestMemory) -> Result<(), Error> {
    parts(memory, 0..size(memory))?.iter().try_for_each(|(_, slice)| {
        host::advise(slice, libc::MADV_POPULATE_READ).map_err(Error::Unreadable)
    })?;
    if has_failed(memory) { Err(Error::SourceFailed) } else { Ok(()) }
}

/// A set of pages.
struct Pages(Vec<u64>);

impl Pages {
    fn new(bytes: u64) -> Self {
        let words = bytes.div_ceil(PAGE_SIZE * u64::from(u64::BITS));
        Self(vec![0; usize::try_from(words).unwrap_or_default()])
    }

    fn bit(at: u64) -> (usize, u64) {
        let page = at / PAGE_SIZE;
        (
            usize::try_from(page / u64::from(u64::BITS)).unwrap_or(usize::MAX),
            1 << (page % u64::from(u64::BITS)),
        )
    }

    fn add(&mut self, at: u64) {
        let (word, bit) = Self::bit(at);
        if let Some(word) = self.0.get_mut(word) {
            *word |= bit;
        }
    }

    fn has(&self, at: u64) -> bool {
        let (word, bit) = Self::bit(at);
        self.0.get(word).is_some_and(|word| word & bit != 0)
    }
}

/// Puts pages in.
struct Pager<S> {
    uffd: Uffd,
    source: S,
    /// Where parts of RAM are in this process: by offset.
    regions: Vec<(u64, Range<u64>)>,
    /// Bytes that are still mapped.
    mapped: u64,
    /// Pages that have been discarded.
    removed: Pages,
    /// The offsets of pages that somebody waits for.
    waiting: Vec<u64>,
}

impl<S: PageSource> Pager<S> {
    /// Serves until the memory is no more, or a page cannot be had.
    fn run(&mut self) -> Result<(), (u64, io::Error)> {
        let mut page = vec![0; usize::try_from(PAGE_SIZE).unwrap_or_default()];
        while self.mapped > 0 {
            let timeout = if self.waiting.is_empty() { -1 } else { AGAIN };
            for event in self.uffd.events(timeout).map_err(|error| (0, error))? {
                self.note(event);
            }
            for at in std::mem::take(&mut self.waiting) {
                match self.put(at, &mut page).map_err(|error| (at, error))? {
                    Put::Done => {}
                    Put::Later => self.waiting.push(at),
                }
            }
        }
        Ok(())
    }

    fn note(&mut self, event: Event) {
        match event {
            Event::Fault(address) => {
                let at = self.offsets(&(address..address + 1)).next().map(|range| range.start);
                self.waiting.extend(at.map(|at| at - at % PAGE_SIZE));
            }
            Event::Remove(range) => {
                let removed: Vec<_> = self.offsets(&range).collect();
                for range in removed {
                    let mut at = range.start;
                    while at < range.end {
                        self.removed.add(at);
                        at += PAGE_SIZE;
                    }
                }
            }
            Event::Unmap(range) => {
                let gone: u64 = self.offsets(&range).map(|range| range.end - range.start).sum();
                self.mapped = self.mapped.saturating_sub(gone);
            }
        }
    }

    /// The offsets in RAM of what is at a range of addresses.
    fn offsets(&self, addresses: &Range<u64>) -> impl Iterator<Item = Range<u64>> {
        self.regions.iter().filter_map(move |(at, region)| {
            let (from, to) = (addresses.start.max(region.start), addresses.end.min(region.end));
            (from < to).then(|| at + (from - region.start)..at + (to - region.start))
        })
    }

    fn put(&mut self, at: u64, page: &mut [u8]) -> io::Result<Put> {
        let places = self
            .regions
            .iter()
            .find(|(start, range)| (*start..start + (range.end - range.start)).contains(&at));
        let Some(address) = places.map(|(start, range)| range.start + (at - start)) else {
            return Ok(Put::Done);
        };
        if !self.removed.has(at) {
            self.source.read(at, page)?;
            if page.iter().any(|byte| *byte != 0) {
                return self.uffd.copy(address, page);
            }
        }
        self.uffd.zero(address)
    }
}

#[cfg(test)]
mod tests;
