//! `spin`, `spin=cpl0`, `flood`: jobs without an end.

use crate::console::println;
use crate::cpu;

pub fn spin() -> ! {
    loop {
        cpu::pause();
    }
}

pub fn spin_ring0() -> ! {
    // SAFETY: an endless loop.
    unsafe { cpu::ring0(cpu::ring0_spin, 0, 0, 0) };
    spin()
}

pub fn flood() -> ! {
    let mut number = 0_u64;
    loop {
        println!("flood {number}");
        number = number.wrapping_add(1);
    }
}
