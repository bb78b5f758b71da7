//! A PC's real-time clock, after the Motorola MC146818A data sheet, with the century register
//! that PCs added.
//!
//! It shows the host's time in UTC; a guest that sets it moves its own clock by an offset. There
//! are no interrupts: their enable bits and the alarm are kept but nothing comes of them, and no
//! flag of register C is ever set. Guests have better timers, and ACPI does not name an interrupt
//! for this device.

mod calendar;

use std::time::{SystemTime, UNIX_EPOCH};

pub use calendar::Calendar;

use super::{read_bytes, write_bytes};
use crate::bus::{Effect, Registers};
use crate::state::saved;

/// Number of ports: index and data.
pub const PORTS: u64 = 2;

/// Bytes of CMOS RAM, the clock's registers included.
const RAM: usize = 128;

/// Indices of the clock's registers.
pub mod register {
    /// Seconds.
    pub const SECONDS: u8 = 0x00;
    /// Minutes.
    pub const MINUTES: u8 = 0x02;
    /// Hours.
    pub const HOURS: u8 = 0x04;
    /// Day of the week; Sunday is 1.
    pub const WEEKDAY: u8 = 0x06;
    /// Day of the month.
    pub const DAY: u8 = 0x07;
    /// Month.
    pub const MONTH: u8 = 0x08;
    /// Year of the century.
    pub const YEAR: u8 = 0x09;
    /// Rate selection and update in progress.
    pub const A: u8 = 0x0a;
    /// Formats, interrupt enables and SET.
    pub const B: u8 = 0x0b;
    /// Interrupt flags.
    pub const C: u8 = 0x0c;
    /// Valid RAM and time.
    pub const D: u8 = 0x0d;
    /// Century, where PC firmware keeps it.
    pub const CENTURY: u8 = 0x32;
}

/// Register A: a 32.768 kHz crystal and a rate of 1024 Hz, as PCs have it.
const A_DEFAULT: u8 = 0x26;
/// Register A: update in progress. Never set: the time is computed when it is read.
const A_UIP: u8 = 1 << 7;
/// Register B: the update is stopped, for the guest to set the time.
const B_SET: u8 = 1 << 7;
/// Register B: update-ended interrupt enable.
const B_UIE: u8 = 1 << 4;
/// Register B: binary rather than BCD.
const B_BINARY: u8 = 1 << 2;
/// Register B: 24 hours rather than 12.
const B_24_HOURS: u8 = 1 << 1;
/// Register D: RAM and time are valid.
const D_VALID: u8 = 1 << 7;
/// Hours with 12 hours: afternoon.
const PM: u8 = 1 << 7;

/// The clock chip: its registers, given the host's time in seconds since 1970.
#[derive(Debug)]
pub struct Core {
    index: u8,
    ram: [u8; RAM],
    /// What the guest's time is ahead of the host's, in seconds.
    offset: i64,
    /// The time that the guest is setting.
    held: Option<Calendar>,
}

saved! {
    "rtc", version 1, fingerprint 3877505685;
    /// A clock's state, as plain data.
    #[derive(Eq)]
    pub struct RtcState {
        /// The index port.
        pub index: u8,
        /// CMOS RAM with registers A and B, and the time that is being set where the time would be.
        pub ram: Vec<u8>,
        /// What the guest's time is ahead of the host's, in seconds.
        pub offset: i64,
    }
}

impl Default for Core {
    fn default() -> Self {
        let mut core = Self { index: 0, ram: [0; RAM], offset: 0, held: None };
        core.store(register::A, A_DEFAULT);
        core.store(register::B, B_24_HOURS);
        core
    }
}

impl Core {
    /// What the guest reads at a port, 0 for the index, which cannot be read back on a PC.
    #[must_use]
    pub fn read(&self, port: u64, now: i64) -> u8 {
        if port == 1 { self.read_register(now) } else { 0xff }
    }

    /// Takes what the guest writes at a port.
    pub fn write(&mut self, port: u64, value: u8, now: i64) {
        match port {
            // Bit 7 gates the NMI on a PC; there is none to gate.
            0 => self.index = value & 0x7f,
            1 => self.write_register(value, now),
            _ => {}
        }
    }

    /// The state, to be given to [`Core::restore`].
    #[must_use]
    pub fn save(&self) -> RtcState {
        let Self { index, ram, offset, held } = self;
        let mut ram = ram.to_vec();
        if let Some(held) = held {
            for (index, byte) in (0..).zip(&mut ram) {
                if let Some(value) = field(&mut held.clone(), index) {
                    *byte = *value;
                }
            }
        }
        RtcState { index: *index, ram, offset: *offset }
    }

    /// Takes a saved state. Missing RAM reads 0.
    pub fn restore(&mut self, state: &RtcState) {
        let RtcState { index, ram, offset } = state;
        self.index = index & 0x7f;
        self.ram = [0; RAM];
        for (byte, saved) in self.ram.iter_mut().zip(ram) {
            *byte = *saved;
        }
        self.store(register::A, self.load(register::A) & !A_UIP);
        self.offset = *offset;
        self.held = (self.load(register::B) & B_SET != 0).then(|| {
            let mut held = Calendar::at(0);
            for index in 0..=register::CENTURY {
                if let Some(value) = field(&mut held, index) {
                    *value = self.load(index);
                }
            }
            held
        });
    }

