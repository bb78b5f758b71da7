//! The boot-time port: a guest writes [`BOOT_TIME_MAGIC`] when it is up, which marks the
//! machine's timeline.

use std::sync::Arc;

use crate::bus::{Effect, Registers};
use crate::memory::layout::BOOT_TIME_MAGIC;
use crate::timeline::{Phase, Timeline};

/// Number of ports.
pub const PORTS: u64 = 1;

/// The boot-time port on the bus.
#[derive(Debug)]
pub struct BootTimer {
    timeline: Arc<Timeline>,
}

impl BootTimer {
    /// A port that marks `timeline`.
    #[must_use]
    pub fn new(timeline: Arc<Timeline>) -> Self {
        Self { timeline }
    }
}

impl Registers for BootTimer {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Effect {
        if offset == 0 && data.first() == Some(&BOOT_TIME_MAGIC) {
            self.timeline.mark(Phase::BootTimePort);
        }
        Effect::None
    }
}

#[cfg(test)]
mod tests;
