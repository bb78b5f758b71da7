//! The registers of a 16550A, after the National Semiconductor PC16550D data sheet (June 1995);
//! "section" in the comments is a section of its chapter 8, "Registers".
//!
//! The core knows no time. A character takes none to cross the line, which decides two points:
//! the transmitter is empty again as soon as the far end takes the byte, and the four character
//! times after which a partly filled receive FIFO interrupts (section 8.11) have always passed.

use std::collections::VecDeque;

use super::registers::{fcr, ier, iir, lcr, lsr, mcr, msr, offset};
use crate::state::saved;

/// Characters that each FIFO holds.
pub const FIFO_LEN: usize = 16;

/// A UART's registers.
#[derive(Debug)]
pub struct Uart {
    interrupt_enable: u8,
    line_control: u8,
    modem_control: u8,
    modem_status: u8,
    /// LSR bits 1 to 4: the overrun, and the errors of characters that reached the FIFO's top.
    line_errors: u8,
    scratch: u8,
    divisor: u16,
    fifos: bool,
    /// FCR bits 6 and 7.
    trigger: u8,
    /// Characters and their errors ([`lsr::CHARACTER`]), oldest first; never more than `capacity`.
    received: VecDeque<(u8, u8)>,
    /// Characters that wait for the far end, oldest first; never more than `capacity`.
    held: VecDeque<u8>,
    /// The far end has no room: the transmitter is not empty.
    stalled: bool,
    /// The holding register became empty and no one has taken note (section 8.6, table IV).
    empty_pending: bool,
    dropped: u64,
}

saved! {
    "serial", version 1, fingerprint 136174970;
    /// A UART's state, as plain data.
    #[derive(Default, Eq)]
    pub struct UartState {
        /// IER.
        pub interrupt_enable: u8,
        /// LCR.
        pub line_control: u8,
        /// MCR.
        pub modem_control: u8,
        /// MSR, with its delta bits.
        pub modem_status: u8,
        /// The error bits of LSR.
        pub line_errors: u8,
        /// SCR.
        pub scratch: u8,
        /// The divisor latch.
        pub divisor: u16,
        /// FCR bit 0.
        pub fifos: bool,
        /// FCR bits 6 and 7.
        pub trigger: u8,
        /// Received characters, each with its LSR error bits.
        pub received: Vec<(u8, u8)>,
        /// Written characters that the far end had no room for.
        pub held: Vec<u8>,
        /// Whether the far end had no room.
        pub stalled: bool,
        /// Whether a THR-empty interrupt is pending.
        pub empty_pending: bool,
        /// Characters lost because the guest wrote to a full transmitter.
        pub dropped: u64,
    }
}

impl Default for Uart {
    /// The state after a master reset (table I), with a terminal connected.
    fn default() -> Self {
        Self {
            interrupt_enable: 0,
            line_control: 0,
            modem_control: 0,
            modem_status: msr::CONNECTED,
            line_errors: 0,
            scratch: 0,
            // The data sheet leaves the latch undefined; a PC's firmware would leave a speed.
            divisor: 1,
            fifos: false,
            trigger: 0,
            received: VecDeque::with_capacity(FIFO_LEN),
            held: VecDeque::with_capacity(FIFO_LEN),
            stalled: false,
            empty_pending: false,
            dropped: 0,
        }
    }
}

impl Uart {
    /// What the guest reads at `offset`; all ones beyond the registers.
    pub fn read(&mut self, offset: u64) -> u8 {
        let [low, high] = self.divisor.to_le_bytes();
        match offset {
            offset::DATA if self.divisor_access() => low,
            offset::DATA => self.read_received(),
            offset::IER if self.divisor_access() => high,
            offset::IER => self.interrupt_enable,
            offset::IIR => self.read_identification(),
            offset::LCR => self.line_control,
            offset::MCR => self.modem_control,
            offset::LSR => self.read_line_status(),
            offset::MSR => {
                let status = self.modem_status;
                self.modem_status &= !msr::DELTAS;
                status
            }
            offset::SCR => self.scratch,
            _ => 0xff,
        }
    }

