//! The first serial port (a 16550: TI PC16550D data sheet), polled.

use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use crate::cpu::{self, in8, out8};

pub const PORT: u16 = 0x3f8;

/// Registers, as offsets from the port.
pub mod register {
    pub const DATA: u16 = 0;
    pub const IER: u16 = 1;
    pub const IIR: u16 = 2;
    pub const FCR: u16 = 2;
    pub const LCR: u16 = 3;
    pub const MCR: u16 = 4;
    pub const LSR: u16 = 5;
    pub const SCRATCH: u16 = 7;
}

pub const IER_DATA_READY: u8 = 1 << 0;
pub const IER_TRANSMITTER_EMPTY: u8 = 1 << 1;
pub const MCR_OUT2: u8 = 1 << 3;
const FCR_ENABLE: u8 = 1;
const IIR_FIFOS: u8 = 0b1100_0000;
const LCR_8N1: u8 = 0b11;
const LSR_DATA_READY: u8 = 1 << 0;
const LSR_TRANSMITTER_EMPTY: u8 = 1 << 5;
const FIFO: u8 = 16;

/// How often to look for an empty transmitter before giving the port up: far
/// longer than 16 characters take at 9600 baud.
const PATIENCE: u32 = 100_000;

/// How many bytes the transmitter takes before it must be asked again.
static BURST: AtomicU8 = AtomicU8::new(1);
static LEFT: AtomicU8 = AtomicU8::new(1);
static DEAD: AtomicBool = AtomicBool::new(false);
static QUIET: AtomicBool = AtomicBool::new(false);

/// 8N1, no interrupts. The FIFOs are switched on unless that could lose input
/// that is already there.
pub fn initialise(keep_input: bool) {
    out8(PORT + register::LCR, LCR_8N1);
    out8(PORT + register::IER, 0);
    out8(PORT + register::MCR, MCR_OUT2 | 0b11);
    if !keep_input {
        out8(PORT + register::FCR, FCR_ENABLE);
    }
    if in8(PORT + register::IIR) & IIR_FIFOS == IIR_FIFOS {
        BURST.store(FIFO, Ordering::Relaxed);
    }
    LEFT.store(0, Ordering::Relaxed);
    DEAD.store(false, Ordering::Relaxed);
}

/// From now on only results are printed.
pub fn set_quiet(quiet: bool) {
    QUIET.store(quiet, Ordering::Relaxed);
}

pub fn quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// Whether the scratch register keeps what is written to it.
pub fn present() -> bool {
    [0x5a, 0xa5].into_iter().all(|pattern| {
        out8(PORT + register::SCRATCH, pattern);
        in8(PORT + register::SCRATCH) == pattern
    })
}

pub fn write_byte(byte: u8) {
    if DEAD.load(Ordering::Relaxed) {
        return;
    }
    let mut left = LEFT.load(Ordering::Relaxed);
    if left == 0 {
        let empty = || in8(PORT + register::LSR) & LSR_TRANSMITTER_EMPTY != 0;
        let mut tries = 0;
        while !empty() {
            tries += 1;
            if tries == PATIENCE {
                DEAD.store(true, Ordering::Relaxed);
                return;
            }
            cpu::pause();
        }
        left = BURST.load(Ordering::Relaxed);
    }
    out8(PORT + register::DATA, byte);
    LEFT.store(left - 1, Ordering::Relaxed);
}

/// Writes what is printable, and `?` for the rest.
pub fn write_text(text: &[u8]) {
    for &byte in text {
        write_byte(if (0x20..0x7f).contains(&byte) { byte } else { b'?' });
    }
}

/// A byte, if one has come.
pub fn read_byte() -> Option<u8> {
    (in8(PORT + register::LSR) & LSR_DATA_READY != 0).then(|| in8(PORT + register::DATA))
}

pub struct Console;

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                write_byte(b'\r');
            }
            write_byte(byte);
        }
        Ok(())
    }
}

/// Prints a result: always.
macro_rules! print {
    ($($argument:tt)*) => {{
        // Writing to the console cannot fail.
        let _ = core::fmt::Write::write_fmt(&mut $crate::console::Console, format_args!($($argument)*));
    }};
}

/// Prints a line of result.
macro_rules! println {
    () => {
        $crate::console::print!("\n")
    };
    ($($argument:tt)*) => {{
        $crate::console::print!($($argument)*);
        $crate::console::print!("\n");
    }};
}

/// Prints a line of talk, unless the guest is to be quiet.
macro_rules! say {
    ($($argument:tt)*) => {
        if !$crate::console::quiet() {
            $crate::console::println!($($argument)*);
        }
    };
}

pub(crate) use {print, println, say};
