//! The registers of an I/O APIC, after the Intel 82093AA data sheet (290566), chapter 3.
//!
//! The version is that of the I/O APICs that came after it, 0x20, which have an EOI register: KVM
//! tells guests of a split interrupt controller that their local APICs can withhold the EOI
//! broadcast, and a guest that uses this needs the register.

use crate::state::saved;

/// Number of interrupt inputs.
pub const PINS: u8 = 24;

/// Register select, from the base of the window.
pub const IOREGSEL: u64 = 0x00;
/// The selected register.
pub const IOWIN: u64 = 0x10;
/// End of interrupt; a vector written here.
pub const IOEOI: u64 = 0x40;

/// Identification register; bits 24 to 27.
pub const ID: u8 = 0x00;
/// Version register.
pub const VERSION: u8 = 0x01;
/// Arbitration register.
pub const ARBITRATION: u8 = 0x02;
/// First half of the first redirection table entry.
pub const REDIRECTION: u8 = 0x10;

const VERSION_VALUE: u32 = 0x20 | ((PINS as u32 - 1) << 16);
const ID_MASK: u32 = 0x0f00_0000;

/// Bits of a redirection table entry (section 3.2.4).
pub mod entry {
    /// The vector.
    pub const VECTOR: u64 = 0xff;
    /// Delivery mode.
    pub const DELIVERY_MODE: u64 = 7 << 8;
    /// Destination mode: logical.
    pub const LOGICAL: u64 = 1 << 11;
    /// Delivery status, read-only. A message leaves at once, so it is never "pending".
    pub const PENDING: u64 = 1 << 12;
    /// Active low. A pin is asserted or not; what voltage that is does not matter here.
    pub const ACTIVE_LOW: u64 = 1 << 13;
    /// Remote IRR, read-only: a level interrupt was delivered and awaits its EOI.
    pub const REMOTE_IRR: u64 = 1 << 14;
    /// Level-triggered.
    pub const LEVEL: u64 = 1 << 15;
    /// Masked.
    pub const MASKED: u64 = 1 << 16;
    /// Where the 8-bit destination starts.
    pub const DESTINATION_SHIFT: u32 = 56;
    /// What a guest may write.
    pub const WRITABLE: u64 = 0xff00_0000_0001_ffff & !PENDING & !REMOTE_IRR;
}

/// The message-signalled interrupt that a redirection table entry stands for (Intel SDM volume 3A,
/// "Message Signalled Interrupts").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Destination and its mode.
    pub address: u32,
    /// Vector, delivery mode, trigger mode and level.
    pub data: u32,
}

impl Message {
    fn of(entry: u64) -> Self {
        let [vector, mode, ..] = entry.to_le_bytes();
        let [.., destination] = entry.to_le_bytes();
        let logical = u32::from(entry & entry::LOGICAL != 0);
        let mut data = u32::from(vector) | u32::from(mode & 7) << 8;
        if is_level(entry) {
            // Bit 15: level-triggered. Bit 14: asserted; a message that deasserts is never sent.
            data |= 0xc000;
        }
        Self { address: 0xfee0_0000 | u32::from(destination) << 12 | logical << 2, data }
    }
}

/// Whether an entry's pin behaves as a level: SMI, NMI, INIT and ExtINT are edges whatever the
/// trigger mode says (section 3.2.4, bits 8 to 10), which leaves fixed and lowest priority.
fn is_level(entry: u64) -> bool {
    entry & entry::LEVEL != 0 && entry & entry::DELIVERY_MODE <= 1 << 8
}

/// What KVM must be told to report the EOI of an entry's vector. Masked entries count: an
/// interrupt may be under way when its entry is masked, and a driver that masks around each
/// interrupt must not change the routes each time, which costs KVM a grace period. The entry's
/// reset value and a cleared one are edges, so a pin that is given up does not linger.
fn level_route(entry: u64) -> Option<Message> {
    (is_level(entry) && entry & entry::VECTOR >= 16).then(|| Message::of(entry))
}

