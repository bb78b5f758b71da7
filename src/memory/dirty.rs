//! Which pages of guest memory have changed.
//!
//! Each region has a [`WriteLog`], in which vm-memory notes what the VMM writes. Where the kernel writes for
//! us, whoever asked it to notes that when it is done. What the guest itself writes is in KVM's own log.
//!
//! A page is noted after it has changed, and a log is cleared before its pages are copied: so whatever is
//! missing in a copy is in the log that comes next.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use vm_memory::GuestMemoryBackend;
use vm_memory::bitmap::{Bitmap, BitmapSlice, NewBitmap, WithBitmapSlice};
use vm_memory::mmap::MmapRegion;

use super::GuestMemory;
use super::fault::Fence;
use super::layout::PAGE_SIZE;

/// [`PAGE_SIZE`], as a length of memory.
const PAGE: usize = 4096;
const _: () = assert!(PAGE as u64 == PAGE_SIZE);

/// Pages in a word of a log.
const PAGES: usize = 64;

/// The log of a region, off at first: then a write costs one look at a flag, and there is no memory for the
/// pages.
#[derive(Default)]
pub struct WriteLog {
    on: AtomicBool,
    /// A bit for each page, the first one lowest; from when the log was first turned on.
    words: OnceLock<Box<[AtomicU64]>>,
    /// Of a region whose pages come from elsewhere: a log is what goes wherever its region does.
    fence: OnceLock<Fence>,
}

impl WriteLog {
    /// Notes that the pages of the region come from elsewhere.
    pub(super) fn set_fence(&self, fence: &Fence) {
        self.fence.get_or_init(|| fence.clone());
    }

    /// What says whether they still come, if they come from elsewhere.
    pub(super) fn fence(&self) -> Option<&Fence> {
        self.fence.get()
    }

    /// Begins a log for so many bytes with no page in it; one that is on goes on.
    fn start(&self, len: usize) {
        if self.is_on() {
            return;
        }
        let words =
            self.words.get_or_init(|| (0..len.div_ceil(PAGE * PAGES)).map(|_| AtomicU64::new(0)).collect());
        words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        self.on.store(true, Ordering::Release);
    }

    fn stop(&self) {
        self.on.store(false, Ordering::Release);
    }

    fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    fn words(&self) -> &[AtomicU64] {
        self.words.get().map(AsRef::as_ref).unwrap_or_default()
    }

    /// Notes the pages of another log, which begins at the byte `offset` of the region, a multiple of what
    /// a word stands for.
    pub(crate) fn merge(&self, offset: usize, other: &[u64]) {
        for (word, other) in self.words().iter().skip(offset / (PAGE * PAGES)).zip(other) {
            if *other != 0 {
                word.fetch_or(*other, Ordering::Release);
            }
        }
    }

    /// Moves what is noted to `pages`, where the region begins at `first`.
    fn take(&self, first: u64, pages: &mut DirtyPages) {
        for (word, first) in self.words().iter().zip((first..).step_by(PAGES)) {
            // Most words have nothing. What is noted in one just now is there the next time.
            if word.load(Ordering::Relaxed) == 0 {
                continue;
            }
            // Who copies the pages sees what was written to them before they were noted.
            let mut bits = word.swap(0, Ordering::Acquire);
            while bits != 0 {
                let start = bits.trailing_zeros();
                let count = (bits >> start).trailing_ones();
                pages.push(first + u64::from(start), count.into());
                bits &= u64::MAX.checked_shl(start + count).unwrap_or(0);
            }
        }
    }

    /// Always an atomic change, also where the bit is set already: only that keeps the order between the
    /// write before it and a copy after the next [`take`](Self::take).
    #[cold]
    fn mark(&self, offset: usize, len: usize) {
        let Some(more) = len.checked_sub(1) else { return };
        let (first, last) = (offset / PAGE, offset.saturating_add(more) / PAGE);
        let words = self.words().iter().zip((0..).step_by(PAGES)).skip(first / PAGES);
        for (word, start) in words.take_while(|(_, start)| *start <= last) {
            let low = first.saturating_sub(start);
            let high = (last - start).min(PAGES - 1);
            word.fetch_or(u64::MAX << low & u64::MAX >> (PAGES - 1 - high), Ordering::Release);
        }
    }
}

impl fmt::Debug for WriteLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteLog").field("on", &self.is_on()).finish_non_exhaustive()
    }
}

impl<'a> WithBitmapSlice<'a> for WriteLog {
    type S = LogSlice<'a>;
}

