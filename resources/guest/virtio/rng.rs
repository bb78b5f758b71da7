//! Entropy devices (VIRTIO 1.2, 5.4): one queue, buffers to fill.

use super::dma::Dma;
use super::mmio::Window;
use super::queue::{Queue, Segment};
use super::{Result, device_id};
use crate::Machine;
use crate::arena::PAGE;
use crate::clock::Stopwatch;
use crate::cpu;

/// How long the device may take for a buffer, in seconds.
const LIMIT: u64 = 30;

pub struct Entropy {
    window: Window,
    queue: Queue,
    buffer: Dma,
}

impl Entropy {
    pub fn start(machine: &mut Machine, index: usize) -> Result<Self> {
        let window = Window::find(machine, device_id::ENTROPY, index)?;
        let features = window.negotiate(super::ring_features(machine.words))?;
        let queue = Queue::new(window, 0, features, 1, 1, &mut machine.arena)?;
        let buffer = Dma::zeroed(&mut machine.arena, PAGE)?;
        window.go()?;
        Ok(Entropy { window, queue, buffer })
    }

    /// Reads up to so many bytes, at most a page; returns those that came.
    pub fn read(&mut self, most: u64) -> Result<Dma> {
        self.ask(most);
        let watch = Stopwatch::start();
        loop {
            match self.answer(most)? {
                Some(bytes) => return Ok(bytes),
                None if watch.seconds() >= LIMIT => return Err("the device does not finish a request"),
                None => cpu::pause(),
            }
        }
    }

    /// Asks for up to so many bytes, at most a page. The last request must have been answered.
    pub fn ask(&mut self, most: u64) {
        let segment = Segment::writable(self.buffer.address(), most.clamp(1, PAGE) as u32);
        self.queue.offer(0, [segment].into_iter());
        self.queue.publish();
    }

    /// The bytes that have come, if they have.
    pub fn answer(&mut self, most: u64) -> Result<Option<Dma>> {
        match self.queue.take()? {
            Some(used) if used.length == 0 || u64::from(used.length) > most.clamp(1, PAGE) => {
                Err("the device says that it wrote nothing or too much")
            }
            Some(used) => Ok(Some(self.buffer.part(0, used.length.into()))),
            None => Ok(None),
        }
    }

    /// From now on the device interrupts when it has answered.
    pub fn want_interrupts(&mut self) {
        self.queue.want_interrupts();
    }

    pub fn window(&self) -> Window {
        self.window
    }

    /// Resets the device: from now on it has none of our memory.
    pub fn stop(&self) -> Result<()> {
        self.window.reset()
    }
}
