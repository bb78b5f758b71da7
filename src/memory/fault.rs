//! Guest memory whose pages come when they are touched, from anywhere: by userfaultfd.
//!
//! A thread waits for faults, asks a [`PageSource`] for the page, and puts it in. Where a [`Stream`] brings the
//! pages, it puts them in as they come, and whoever has touched one waits for it. It holds no part of the
//! memory: the kernel says when that is unmapped, and then it ends.

mod stream;
mod uffd;

use std::io;
use std::ops::Range;
use std::os::fd::RawFd;
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
pub use stream::Stream;
use uffd::{Event, Put, Uffd};

/// Milliseconds to the next try for a page while the mapping changes.
const AGAIN: i32 = 1;

/// Milliseconds to the next look whether a stream is still waited for.
const LOOK: i32 = 100;

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
            Some(Source::Elsewhere) | None => return Err(io::ErrorKind::UnexpectedEof.into()),
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
    start(size, Supply::Asked(Box::new(source)), failed)
}

/// Maps so much guest memory, all of which a stream brings: pages that are touched before they have come by are
/// waited for. Those that are discarded are zeroes from then on, and stay so. A stream that ends early, or
/// brings what is not right, is as a source that has an error in [`serve`].
///
/// [`Layers::elsewhere`] are the layers of such a memory, for what writes it as an image.
///
/// # Errors
/// As with [`serve`].
pub fn serve_stream(size: Size, stream: Stream, failed: Failed) -> Result<GuestMemory, Error> {
    start(size, Supply::Stream(stream), failed)
}

fn start(size: Size, supply: Supply, failed: Failed) -> Result<GuestMemory, Error> {
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
    let mut pager = Pager { uffd, supply, regions, mapped, removed, waiting: Vec::new() };
    thread::Builder::new()
        .name("pages".to_owned())
        .spawn(move || {
            host::leave_signals();
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

/// Has all pages of a memory come that have not yet. One whose pages come from a source that is no layers
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

/// How pages come.
enum Supply {
    /// When they are asked for.
    Asked(Box<dyn PageSource>),
    /// Of themselves, each once.
    Stream(Stream),
}

impl Supply {
    /// What is readable when pages come of themselves.
    fn awaits(&self) -> Option<RawFd> {
        match self {
            Self::Asked(_) => None,
            Self::Stream(stream) => stream.awaits(),
        }
    }

    /// For how many milliseconds there is nothing to do if nothing happens.
    fn timeout(&self) -> i32 {
        match self {
            Self::Stream(stream) if stream.page().is_some() => AGAIN,
            Self::Stream(stream) if stream.awaits().is_some() => LOOK,
            Self::Stream(_) | Self::Asked(_) => -1,
        }
    }
}

/// Puts pages in.
struct Pager {
    uffd: Uffd,
    supply: Supply,
    /// Where parts of RAM are in this process: by offset.
    regions: Vec<(u64, Range<u64>)>,
    /// Bytes that are still mapped.
    mapped: u64,
    /// Pages that have been discarded.
    removed: Pages,
    /// The offsets of pages that somebody waits for.
    waiting: Vec<u64>,
}

impl Pager {
    /// Serves until the memory is no more, or a page cannot be had.
    fn run(&mut self) -> Result<(), (u64, io::Error)> {
        let mut page = vec![0; usize::try_from(PAGE_SIZE).unwrap_or_default()];
        while self.mapped > 0 {
            let timeout = if self.waiting.is_empty() { self.supply.timeout() } else { AGAIN };
            let events = self.uffd.events(self.supply.awaits(), timeout);
            for event in events.map_err(|error| (0, error))? {
                self.note(event);
            }
            self.pass_on()?;
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
        let Some(address) = address(&self.regions, at) else { return Ok(Put::Done) };
        if self.removed.has(at) {
            return self.uffd.zero(address);
        }
        match &mut self.supply {
            Supply::Asked(source) => {
                source.read(at, page)?;
                fill(&self.uffd, address, page)
            }
            // It is there, and who waits for it has only to be told.
            Supply::Stream(stream) if at < stream.position() => self.uffd.zero(address),
            // Who waits for it goes on when it comes.
            Supply::Stream(_) => Ok(Put::Done),
        }
    }

    /// Puts in what has come of itself, as far as it goes now.
    fn pass_on(&mut self) -> Result<(), (u64, io::Error)> {
        let Self { uffd, supply: Supply::Stream(stream), regions, removed, .. } = self else { return Ok(()) };
        if stream.is_given_up() {
            return Err((stream.position(), io::Error::other("nobody waits for the stream any more")));
        }
        if stream.page().is_none() && stream.awaits().is_some_and(uffd::is_readable) {
            stream.receive().map_err(|error| (stream.position(), error))?;
        }
        while let Some(page) = stream.page() {
            let at = stream.position();
            let put = match address(regions, at) {
                None => Ok(Put::Done),
                // Somebody may have touched it before that.
                Some(address) if removed.has(at) => uffd.zero(address),
                Some(address) => fill(uffd, address, page),
            };
            match put.map_err(|error| (at, error))? {
                Put::Done => stream.advance(),
                Put::Later => break,
            }
        }
        Ok(())
    }
}

/// Where the page at an offset in RAM is in this process.
fn address(regions: &[(u64, Range<u64>)], at: u64) -> Option<u64> {
    let here =
        |(start, range): &&(u64, Range<u64>)| (*start..start + (range.end - range.start)).contains(&at);
    regions.iter().find(here).map(|(start, range)| range.start + (at - start))
}

/// Puts in a page with these bytes; one of zeroes takes no memory.
fn fill(uffd: &Uffd, address: u64, page: &[u8]) -> io::Result<Put> {
    if page.iter().any(|byte| *byte != 0) { uffd.copy(address, page) } else { uffd.zero(address) }
}

#[cfg(test)]
mod tests;
