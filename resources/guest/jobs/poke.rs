//! `poke`: a hostile tour. Ports in every width (all of those below 0x1000, where
//! devices are, and a sample of the others; `poke=all` takes all), odd sizes and
//! places of MMIO, indices that no IOAPIC has. A monitor must shrug.

use core::arch::asm;

use crate::console::{self, println, say};
use crate::cpu::{in8, in16, in32, mmio_read32, mmio_write32, out8, out16, out32};
use crate::topology::Topology;
use crate::virtio::mmio::Window;
use crate::{Machine, end, paging};

/// Ports that end or reset a machine: ACPI registers of several monitors, debug
/// exits, the keyboard controller, port 92 and the reset control register; and
/// QEMU's port 7e, which has it rewrite the guest's code. The serial data port
/// is left out so that the console stays readable.
const SPARED: [(u32, u32); 9] = [
    (0x064, 0x064),
    (0x07e, 0x07f),
    (0x092, 0x092),
    (end::DEBUG_EXIT as u32, end::DEBUG_EXIT as u32 + 3),
    (console::PORT as u32, console::PORT as u32),
    (0x501, 0x501),
    (0x600, 0x60f),
    (0xcf9, 0xcf9),
    (0xb000, 0xb03f),
];

const HOLE: u32 = 0xd000_0000;

/// Every so manyth port of the upper ones.
pub const SAMPLE: usize = 61;
const LOWER: u16 = 0x1000;

pub fn run(machine: &Machine, step: usize) {
    say!("poke: ports");
    let upper = (LOWER..=u16::MAX).step_by(step).chain([u16::MAX]);
    for port in (0..LOWER).chain(upper) {
        for width in [1, 2, 4] {
            if spared(port, width) {
                continue;
            }
            let pattern = u32::from(port).wrapping_mul(0x9e37_79b1) | 1;
            match width {
                1 => out8(port, pattern as u8 ^ in8(port)),
                2 => out16(port, pattern as u16 ^ in16(port)),
                _ => out32(port, pattern ^ in32(port)),
            }
        }
    }
    console::initialise(false);
    say!("poke: strings");
    for port in [console::PORT + 7, 0x70, 0x0b80, 0xffff] {
        string_io(port);
    }
    say!("poke: memory");
    paging::reach(1 << 32);
    let topology = Topology::find(&machine.boot);
    io_apic(topology.io_apic);
    odd_accesses(HOLE);
    odd_accesses(HOLE + 0xffd);
    odd_accesses(0xfeff_fffd);
    for window in Window::named(machine.words) {
        virtio(&window);
    }
    console::initialise(false);
    println!("poke ok");
}

fn spared(port: u16, width: u32) -> bool {
    let (first, last) = (u32::from(port), u32::from(port) + width - 1);
    SPARED.iter().any(|&(from, to)| first <= to && from <= last)
}

/// String instructions: many items an exit, forwards and backwards.
fn string_io(port: u16) {
    let mut buffer = [0x55_u32; 64];
    let start = buffer.as_mut_ptr();
    let end = buffer.as_mut_ptr_range().end.wrapping_sub(1);
    // SAFETY: 64 items of at most four bytes, in the buffer.
    unsafe {
        asm!("rep outsb", in("dx") port, inout("rcx") 64 => _, inout("rsi") start => _);
        asm!("rep outsw", in("dx") port, inout("rcx") 64 => _, inout("rsi") start => _);
        asm!("rep outsd", in("dx") port, inout("rcx") 64 => _, inout("rsi") start => _);
        asm!("rep insb", in("dx") port, inout("rcx") 64 => _, inout("rdi") start => _);
        asm!("rep insw", in("dx") port, inout("rcx") 64 => _, inout("rdi") start => _);
        asm!("rep insd", in("dx") port, inout("rcx") 64 => _, inout("rdi") start => _);
        asm!("std", "rep outsd", "cld", in("dx") port, inout("rcx") 64 => _, inout("rsi") end => _);
    }
}

fn io_apic(address: u32) {
    for index in 0..=256 {
        mmio_write32(address, index);
        let value = mmio_read32(address + 0x10);
        mmio_write32(address + 0x10, value ^ u32::MAX);
        mmio_write32(address + 0x10, value | 1 << 16);
    }
    mmio_write32(address, u32::MAX);
    odd_accesses(address + 3);
    odd_accesses(address + 0x11);
    odd_accesses(address + 0x40);
    mmio_write32(address, 0);
}

/// Every width at an address, read-modify-write and string instructions.
fn odd_accesses(address: u32) {
    let at = u64::from(address);
    let mut buffer = [0_u8; 64];
    // SAFETY: mapped, no RAM there, and the strings fit the buffer.
    unsafe {
        asm!("mov al, [{0}]", "mov [{0}], al", in(reg) at, out("al") _);
        asm!("mov ax, [{0}]", "mov [{0}], ax", in(reg) at, out("ax") _);
        asm!("mov eax, [{0}]", "mov [{0}], eax", in(reg) at, out("eax") _);
        asm!("mov rax, [{0}]", "mov [{0}], rax", in(reg) at, out("rax") _);
        asm!("or dword ptr [{0}], 5", "xchg [{0}], eax", in(reg) at, out("eax") _);
        asm!("rep movsb", inout("rcx") 37 => _, inout("rsi") at => _, inout("rdi") buffer.as_mut_ptr() => _);
        asm!("rep movsb", inout("rcx") 37 => _, inout("rsi") buffer.as_ptr() => _, inout("rdi") at => _);
    }
}

/// Nonsense to a device that nobody has set up.
fn virtio(window: &Window) {
    for offset in (0..0x200.min(window.size)).step_by(4) {
        let at = window.address + offset;
        let value = mmio_read32(at);
        // The queue's size, address and readiness, the status, everything.
        mmio_write32(at, value ^ u32::MAX);
        mmio_write32(at, offset);
    }
    odd_accesses(window.address + 1);
    odd_accesses(window.address + 0x0fe);
    // The status register (VIRTIO 1.3, 4.2.2): zero resets the device.
    mmio_write32(window.address + 0x70, 0);
}
