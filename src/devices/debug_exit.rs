//! A port through which a guest ends the machine with a value, compatible with QEMU's
//! `isa-debug-exit`: test kernels use it to report their result.

use crate::bus::{Effect, Registers};

/// Number of ports.
pub const PORTS: u64 = 4;

/// The debug exit on the bus.
#[derive(Debug, Default)]
pub struct DebugExit;

impl Registers for DebugExit {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    /// A write of 1, 2 or 4 bytes at the first port ends the machine; others mean nothing.
    fn write(&mut self, offset: u64, data: &[u8]) -> Effect {
        match (offset, data) {
            (0, [a]) => Effect::DebugExit(u32::from(*a)),
            (0, [a, b]) => Effect::DebugExit(u32::from(u16::from_le_bytes([*a, *b]))),
            (0, [a, b, c, d]) => Effect::DebugExit(u32::from_le_bytes([*a, *b, *c, *d])),
            _ => Effect::None,
        }
    }
}

#[cfg(test)]
mod tests;