    /// Takes what the guest writes at `offset`. The result is a character that goes out now; who
    /// sends it calls [`Uart::transmitted`] next.
    #[must_use]
    pub fn write(&mut self, offset: u64, value: u8) -> Option<u8> {
        let [low, high] = self.divisor.to_le_bytes();
        match offset {
            offset::DATA if self.divisor_access() => self.divisor = u16::from_le_bytes([value, high]),
            offset::DATA => return self.transmit(value),
            offset::IER if self.divisor_access() => self.divisor = u16::from_le_bytes([low, value]),
            offset::IER => self.write_interrupt_enable(value),
            offset::FCR => self.write_fifo_control(value),
            offset::LCR => self.line_control = value,
            offset::MCR => self.write_modem_control(value),
            offset::SCR => self.scratch = value,
            // LSR is for factory tests only (section 8.4) and MSR's lines are inputs.
            _ => {}
        }
        None
    }

    /// A character arrives. Without [`Uart::room`] it is an overrun: a full FIFO keeps what it
    /// has, a lone receiver buffer is overwritten (section 8.4, bit 1).
    pub fn receive(&mut self, byte: u8) {
        self.push_received(byte, 0);
    }

    /// A break arrives: one zero character with its bit set, and, as a break is longer than a
    /// character, without a stop bit (section 8.4, bits 3 and 4).
    pub fn receive_break(&mut self) {
        self.push_received(0, lsr::BREAK | lsr::FRAMING);
    }

    /// How many characters can be received before an overrun.
    #[must_use]
    pub fn room(&self) -> usize {
        self.capacity().saturating_sub(self.received.len())
    }

    /// How many characters each direction holds in the present mode.
    #[must_use]
    pub fn capacity(&self) -> usize {
        if self.fifos { FIFO_LEN } else { 1 }
    }

    /// Whether the guest is ready for characters from outside: it raises RTS, and its receiver is
    /// not connected to its own transmitter.
    #[must_use]
    pub fn accepts_input(&self) -> bool {
        self.modem_control & (mcr::RTS | mcr::LOOP) == mcr::RTS
    }

    /// Whether the FIFOs are enabled.
    #[must_use]
    pub fn fifos_enabled(&self) -> bool {
        self.fifos
    }

    /// Says whether the far end takes another character; called after each that it took, and when
    /// that changed. If so and none is held, the holding register is empty again.
    pub fn transmitted(&mut self, room: bool) {
        self.stalled = !room || !self.held.is_empty();
        if self.stalled {
            self.empty_pending &= self.transmitter_empty();
        } else {
            self.empty_pending = true;
        }
    }

    /// Whether the transmitter waits for the far end.
    #[must_use]
    pub fn is_stalled(&self) -> bool {
        self.stalled
    }

    /// The oldest character that was held because the far end had no room.
    pub fn take_held(&mut self) -> Option<u8> {
        self.held.pop_front()
    }

    /// How many characters were lost because the guest wrote to a full transmitter.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// The level of the chip's INTR pin.
    #[must_use]
    pub fn interrupt(&self) -> bool {
        self.source() != iir::NONE
    }

    /// The level of the PC's interrupt line: INTR behind a gate that OUT2 opens. Loopback forces
    /// the OUT2 pin to its inactive state (section 8.8, bit 4) and so closes the gate.
    #[must_use]
    pub fn irq(&self) -> bool {
        self.modem_control & (mcr::OUT2 | mcr::LOOP) == mcr::OUT2 && self.interrupt()
    }

