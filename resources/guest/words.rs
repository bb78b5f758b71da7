//! The command line: words with blanks between, some of the form `key=value`.

use core::cell::UnsafeCell;
use core::str;

use crate::boot_info::BootInfo;
use crate::phys;

/// As long as a Linux command line may be (COMMAND_LINE_SIZE is 2048 on x86).
const MAX: usize = 4096;

struct Buffer(UnsafeCell<[u8; MAX]>);

// SAFETY: written once, by the first CPU, before any other runs.
unsafe impl Sync for Buffer {}

static BUFFER: Buffer = Buffer(UnsafeCell::new([0; MAX]));

#[derive(Clone, Copy)]
pub struct Words {
    line: &'static [u8],
}

impl Words {
    /// Copies the line away from memory that a job may overwrite. Called once.
    pub fn read(boot: &BootInfo) -> Self {
        // SAFETY: called once, so nothing else borrows the buffer.
        let buffer = unsafe { &mut *BUFFER.0.get() };
        Words { line: boot.command_line().map_or(&[], |address| phys::read_string(address, buffer)) }
    }

    /// The words that are ASCII.
    pub fn iter(self) -> impl Iterator<Item = &'static str> {
        Iter { rest: self.line }
    }

    pub fn has(self, wanted: &str) -> bool {
        self.iter().any(|word| word == wanted)
    }

    /// The value of the last `key=value`.
    pub fn value(self, key: &str) -> Option<&'static str> {
        self.values(key).last()
    }

    pub fn values(self, key: &str) -> impl Iterator<Item = &'static str> {
        self.iter().filter_map(move |word| word.strip_prefix(key)?.strip_prefix('='))
    }

    /// The number that is the value of a key.
    pub fn number(self, key: &str) -> Option<u64> {
        parse_number(self.value(key)?)
    }

    /// What `secs=` and `ms=` give together, in microseconds.
    pub fn microseconds(self) -> Option<u64> {
        let part = |key, scale| Some(self.number(key)?.saturating_mul(scale));
        match (part("secs", 1_000_000), part("ms", 1000)) {
            (Some(seconds), Some(milliseconds)) => Some(seconds.saturating_add(milliseconds)),
            (seconds, milliseconds) => seconds.or(milliseconds),
        }
    }

    pub fn line(self) -> &'static [u8] {
        self.line
    }
}

struct Iter {
    rest: &'static [u8],
}

impl Iterator for Iter {
    type Item = &'static str;

    // Once is enough: many loops use it.
    #[inline(never)]
    fn next(&mut self) -> Option<&'static str> {
        loop {
            self.rest = self.rest.trim_ascii_start();
            if self.rest.is_empty() {
                return None;
            }
            let length = self.rest.iter().position(u8::is_ascii_whitespace).unwrap_or(self.rest.len());
            let (word, rest) = self.rest.split_at(length);
            self.rest = rest;
            if word.is_ascii() {
                // SAFETY: ASCII is UTF-8.
                return Some(unsafe { str::from_utf8_unchecked(word) });
            }
        }
    }
}

/// What is before and behind the first such (ASCII) byte: without the search
/// machinery of `str`.
#[inline(never)]
pub fn split_at_byte(text: &str, byte: u8) -> Option<(&str, &str)> {
    let at = text.bytes().position(|each| each == byte)?;
    Some((text.get(..at)?, text.get(at + 1..)?))
}

/// Decimal, or hexadecimal with `0x`; a suffix K, M or G multiplies.
#[inline(never)]
pub fn parse_number(text: &str) -> Option<u64> {
    let shift = match text.as_bytes().last()? {
        b'k' | b'K' => 10,
        b'm' | b'M' => 20,
        b'g' | b'G' => 30,
        _ => 0,
    };
    let text = if shift > 0 { text.get(..text.len() - 1)? } else { text };
    let (digits, radix) = text.strip_prefix("0x").map_or((text, 10), |digits| (digits, 16));
    if digits.is_empty() {
        return None;
    }
    let number = digits.chars().try_fold(0_u64, |number, digit| {
        number.checked_mul(radix)?.checked_add(digit.to_digit(radix as u32)?.into())
    })?;
    number.checked_mul(1 << shift)
}
