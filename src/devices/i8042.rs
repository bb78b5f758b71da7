//! What remains of a PC's keyboard controller: its reset line, and system control port B.
//!
//! There is no keyboard and, for a probe, no controller: the status register says for ever that a
//! byte waits to be read. Linux gives up on that after 16 bytes (`i8042_flush`, "No controller
//! found"), while a controller that seems idle would cost it a timeout of half a second for each
//! command that stays without answer. The bit that says the controller is busy is clear, or a
//! reboot would wait for it before it pulses the reset line (`kb_wait`).

use super::{read_bytes, write_bytes};
use crate::bus::{Effect, Registers};
use crate::state::saved;

/// Number of ports.
pub const PORTS: u64 = 5;

/// Offset of the data port, which reads 0.
const DATA: u64 = 0;
/// Offset of system control port B.
const PORT_B: u64 = 1;
/// Offset of the status (read) and command (write) port.
const COMMAND: u64 = 4;

/// Status: a byte waits to be read.
const STATUS_OUTPUT_FULL: u8 = 1 << 0;

/// Commands from here on pulse the output lines whose bits are 0; line 0 is the processor's reset.
const PULSE: u8 = 0xf0;
/// The reset line's bit.
const RESET_LINE: u8 = 1 << 0;

/// Port B: timer gate, speaker and check enables, which can be written.
const PORT_B_WRITABLE: u8 = 0x0f;
/// Port B: the refresh toggle and the timer's output. Delay loops wait for the one to change,
/// Linux' calibration for the other to rise; they change with every read, so that all such loops
/// end. Bits 6 and 7 stay 0: an NMI handler would take them for a hardware error.
const PORT_B_TOGGLES: u8 = 0x30;

/// The keyboard controller on the bus.
#[derive(Debug, Default)]
pub struct I8042 {
    port_b: u8,
}

saved! {
    "i8042", version 1, fingerprint 2299750590;
    /// A keyboard controller's state, as plain data.
    #[derive(Eq)]
    pub struct I8042State {
        /// System control port B as it was last read or written.
        pub port_b: u8,
    }
}

impl I8042 {
    /// The state, to be given to [`I8042::restore`].
    #[must_use]
    pub fn save(&self) -> I8042State {
        let Self { port_b } = self;
        I8042State { port_b: *port_b }
    }

    /// Takes a saved state.
    pub fn restore(&mut self, state: &I8042State) {
        let I8042State { port_b } = state;
        self.port_b = port_b & (PORT_B_WRITABLE | PORT_B_TOGGLES);
    }
}

impl Registers for I8042 {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        read_bytes(offset, data, |at| match at {
            DATA => 0,
            PORT_B => {
                self.port_b ^= PORT_B_TOGGLES;
                self.port_b
            }
            COMMAND => STATUS_OUTPUT_FULL,
            _ => 0xff,
        });
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Effect {
        write_bytes(offset, data, |at, value| {
            match at {
                PORT_B => self.port_b = self.port_b & PORT_B_TOGGLES | value & PORT_B_WRITABLE,
                COMMAND if value & (PULSE | RESET_LINE) == PULSE => return Effect::Reset,
                _ => {}
            }
            Effect::None
        })
    }
}

#[cfg(test)]
mod tests;
