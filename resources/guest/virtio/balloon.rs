//! Balloons (VIRTIO 1.2, 5.5): the device says how many pages it wants, and is
//! told which ones it has.

use super::dma::Dma;
use super::mmio::Window;
use super::queue::{Queue, Segment};
use super::{Result, device_id};
use crate::Machine;
use crate::arena::PAGE;
use crate::clock::Stopwatch;
use crate::cpu;

/// Page numbers that a chain holds at most.
pub const CHAIN: u64 = 256;
const NUMBER: u64 = size_of::<u32>() as u64;
/// How long the device may take for a chain, in seconds.
const LIMIT: u64 = 30;

/// Where pages are announced that the balloon shall hold, and those that it shall
/// not hold any more (5.5.2).
const INFLATE: u32 = 0;
const DEFLATE: u32 = 1;

/// VIRTIO_BALLOON_F_MUST_TELL_HOST (5.5.3): no page is used before the device knows.
/// So it is here anyway.
const MUST_TELL_HOST: u64 = 1 << 0;

/// Offsets in the configuration space (5.5.4).
mod config {
    pub const NUM_PAGES: u32 = 0;
    pub const ACTUAL: u32 = 4;
}

pub struct Balloon {
    window: Window,
    inflate: Queue,
    deflate: Queue,
    numbers: Dma,
}

impl Balloon {
    pub fn start(machine: &mut Machine, index: usize) -> Result<Self> {
        let window = Window::find(machine, device_id::BALLOON, index)?;
        let features = window.negotiate(MUST_TELL_HOST | super::ring_features(machine.words))?;
        let mut queue = |index| Queue::new(window, index, features, 1, 1, &mut machine.arena);
        let (inflate, deflate) = (queue(INFLATE)?, queue(DEFLATE)?);
        let numbers = Dma::zeroed(&mut machine.arena, CHAIN * NUMBER)?;
        window.go()?;
        Ok(Balloon { window, inflate, deflate, numbers })
    }

    /// The pages that the device wants. An aligned word is read at once, so the
    /// generation has nothing to add.
    pub fn target(&self) -> u64 {
        self.window.config32(config::NUM_PAGES).into()
    }

    /// Says how many pages the balloon has.
    pub fn set_actual(&self, pages: u64) {
        self.window.set_config32(config::ACTUAL, pages as u32);
    }

    /// Puts pages into the balloon. They are the device's until `deflate` returns.
    pub fn inflate(&mut self, pages: Dma) -> Result<()> {
        announce(&mut self.inflate, self.numbers, pages)
    }

    /// Takes pages out of the balloon. What they hold is up to the device.
    pub fn deflate(&mut self, pages: Dma) -> Result<()> {
        announce(&mut self.deflate, self.numbers, pages)
    }

    /// Resets the device: from now on it has none of our memory.
    pub fn stop(&self) -> Result<()> {
        self.window.reset()
    }
}

/// One chain with the pages' numbers, from its start to its end.
fn announce(queue: &mut Queue, numbers: Dma, pages: Dma) -> Result<()> {
    let count = pages.length() / PAGE;
    for index in 0..count {
        numbers.write32(index * NUMBER, (pages.address() / PAGE + index) as u32);
    }
    let segment = Segment::readable(numbers.address(), (count * NUMBER) as u32);
    queue.offer(0, [segment].into_iter());
    queue.publish();
    let watch = Stopwatch::start();
    loop {
        match queue.take()? {
            Some(used) if used.length == 0 => return Ok(()),
            Some(_) => return Err("the device says that it wrote where it may only read"),
            None if watch.seconds() >= LIMIT => return Err("the device does not finish a request"),
            None => cpu::pause(),
        }
    }
}
