//! The generation id ("Virtual Machine Generation ID", Microsoft, 2012): 128 random bits in guest memory that
//! are others whenever the machine is not what it was a moment ago, and an event that says so.
//!
//! The guest finds both in the ACPI tables. The id is part of guest memory, so there is no state to keep
//! beside it.

use std::io;
use std::sync::Arc;

use rustix::rand::{GetRandomFlags, getrandom};
use thiserror::Error;
use vm_memory::{Bytes, GuestAddress};

use crate::irq::IrqLine;
use crate::memory::GuestMemory;
use crate::memory::layout::GENERATION_ID;

/// Bytes of an id.
pub const LEN: usize = 16;

/// Why a machine has no new generation id.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The host gives no random numbers.
    #[error("the host has no random numbers for a generation id")]
    Random(#[source] io::Error),
    /// Guest memory is not there.
    #[error("cannot write the generation id at {GENERATION_ID:#x}")]
    Write(#[source] vm_memory::GuestMemoryError),
}

/// 128 random bits, as no one else has.
///
/// # Errors
/// The host gives no random numbers.
pub fn random() -> io::Result<[u8; LEN]> {
    let mut id = [0; LEN];
    // The kernel gives as few bytes as these at once, or none.
    getrandom(&mut id, GetRandomFlags::empty())?;
    Ok(id)
}

/// The device.
pub struct VmGenId {
    memory: GuestMemory,
    line: Arc<dyn IrqLine>,
}

impl VmGenId {
    /// The device of this memory, whose id is whatever is there. `line` is
    /// [`GENERATION_IRQ`](crate::memory::layout::GENERATION_IRQ).
    #[must_use]
    pub fn new(memory: GuestMemory, line: Arc<dyn IrqLine>) -> Self {
        Self { memory, line }
    }

    /// Writes a new id, then tells the guest. While the guest runs it might see half of one; after a
    /// restore, the interrupt controllers have to have their state before.
    ///
    /// # Errors
    /// The host has no random numbers; the old id stays.
    pub fn renew(&mut self) -> Result<(), Error> {
        let id = random().map_err(Error::Random)?;
        self.memory.write_slice(&id, GuestAddress(GENERATION_ID)).map_err(Error::Write)?;
        self.line.pulse();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
