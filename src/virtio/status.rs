//! What both halves of a device share: its status, its interrupt and its configuration space.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};

use super::ConfigSpace;
use crate::irq::IrqLine;

/// Bits of the status register (VIRTIO 1.2, section 2.1).
pub mod bit {
    /// The guest has noticed the device.
    pub const ACKNOWLEDGE: u8 = 1;
    /// The guest has a driver for it.
    pub const DRIVER: u8 = 2;
    /// The driver is set up.
    pub const DRIVER_OK: u8 = 4;
    /// The features are agreed on.
    pub const FEATURES_OK: u8 = 8;
    /// The device cannot go on until it is reset.
    pub const NEEDS_RESET: u8 = 64;
    /// The driver has given up.
    pub const FAILED: u8 = 128;
    /// All of them.
    pub(in crate::virtio) const ALL: u8 =
        ACKNOWLEDGE | DRIVER | DRIVER_OK | FEATURES_OK | NEEDS_RESET | FAILED;
}

/// Bits of the interrupt status register (VIRTIO 1.2, section 4.2.2).
pub(super) const USED_BUFFER: u32 = 1;
pub(super) const CONFIG_CHANGE: u32 = 2;

/// The registers that the device itself changes.
pub struct DeviceStatus {
    status: AtomicU8,
    interrupts: AtomicU32,
    /// Whether the device has still to be told of what the driver wrote to the configuration space.
    config_written: AtomicBool,
    line: Arc<dyn IrqLine>,
    config: ConfigSpace,
}

impl DeviceStatus {
    /// A device after reset.
    #[must_use]
    pub fn new(line: Arc<dyn IrqLine>, config: ConfigSpace) -> Self {
        Self {
            status: AtomicU8::new(0),
            interrupts: AtomicU32::new(0),
            config_written: AtomicBool::new(false),
            line,
            config,
        }
    }

    /// The device's configuration space.
    #[must_use]
    pub fn config(&self) -> &ConfigSpace {
        &self.config
    }

    /// The status register.
    #[must_use]
    pub fn get(&self) -> u8 {
        self.status.load(Ordering::Acquire)
    }

    /// Sets bits of the status register.
    pub(super) fn set(&self, bits: u8) {
        self.status.fetch_or(bits, Ordering::AcqRel);
    }

    /// Clears bits of the status register.
    pub(super) fn clear(&self, bits: u8) {
        self.status.fetch_and(!bits, Ordering::AcqRel);
    }

    /// Back to what it is after a reset.
    pub(super) fn reset(&self) {
        self.status.store(0, Ordering::Release);
        self.interrupts.store(0, Ordering::Release);
    }

    /// The driver broke the rules in a way that the device cannot go on from (VIRTIO 1.2, section 2.1.2).
    pub fn needs_reset(&self) {
        let before = self.status.fetch_or(bit::NEEDS_RESET, Ordering::AcqRel);
        if before & (bit::NEEDS_RESET | bit::DRIVER_OK) == bit::DRIVER_OK {
            self.interrupt(CONFIG_CHANGE);
        }
    }

    /// Tells the driver that there are used buffers.
    pub fn used_buffer(&self) {
        self.interrupt(USED_BUFFER);
    }

    /// Tells the driver that the configuration space has changed.
    pub fn config_changed(&self) {
        if self.get() & bit::DRIVER_OK != 0 {
            self.interrupt(CONFIG_CHANGE);
        }
    }

    /// Every event is an edge of its own, so one that comes between the driver's look at the register
    /// and its acknowledgement is not lost.
    fn interrupt(&self, bits: u32) {
        self.interrupts.fetch_or(bits, Ordering::AcqRel);
        self.line.pulse();
    }

    /// Becomes what another one was: these bits of the registers.
    pub(super) fn restore(&self, status: u8, interrupts: u32) {
        self.status.store(status, Ordering::Release);
        self.interrupts.store(interrupts, Ordering::Release);
    }

    /// Interrupts once more, if there is something that the driver has not taken notice of.
    pub(super) fn interrupt_again(&self) {
        if self.interrupts() != 0 {
            self.line.pulse();
        }
    }

    /// Whether the device has still to be told of what the driver wrote.
    pub(super) fn has_config_write(&self) -> bool {
        self.config_written.load(Ordering::Acquire)
    }

    /// The driver has written to the configuration space; whether that is news.
    pub(super) fn note_config_write(&self) -> bool {
        !self.config_written.swap(true, Ordering::AcqRel)
    }

    /// The device is told of what the driver has written so far.
    pub(super) fn take_config_write(&self) {
        self.config_written.store(false, Ordering::Release);
    }

    /// The interrupt status register.
    #[must_use]
    pub fn interrupts(&self) -> u32 {
        self.interrupts.load(Ordering::Acquire)
    }

    /// The driver has taken notice of these interrupts.
    pub(super) fn acknowledge(&self, bits: u32) {
        self.interrupts.fetch_and(!bits, Ordering::AcqRel);
    }
}