/// A set of pins whose messages are to be delivered; see [`Core::messages`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Pins(u32);

/// An I/O APIC's registers.
#[derive(Debug)]
pub struct Core {
    id: u32,
    select: u8,
    entries: [u64; PINS as usize],
    /// Bit `n`: pin `n` is asserted.
    levels: u32,
    routes_changed: bool,
}

saved! {
    "ioapic", version 1, fingerprint 3270052874;
    /// An I/O APIC's state, as plain data.
    #[derive(Eq)]
    pub struct IoApicState {
        /// The identification register.
        pub id: u32,
        /// The register select register.
        pub select: u8,
        /// The redirection table.
        pub entries: [u64; PINS as usize],
        /// Bit `n`: pin `n` is asserted.
        pub levels: u32,
    }
}

impl Default for Core {
    /// After reset all pins are masked (section 3.2.4).
    fn default() -> Self {
        Self { id: 0, select: 0, entries: [entry::MASKED; PINS as usize], levels: 0, routes_changed: false }
    }
}

impl Core {
    /// The register at `offset` of the window; registers that do not exist read 0.
    #[must_use]
    pub fn read(&self, offset: u64) -> u32 {
        match (offset, self.select) {
            (IOREGSEL, select) => u32::from(select),
            (IOWIN, ID | ARBITRATION) => self.id,
            (IOWIN, VERSION) => VERSION_VALUE,
            (IOWIN, _) => self.selected_half().map_or(0, |(pin, high)| {
                let [a, b, c, d, e, f, g, h] = self.entry(pin).to_le_bytes();
                u32::from_le_bytes(if high { [e, f, g, h] } else { [a, b, c, d] })
            }),
            _ => 0,
        }
    }

    /// Writes the register at `offset` of the window.
    pub fn write(&mut self, offset: u64, value: u32) -> Pins {
        let [low, ..] = value.to_le_bytes();
        match (offset, self.select) {
            (IOREGSEL, _) => self.select = low,
            (IOWIN, ID) => self.id = value & ID_MASK,
            (IOWIN, _) => {
                if let Some((pin, high)) = self.selected_half() {
                    return self.write_entry(pin, high, value);
                }
            }
            (IOEOI, _) => return self.eoi(low),
            _ => {}
        }
        Pins::default()
    }

    /// Asserts or deasserts a pin.
    ///
    /// An edge pin delivers when it becomes asserted. If it is masked then, the interrupt is lost
    /// (section 3.2.4, bit 16). A level pin delivers once until its EOI.
    pub fn set_level(&mut self, pin: u8, asserted: bool) -> Pins {
        let bit = pin_bit(pin);
        let rises = asserted && self.levels & bit == 0;
        if asserted {
            self.levels |= bit;
        } else {
            self.levels &= !bit;
        }
        let entry = self.entry(pin);
        if is_level(entry) {
            self.service_level(pin)
        } else if rises && entry & entry::MASKED == 0 {
            Pins(bit)
        } else {
            Pins::default()
        }
    }

    /// A local APIC ended an interrupt: level pins with this vector that are still asserted
    /// deliver again.
    pub fn eoi(&mut self, vector: u8) -> Pins {
        let mut again = 0;
        for pin in 0..PINS {
            let entry = self.entry(pin);
            if is_level(entry) && entry & entry::VECTOR == u64::from(vector) {
                self.set_entry(pin, entry & !entry::REMOTE_IRR);
                again |= self.service_level(pin).0;
            }
        }
        Pins(again)
    }

    /// Does what is left to do of interrupts that have ended without a word: the local APICs have them no
    /// longer, neither waiting nor in service, which is what `held` says of a vector.
    pub fn settle(&mut self, held: impl Fn(u8) -> bool) -> Pins {
        let ended = self.entries.into_iter().filter(|entry| entry & entry::REMOTE_IRR != 0);
        let ended: Vec<_> =
            ended.map(|entry| entry.to_le_bytes()[0]).filter(|vector| !held(*vector)).collect();
        Pins(ended.into_iter().fold(0, |pins, vector| pins | self.eoi(vector).0))
    }