    /// The state, to be given to [`Uart::restore`].
    #[must_use]
    pub fn save(&self) -> UartState {
        let Self {
            interrupt_enable,
            line_control,
            modem_control,
            modem_status,
            line_errors,
            scratch,
            divisor,
            fifos,
            trigger,
            received,
            held,
            stalled,
            empty_pending,
            dropped,
        } = self;
        UartState {
            interrupt_enable: *interrupt_enable,
            line_control: *line_control,
            modem_control: *modem_control,
            modem_status: *modem_status,
            line_errors: *line_errors,
            scratch: *scratch,
            divisor: *divisor,
            fifos: *fifos,
            trigger: *trigger,
            received: received.iter().copied().collect(),
            held: held.iter().copied().collect(),
            stalled: *stalled,
            empty_pending: *empty_pending,
            dropped: *dropped,
        }
    }

    /// Takes a saved state. Bits and characters that no UART could have are dropped.
    pub fn restore(&mut self, state: &UartState) {
        let UartState {
            interrupt_enable,
            line_control,
            modem_control,
            modem_status,
            line_errors,
            scratch,
            divisor,
            fifos,
            trigger,
            received,
            held,
            stalled,
            empty_pending,
            dropped,
        } = state;
        self.interrupt_enable = interrupt_enable & ier::ALL;
        self.line_control = *line_control;
        self.modem_control = modem_control & mcr::ALL;
        self.modem_status = (modem_status & msr::DELTAS) | self.modem_lines();
        self.line_errors = line_errors & lsr::ERRORS;
        self.scratch = *scratch;
        self.divisor = *divisor;
        self.fifos = *fifos;
        self.trigger = trigger & 3;
        let capacity = self.capacity();
        self.received.clear();
        self.received
            .extend(received.iter().take(capacity).map(|(byte, errors)| (*byte, errors & lsr::CHARACTER)));
        self.held.clear();
        self.held.extend(held.iter().take(capacity));
        self.stalled = *stalled || !self.held.is_empty();
        self.empty_pending = *empty_pending;
        self.dropped = *dropped;
    }

    fn divisor_access(&self) -> bool {
        self.line_control & lcr::DLAB != 0
    }

    fn loopback(&self) -> bool {
        self.modem_control & mcr::LOOP != 0
    }

    /// In loopback the characters go nowhere that could be full.
    fn transmitter_empty(&self) -> bool {
        self.loopback() || !self.stalled
    }

    /// The pending interrupt of the highest priority (section 8.6, table IV), FIFO bits apart.
    fn source(&self) -> u8 {
        let enabled = |bit| self.interrupt_enable & bit != 0;
        if enabled(ier::LINE) && self.line_errors != 0 {
            iir::LINE
        } else if enabled(ier::RECEIVED) && !self.received.is_empty() {
            if self.received.len() >= self.trigger_level() { iir::RECEIVED } else { iir::TIMEOUT }
        } else if enabled(ier::TRANSMIT) && self.empty_pending {
            iir::TRANSMIT
        } else if enabled(ier::MODEM) && self.modem_status & msr::DELTAS != 0 {
            iir::MODEM
        } else {
            iir::NONE
        }
    }

    /// Section 8.5, bits 6 and 7. Without FIFOs every character interrupts.
    fn trigger_level(&self) -> usize {
        match self.trigger {
            _ if !self.fifos => 1,
            0 => 1,
            1 => 4,
            2 => 8,
            _ => 14,
        }
    }

    fn read_received(&mut self) -> u8 {
        let byte = self.received.pop_front().map_or(0, |(byte, _)| byte);
        self.reveal_errors();
        byte
    }

    /// Reading IIR takes note of the THR-empty interrupt if that is what it says (table IV).
    fn read_identification(&mut self) -> u8 {
        let source = self.source();
        if source == iir::TRANSMIT {
            self.empty_pending = false;
        }
        source | if self.fifos { iir::FIFO } else { 0 }
    }

