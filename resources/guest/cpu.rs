//! Instructions that have no Rust: ports, MMIO, CPUID, the TSC, and the gate to
//! CPL 0.

use core::arch::asm;
use core::arch::x86_64::{_rdtsc, CpuidResult};

use crate::paging;

/// A routine of ring0.s. Only those may run at CPL 0.
pub type Ring0 = unsafe extern "sysv64" fn(u64, u64, u64) -> u64;

unsafe extern "sysv64" {
    fn ring0_call(first: u64, second: u64, third: u64, routine: Ring0) -> u64;
    pub fn ring0_hlt(_: u64, _: u64, _: u64) -> u64;
    pub fn ring0_interrupt_window(_: u64, _: u64, _: u64) -> u64;
    pub fn ring0_allow_interrupts(_: u64, _: u64, _: u64) -> u64;
    pub fn ring0_forbid_interrupts(_: u64, _: u64, _: u64) -> u64;
    pub fn ring0_read_dr0(_: u64, _: u64, _: u64) -> u64;
    pub fn ring0_read_dr3(_: u64, _: u64, _: u64) -> u64;
    pub fn ring0_write_dr0(_: u64, _: u64, _: u64) -> u64;
    pub fn ring0_write_dr3(_: u64, _: u64, _: u64) -> u64;
    pub fn ring0_stop(_: u64, _: u64, _: u64) -> u64;
    pub fn ring0_rdmsr(_: u64, _: u64, _: u64) -> u64;
    pub fn ring0_wrmsr(_: u64, _: u64, _: u64) -> u64;
    pub fn ring0_triple_fault(_: u64, _: u64, _: u64) -> u64;
    pub fn ring0_jump(_: u64, _: u64, _: u64) -> u64;
    pub fn ring0_spin(_: u64, _: u64, _: u64) -> u64;
    pub fn ring0_cmpxchg16b(_: u64, _: u64, _: u64) -> u64;
    pub fn hold_registers(seed: u64, iterations: u64, _: u64) -> u64;
    pub fn work_loop(iterations: u64, _: u64, _: u64) -> u64;
    pub fn exits_pio_out(count: u64, port: u64, samples: u64) -> u64;
    pub fn exits_pio_in(count: u64, port: u64, samples: u64) -> u64;
    pub fn exits_mmio_read(count: u64, address: u64, samples: u64) -> u64;
    pub fn exits_mmio_write(count: u64, address: u64, samples: u64) -> u64;
    pub fn exits_none(count: u64, _: u64, samples: u64) -> u64;
    pub fn exits_serial(count: u64, port: u64, samples: u64) -> u64;
    pub fn exits_notify(count: u64, address: u64, samples: u64) -> u64;
    pub fn exits_touch(count: u64, address: u64, samples: u64) -> u64;
    pub fn exits_vmcall(count: u64, _: u64, samples: u64) -> u64;
    pub fn exits_vmmcall(count: u64, _: u64, samples: u64) -> u64;
    pub fn exits_cpuid(count: u64, _: u64, samples: u64) -> u64;
}

/// Calls a routine of ring0.s at CPL 0. The IDT must be loaded
/// (`trap::install`).
///
/// # Safety
/// The routine must be sound with these arguments.
pub unsafe fn ring0(routine: Ring0, first: u64, second: u64, third: u64) -> u64 {
    // SAFETY: the caller's contract; the gate keeps to the ABI and switches to its own stack.
    unsafe { ring0_call(first, second, third, routine) }
}

/// Stops this CPU for ever.
pub fn stop() -> ! {
    loop {
        // SAFETY: touches nothing.
        unsafe { ring0(ring0_stop, 0, 0, 0) };
    }
}

/// Sleeps until an interrupt has been handled.
pub fn wait_for_interrupt() {
    // SAFETY: the handlers count and return.
    unsafe { ring0(ring0_hlt, 0, 0, 0) };
}

/// Takes what interrupts are pending.
pub fn interrupt_window() {
    // SAFETY: the handlers count and return.
    unsafe { ring0(ring0_interrupt_window, 0, 0, 0) };
}

/// Whether interrupts come at CPL 3, at any instruction.
pub fn allow_interrupts(allowed: bool) {
    let routine = if allowed { ring0_allow_interrupts } else { ring0_forbid_interrupts };
    // SAFETY: the handlers count and return.
    unsafe { ring0(routine, 0, 0, 0) };
}

/// Ports and MMIO are the guest's to use as it likes: no access can break
/// Rust's own memory, except by a device's DMA, which nobody here starts.
pub fn out8(port: u16, value: u8) {
    // SAFETY: see above.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nostack, preserves_flags)) }
}

pub fn out16(port: u16, value: u16) {
    // SAFETY: see `out8`.
    unsafe { asm!("out dx, ax", in("dx") port, in("ax") value, options(nostack, preserves_flags)) }
}

pub fn out32(port: u16, value: u32) {
    // SAFETY: see `out8`.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nostack, preserves_flags)) }
}

pub fn in8(port: u16) -> u8 {
    let value;
    // SAFETY: see `out8`.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nostack, preserves_flags)) }
    value
}

pub fn in16(port: u16) -> u16 {
    let value;
    // SAFETY: see `out8`.
    unsafe { asm!("in ax, dx", in("dx") port, out("ax") value, options(nostack, preserves_flags)) }
    value
}

pub fn in32(port: u16) -> u32 {
    let value;
    // SAFETY: see `out8`.
    unsafe { asm!("in eax, dx", in("dx") port, out("eax") value, options(nostack, preserves_flags)) }
    value
}

