//! The registers of ACPI's hardware-reduced mode for power-off and reset.
//!
//! The FADT names them: sleep control and sleep status (ACPI 6.5, section 4.8.3.7) and the reset
//! register (section 4.8.3.6). The values that mean something
//! stand in [`layout`](crate::memory::layout), where the tables have them from. They hold no state.

use super::{read_bytes, write_bytes};
use crate::bus::{Effect, Registers};
use crate::memory::layout::{ACPI_RESET_VALUE, ACPI_SLEEP_TYPE_S5};

/// Number of ports.
pub const PORTS: u64 = 3;
/// Offset of the sleep control register.
pub const SLEEP_CONTROL: u64 = 0;
/// Offset of the sleep status register.
pub const SLEEP_STATUS: u64 = 1;
/// Offset of the reset register.
pub const RESET: u64 = 2;

/// Sleep control: enter the state of the sleep type. Write-only.
const SLEEP_ENABLE: u8 = 1 << 5;
/// Sleep control: bits 2 to 4 are the sleep type.
const SLEEP_TYPE_SHIFT: u8 = 2;

/// ACPI's power-off and reset registers on the bus.
#[derive(Debug, Default)]
pub struct AcpiPower;

impl Registers for AcpiPower {
    /// All read 0. In particular sleep status does not say that the machine woke up: there is no
    /// sleep from which it could.
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        read_bytes(offset, data, |at| if at < PORTS { 0 } else { 0xff });
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Effect {
        write_bytes(offset, data, |at, value| match at {
            SLEEP_CONTROL
                if value & SLEEP_ENABLE != 0 && value >> SLEEP_TYPE_SHIFT & 7 == ACPI_SLEEP_TYPE_S5 =>
            {
                Effect::PowerOff
            }
            RESET if value == ACPI_RESET_VALUE => Effect::Reset,
            _ => Effect::None,
        })
    }
}

#[cfg(test)]
mod tests;
