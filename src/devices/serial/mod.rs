//! A serial port: a 16550A with a terminal connected.
//!
//! Both directions are flow-controlled, so that neither a slow reader of the guest's console nor
//! a guest that is not up yet loses characters. Outwards, a terminal without room keeps the
//! transmitter from becoming empty and the guest's driver waits. Inwards, the terminal honours
//! RTS: nothing is received before the guest's driver raises it.

mod registers;
mod uart;

use std::sync::Arc;

pub use registers::{REGISTERS, fcr, ier, iir, lcr, lsr, mcr, msr, offset};
pub use uart::{FIFO_LEN, Uart, UartState};

use super::{read_bytes, write_bytes};
use crate::bus::{Effect, Registers};
use crate::irq::IrqLine;

/// The terminal as the port sees it. All calls run on a vCPU's thread while its guest waits.
pub trait Transmit: Send {
    /// Takes a character. Called while [`Transmit::room`] holds.
    fn send(&mut self, byte: u8);

    /// Whether one more character can be taken. Nothing but [`Transmit::send`] uses room up; once
    /// this said `false`, room is announced to the port with [`Serial::output_ready`].
    fn room(&self) -> bool;

    /// [`Serial::input_room`] is no longer 0: waiting input can be given to [`Serial::receive`],
    /// but not from within this call, which is made with the port locked.
    fn input_wanted(&self);
}

/// A serial port on the bus.
pub struct Serial {
    uart: Uart,
    terminal: Box<dyn Transmit>,
    line: Arc<dyn IrqLine>,
    /// The level that `line` was last given.
    high: bool,
    /// The last access was a character that went out with the FIFOs enabled.
    burst: bool,
    /// Input is welcome.
    open: bool,
}

impl Serial {
    /// A port after reset.
    #[must_use]
    pub fn new(terminal: Box<dyn Transmit>, line: Arc<dyn IrqLine>) -> Self {
        let mut uart = Uart::default();
        if !terminal.room() {
            uart.transmitted(false);
        }
        Self { uart, terminal, line, high: false, burst: false, open: false }
    }

    /// Gives the guest input and returns how many characters it took: no more than
    /// [`Serial::input_room`].
    pub fn receive(&mut self, input: &[u8]) -> usize {
        let taken = input.len().min(self.input_room());
        for byte in input.iter().take(taken) {
            self.uart.receive(*byte);
        }
        self.settle();
        taken
    }

    /// Gives the guest a break, as a terminal's break key does, if there is room for it.
    pub fn receive_break(&mut self) -> bool {
        let room = self.input_room() > 0;
        if room {
            self.uart.receive_break();
            self.settle();
        }
        room
    }

    /// How many characters the guest takes now: none while it does not raise RTS, or while what
    /// it has taken fills more than half of a FIFO that was full. Each wake of the input's source
    /// so brings half a FIFO or more, not one character.
    #[must_use]
    pub fn input_room(&self) -> usize {
        if self.open { self.uart.room() } else { 0 }
    }

    /// The terminal has room again.
    pub fn output_ready(&mut self) {
        if !self.uart.is_stalled() {
            return;
        }
        let mut room = self.terminal.room();
        while room {
            let Some(byte) = self.uart.take_held() else { break };
            self.terminal.send(byte);
            room = self.terminal.room();
        }
        self.uart.transmitted(room);
        self.settle();
    }

    /// How many characters were lost because the guest wrote to a full transmitter.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.uart.dropped()
    }

    /// The state, to be given to [`Serial::restore`].
    #[must_use]
    pub fn save(&self) -> UartState {
        let Self { uart, terminal: _, line: _, high: _, burst: _, open: _ } = self;
        uart.save()
    }

    /// Takes a saved state. The interrupt line has the level that goes with it, or will have once its
    /// controller is restored; then comes [`Serial::connect`].
    pub fn restore(&mut self, state: &UartState) {
        self.uart.restore(state);
        self.burst = false;
        self.open = false;
        self.high = self.uart.irq();
    }

    /// Finds the terminal, which is another one than before a restore: it may have room, or none.
    pub fn connect(&mut self) {
        if self.uart.is_stalled() {
            self.output_ready();
        } else if !self.terminal.room() {
            self.uart.transmitted(false);
        }
        self.settle();
    }

    fn write_register(&mut self, offset: u64, value: u8) -> Effect {
        let Some(byte) = self.uart.write(offset, value) else {
            self.burst = false;
            self.settle();
            return Effect::None;
        };
        // The write withdrew the THR-empty interrupt, which comes back at once: an edge, that a
        // handler which never reads IIR depends on. But a driver that fills the FIFO gets one
        // interrupt for all of it, as the FIFO empties once, and not one for each character.
        if !self.burst {
            self.drive_line();
        }
        self.burst = self.uart.fifos_enabled();
        self.terminal.send(byte);
        self.uart.transmitted(self.terminal.room());
        self.drive_line();
        Effect::None
    }

    fn settle(&mut self) {
        self.drive_line();
        let was_open = self.open;
        let capacity = self.uart.capacity();
        let least = if was_open { 1 } else { capacity - capacity / 2 };
        self.open = self.uart.accepts_input() && self.uart.room() >= least;
        if self.open && !was_open {
            self.terminal.input_wanted();
        }
    }

    fn drive_line(&mut self) {
        let high = self.uart.irq();
        if high != self.high {
            self.high = high;
            self.line.set_level(high);
        }
    }
}

impl Registers for Serial {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        read_bytes(offset, data, |at| self.uart.read(at));
        self.burst = false;
        self.settle();
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Effect {
        write_bytes(offset, data, |at, value| self.write_register(at, value))
    }
}

#[cfg(test)]
mod tests;
