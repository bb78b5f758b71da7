//! The calls of a userfaultfd (`linux/userfaultfd.h`; `admin-guide/mm/userfaultfd.rst` of Linux's
//! documentation), and what it has to say.

use std::fs::OpenOptions;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use super::super::layout::PAGE_SIZE;

/// Opens a userfaultfd for those that its permissions let.
const DEVICE: &str = "/dev/userfaultfd";
/// `USERFAULTFD_IOC_NEW`: `_IO(0xaa, 0)`.
const NEW: libc::c_ulong = 0xaa00;
/// `UFFDIO_API`: `_IOWR(0xaa, 0x3f, struct uffdio_api)`.
const API: libc::c_ulong = 0xc018_aa3f;
/// `UFFDIO_REGISTER`: `_IOWR(0xaa, 0, struct uffdio_register)`.
const REGISTER: libc::c_ulong = 0xc020_aa00;
/// `UFFDIO_WAKE`: `_IOR(0xaa, 2, struct uffdio_range)`.
const WAKE: libc::c_ulong = 0x8010_aa02;
/// `UFFDIO_COPY`: `_IOWR(0xaa, 3, struct uffdio_copy)`.
const COPY: libc::c_ulong = 0xc028_aa03;
/// `UFFDIO_ZEROPAGE`: `_IOWR(0xaa, 4, struct uffdio_zeropage)`.
const ZEROPAGE: libc::c_ulong = 0xc020_aa04;
/// The one version of the interface, `UFFD_API`.
const VERSION: u64 = 0xaa;
/// `UFFD_FEATURE_EVENT_REMOVE` and `UFFD_FEATURE_EVENT_UNMAP`.
const FEATURES: u64 = 1 << 3 | 1 << 6;
/// `UFFDIO_REGISTER_MODE_MISSING`.
const MISSING: u64 = 1;
/// `UFFD_EVENT_PAGEFAULT`, `UFFD_EVENT_REMOVE` and `UFFD_EVENT_UNMAP`.
const EVENT_FAULT: u8 = 0x12;
const EVENT_REMOVE: u8 = 0x15;
const EVENT_UNMAP: u8 = 0x16;
/// Bytes of a `struct uffd_msg`.
const MESSAGE: usize = 32;
/// Messages that are read at a time.
const MESSAGES: usize = 16;

/// What happened, with addresses of this process.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Somebody waits for the page at this address.
    Fault(u64),
    /// Pages are about to be given back to the host: they come again as missing ones.
    Remove(Range<u64>),
    /// Memory is no longer mapped.
    Unmap(Range<u64>),
}

/// What became of a page that was to be put in.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Put {
    /// It is there, and whoever waited for it goes on.
    Done,
    /// The mapping changes just now: events come, and then it can be tried again.
    Later,
}

/// A userfaultfd for missing pages, that says when pages are removed and memory is unmapped.
#[derive(Debug)]
pub(super) struct Uffd(OwnedFd);

impl Uffd {
    /// One that serves faults of the kernel too, as KVM's are.
    pub(super) fn open() -> io::Result<Self> {
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
        let raw = match OpenOptions::new().read(true).write(true).open(DEVICE) {
            // SAFETY: the call takes numbers only, and gives a new descriptor or an error.
            Ok(device) => unsafe { libc::ioctl(device.as_raw_fd(), NEW, flags) },
            // SAFETY: as above; what is cut off of a descriptor's number or of -1 is its sign's copies.
            Err(_) => RawFd::try_from(unsafe { libc::syscall(libc::SYS_userfaultfd, flags) }).unwrap_or(-1),
        };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just given this descriptor, and nobody else has it.
        let uffd = Self(unsafe { OwnedFd::from_raw_fd(raw) });
        uffd.call(API, &mut [VERSION, FEATURES, 0])?;
        Ok(uffd)
    }

    /// Reports missing pages of this range of addresses, which are whole pages, from now on.
    ///
    /// What the pages are that are put in is up to the caller: the range has to be of guest memory, which
    /// is only accessed as volatile.
    pub(super) fn register(&self, range: &Range<u64>) -> io::Result<()> {
        self.call(REGISTER, &mut [range.start, range.end - range.start, MISSING, 0])
    }

