//! The queue skeleton: what every device does with its rings, done once.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError};
use vmm_sys_util::eventfd::EventFd;

use super::chain::Chain;
use super::status::{DeviceStatus, bit};
use crate::memory::{GuestMemory, fault};
use crate::state::saved;

/// In the available ring's flags (VIRTIO 1.2, section 2.7.6): the driver polls.
const NO_INTERRUPT: u16 = 1;

saved! {
    "virtio-queue", version 1, fingerprint 2566669410;
    /// Where the driver has put a queue, and how large it is.
    #[derive(Copy, Default, Eq)]
    pub struct QueueSetup {
        /// Number of descriptors.
        pub size: u16,
        /// Whether the driver has enabled it.
        pub ready: bool,
        /// Address of the descriptor table.
        pub descriptors: u64,
        /// Address of the available ring (driver area).
        pub available: u64,
        /// Address of the used ring (device area).
        pub used: u64,
    }
}

saved! {
    "virtio-ring", version 1, fingerprint 2413760724;
    /// How far a queue is in which nothing is in flight.
    pub(super) struct Ring {
        /// Index of the next chain, in the available ring and in the used ring.
        next: u16,
        /// Nothing is done with it until the device is reset.
        pub(super) closed: bool,
    }
}

impl QueueSetup {
    /// The three areas with their extents and alignments (VIRTIO 1.2, section 2.7).
    fn areas(&self) -> [(u64, u64, u64); 3] {
        let size = u64::from(self.size);
        [(self.descriptors, 16 * size, 16), (self.available, 6 + 2 * size, 2), (self.used, 6 + 8 * size, 4)]
    }

    /// The queue, if its areas are aligned and lie in guest memory.
    fn open(&self, memory: &GuestMemory, most: u16, event_idx: bool) -> Option<Queue> {
        let lies_well = |(start, len, alignment): (u64, u64, u64)| {
            let len = usize::try_from(len).unwrap_or(usize::MAX);
            start % alignment == 0 && memory.check_range(GuestAddress(start), len)
        };
        let mut queue = Queue::new(most).ok()?;
        let fits = self.size.is_power_of_two() && self.size <= most;
        if !fits || !self.areas().into_iter().all(lies_well) {
            return None;
        }
        queue.try_set_size(self.size).ok()?;
        queue.try_set_desc_table_address(GuestAddress(self.descriptors)).ok()?;
        queue.try_set_avail_ring_address(GuestAddress(self.available)).ok()?;
        queue.try_set_used_ring_address(GuestAddress(self.used)).ok()?;
        queue.set_event_idx(event_idx);
        queue.set_ready(true);
        Some(queue)
    }
}

/// What became of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// It is done; the device wrote so many bytes.
    Done(u32),
    /// The device has kept its head and will [`VirtQueue::complete`] it.
    Deferred,
    /// Not now: the chain stays with the driver, and the device will look at the queue again by itself.
    Stop,
}

/// A queue in use. Its device gives [`drain`](Self::drain) a function for one chain; notification
/// suppression both ways, the used ring and the decision to interrupt are here.
pub struct VirtQueue {
    memory: Arc<GuestMemory>,
    queue: Queue,
    status: Arc<DeviceStatus>,
    kick: Arc<EventFd>,
    in_flight: u16,
    /// Index of the used ring that the driver has been told of.
    signalled: u16,
    /// The driver has not enabled it, or its ring makes no sense: nothing is done with it until the
    /// device is reset.
    closed: bool,
    bad_chains: u64,
}

impl VirtQueue {
    /// The queue as the driver has set it up, closed if it has not; none if it lies outside guest memory
    /// or makes no sense.
    pub(super) fn open(
        memory: &Arc<GuestMemory>,
        setup: &QueueSetup,
        most: u16,
        event_idx: bool,
        status: &Arc<DeviceStatus>,
        kick: &Arc<EventFd>,
    ) -> Option<Self> {
        let queue = if setup.ready { setup.open(memory, most, event_idx)? } else { Queue::new(most).ok()? };
        let signalled = queue.next_used();
        Some(Self {
            memory: Arc::clone(memory),
            queue,
            status: Arc::clone(status),
            kick: Arc::clone(kick),
            in_flight: 0,
            signalled,
            closed: !setup.ready,
            bad_chains: 0,
        })
    }

    /// How far it is; none if chains of it are in flight.
    pub(super) fn save(&self) -> Option<Ring> {
        let Self { memory: _, queue, status, kick: _, in_flight, signalled: _, closed, bad_chains: _ } = self;
        let is_settled = *in_flight == 0 && queue.next_avail() == queue.next_used();
        // A device that has failed may keep its chains until it is reset.
        let closed = *closed || !is_settled && status.get() & bit::NEEDS_RESET != 0;
        (is_settled || closed).then_some(Ring { next: queue.next_used(), closed })
    }

    /// Goes on where another one was.
    pub(super) fn restore(&mut self, ring: &Ring) {
        self.queue.set_next_avail(ring.next);
        self.queue.set_next_used(ring.next);
        self.signalled = ring.next;
        self.closed |= ring.closed;
    }

    /// Number of descriptors.
    #[must_use]
    pub fn size(&self) -> u16 {
        self.queue.size()
    }

