//! What the guest has sent and its stream has not yet taken.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use libc::EFD_CLOEXEC;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::Error;
use crate::bus::lock;
use crate::devices::serial::Transmit;
use crate::timeline::{Phase, Timeline};

/// What the guest may be ahead of the stream by. Past it the serial port says that it is busy.
pub(super) const OUTBOX_MAX: usize = 64 << 10;

#[derive(Default)]
struct Queue {
    bytes: VecDeque<u8>,
    /// Nobody takes any more: what is sent is thrown away.
    closed: bool,
    /// Nobody waits for the stream any more.
    hurried: bool,
}

/// What the guest has sent and the stream has not yet taken.
pub struct Outbox {
    queue: Mutex<Queue>,
    drained: Condvar,
    wake: EventFd,
    timeline: Arc<Timeline>,
}

impl Outbox {
    /// An empty outbox; the first byte through it is marked on the timeline.
    ///
    /// # Errors
    /// The host gives no eventfd.
    pub fn new(timeline: Arc<Timeline>) -> Result<Arc<Self>, Error> {
        let wake = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(Error::Event)?;
        Ok(Arc::new(Self { queue: Mutex::default(), drained: Condvar::new(), wake, timeline }))
    }

    /// Waits until the stream has taken everything or is gone, or somebody is in a [hurry](Self::hurry).
    pub fn wait_until_drained(&self) {
        let mut queue = lock(&self.queue);
        while !queue.bytes.is_empty() && !queue.hurried {
            queue = self.drained.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Ends all waits, now and later: the stream may never take what it has not yet taken.
    pub fn hurry(&self) {
        lock(&self.queue).hurried = true;
        self.drained.notify_all();
    }

    /// The stream has gone; nothing waits for it any more.
    pub(super) fn close(&self) {
        let mut queue = lock(&self.queue);
        queue.closed = true;
        queue.bytes.clear();
        self.drained.notify_all();
    }

    /// Copies the first bytes, `most` at the most, to `chunk`. True when the outbox is full.
    pub(super) fn peek(&self, chunk: &mut Vec<u8>, most: usize) -> bool {
        let queue = lock(&self.queue);
        chunk.clear();
        chunk.extend(queue.bytes.iter().take(most));
        queue.bytes.len() >= OUTBOX_MAX
    }

    /// The first so many bytes are gone.
    pub(super) fn forget(&self, count: usize) {
        let mut queue = lock(&self.queue);
        let count = count.min(queue.bytes.len());
        queue.bytes.drain(..count);
        if queue.bytes.is_empty() {
            self.drained.notify_all();
        }
    }

    /// Readable when there is something to do: output to move, or a guest that takes input.
    pub(super) fn wake_fd(&self) -> RawFd {
        self.wake.as_raw_fd()
    }

    /// What was to be done is about to be.
    pub(super) fn awake(&self) {
        // It fails only when nobody has called.
        let _ = self.wake.read();
    }

    /// Calls the pump.
    pub(super) fn wake(&self) {
        // It fails only when the counter is full, and then the loop is awake.
        let _ = self.wake.write(1);
    }
}

/// The serial port's view of the outbox.
impl Transmit for Arc<Outbox> {
    fn send(&mut self, byte: u8) {
        self.timeline.mark(Phase::FirstConsoleByte);
        let mut queue = lock(&self.queue);
        if queue.closed {
            return;
        }
        queue.bytes.push_back(byte);
        // The pump sleeps only when the queue was empty, or waits for the stream to be ready.
        if queue.bytes.len() == 1 || queue.bytes.len() == OUTBOX_MAX {
            self.wake();
        }
    }

    fn room(&self) -> bool {
        lock(&self.queue).bytes.len() < OUTBOX_MAX
    }

    fn input_wanted(&self) {
        self.wake();
    }
}