    fn load(&self, index: u8) -> u8 {
        self.ram.get(usize::from(index)).copied().unwrap_or(0)
    }

    fn store(&mut self, index: u8, value: u8) {
        if let Some(byte) = self.ram.get_mut(usize::from(index)) {
            *byte = value;
        }
    }

    fn calendar(&self, now: i64) -> Calendar {
        self.held.unwrap_or_else(|| Calendar::at(now.saturating_add(self.offset)))
    }

    fn read_register(&self, now: i64) -> u8 {
        match self.index {
            register::C => 0,
            register::D => D_VALID,
            index => match field(&mut self.calendar(now), index) {
                Some(value) => self.encode(index, *value),
                None => self.load(index),
            },
        }
    }

    fn write_register(&mut self, value: u8, now: i64) {
        match self.index {
            register::A => self.store(register::A, value & !A_UIP),
            register::B => self.write_b(value, now),
            register::C | register::D => {}
            index => {
                let mut calendar = self.calendar(now);
                let Some(field) = field(&mut calendar, index) else { return self.store(index, value) };
                *field = self.decode(index, value);
                if self.held.is_some() {
                    self.held = Some(calendar);
                } else {
                    self.offset = calendar.seconds().saturating_sub(now);
                }
            }
        }
    }

    /// While SET is on the time stands still and can be set field by field; then it goes on from
    /// there. Turning SET on turns the update-ended interrupt off.
    fn write_b(&mut self, value: u8, now: i64) {
        if value & B_SET != 0 {
            self.held = Some(self.calendar(now));
            self.store(register::B, value & !B_UIE);
        } else {
            if let Some(held) = self.held.take() {
                self.offset = held.seconds().saturating_sub(now);
            }
            self.store(register::B, value);
        }
    }

    fn binary(&self) -> bool {
        self.load(register::B) & B_BINARY != 0
    }

    fn half_days(&self) -> bool {
        self.load(register::B) & B_24_HOURS == 0
    }

    /// A field as the guest reads it, in the formats that register B selects.
    fn encode(&self, index: u8, value: u8) -> u8 {
        let (value, flag) = match index {
            register::HOURS if self.half_days() => {
                ((value % 24 + 11) % 12 + 1, if value % 24 >= 12 { PM } else { 0 })
            }
            _ => (value, 0),
        };
        flag | if self.binary() { value } else { ((value / 10 % 10) << 4) | (value % 10) }
    }

    /// A field as the guest writes it.
    fn decode(&self, index: u8, value: u8) -> u8 {
        let number = |value: u8| if self.binary() { value } else { (value >> 4) * 10 + (value & 0xf) };
        match index {
            register::HOURS if self.half_days() => {
                number(value & !PM) % 12 + if value & PM != 0 { 12 } else { 0 }
            }
            _ => number(value),
        }
    }
}

/// The field of the time that a register shows.
fn field(calendar: &mut Calendar, index: u8) -> Option<&mut u8> {
    match index {
        register::SECONDS => Some(&mut calendar.second),
        register::MINUTES => Some(&mut calendar.minute),
        register::HOURS => Some(&mut calendar.hour),
        register::WEEKDAY => Some(&mut calendar.weekday),
        register::DAY => Some(&mut calendar.day),
        register::MONTH => Some(&mut calendar.month),
        register::YEAR => Some(&mut calendar.year),
        register::CENTURY => Some(&mut calendar.century),
        _ => None,
    }
}

/// A source of time: seconds since 1970 in UTC.
pub type Clock = Box<dyn Fn() -> i64 + Send>;

/// The host's time.
#[must_use]
pub fn host_clock() -> Clock {
    Box::new(|| {
        // A host whose clock is before 1970 has no time worth showing.
        let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(elapsed.as_secs()).unwrap_or(i64::MAX)
    })
}

/// A real-time clock on the bus.
pub struct Rtc {
    core: Core,
    clock: Clock,
}

impl Rtc {
    /// A clock that shows the time of `clock`.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self { core: Core::default(), clock }
    }

    /// The state, to be given to [`Rtc::restore`].
    #[must_use]
    pub fn save(&self) -> RtcState {
        let Self { core, clock: _ } = self;
        core.save()
    }

    /// Takes a saved state.
    pub fn restore(&mut self, state: &RtcState) {
        self.core.restore(state);
    }
}

impl Registers for Rtc {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let now = (self.clock)();
        read_bytes(offset, data, |port| self.core.read(port, now));
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Effect {
        let now = (self.clock)();
        write_bytes(offset, data, |port, value| {
            self.core.write(port, value, now);
            Effect::None
        })
    }
}

#[cfg(test)]
mod tests;
