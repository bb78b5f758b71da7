//! The two address spaces through which a guest reaches devices: I/O ports and MMIO.
//!
//! A vCPU exit becomes one [`Bus::read`] or [`Bus::write`]. What a device wants from the machine
//! (a reset, a power-off) comes back as a value, the [`Effect`]; there are no callbacks.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thiserror::Error;

/// A device's register file: what an access at an offset from its base reads or changes.
///
/// Both calls run on a vCPU's thread while its guest waits, so they must be short and do no I/O.
/// `data` has the width of the guest's access: 1, 2, 4 or 8 bytes in little-endian order. KVM
/// splits an access that crosses a page, so an odd width is possible too; offsets and widths come
/// from the guest and must be treated as hostile.
pub trait Registers: Send {
    /// Fills `data` with what the guest reads at `offset`.
    fn read(&mut self, offset: u64, data: &mut [u8]);

    /// Takes what the guest writes at `offset`.
    fn write(&mut self, offset: u64, data: &[u8]) -> Effect;
}

/// What a register write asks of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Effect {
    /// Nothing beyond the device.
    None,
    /// The guest powered its machine off.
    PowerOff,
    /// The guest asked for a reset (a reboot).
    Reset,
    /// The guest ended the machine through the debug-exit port with this value.
    DebugExit(u32),
}

/// A device as the bus holds it: shared, because an interrupt line or the console may hold it too.
pub type SharedRegisters = Arc<Mutex<dyn Registers>>;

/// Locks a device. A panic while the lock was held cannot leave registers half-written in a way
/// that matters more than the panic itself, so poisoning is ignored.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why a device could not be put on a bus.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Error {
    /// The range has no bytes or runs past the end of the address space.
    #[error("the range {base:#x}+{len:#x} is empty or runs past the end of the {space}")]
    Range {
        /// The address space's name.
        space: &'static str,
        /// First address.
        base: u64,
        /// Number of addresses.
        len: u64,
    },
    /// Another device has some of these addresses.
    #[error("{space} {base:#x}+{len:#x} overlaps a device at {other:#x}+{other_len:#x}")]
    Overlap {
        /// The address space's name.
        space: &'static str,
        /// First address.
        base: u64,
        /// Number of addresses.
        len: u64,
        /// First address of the device that is there.
        other: u64,
        /// Number of addresses of the device that is there.
        other_len: u64,
    },
}

struct Slot {
    base: u64,
    len: u64,
    device: SharedRegisters,
}

impl Slot {
    fn offset(&self, address: u64) -> Option<u64> {
        address.checked_sub(self.base).filter(|offset| *offset < self.len)
    }
}

/// One address space with the devices on it. It is filled by the builder and then only read.
pub struct Bus {
    space: &'static str,
    last: u64,
    /// Sorted by base, without overlaps.
    slots: Vec<Slot>,
}

impl Bus {
    /// The 64 Ki I/O ports.
    #[must_use]
    pub fn ports() -> Self {
        Self { space: "I/O ports", last: u64::from(u16::MAX), slots: Vec::new() }
    }

    /// The guest-physical address space outside memory.
    #[must_use]
    pub fn mmio() -> Self {
        Self { space: "MMIO space", last: u64::MAX, slots: Vec::new() }
    }

    /// Puts a device at `base`.
    ///
    /// # Errors
    /// The range is empty, leaves the address space, or overlaps another device's.
    pub fn insert(&mut self, base: u64, len: u64, device: SharedRegisters) -> Result<(), Error> {
        let space = self.space;
        let last = len
            .checked_sub(1)
            .and_then(|extent| base.checked_add(extent))
            .filter(|last| *last <= self.last)
            .ok_or(Error::Range { space, base, len })?;
        let at = self.slots.partition_point(|slot| slot.base <= last);
        let before = at.checked_sub(1).and_then(|before| self.slots.get(before));
        if let Some(&Slot { base: other, len: other_len, .. }) = before
            && other + (other_len - 1) >= base
        {
            return Err(Error::Overlap { space, base, len, other, other_len });
        }
        self.slots.insert(at, Slot { base, len, device });
        Ok(())
    }

    fn find(&self, address: u64) -> Option<(u64, &SharedRegisters)> {
        let after = self.slots.partition_point(|slot| slot.base <= address);
        let slot = self.slots.get(after.checked_sub(1)?)?;
        Some((slot.offset(address)?, &slot.device))
    }

    /// A guest's read. Where no device is, it reads all ones, as from an undriven bus.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        match self.find(address) {
            Some((offset, device)) => lock(device).read(offset, data),
            None => data.fill(0xff),
        }
    }

    /// A guest's write. Where no device is, it is dropped.
    pub fn write(&self, address: u64, data: &[u8]) -> Effect {
        match self.find(address) {
            Some((offset, device)) => lock(device).write(offset, data),
            None => Effect::None,
        }
    }
}

#[cfg(test)]
mod tests;
