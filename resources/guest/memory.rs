//! The four functions that the compiler calls on its own. One string
//! instruction each, so that no loop is turned into a call of itself.

use core::arch::asm;

/// # Safety
/// As C's `memcpy`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(target: *mut u8, source: *const u8, count: usize) -> *mut u8 {
    // SAFETY: the caller vouches for both ranges; DF is clear (System V ABI).
    unsafe {
        asm!("rep movsb", inout("rcx") count => _, inout("rdi") target => _, inout("rsi") source => _,
             options(nostack, preserves_flags));
    }
    target
}

/// # Safety
/// As C's `memmove`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(target: *mut u8, source: *const u8, count: usize) -> *mut u8 {
    if target.addr().wrapping_sub(source.addr()) >= count {
        // SAFETY: copying upwards does not overwrite what is still to be read.
        return unsafe { memcpy(target, source, count) };
    }
    // SAFETY: as above, downwards from the last byte; DF is clear again afterwards.
    // The count is not zero here.
    unsafe {
        asm!("std", "rep movsb", "cld", inout("rcx") count => _,
             inout("rdi") target.add(count - 1) => _, inout("rsi") source.add(count - 1) => _,
             options(nostack));
    }
    target
}

/// # Safety
/// As C's `memset`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(target: *mut u8, value: i32, count: usize) -> *mut u8 {
    // SAFETY: the caller vouches for the range; DF is clear.
    unsafe {
        asm!("rep stosb", inout("rcx") count => _, inout("rdi") target => _, in("al") value as u8,
             options(nostack, preserves_flags));
    }
    target
}

/// # Safety
/// As C's `memcmp`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, count: usize) -> i32 {
    let (mut at, mut result) = (0, 0);
    while at < count && result == 0 {
        // SAFETY: the caller vouches for `count` bytes of both; a volatile read
        // keeps the loop a loop.
        result =
            unsafe { i32::from(left.add(at).read_volatile()) - i32::from(right.add(at).read_volatile()) };
        at += 1;
    }
    result
}

/// # Safety
/// As the C library's `bcmp`.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, count: usize) -> i32 {
    // SAFETY: the same contract.
    unsafe { memcmp(left, right, count) }
}
