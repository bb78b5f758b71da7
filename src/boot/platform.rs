//! The machine as its firmware tables describe it: one description for ACPI and the MP table.

use std::num::NonZeroU8;

/// Interrupts of the ISA bus; a driver for a legacy device knows its own by number.
pub const ISA_IRQS: u8 = 16;

/// What the tables tell a guest. The serial port, the real-time clock, the IOAPIC and the local
/// APICs are at their places in [`layout`](crate::memory::layout) and need no mention here.
#[derive(Clone, Copy, Debug)]
pub struct Platform<'a> {
    /// Number of processors. Their APIC ids are 0, 1, 2 and so on: 255 fill the ids of an xAPIC,
    /// whose id 255 means all of them.
    pub cpus: NonZeroU8,
    /// The virtio devices with an MMIO transport.
    pub virtio: &'a [VirtioMmio],
}

impl Platform<'_> {
    /// The IOAPIC's id: the first that no processor has (MP specification 1.4, section 3.6.6:
    /// APIC ids are unique, the IOAPICs' included).
    #[must_use]
    pub fn ioapic_id(&self) -> u8 {
        self.cpus.get()
    }
}

/// A virtio device's register window and interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VirtioMmio {
    /// First guest-physical address.
    pub base: u64,
    /// Number of bytes.
    pub len: u32,
    /// IOAPIC input (global system interrupt).
    pub irq: u32,
    /// How the device drives that input.
    pub trigger: Trigger,
}

/// How an interrupt input signals. The lines are active-high either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// A rising edge is one event: cheapest, as its end needs no word to the IOAPIC.
    Edge,
    /// The line stays high while a condition holds.
    Level,
}