    /// Whether the driver uses the queue: it has enabled it, and its ring still makes sense.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !self.closed
    }

    /// Chains that no driver may build, so far. They were given back with nothing in them.
    #[must_use]
    pub fn bad_chains(&self) -> u64 {
        self.bad_chains
    }

    /// Serves what the driver has made available, then tells it if it wants to be told. After as many
    /// chains as the queue is long, others on the event loop get their turn first.
    pub fn drain(&mut self, mut serve: impl FnMut(&Chain<'_>) -> Served) {
        // The chains borrow guest memory while the ring is changed; a clone is one counter.
        let memory = Arc::clone(&self.memory);
        let mut chain = Chain::default();
        let mut budget = self.size();
        'more: while !self.closed {
            if self.queue.disable_notification(&*memory).is_err() {
                self.give_up();
            }
            while self.next(&memory, &mut chain, &mut budget) {
                match serve(&chain) {
                    Served::Done(len) => self.put_used(chain.head(), len),
                    Served::Deferred => self.in_flight += 1,
                    Served::Stop => {
                        self.queue.set_next_avail(self.queue.next_avail().wrapping_sub(1));
                        break 'more;
                    }
                }
            }
            if budget == 0 {
                self.look_again();
                break;
            }
            if self.closed {
                break;
            }
            match self.queue.enable_notification(&*memory) {
                Ok(true) => {}
                Ok(false) => break,
                Err(_) => self.give_up(),
            }
        }
        self.signal();
    }

    /// The next good chain, if `budget` is enough for it. Bad ones are given back at once, and count too.
    fn next<'m>(&mut self, memory: &'m GuestMemory, chain: &mut Chain<'m>, budget: &mut u16) -> bool {
        let most = usize::from(self.size());
        while !self.closed && *budget > 0 {
            if self.in_flight >= self.size() {
                // No driver has more chains than descriptors.
                let more = self.queue.avail_idx(memory, Ordering::Acquire);
                if more.is_ok_and(|index| index.0 != self.queue.next_avail()) {
                    self.give_up();
                }
                return false;
            }
            let Ok(mut heads) = self.queue.iter(memory) else {
                self.give_up();
                return false;
            };
            let Some(descriptors) = heads.next() else { return false };
            let head = descriptors.head_index();
            if head >= self.size() {
                self.give_up();
                return false;
            }
            *budget -= 1;
            let is_good = chain.refill(memory, descriptors, most).is_ok();
            // What a device takes has come by then, and so has the ring: nothing else gets out of the machine.
            if !fault::bring(memory, chain.readable_slices()) {
                self.give_up();
                return false;
            }
            if is_good {
                return true;
            }
            self.bad_chains += 1;
            self.put_used(head, 0);
        }
        false
    }

    /// Gives a deferred chain back, with so many bytes written. [`Self::signal`] tells the driver.
    pub fn complete(&mut self, head: u16, len: u32) {
        self.complete_all([(head, len)]);
    }

    /// Gives deferred chains back, each with the number of bytes written. The driver sees all of them at
    /// once or none. [`Self::signal`] tells it.
    pub fn complete_all(&mut self, chains: impl IntoIterator<Item = (u16, u32)>) {
        let mut count = 0;
        self.publish(chains.into_iter().inspect(|_| count += 1));
        self.in_flight = self.in_flight.saturating_sub(count);
    }

    /// Leaves the last `count` chains that were deferred with the driver, as if they had never been
    /// looked at: the next [`drain`](Self::drain) finds them again.
    pub fn give_back(&mut self, count: u16) {
        let count = count.min(self.in_flight);
        self.in_flight -= count;
        self.queue.set_next_avail(self.queue.next_avail().wrapping_sub(count));
    }

    fn put_used(&mut self, head: u16, len: u32) {
        self.publish([(head, len)]);
    }

    /// Writes elements of the used ring, then the index behind them (VIRTIO 1.2, section 2.7.8).
    fn publish(&mut self, chains: impl IntoIterator<Item = (u16, u32)>) {
        let (ring, size) = (self.queue.used_ring(), self.size());
        let mut next = self.queue.next_used();
        for (head, len) in chains {
            let element = u64::from(head) | u64::from(len) << 32;
            let slot = GuestAddress(ring + 4 + 8 * u64::from(next % size));
            if self.closed || self.memory.write_obj(element.to_le(), slot).is_err() {
                self.give_up();
            }
            next = next.wrapping_add(1);
        }
        let index = GuestAddress(ring + 2);
        if self.closed || self.memory.store(next.to_le(), index, Ordering::Release).is_err() {
            self.give_up();
        }
        self.queue.set_next_used(next);
    }

    /// Tells the driver of what is used since the last time, if it wants to be told.
    pub fn signal(&mut self) {
        let used = self.queue.next_used();
        let before = std::mem::replace(&mut self.signalled, used);
        if used == before || self.closed {
            return;
        }
        // The driver sees the index before what it wants is read.
        fence(Ordering::SeqCst);
        match self.wants_signal(before, used) {
            Ok(true) => self.status.used_buffer(),
            Ok(false) => {}
            Err(_) => self.give_up(),
        }
    }

    /// Whether the driver wants to be told that the used ring's index went from `before` to `used`
    /// (VIRTIO 1.2, section 2.7.7).
    fn wants_signal(&self, before: u16, used: u16) -> Result<bool, GuestMemoryError> {
        let word =
            |at| self.memory.read_obj::<u16>(GuestAddress(self.queue.avail_ring() + at)).map(u16::from_le);
        if self.queue.event_idx_enabled() {
            let event = word(4 + 2 * u64::from(self.size()))?;
            Ok(used.wrapping_sub(event).wrapping_sub(1) < used.wrapping_sub(before))
        } else {
            Ok(word(0)? & NO_INTERRUPT == 0)
        }
    }

    /// Comes back to this queue when others on the event loop have had their turn.
    pub fn look_again(&self) {
        // It fails only if the counter is full, when it is readable anyway.
        let _ = self.kick.write(1);
    }

    fn give_up(&mut self) {
        if !self.closed {
            self.closed = true;
            self.status.needs_reset();
        }
    }
}