    /// The messages of `pins`, in the order of the pins.
    pub fn messages(&self, pins: Pins) -> impl Iterator<Item = Message> {
        (0..PINS)
            .zip(&self.entries)
            .filter(move |(pin, _)| pins.0 & pin_bit(*pin) != 0)
            .map(|(_, entry)| Message::of(*entry))
    }

    /// The pins whose EOIs must be reported, with their messages.
    pub fn level_routes(&self) -> impl Iterator<Item = (u8, Message)> {
        (0..PINS).zip(&self.entries).filter_map(|(pin, entry)| Some((pin, level_route(*entry)?)))
    }

    /// Whether [`Core::level_routes`] changed since the last call.
    #[must_use]
    pub fn take_routes_changed(&mut self) -> bool {
        std::mem::take(&mut self.routes_changed)
    }

    /// The state, to be given to [`Core::restore`].
    #[must_use]
    pub fn save(&self) -> IoApicState {
        let Self { id, select, entries, levels, routes_changed: _ } = self;
        IoApicState { id: *id, select: *select, entries: *entries, levels: *levels }
    }

    /// Takes a saved state. Bits that no I/O APIC could have are dropped. Nothing is delivered:
    /// what was delivered before is in the local APICs' state.
    pub fn restore(&mut self, state: &IoApicState) {
        let IoApicState { id, select, entries, levels } = state;
        self.id = id & ID_MASK;
        self.select = *select;
        self.entries = entries.map(|entry| {
            let irr = if is_level(entry) { entry::REMOTE_IRR } else { 0 };
            entry & (entry::WRITABLE | irr)
        });
        self.levels = levels & ((1 << PINS) - 1);
        self.routes_changed = true;
    }

    /// The table entry in IOWIN, and whether it is the upper half.
    fn selected_half(&self) -> Option<(u8, bool)> {
        let half = self.select.checked_sub(REDIRECTION)?;
        (half < PINS * 2).then_some((half / 2, half % 2 == 1))
    }

    /// A pin that does not exist looks masked.
    fn entry(&self, pin: u8) -> u64 {
        self.entries.get(usize::from(pin)).copied().unwrap_or(entry::MASKED)
    }

    fn set_entry(&mut self, pin: u8, value: u64) {
        if let Some(entry) = self.entries.get_mut(usize::from(pin)) {
            *entry = value;
        }
    }

    fn write_entry(&mut self, pin: u8, high: bool, value: u32) -> Pins {
        let old = self.entry(pin);
        let written = if high {
            old & 0xffff_ffff | u64::from(value) << 32
        } else {
            old & !0xffff_ffff | u64::from(value)
        };
        let mut new = old & !entry::WRITABLE | written & entry::WRITABLE;
        if !is_level(new) {
            // Remote IRR is undefined for edges; guests without an EOI register to write rely on
            // a turn to edge and back to clear it, as Linux does.
            new &= !entry::REMOTE_IRR;
        }
        self.set_entry(pin, new);
        self.routes_changed |= level_route(old) != level_route(new);
        if is_level(new) { self.service_level(pin) } else { Pins::default() }
    }

    /// Delivers a level pin's interrupt if it is due.
    fn service_level(&mut self, pin: u8) -> Pins {
        let (bit, entry) = (pin_bit(pin), self.entry(pin));
        if self.levels & bit == 0 || entry & (entry::MASKED | entry::REMOTE_IRR) != 0 {
            return Pins::default();
        }
        self.set_entry(pin, entry | entry::REMOTE_IRR);
        Pins(bit)
    }
}

/// The bit of a pin in a set; none for one that does not exist.
fn pin_bit(pin: u8) -> u32 {
    if pin < PINS { 1 << pin } else { 0 }
}
