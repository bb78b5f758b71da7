//! `interrupts`: one through the IOAPIC (the serial port's), one from the local
//! APIC's timer.

use crate::apic::{self, IoApic, vector};
use crate::clock::Frequency;
use crate::console::{self, println, register};
use crate::cpu::{self, out8};
use crate::topology::Topology;
use crate::{Machine, trap};

const SERIAL_PIN: u32 = 4;
const TIMER_TICKS: u32 = 100_000;
/// Microseconds to wait for an interrupt.
const PATIENCE: u64 = 500_000;

pub fn run(machine: &Machine) {
    apic::enable();
    let io_apic = IoApic { address: Topology::find(&machine.boot).io_apic };

    io_apic.route(SERIAL_PIN, vector::SERIAL, apic::id());
    out8(console::PORT + register::IER, console::IER_TRANSMITTER_EMPTY);
    let serial = wait(trap::serial_count);
    out8(console::PORT + register::IER, 0);
    io_apic.mask(SERIAL_PIN);

    apic::arm_timer(TIMER_TICKS);
    let timer = wait(trap::timer_count);
    apic::disarm_timer();

    println!("interrupts serial={serial} timer={timer}");
}

/// The number of interrupts when the first has come, or when time is up.
fn wait(count: fn() -> u64) -> u64 {
    let ticks = Frequency::known().map_or(PATIENCE * 3000, |frequency| frequency.ticks(PATIENCE));
    let start = cpu::tsc();
    while count() == 0 && cpu::tsc().wrapping_sub(start) < ticks {
        cpu::interrupt_window();
    }
    count()
}
