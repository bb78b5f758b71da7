//! The I/O APIC of a split interrupt controller: the local APICs are KVM's, this one is ours, and
//! what it sends are message-signalled interrupts.

mod core;

use std::sync::{Arc, Mutex};

pub use self::core::{
    ARBITRATION, Core, ID, IOEOI, IOREGSEL, IOWIN, IoApicState, Message, PINS, Pins, REDIRECTION, VERSION,
    entry,
};

use crate::bus::{Effect, Registers, lock};
use crate::irq::IrqLine;

/// Where the messages go.
pub trait MsiSink: Send {
    /// Delivers an interrupt to the local APICs.
    fn deliver(&self, message: Message);

    /// Replaces the set of pins whose EOIs are to be reported to [`IoApic::end_of_interrupt`].
    /// Always called before the first message of a new route is delivered.
    fn set_level_routes(&self, routes: &[(u8, Message)]);
}

/// An I/O APIC on the bus.
pub struct IoApic {
    core: Core,
    sink: Box<dyn MsiSink>,
}

impl IoApic {
    /// An I/O APIC after reset.
    #[must_use]
    pub fn new(sink: Box<dyn MsiSink>) -> Self {
        Self { core: Core::default(), sink }
    }

    /// Asserts or deasserts a pin.
    pub fn set_level(&mut self, pin: u8, asserted: bool) {
        let pins = self.core.set_level(pin, asserted);
        self.deliver(pins);
    }

    /// A local APIC ended the interrupt with this vector.
    pub fn end_of_interrupt(&mut self, vector: u8) {
        let pins = self.core.eoi(vector);
        self.deliver(pins);
    }

    /// Takes notice of interrupts that have ended while it was not told: those of vectors that no local APIC
    /// has any more, as `held` says. After [`IoApic::restore`].
    pub fn settle(&mut self, held: impl Fn(u8) -> bool) {
        let pins = self.core.settle(held);
        self.deliver(pins);
    }

    /// The state, to be given to [`IoApic::restore`].
    #[must_use]
    pub fn save(&self) -> IoApicState {
        let Self { core, sink: _ } = self;
        core.save()
    }

    /// Takes a saved state; after the devices on its pins have taken theirs.
    pub fn restore(&mut self, state: &IoApicState) {
        self.core.restore(state);
        self.publish_routes();
    }

    fn publish_routes(&mut self) {
        if self.core.take_routes_changed() {
            let routes: Vec<_> = self.core.level_routes().collect();
            self.sink.set_level_routes(&routes);
        }
    }

    fn deliver(&self, pins: Pins) {
        for message in self.core.messages(pins) {
            self.sink.deliver(message);
        }
    }
}

/// The registers are 32 bits wide at multiples of 16 (data sheet, section 3.1). A wider access is
/// one to its first four bytes. A narrower read gets its part of the register; a narrower write
/// reaches the registers of eight bits, and IOWIN not at all, as half an entry is worse than none.
impl Registers for IoApic {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let register = self.core.read(offset & !3).to_le_bytes();
        let mut bytes = register.into_iter().skip((offset & 3) as usize);
        data.fill_with(|| bytes.next().unwrap_or(0));
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Effect {
        let value = match (data, offset) {
            ([a, b, c, d, ..], _) => u32::from_le_bytes([*a, *b, *c, *d]),
            ([low, ..], IOREGSEL | IOEOI) => u32::from(*low),
            _ => return Effect::None,
        };
        let pins = self.core.write(offset, value);
        self.publish_routes();
        self.deliver(pins);
        Effect::None
    }
}

/// One input of an I/O APIC.
#[derive(Clone)]
pub struct IoApicPin {
    ioapic: Arc<Mutex<IoApic>>,
    pin: u8,
}

impl IoApicPin {
    /// The input with the number `pin`. One that does not exist leads nowhere.
    #[must_use]
    pub fn new(ioapic: Arc<Mutex<IoApic>>, pin: u8) -> Self {
        Self { ioapic, pin }
    }
}

impl IrqLine for IoApicPin {
    fn set_level(&self, high: bool) {
        lock(&self.ioapic).set_level(self.pin, high);
    }

    fn pulse(&self) {
        let mut ioapic = lock(&self.ioapic);
        ioapic.set_level(self.pin, true);
        ioapic.set_level(self.pin, false);
    }
}

#[cfg(test)]
mod tests;
