//! `fault=KIND`: what a guest can do wrong.

use core::arch::asm;

use crate::console::{println, say};
use crate::cpu::{self, Ring0};
use crate::paging;

/// Where a microVM has no memory, so that no instruction can be fetched.
const HOLE: u64 = 0xd000_0000;
/// An address that no page table maps.
const NOWHERE: u64 = 0x0000_4000_0000_0000;

pub fn run(kind: &'static str) {
    say!("fault: {kind}");
    let (routine, argument): (Ring0, u64) = match kind {
        "ud" => invalid_instruction(),
        "pf" => page_fault(),
        "triple" => (cpu::ring0_triple_fault, 0),
        "internal" => (cpu::ring0_jump, HOLE),
        "emulation" => (cpu::ring0_cmpxchg16b, 0),
        _ => return super::complain("no such fault", kind),
    };
    paging::reach(1 << 32);
    // SAFETY: ends in a fault or stops the machine, as asked, or harms nothing.
    unsafe { cpu::ring0(routine, argument, 0, 0) };
    // Only the last one can come back.
    println!("fault: {kind} passed");
}

fn invalid_instruction() -> ! {
    // SAFETY: the exception is reported (trap.rs) and the machine ends.
    unsafe { asm!("ud2", options(noreturn)) }
}

fn page_fault() -> ! {
    // SAFETY: no such page: the exception is reported and the machine ends.
    unsafe { asm!("mov al, [{}]", "ud2", in(reg) NOWHERE, options(noreturn)) }
}