/// Reads a byte of a device's registers below 4 GiB.
pub fn mmio_read8(address: u32) -> u8 {
    paging::reach(u64::from(address) + 1);
    let value;
    // SAFETY: the address is mapped and is a device's.
    unsafe {
        asm!("mov {0}, [{1}]", out(reg_byte) value, in(reg) u64::from(address), options(nostack, preserves_flags))
    }
    value
}

/// Reads two bytes of a device's registers below 4 GiB.
pub fn mmio_read16(address: u32) -> u16 {
    paging::reach(u64::from(address) + 2);
    let value;
    // SAFETY: the address is mapped and is a device's.
    unsafe {
        asm!("mov {0:x}, [{1}]", out(reg) value, in(reg) u64::from(address), options(nostack, preserves_flags))
    }
    value
}

/// Reads a device's register below 4 GiB.
pub fn mmio_read32(address: u32) -> u32 {
    paging::reach(u64::from(address) + 4);
    let value;
    // SAFETY: the address is mapped and is a device's.
    unsafe {
        asm!("mov {0:e}, [{1}]", out(reg) value, in(reg) u64::from(address), options(nostack, preserves_flags))
    }
    value
}

/// Writes a device's register below 4 GiB.
pub fn mmio_write32(address: u32, value: u32) {
    paging::reach(u64::from(address) + 4);
    // SAFETY: the address is mapped and is a device's.
    unsafe {
        asm!("mov [{1}], {0:e}", in(reg) value, in(reg) u64::from(address), options(nostack, preserves_flags))
    }
}

/// Writes 1, 2, 4 or 8 bytes to a device below 4 GiB, at any address.
pub fn mmio_write(address: u32, width: u32, value: u64) {
    let at = u64::from(address);
    paging::reach(at + 8);
    // SAFETY: the address is mapped and is a device's.
    unsafe {
        match width {
            1 => asm!("mov [{0}], al", in(reg) at, in("rax") value, options(nostack, preserves_flags)),
            2 => asm!("mov [{0}], ax", in(reg) at, in("rax") value, options(nostack, preserves_flags)),
            4 => asm!("mov [{0}], eax", in(reg) at, in("rax") value, options(nostack, preserves_flags)),
            _ => asm!("mov [{0}], rax", in(reg) at, in("rax") value, options(nostack, preserves_flags)),
        }
    }
}

/// Reads so many bytes of a device below 4 GiB, for the sake of reading.
pub fn mmio_read(address: u32, width: u32) {
    let at = u64::from(address);
    paging::reach(at + 8);
    // SAFETY: the address is mapped and is a device's.
    unsafe {
        match width {
            1 => asm!("mov al, [{0}]", in(reg) at, out("rax") _, options(nostack, preserves_flags)),
            2 => asm!("mov ax, [{0}]", in(reg) at, out("rax") _, options(nostack, preserves_flags)),
            4 => asm!("mov eax, [{0}]", in(reg) at, out("rax") _, options(nostack, preserves_flags)),
            _ => asm!("mov rax, [{0}]", in(reg) at, out("rax") _, options(nostack, preserves_flags)),
        }
    }
}

pub fn tsc() -> u64 {
    // SAFETY: CR4.TSD is clear.
    unsafe { _rdtsc() }
}

pub fn pause() {
    core::hint::spin_loop();
}

// Not `__cpuid_count`: it is unsafe to call in some of the compilers that we take.
pub fn cpuid(leaf: u32, subleaf: u32) -> CpuidResult {
    let (eax, ebx, ecx, edx): (u32, u64, u32, u32);
    // SAFETY: every 64-bit CPU has it; RBX, which the compiler keeps for itself, is put back.
    unsafe {
        asm!("mov {0}, rbx", "cpuid", "xchg {0}, rbx", out(reg) ebx, inout("eax") leaf => eax,
             inout("ecx") subleaf => ecx, out("edx") edx, options(nostack, preserves_flags));
    }
    CpuidResult { eax, ebx: ebx as u32, ecx, edx }
}

/// The first hypervisor leaf (the CPUID range that no CPU uses).
pub const HYPERVISOR_LEAF: u32 = 0x4000_0000;

/// The hypervisor's signature and last leaf, if a hypervisor says it is there
/// (CPUID 1, ECX bit 31).
pub fn hypervisor() -> Option<([u8; 12], u32)> {
    if cpuid(1, 0).ecx & (1 << 31) == 0 {
        return None;
    }
    let leaf = cpuid(HYPERVISOR_LEAF, 0);
    let mut signature = [0; 12];
    for (part, word) in signature.chunks_exact_mut(4).zip([leaf.ebx, leaf.ecx, leaf.edx]) {
        part.copy_from_slice(&word.to_le_bytes());
    }
    Some((signature, leaf.eax))
}

/// The brand string (CPUID 0x80000002 to 4), if there is one.
pub fn brand() -> Option<[u8; 48]> {
    if cpuid(0x8000_0000, 0).eax < 0x8000_0004 {
        return None;
    }
    let mut brand = [0; 48];
    for (part, leaf) in brand.chunks_exact_mut(16).zip(0x8000_0002..) {
        let leaf = cpuid(leaf, 0);
        for (word, value) in part.chunks_exact_mut(4).zip([leaf.eax, leaf.ebx, leaf.ecx, leaf.edx]) {
            word.copy_from_slice(&value.to_le_bytes());
        }
    }
    Some(brand)
}
