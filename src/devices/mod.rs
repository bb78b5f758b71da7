//! The fixed devices of the machine.
//!
//! Each is a register core that does no I/O and a thin adapter that puts the core on a bus, an
//! interrupt line and the host. Every access comes from the guest: any offset, width, value and
//! order must leave a device in a state that it has a name for.

pub mod boot_timer;
pub mod debug_exit;
pub mod i8042;
pub mod ioapic;
pub mod power;
pub mod rtc;
pub mod serial;
pub mod vmgenid;

use crate::bus::Effect;

/// Reads a device of byte-wide registers: byte `n` of the access comes from `offset + n`, which is
/// what an ISA bus does with a wider access to an 8-bit device.
fn read_bytes(offset: u64, data: &mut [u8], mut read: impl FnMut(u64) -> u8) {
    for (n, byte) in (0..).zip(data) {
        *byte = read(offset.wrapping_add(n));
    }
}

/// Writes a device of byte-wide registers, in the order of the offsets. The first effect ends the
/// access: a machine that was reset or turned off takes no further bytes.
fn write_bytes(offset: u64, data: &[u8], mut write: impl FnMut(u64, u8) -> Effect) -> Effect {
    for (n, byte) in (0..).zip(data) {
        let effect = write(offset.wrapping_add(n), *byte);
        if effect != Effect::None {
            return effect;
        }
    }
    Effect::None
}
