//! What the host's kernel knows and does about guest memory: one system call a function.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use vm_memory::bitmap::BitmapSlice;
use vm_memory::mmap::MmapRegionError;
use vm_memory::{FileOffset, GuestMemoryRegion, MmapRegion, VolatileSlice};

use super::Region;
use super::layout::PAGE_SIZE;

/// Where the kernel says of each page of this process whether it has one (`admin-guide/mm/pagemap.rst` of
/// Linux's documentation). It serves here what the newer `PAGEMAP_SCAN` does, and is in every kernel that
/// has KVM.
const PAGEMAP: &str = "/proc/self/pagemap";
/// Bits of an entry: the page is in memory, or in swap.
const HELD: u64 = 1 << 63 | 1 << 62;
/// Entries that are read at a time.
const ENTRIES: usize = 1 << 15;

/// Bytes that are copied at a time.
const BUFFER: usize = 1 << 18;

/// What a region of guest memory is made of.
pub(super) type Mapping = MmapRegion<<Region as GuestMemoryRegion>::B>;

/// Which pages the process holds.
pub(super) struct Pagemap(File);

impl Pagemap {
    pub(super) fn open() -> io::Result<Self> {
        File::open(PAGEMAP).map(Self)
    }

    /// The runs of pages in a slice that are in memory or in swap, as (first, count) from its beginning.
    /// Nothing is touched by asking.
    pub(super) fn held<B: BitmapSlice>(&self, slice: &VolatileSlice<'_, B>) -> io::Result<Vec<(u64, u64)>> {
        let start = slice.ptr_guard().as_ptr() as u64 / PAGE_SIZE;
        let pages = slice.len() as u64 / PAGE_SIZE;
        let mut buffer = vec![0; ENTRIES * size_of::<u64>()];
        let mut runs = Vec::new();
        let mut page = 0;
        while page < pages {
            let entries = usize::try_from(pages - page).unwrap_or(ENTRIES).min(ENTRIES);
            let bytes = buffer.get_mut(..entries * size_of::<u64>()).unwrap_or_default();
            self.0.read_exact_at(bytes, (start + page) * size_of::<u64>() as u64)?;
            let (entries, _) = bytes.as_chunks();
            for (page, entry) in (page..).zip(entries) {
                if u64::from_ne_bytes(*entry) & HELD != 0 {
                    append(&mut runs, (page, 1));
                }
            }
            page += entries.len() as u64;
        }
        Ok(runs)
    }
}

/// Leaves the process's signals to its other threads: this one may be older than what they have blocked, and
/// would end the process by one that they wait for.
pub(super) fn leave_signals() {
    // SAFETY: the set is filled before it is read, and both calls take pointers to what lives over them.
    unsafe {
        let mut all = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, std::ptr::null_mut());
    }
}

/// Adds a run to the end of a list, or to its last one where it goes on from there.
pub(super) fn append(runs: &mut Vec<(u64, u64)>, (first, count): (u64, u64)) {
    match runs.last_mut() {
        Some((last, pages)) if *last + *pages == first => *pages += count,
        _ => runs.push((first, count)),
    }
}

/// Maps so much memory: private, of the file if there is one, and as nothing but zeroes if not.
pub(super) fn map(
    file: Option<FileOffset>,
    len: usize,
    flags: libc::c_int,
) -> Result<Mapping, MmapRegionError> {
    let kind = if file.is_some() { 0 } else { libc::MAP_ANONYMOUS };
    MmapRegion::build(file, len, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | kind | flags)
}

fn result(returned: libc::c_int) -> io::Result<()> {
    if returned == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn offset(offset: u64) -> io::Result<libc::off_t> {
    offset.try_into().map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))
}

