//! Calls about files that the standard library does not make.

// System calls.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::time::Duration;

use super::{Alignment, Call};

/// `BLKGETSIZE64` of `linux/fs.h`: `_IOR(0x12, 114, size_t)`.
const BLKGETSIZE64: libc::c_ulong = 0x8008_1272;
/// `BLKSSZGET` of the same: `_IO(0x12, 104)`.
const BLKSSZGET: libc::c_ulong = 0x1268;
/// What any file system and any device takes for direct transfers.
const SAFE_ALIGNMENT: u32 = 4096;

/// How often a lock is asked for that is held, and how long after one another.
const LOCK_ATTEMPTS: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(5);

fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

/// A number of bytes, or an error's number, from a call's answer.
fn counted(returned: impl TryInto<u64>) -> Result<u64, i32> {
    returned.try_into().map_err(|_| errno())
}

/// The kernel's type of offsets; one that does not fit is no place in a file.
fn signed(number: u64) -> Result<libc::off_t, i32> {
    libc::off_t::try_from(number).map_err(|_| libc::EINVAL)
}

fn number(buffers: &[libc::iovec]) -> Result<libc::c_int, i32> {
    libc::c_int::try_from(buffers.len()).map_err(|_| libc::EINVAL)
}

pub(super) fn perform(file: &File, call: &Call<'_>, durably: bool) -> Result<u64, i32> {
    let fd = file.as_raw_fd();
    match *call {
        Call::Read { buffers, offset } => {
            let (count, offset) = (number(buffers)?, signed(offset)?);
            // SAFETY: whoever made the buffers keeps their memory mapped and writable while the call is
            // made, and makes no reference to it.
            counted(unsafe { libc::preadv(fd, buffers.as_ptr(), count, offset) })
        }
        Call::Write { buffers, offset } => {
            let (count, offset) = (number(buffers)?, signed(offset)?);
            let flags = if durably { libc::RWF_DSYNC } else { 0 };
            // SAFETY: whoever made the buffers keeps their memory mapped while the call is made.
            counted(unsafe { libc::pwritev2(fd, buffers.as_ptr(), count, offset, flags) })
        }
        Call::Allocate { mode, offset, len } => {
            // SAFETY: the call takes numbers only.
            counted(unsafe { libc::fallocate(fd, mode, signed(offset)?, signed(len)?) })
        }
        // SAFETY: the call takes a descriptor only.
        Call::Sync => counted(unsafe { libc::fdatasync(fd) }),
    }
}

/// Why a lock is not given.
pub(super) enum Refusal {
    Held { by_writer: bool },
    Failed(io::Error),
}

fn flock(file: &File, operation: libc::c_int) -> io::Result<()> {
    // SAFETY: the call takes numbers only.
    match unsafe { libc::flock(file.as_raw_fd(), operation | libc::LOCK_NB) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Locks the open file: alone for a writer, with others for a reader. The lock belongs to the open file, so
/// it also holds between machines of one process; it ends when that is closed, however the process ends.
///
/// One that is held is asked for again, for a moment: of a process that was killed with a ring the kernel
/// closes the files shortly after its end.
pub(super) fn lock(file: &File, alone: bool) -> Result<(), Refusal> {
    let mut attempts = LOCK_ATTEMPTS;
    let error = loop {
        match flock(file, if alone { libc::LOCK_EX } else { libc::LOCK_SH }) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && attempts > 1 => {
                attempts -= 1;
                std::thread::sleep(LOCK_PAUSE);
            }
            Err(error) => break error,
        }
    };
    match error.raw_os_error() {
        // Readers let readers in.
        Some(libc::EWOULDBLOCK) => {
            Err(Refusal::Held { by_writer: !alone || flock(file, libc::LOCK_SH).is_err() })
        }
        // A file system without locks keeps nobody out: better a disk than none.
        Some(libc::ENOSYS | libc::EOPNOTSUPP | libc::ENOLCK) => {
            log::warn!("an image's file system has no locks: nothing keeps two machines from writing it");
            Ok(())
        }
        _ => Err(Refusal::Failed(error)),
    }
}

/// Lets go of the lock.
pub(super) fn unlock(file: &File) {
    // It fails where there are no locks.
    let _ = flock(file, libc::LOCK_UN);
}

/// The size of a block device.
pub(super) fn device_size(file: &File) -> io::Result<u64> {
    let mut size = 0_u64;
    // SAFETY: the request writes one 64-bit number, which lives here.
    match unsafe { libc::ioctl(file.as_raw_fd(), BLKGETSIZE64, &raw mut size) } {
        0 => Ok(size),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What direct transfers have to be multiples of; none where the file does not take them.
pub(super) fn direct_alignment(file: &File, block_device: bool) -> Option<Alignment> {
    let mut answer = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the path is an empty C string, which with the flag means the descriptor itself; the call
    // writes one `statx`, for which there is room.
    let returned = unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_DIOALIGN,
            answer.as_mut_ptr(),
        )
    };
    if returned == 0 {
        // SAFETY: the structure was all zeroes, which is a value of it, before the kernel filled it in.
        let answer = unsafe { answer.assume_init() };
        if answer.stx_mask & libc::STATX_DIOALIGN != 0 {
            let memory = usize::try_from(answer.stx_dio_mem_align).ok()?;
            let offset = answer.stx_dio_offset_align;
            // Zeroes say that it takes none.
            return (memory.is_power_of_two() && offset.is_power_of_two())
                .then_some(Alignment { memory, offset });
        }
    }
    // Older kernels do not tell; a device tells its sector, which is enough for offsets.
    let mut sector: libc::c_int = 0;
    // SAFETY: the request writes one `int`, which lives here.
    let told = block_device && unsafe { libc::ioctl(file.as_raw_fd(), BLKSSZGET, &raw mut sector) } == 0;
    let offset = u32::try_from(sector).ok().filter(|sector| told && sector.is_power_of_two());
    Some(Alignment {
        memory: usize::try_from(SAFE_ALIGNMENT).ok()?,
        offset: offset.unwrap_or(SAFE_ALIGNMENT),
    })
}
