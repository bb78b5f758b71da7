//! The kernel's and the processor's answers that no safe function gives.

// System calls, and an instruction.
#![allow(unsafe_code)]

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

/// The number of an error, for what a probe was refused.
pub(super) type Errno = i32;

/// `UFFDIO_API` of `linux/userfaultfd.h`: `_IOWR(0xaa, 0x3f, struct uffdio_api)`.
const UFFDIO_API: libc::c_ulong = 0xc018_aa3f;
/// `USERFAULTFD_IOC_NEW` of the same: `_IO(0xaa, 0)`.
const USERFAULTFD_IOC_NEW: libc::c_ulong = 0xaa00;
/// The one version of the interface, `UFFD_API`.
const UFFD_API: u64 = 0xaa;
/// `CPUID` leaf that names the hypervisor, by a convention of all of them.
const HYPERVISOR_LEAF: u32 = 0x4000_0000;

/// `struct uffdio_api` of `linux/userfaultfd.h`.
#[repr(C)]
struct UffdioApi {
    api: u64,
    features: u64,
    ioctls: u64,
}

fn last_errno() -> Errno {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

/// A descriptor that a system call gave, or why it did not.
fn descriptor(returned: libc::c_long) -> Result<OwnedFd, Errno> {
    match i32::try_from(returned) {
        // SAFETY: a system call has just made this descriptor, and nobody else knows of it.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(last_errno()),
    }
}

/// Whether a device may be opened for reading and writing.
pub(super) fn open(path: &str) -> Result<OwnedFd, Errno> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map(OwnedFd::from)
        .map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))
}

/// The features of a userfaultfd that takes faults of the kernel too, as KVM's are, by the system
/// call.
pub(super) fn userfaultfd() -> Result<u64, Errno> {
    // SAFETY: the call takes flags only.
    features(&descriptor(unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) })?)
}

/// The same by `/dev/userfaultfd`, whose permissions decide.
pub(super) fn userfaultfd_device() -> Result<u64, Errno> {
    let device = open("/dev/userfaultfd")?;
    // SAFETY: the request takes flags only.
    let fd = unsafe { libc::ioctl(device.as_raw_fd(), USERFAULTFD_IOC_NEW, libc::O_CLOEXEC) };
    features(&descriptor(fd.into())?)
}

fn features(fd: &OwnedFd) -> Result<u64, Errno> {
    let mut api = UffdioApi { api: UFFD_API, features: 0, ioctls: 0 };
    // SAFETY: the request reads and writes one `uffdio_api`, which lives here.
    match unsafe { libc::ioctl(fd.as_raw_fd(), UFFDIO_API, &raw mut api) } {
        0 => Ok(api.features),
        _ => Err(last_errno()),
    }
}

/// Whether this process may have an io_uring.
pub(super) fn io_uring() -> Result<(), Errno> {
    // `struct io_uring_params`, 120 bytes of which none asks for anything.
    let mut parameters = [0_u64; 15];
    // SAFETY: the call reads and writes one `io_uring_params`, for which there is room.
    let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, parameters.as_mut_ptr()) };
    descriptor(fd).map(drop)
}

/// A limit of this process: the one in force, and what it may be raised to. `u64::MAX` is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit {
    pub(super) soft: u64,
    pub(super) hard: u64,
}

/// Which limit.
#[derive(Clone, Copy)]
pub(super) enum Resource {
    OpenFiles,
    LockedMemory,
    Processes,
}

pub(super) fn limit(resource: Resource) -> Option<Limit> {
    let number = match resource {
        Resource::OpenFiles => libc::RLIMIT_NOFILE,
        Resource::LockedMemory => libc::RLIMIT_MEMLOCK,
        Resource::Processes => libc::RLIMIT_NPROC,
    };
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live rlimit.
    let returned = unsafe { libc::getrlimit(number, &raw mut limit) };
    (returned == 0).then_some(Limit { soft: limit.rlim_cur, hard: limit.rlim_max })
}

/// The twelve letters by which a hypervisor signs. Only where the processor says that there is
/// one: elsewhere the leaf holds another's data.
pub(super) fn hypervisor_signature() -> Option<[u8; 12]> {
    #[allow(unused_unsafe, reason = "older compilers hold the instruction for unsafe")]
    // SAFETY: every 64-bit x86 processor has CPUID; it reads registers only.
    let (basic, leaf) =
        unsafe { (std::arch::x86_64::__cpuid(1), std::arch::x86_64::__cpuid(HYPERVISOR_LEAF)) };
    if basic.ecx >> 31 == 0 {
        return None;
    }
    let mut signature = [0; 12];
    let words = [leaf.ebx, leaf.ecx, leaf.edx];
    for (place, byte) in signature.iter_mut().zip(words.into_iter().flat_map(u32::to_le_bytes)) {
        *place = byte;
    }
    Some(signature)
}

/// An error's text without its number.
pub(super) fn describe(errno: Errno) -> String {
    let text = io::Error::from_raw_os_error(errno).to_string();
    let end = text.find(" (os error").unwrap_or(text.len());
    text.get(..end).unwrap_or_default().to_lowercase()
}
