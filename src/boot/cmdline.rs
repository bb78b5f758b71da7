//! The kernel command line, checked.

use vm_memory::{Bytes, GuestAddress};

use super::error::Error;
use crate::memory::GuestMemory;
use crate::memory::layout::{CMDLINE, CMDLINE_MAX};

/// A command line that can be handed to a kernel: no control characters, and short enough for the
/// room that the machine has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandLine(String);

impl CommandLine {
    /// Checks a command line.
    ///
    /// # Errors
    /// It has a control character (a NUL would end it early, a newline would forge log lines) other
    /// than a tab, or is too long for any kernel.
    pub fn new(words: impl Into<String>) -> Result<Self, Error> {
        let words = words.into();
        let control = |(_, character): &(usize, char)| character.is_control() && *character != '\t';
        if let Some((at, character)) = words.char_indices().find(control) {
            return Err(Error::CommandLineCharacter { character, at });
        }
        let line = Self(words);
        line.check(CMDLINE_MAX - 1, "the machine")?;
        Ok(line)
    }

    /// The words.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its length in bytes, without the terminating NUL.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.0.len() as u64
    }

    /// Whether it has no words.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Refuses a line that is longer than the `max` bytes (without NUL) that `who` takes.
    pub(super) fn check(&self, max: u64, who: &str) -> Result<(), Error> {
        if self.len() > max {
            return Err(Error::CommandLineLength { len: self.len(), who: who.to_owned(), max });
        }
        Ok(())
    }

    /// Puts it where both protocols' structures point to.
    pub(super) fn write(&self, memory: &GuestMemory) -> Result<(), Error> {
        let write = |bytes: &[u8], address| {
            memory.write_slice(bytes, GuestAddress(address)).map_err(|source| Error::Write {
                what: "the command line",
                address,
                source,
            })
        };
        write(self.0.as_bytes(), CMDLINE)?;
        write(&[0], CMDLINE + self.len())
    }
}

#[cfg(test)]
mod tests;
