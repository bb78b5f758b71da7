//! Waiting for what happens outside, halted: input on the console, a new generation id.

use crate::acpi::Acpi;
use crate::apic::{self, IoApic, vector};
use crate::console::{self, read_byte, register};
use crate::cpu::{self, out8};
use crate::topology::Topology;
use crate::{Machine, trap};

const SERIAL_PIN: u32 = 4;
const END_OF_TRANSMISSION: u8 = 4;

/// The interrupts of the serial port and of the generation id, routed to this CPU.
pub struct Events {
    io_apic: IoApic,
    generation_pin: Option<u32>,
}

impl Events {
    /// `enabled` is what the serial port shall interrupt for.
    pub fn start(machine: &Machine, enabled: u8) -> Self {
        trap::install();
        apic::enable();
        let dsdt = Acpi::find(machine.boot.rsdp()).and_then(|acpi| acpi.dsdt());
        let events = Events {
            io_apic: IoApic { address: Topology::find(&machine.boot).io_apic },
            generation_pin: dsdt.and_then(|dsdt| dsdt.event_interrupt()),
        };
        events.io_apic.route(SERIAL_PIN, vector::SERIAL, apic::id());
        if let Some(pin) = events.generation_pin {
            events.io_apic.route(pin, vector::GENERATION, apic::id());
        }
        out8(console::PORT + register::IER, enabled);
        events
    }

    /// Halts until an interrupt. What it was about must have been dealt with before: the serial port
    /// has to have been read empty.
    pub fn wait(&self) {
        cpu::wait_for_interrupt();
    }

    pub fn stop(self) {
        out8(console::PORT + register::IER, 0);
        self.io_apic.mask(SERIAL_PIN);
        if let Some(pin) = self.generation_pin {
            self.io_apic.mask(pin);
        }
    }
}

/// What somebody has typed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Typed {
    Byte,
    Line,
    /// A line `quit`, or Ctrl-D.
    Quit,
}

/// The line that is being typed: its length, and as much of it as `quit` is long.
#[derive(Default)]
pub struct Keyboard {
    length: usize,
    line: [u8; 4],
}

impl Keyboard {
    /// The next byte, if one has come.
    pub fn take(&mut self) -> Option<Typed> {
        let byte = read_byte()?;
        if byte == END_OF_TRANSMISSION {
            return Some(Typed::Quit);
        }
        if byte == b'\r' || byte == b'\n' {
            let quit = self.length == self.line.len() && self.line == *b"quit";
            self.length = 0;
            return Some(if quit { Typed::Quit } else { Typed::Line });
        }
        if let Some(slot) = self.line.get_mut(self.length) {
            *slot = byte;
        }
        self.length = self.length.saturating_add(1);
        Some(Typed::Byte)
    }
}