    /// Puts in a page. One that is there already stays what it is, and one that is no longer mapped stays
    /// away.
    pub(super) fn copy(&self, address: u64, page: &[u8]) -> io::Result<Put> {
        let put = self.call(COPY, &mut [address, page.as_ptr() as u64, page.len() as u64, 0, 0]);
        self.put(address, page.len() as u64, put)
    }

    /// Puts in a page of zeroes, in the same way.
    pub(super) fn zero(&self, address: u64) -> io::Result<Put> {
        let put = self.call(ZEROPAGE, &mut [address, PAGE_SIZE, 0, 0]);
        self.put(address, PAGE_SIZE, put)
    }

    fn put(&self, address: u64, len: u64, result: io::Result<()>) -> io::Result<Put> {
        match result.as_ref().map_err(io::Error::raw_os_error) {
            Ok(()) | Err(Some(libc::ENOENT | libc::ESRCH)) => Ok(Put::Done),
            Err(Some(libc::EEXIST)) => self.call(WAKE, &mut [address, len]).map(|()| Put::Done),
            Err(Some(libc::EAGAIN)) => Ok(Put::Later),
            Err(_) => result.map(|()| Put::Done),
        }
    }

    /// Waits for events, or for another descriptor to be readable: at most so many milliseconds, or for ever if
    /// that is -1.
    pub(super) fn events(&self, other: Option<RawFd>, timeout: i32) -> io::Result<Vec<Event>> {
        let mut buffer = [0; MESSAGE * MESSAGES];
        // A descriptor of -1 is none.
        if poll([self.0.as_raw_fd(), other.unwrap_or(-1)], timeout) < 0 {
            return none_yet(Vec::new());
        }
        // SAFETY: the buffer is that long, and lives over the call.
        let read = unsafe { libc::read(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
        let Ok(read) = usize::try_from(read) else { return none_yet(Vec::new()) };
        let (messages, _) = buffer.get(..read).unwrap_or_default().as_chunks();
        messages.iter().map(event).collect()
    }

    /// One of the calls with a structure of numbers. The kernel reads and writes just the structure that
    /// the call's number tells the length of, and what that names.
    fn call<const N: usize>(&self, number: libc::c_ulong, numbers: &mut [u64; N]) -> io::Result<()> {
        // SAFETY: each call above has the structure that its number stands for, which lives over the call.
        // What a copy reads from is a slice that lives as long. Pages are only put where a range was
        // registered and nothing is, and that is guest memory, which is only accessed as volatile.
        match unsafe { libc::ioctl(self.0.as_raw_fd(), number, numbers.as_mut_ptr()) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Whether something can be read from a descriptor now, its end included.
pub(super) fn is_readable(fd: RawFd) -> bool {
    poll([fd], 0) > 0
}

/// poll(2) for what is to be read, for so many milliseconds.
fn poll<const N: usize>(fds: [RawFd; N], timeout: i32) -> i32 {
    let mut fds = fds.map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
    // SAFETY: there are so many structures, which live over the call.
    unsafe { libc::poll(fds.as_mut_ptr(), N as libc::nfds_t, timeout) }
}

/// Nothing, if that is what the last call says, and else its error.
fn none_yet(nothing: Vec<Event>) -> io::Result<Vec<Event>> {
    match io::Error::last_os_error() {
        error if [io::ErrorKind::WouldBlock, io::ErrorKind::Interrupted].contains(&error.kind()) => {
            Ok(nothing)
        }
        error => Err(error),
    }
}

fn event(message: &[u8; MESSAGE]) -> io::Result<Event> {
    let (words, _) = message.as_chunks();
    let [_, one, two, _] = words else { return Err(io::ErrorKind::InvalidData.into()) };
    let (one, two) = (u64::from_ne_bytes(*one), u64::from_ne_bytes(*two));
    match message.first() {
        Some(&EVENT_FAULT) => Ok(Event::Fault(two)),
        Some(&EVENT_REMOVE) => Ok(Event::Remove(one..two)),
        Some(&EVENT_UNMAP) => Ok(Event::Unmap(one..two)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}