impl Bitmap for WriteLog {
    #[inline]
    fn mark_dirty(&self, offset: usize, len: usize) {
        if self.is_on() {
            self.mark(offset, len);
        }
    }

    fn dirty_at(&self, offset: usize) -> bool {
        let page = offset / PAGE;
        let word = self.words().get(page / PAGES).map_or(0, |word| word.load(Ordering::Acquire));
        self.is_on() && word >> (page % PAGES) & 1 != 0
    }

    fn slice_at(&self, offset: usize) -> LogSlice<'_> {
        LogSlice { log: self, offset }
    }
}

impl NewBitmap for WriteLog {
    /// How long its region is, a log learns when it is turned on.
    fn with_len(_: usize) -> Self {
        Self::default()
    }
}

/// A region's log from one of the region's bytes on.
#[derive(Clone, Copy, Debug)]
pub struct LogSlice<'a> {
    log: &'a WriteLog,
    offset: usize,
}

impl<'a> LogSlice<'a> {
    pub(crate) fn new(log: &'a WriteLog, offset: usize) -> Self {
        Self { log, offset }
    }

    pub(crate) fn log(&self) -> &'a WriteLog {
        self.log
    }

    /// Where in the region it begins.
    pub(crate) fn offset(&self) -> usize {
        self.offset
    }
}

impl WithBitmapSlice<'_> for LogSlice<'_> {
    type S = Self;
}

impl BitmapSlice for LogSlice<'_> {}

impl Bitmap for LogSlice<'_> {
    #[inline]
    fn mark_dirty(&self, offset: usize, len: usize) {
        self.log.mark_dirty(self.offset.wrapping_add(offset), len);
    }

    fn dirty_at(&self, offset: usize) -> bool {
        self.log.dirty_at(self.offset.wrapping_add(offset))
    }

    fn slice_at(&self, offset: usize) -> Self {
        Self { log: self.log, offset: self.offset.wrapping_add(offset) }
    }
}

/// Turns the VMM's log on, with no page in it, or off; on or off already, it stays as it is. Clones of the
/// memory have the same log.
///
/// No device may be at work while it is turned on, as in a paused machine: a processor may look at the flag
/// before others see what it has written, and a copy that is made in between would lack that for good.
pub fn track(memory: &GuestMemory, on: bool) {
    for region in memory.iter() {
        let log = MmapRegion::bitmap(region);
        if on { log.start(region.size()) } else { log.stop() }
    }
}

/// Whether the VMM's log is on.
#[must_use]
pub fn is_tracked(memory: &GuestMemory) -> bool {
    memory.iter().next().is_some_and(|region| MmapRegion::bitmap(region).is_on())
}

/// The pages that are in the VMM's log, which has none afterwards. Devices may be at work.
#[must_use]
pub fn take(memory: &GuestMemory) -> DirtyPages {
    let (mut pages, mut first) = (DirtyPages::default(), 0);
    for region in memory.iter() {
        MmapRegion::bitmap(region).take(first, &mut pages);
        first += region.size().div_ceil(PAGE) as u64;
    }
    pages
}

/// A set of pages of guest memory, numbered as they follow each other in an image of it: those below the
/// hole first, then at once those from 4 GiB up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DirtyPages {
    /// First page and count, in order, none empty, never two that touch.
    runs: Vec<(u64, u64)>,
}

impl DirtyPages {
    /// Appends pages that do not begin before the last run does.
    fn push(&mut self, first: u64, count: u64) {
        match self.runs.last_mut() {
            Some((start, len)) if first <= *start + *len => *len = (*len).max(first + count - *start),
            _ => self.runs.push((first, count)),
        }
    }

    /// Pages that follow each other: the first one's number and how many they are; in order, with others
    /// between any two runs.
    pub fn runs(&self) -> impl ExactSizeIterator<Item = (u64, u64)> + '_ {
        self.runs.iter().copied()
    }

    /// Number of pages.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.runs().map(|(_, count)| count).sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The pages of both.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut all = [self.runs.as_slice(), other.runs.as_slice()].concat();
        // Two runs in order are what it sorts in one go.
        all.sort();
        let mut pages = Self::default();
        all.into_iter().for_each(|(first, count)| pages.push(first, count));
        pages
    }
}

/// Of page numbers in order.
#[cfg(test)]
impl FromIterator<u64> for DirtyPages {
    fn from_iter<T: IntoIterator<Item = u64>>(pages: T) -> Self {
        let mut made = Self::default();
        pages.into_iter().for_each(|page| made.push(page, 1));
        made
    }
}

#[cfg(test)]
mod tests;