    /// Reading LSR clears its error bits (section 8.4).
    fn read_line_status(&mut self) -> u8 {
        let mut status = self.line_errors;
        if !self.received.is_empty() {
            status |= lsr::DATA_READY;
        }
        if self.transmitter_empty() {
            status |= lsr::THR_EMPTY | lsr::EMPTY;
        }
        let errors = self.line_errors & lsr::CHARACTER != 0;
        if self.fifos && (errors || self.received.iter().any(|(_, errors)| *errors != 0)) {
            status |= lsr::FIFO_ERROR;
        }
        self.line_errors = 0;
        status
    }

    fn push_received(&mut self, byte: u8, errors: u8) {
        if self.room() == 0 {
            self.line_errors |= lsr::OVERRUN;
            if self.fifos {
                return;
            }
            self.received.clear();
        }
        self.received.push_back((byte, errors));
        self.reveal_errors();
    }

    /// A character's errors show in LSR once it is at the top of the FIFO (section 8.4).
    fn reveal_errors(&mut self) {
        if let Some((_, errors)) = self.received.front_mut() {
            self.line_errors |= std::mem::take(errors);
        }
    }

    fn transmit(&mut self, byte: u8) -> Option<u8> {
        self.empty_pending = false;
        if self.loopback() {
            self.receive(byte);
            self.empty_pending = true;
        } else if !self.stalled {
            return Some(byte);
        } else if self.held.len() < self.capacity() {
            // A driver that saw THRE may fill the FIFO without a further look (section 8.11).
            self.held.push_back(byte);
        } else {
            self.dropped = self.dropped.saturating_add(1);
        }
        None
    }

    /// Enabling the THR-empty interrupt while the register is empty raises it, even if it was
    /// noted before; drivers start their transmission this way, and Linux tests for it.
    fn write_interrupt_enable(&mut self, value: u8) {
        let value = value & ier::ALL;
        let turned_on = value & !self.interrupt_enable;
        if turned_on & ier::TRANSMIT != 0 && self.transmitter_empty() {
            self.empty_pending = true;
        }
        self.interrupt_enable = value;
    }

    /// Section 8.5. Bit 3, the DMA mode, drives pins that lead nowhere on a PC.
    fn write_fifo_control(&mut self, value: u8) {
        let enable = value & fcr::ENABLE != 0;
        // A change of the mode clears both FIFOs; so do the bits, which need the mode.
        let changed = enable != self.fifos;
        if changed || enable && value & fcr::CLEAR_RECEIVED != 0 {
            self.received.clear();
            // These belonged to the character at the top; the overrun did not.
            self.line_errors &= !lsr::CHARACTER;
        }
        if changed || enable && value & fcr::CLEAR_TRANSMIT != 0 {
            self.held.clear();
        }
        self.fifos = enable;
        if enable {
            self.trigger = value >> 6;
        }
    }

    fn write_modem_control(&mut self, value: u8) {
        self.modem_control = value & mcr::ALL;
        // An end of loopback can leave a transmitter that is not empty.
        self.empty_pending &= self.transmitter_empty();

        let old = self.modem_status;
        let new = self.modem_lines();
        let changed = old ^ new;
        let mut deltas = old & msr::DELTAS;
        for (line, delta) in
            [(msr::CTS, msr::DELTA_CTS), (msr::DSR, msr::DELTA_DSR), (msr::DCD, msr::DELTA_DCD)]
        {
            if changed & line != 0 {
                deltas |= delta;
            }
        }
        if old & !new & msr::RI != 0 {
            deltas |= msr::TRAILING_RI;
        }
        self.modem_status = new | deltas;
    }

    /// The modem inputs: the terminal's, or in loopback our own outputs (section 8.8, bit 4).
    fn modem_lines(&self) -> u8 {
        if !self.loopback() {
            return msr::CONNECTED;
        }
        [(mcr::RTS, msr::CTS), (mcr::DTR, msr::DSR), (mcr::OUT1, msr::RI), (mcr::OUT2, msr::DCD)]
            .into_iter()
            .filter(|(output, _)| self.modem_control & output != 0)
            .fold(0, |lines, (_, input)| lines | input)
    }
}

#[cfg(test)]
mod tests;
