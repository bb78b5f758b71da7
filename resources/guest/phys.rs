//! Reading what others left in memory, at addresses that they chose. Any
//! address below 4 GiB can be read (a hole reads as ones); others give `None`.

use crate::paging;

const LIMIT: u64 = 1 << 32;

fn read<T: Copy>(address: u64) -> Option<T> {
    let end = address.checked_add(size_of::<T>() as u64)?;
    if end > LIMIT || address == 0 {
        return None;
    }
    paging::reach(end);
    // SAFETY: mapped, readable, and any bit pattern is a T (integers only, below).
    Some(unsafe { (address as *const T).read_unaligned() })
}

pub fn read8(address: u64) -> Option<u8> {
    read(address)
}

pub fn read16(address: u64) -> Option<u16> {
    read(address)
}

pub fn read32(address: u64) -> Option<u32> {
    read(address)
}

pub fn read64(address: u64) -> Option<u64> {
    read(address)
}

/// Copies up to a NUL byte or until the buffer is full.
pub fn read_string(address: u64, buffer: &mut [u8]) -> &[u8] {
    let mut length = 0;
    for (slot, at) in buffer.iter_mut().zip(address..) {
        match read8(at) {
            None | Some(0) => break,
            Some(byte) => *slot = byte,
        }
        length += 1;
    }
    &buffer[..length]
}