/// Puts another private mapping into the place of whole pages of guest memory: of the file from the offset,
/// or zeroes. What the pages held is gone.
///
/// It is made elsewhere and then moved: Linux before 6.12 unmaps what is in the place of a mapping before it
/// knows whether that can be made, and would leave a hole in which the guest's accesses, or another thread's new
/// mapping, end up. A move that would be one mapping too many is refused before anything is unmapped.
pub(super) fn map_over<B: BitmapSlice>(
    slice: &VolatileSlice<'_, B>,
    file: Option<(&File, u64)>,
) -> io::Result<()> {
    let guard = slice.ptr_guard_mut();
    if [guard.as_ptr() as u64, slice.len() as u64].iter().any(|n| !n.is_multiple_of(PAGE_SIZE)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let kind = if file.is_some() { 0 } else { libc::MAP_ANONYMOUS };
    let flags = libc::MAP_PRIVATE | libc::MAP_NORESERVE | kind;
    let (fd, at) = file.map_or((-1, 0), |(file, at)| (file.as_raw_fd(), at));
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a mapping where the kernel has room for it takes nothing from anyone.
    let new = unsafe { libc::mmap(std::ptr::null_mut(), slice.len(), protection, flags, fd, offset(at)?) };
    if new == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let how = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    // SAFETY: what moves is the mapping above, which nobody else knows. Where it goes is whole pages of the
    // slice, which borrows a mapping of guest memory: nothing else is unmapped, and that mapping's end unmaps
    // whatever is in its range. Guest memory is only accessed as volatile: bytes that become others are a change
    // like any of the guest's.
    let moved = unsafe { libc::mremap(new, slice.len(), slice.len(), how, guard.as_ptr()) };
    if moved == libc::MAP_FAILED {
        let error = io::Error::last_os_error();
        // SAFETY: the mapping above is still where it was made, and nobody else's.
        unsafe { libc::munmap(new, slice.len()) };
        return Err(error);
    }
    Ok(())
}

/// A piece of advice that changes nothing about what the memory holds, which is for the caller to see to.
pub(super) fn advise<B: BitmapSlice>(slice: &VolatileSlice<'_, B>, advice: libc::c_int) -> io::Result<()> {
    // SAFETY: the range lies inside the slice, which borrows a mapping of guest memory. Guest memory is only
    // accessed as volatile: should the advice clear bytes, that is a change like any of the guest's.
    result(unsafe { libc::madvise(slice.ptr_guard_mut().as_ptr().cast(), slice.len(), advice) })
}

/// A piece of advice about a part of a file.
pub(super) fn advise_file(file: &File, range: Range<u64>, advice: libc::c_int) -> io::Result<()> {
    let (at, len) = (offset(range.start)?, offset(range.end - range.start)?);
    // SAFETY: the call takes numbers only.
    match unsafe { libc::posix_fadvise(file.as_raw_fd(), at, len, advice) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// Fills guest memory with zeroes.
pub(super) fn clear<B: BitmapSlice>(slice: &VolatileSlice<'_, B>) -> io::Result<()> {
    let zeroes = [0_u8; 4096];
    let mut done = 0;
    while done < slice.len() {
        let len = zeroes.len().min(slice.len() - done);
        slice.subslice(done, len).map_err(io::Error::other)?.copy_from(&zeroes);
        done += len;
    }
    Ok(())
}

/// Writes guest memory into a file, without a copy on the way.
pub(super) fn write_at<B: BitmapSlice>(file: &File, slice: &VolatileSlice<'_, B>, at: u64) -> io::Result<()> {
    let guard = slice.ptr_guard();
    transfer(slice.len(), at, io::ErrorKind::WriteZero, |done, len, at| {
        // SAFETY: the range lies inside the slice, which borrows a mapping of guest memory; the kernel
        // only reads it, and copes with bytes that change meanwhile.
        unsafe { libc::pwrite(file.as_raw_fd(), guard.as_ptr().wrapping_add(done).cast(), len, at) }
    })
}

/// Reads from a file into guest memory, without a copy on the way.
pub(super) fn read_at<B: BitmapSlice>(file: &File, slice: &VolatileSlice<'_, B>, at: u64) -> io::Result<()> {
    let guard = slice.ptr_guard_mut();
    transfer(slice.len(), at, io::ErrorKind::UnexpectedEof, |done, len, at| {
        // SAFETY: the range lies inside the slice, which borrows a mapping of guest memory. Guest memory is
        // only accessed as volatile, so that the kernel may write it like the guest does.
        unsafe { libc::pread(file.as_raw_fd(), guard.as_ptr().wrapping_add(done).cast(), len, at) }
    })
}

/// Calls until all is done: with what is done, what is left, and where that is in the file.
fn transfer(
    len: usize,
    at: u64,
    none: io::ErrorKind,
    call: impl Fn(usize, usize, libc::off_t) -> isize,
) -> io::Result<()> {
    let mut done = 0;
    while done < len {
        match usize::try_from(call(done, len - done, offset(at + done as u64)?)) {
            Ok(0) => return Err(none.into()),
            Ok(moved) => done += moved,
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    }
    Ok(())
}

/// Copies a part of a file to the same place of another: in the kernel where that can be.
pub(super) fn copy(from: &File, to: &File, range: Range<u64>) -> io::Result<()> {
    let mut at = range.start;
    while at < range.end {
        let (mut source, mut target) = (offset(at)?, offset(at)?);
        let len = usize::try_from(range.end - at).unwrap_or(usize::MAX);
        // SAFETY: the two places are variables that live over the call; the rest is numbers.
        let moved = unsafe {
            libc::copy_file_range(from.as_raw_fd(), &raw mut source, to.as_raw_fd(), &raw mut target, len, 0)
        };
        match u64::try_from(moved) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(moved) => at += moved,
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                // Two file systems, or one that cannot.
                error
                    if [libc::EXDEV, libc::EINVAL, libc::EOPNOTSUPP, libc::ENOSYS]
                        .iter()
                        .any(|known| error.raw_os_error() == Some(*known)) =>
                {
                    return copy_through(from, to, at..range.end);
                }
                error => return Err(error),
            },
        }
    }
    Ok(())
}

fn copy_through(from: &File, to: &File, range: Range<u64>) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    let mut at = range.start;
    while at < range.end {
        let len = usize::try_from(range.end - at).unwrap_or(BUFFER).min(BUFFER);
        let bytes = buffer.get_mut(..len).unwrap_or_default();
        from.read_exact_at(bytes, at)?;
        to.write_all_at(bytes, at)?;
        at += len as u64;
    }
    Ok(())
}

/// Makes a part of a file zeroes: a hole where the file system can.
pub(super) fn punch(file: &File, at: u64, len: u64) -> io::Result<()> {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: the call takes numbers only.
    match result(unsafe { libc::fallocate(file.as_raw_fd(), mode, offset(at)?, offset(len)?) }) {
        Err(error) if [libc::EOPNOTSUPP, libc::ENOSYS].map(Some).contains(&error.raw_os_error()) => {
            let zeroes = vec![0; usize::try_from(len).unwrap_or(BUFFER).min(BUFFER)];
            let mut done = 0;
            while done < len {
                let part = zeroes.get(..usize::try_from(len - done).unwrap_or(BUFFER).min(BUFFER));
                let part = part.unwrap_or_default();
                file.write_all_at(part, at + done)?;
                done += part.len() as u64;
            }
            Ok(())
        }
        punched => punched,
    }
}

/// The parts of a range of a file that are no holes, in order. A file system that knows of no holes says
/// that all of it is data.
pub(super) fn data(file: &File, range: Range<u64>) -> io::Result<Vec<Range<u64>>> {
    let seek = |at: u64, whence| {
        // SAFETY: the call takes numbers only. The file's position, which it moves, is of no use to anyone.
        match u64::try_from(unsafe { libc::lseek(file.as_raw_fd(), offset(at)?, whence) }) {
            Ok(found) => Ok(found),
            Err(_) => match io::Error::last_os_error() {
                // There is no more data.
                error if error.raw_os_error() == Some(libc::ENXIO) => Ok(range.end),
                error => Err(error),
            },
        }
    };
    let mut found = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let start = seek(at, libc::SEEK_DATA)?;
        if start >= range.end {
            break;
        }
        // A hole that another made meanwhile moves the end before the start: go on behind, never back.
        at = seek(start, libc::SEEK_HOLE)?.clamp(start + 1, range.end);
        found.push(start..at);
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
