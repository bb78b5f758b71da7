//! Giving guest memory back to the host.

use std::io;

use vm_memory::bitmap::Bitmap;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion, GuestRegionMmap};

use super::dirty::WriteLog;
use super::layout::PAGE_SIZE;
use super::{GuestMemory, GuestSlice};

/// Gives the whole pages in a part of guest memory back to the host, and says how many bytes these are.
/// The guest finds them cleared when it touches them again.
///
/// # Errors
/// The host keeps them: what they hold may be gone or not.
pub fn discard(memory: &GuestMemory, part: &GuestSlice<'_>) -> io::Result<u64> {
    let page = usize::try_from(PAGE_SIZE).map_err(io::Error::other)?;
    let guard = part.ptr_guard_mut();
    let start = guard.as_ptr();
    let skipped = start.align_offset(page);
    let Some(len) = part.len().checked_sub(skipped).map(|len| len - len % page).filter(|len| *len > 0) else {
        return Ok(0);
    };
    let holds = |region: &&GuestRegionMmap<WriteLog>| {
        let at = (start as usize).wrapping_sub(region.as_ptr() as usize);
        u64::try_from(at).is_ok_and(|at| at < region.len())
    };
    // A page that others can map as well has to go from its file.
    let shared = memory.iter().find(holds).is_some_and(|region| region.flags() & libc::MAP_SHARED != 0);
    let advice = if shared { libc::MADV_REMOVE } else { libc::MADV_DONTNEED };
    // SAFETY: the range lies inside the slice, which borrows a mapping of guest memory. Guest memory is
    // only ever accessed as volatile: bytes that become 0 are a change like any of the guest's.
    let result = unsafe { libc::madvise(start.wrapping_add(skipped).cast(), len, advice) };
    part.bitmap().mark_dirty(skipped, len);
    match result {
        0 => u64::try_from(len).map_err(io::Error::other),
        _ => Err(io::Error::last_os_error()),
    }
}
