//! The registers of a PC16550D and their bits.

/// Number of byte-wide registers.
pub const REGISTERS: u64 = 8;

/// Register offsets; the first two select the divisor latch while LCR.DLAB is set.
pub mod offset {
    /// Receiver buffer (read), transmitter holding (write), divisor latch low (DLAB).
    pub const DATA: u64 = 0;
    /// Interrupt enable, divisor latch high (DLAB).
    pub const IER: u64 = 1;
    /// Interrupt identification (read).
    pub const IIR: u64 = 2;
    /// FIFO control (write).
    pub const FCR: u64 = 2;
    /// Line control.
    pub const LCR: u64 = 3;
    /// Modem control.
    pub const MCR: u64 = 4;
    /// Line status.
    pub const LSR: u64 = 5;
    /// Modem status.
    pub const MSR: u64 = 6;
    /// Scratch.
    pub const SCR: u64 = 7;
}

/// Interrupt enable register, section 8.7.
pub mod ier {
    /// Received data available, and the character timeout.
    pub const RECEIVED: u8 = 1 << 0;
    /// Transmitter holding register empty.
    pub const TRANSMIT: u8 = 1 << 1;
    /// Receiver line status.
    pub const LINE: u8 = 1 << 2;
    /// Modem status.
    pub const MODEM: u8 = 1 << 3;
    /// The bits that exist; the upper four always read 0.
    pub const ALL: u8 = 0x0f;
}

/// Interrupt identification register, section 8.6, table IV.
pub mod iir {
    /// No interrupt is pending.
    pub const NONE: u8 = 0x01;
    /// Receiver line status, first in priority.
    pub const LINE: u8 = 0x06;
    /// Received data available, second in priority.
    pub const RECEIVED: u8 = 0x04;
    /// Character timeout, second in priority as well.
    pub const TIMEOUT: u8 = 0x0c;
    /// Transmitter holding register empty, third in priority.
    pub const TRANSMIT: u8 = 0x02;
    /// Modem status, last in priority.
    pub const MODEM: u8 = 0x00;
    /// The FIFOs are enabled.
    pub const FIFO: u8 = 0xc0;
}

/// FIFO control register, section 8.5.
pub mod fcr {
    /// Enables both FIFOs; without it the other bits are not taken.
    pub const ENABLE: u8 = 1 << 0;
    /// Clears the receive FIFO.
    pub const CLEAR_RECEIVED: u8 = 1 << 1;
    /// Clears the transmit FIFO.
    pub const CLEAR_TRANSMIT: u8 = 1 << 2;
}

/// Line control register, section 8.1.
pub mod lcr {
    /// Divisor latch access.
    pub const DLAB: u8 = 1 << 7;
}

/// Modem control register, section 8.8.
pub mod mcr {
    /// Data terminal ready.
    pub const DTR: u8 = 1 << 0;
    /// Request to send.
    pub const RTS: u8 = 1 << 1;
    /// Auxiliary output 1.
    pub const OUT1: u8 = 1 << 2;
    /// Auxiliary output 2, which gates the interrupt on a PC.
    pub const OUT2: u8 = 1 << 3;
    /// Local loopback.
    pub const LOOP: u8 = 1 << 4;
    /// The bits that exist; the upper three always read 0.
    pub const ALL: u8 = 0x1f;
}

/// Line status register, section 8.4.
pub mod lsr {
    /// Data ready.
    pub const DATA_READY: u8 = 1 << 0;
    /// Overrun error.
    pub const OVERRUN: u8 = 1 << 1;
    /// Parity error.
    pub const PARITY: u8 = 1 << 2;
    /// Framing error.
    pub const FRAMING: u8 = 1 << 3;
    /// Break interrupt.
    pub const BREAK: u8 = 1 << 4;
    /// Transmitter holding register empty.
    pub const THR_EMPTY: u8 = 1 << 5;
    /// Transmitter empty.
    pub const EMPTY: u8 = 1 << 6;
    /// A character in the receive FIFO has an error.
    pub const FIFO_ERROR: u8 = 1 << 7;
    /// The errors that belong to a character and travel with it through the FIFO.
    pub(in crate::devices::serial) const CHARACTER: u8 = PARITY | FRAMING | BREAK;
    /// All that raises the line status interrupt.
    pub(in crate::devices::serial) const ERRORS: u8 = OVERRUN | CHARACTER;
}

/// Modem status register, section 8.9.
pub mod msr {
    /// Clear to send changed.
    pub const DELTA_CTS: u8 = 1 << 0;
    /// Data set ready changed.
    pub const DELTA_DSR: u8 = 1 << 1;
    /// Ring indicator went from on to off.
    pub const TRAILING_RI: u8 = 1 << 2;
    /// Data carrier detect changed.
    pub const DELTA_DCD: u8 = 1 << 3;
    /// Clear to send.
    pub const CTS: u8 = 1 << 4;
    /// Data set ready.
    pub const DSR: u8 = 1 << 5;
    /// Ring indicator.
    pub const RI: u8 = 1 << 6;
    /// Data carrier detect.
    pub const DCD: u8 = 1 << 7;
    /// All that raises the modem status interrupt.
    pub(in crate::devices::serial) const DELTAS: u8 = 0x0f;
    /// What a connected terminal raises.
    pub(in crate::devices::serial) const CONNECTED: u8 = CTS | DSR | DCD;
}
