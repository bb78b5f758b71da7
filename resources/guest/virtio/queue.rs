//! Split virtqueues (VIRTIO 1.2, 2.7), polled. A queue has slots, each with
//! descriptors of its own: nothing is ever searched or listed.

use core::sync::atomic::{Ordering, compiler_fence, fence};

use super::dma::Dma;
use super::mmio::{Window, register};
use super::{Result, feature};
use crate::arena::{Arena, PAGE};

/// The largest queue that is set up: its three parts fit into two pages.
pub const MAX_SIZE: u16 = 256;

/// Where the parts are: the descriptor table has the first page.
const AVAILABLE: u64 = PAGE;
const USED: u64 = AVAILABLE + 1024;

const DESCRIPTOR_SIZE: u64 = 16;

/// Descriptor flags (2.7.5).
mod flag {
    pub const NEXT: u16 = 1;
    pub const WRITE: u16 = 2;
    pub const INDIRECT: u16 = 4;
}

/// Ring flags (2.7.6, 2.7.8).
const NO_INTERRUPT: u16 = 1;
const NO_NOTIFY: u16 = 1;

/// A piece of memory for the device to read or to write.
#[derive(Clone, Copy)]
pub struct Segment {
    pub address: u64,
    pub length: u32,
    pub writable: bool,
}

impl Segment {
    pub fn readable(address: u64, length: u32) -> Self {
        Segment { address, length, writable: false }
    }

    pub fn writable(address: u64, length: u32) -> Self {
        Segment { address, length, writable: true }
    }
}

/// What a device has done with.
pub struct Used {
    pub slot: u16,
    /// Bytes that the device says it wrote.
    pub length: u32,
}

pub struct Queue {
    window: Window,
    index: u32,
    size: u16,
    /// Slots, and descriptors that each of them has.
    slots: u16,
    chain: u16,
    rings: Dma,
    /// The slots' indirect tables, if they are in use.
    tables: Option<Dma>,
    event_index: bool,
    /// Whether the device is to interrupt for each request that it is done with.
    interrupts: bool,
    /// Free-running positions: of the next entry to offer, of what the device
    /// has been told, of the next entry to take back.
    offered: u16,
    published: u16,
    taken: u16,
    /// A bit for each slot that the device has.
    in_flight: [u64; MAX_SIZE as usize / 64],
    /// How often the device was notified.
    pub kicks: u64,
}

impl Queue {
    /// Sets a queue up. Each slot takes up to `chain` segments; there are as
    /// many slots as the queue's size allows, and no more than `most`.
    pub fn new(
        window: Window,
        index: u32,
        features: u64,
        chain: u16,
        most: u16,
        arena: &mut Arena,
    ) -> Result<Self> {
        let size = window.queue_size(index).min(MAX_SIZE.into()) as u16;
        if size == 0 {
            return Err("the device has no such queue");
        }
        // A power of two, whatever the device says.
        let size = 1 << size.ilog2();
        let indirect = features & feature::INDIRECT_DESC != 0;
        let slots = if indirect { size } else { size / chain }.min(most);
        // No chain may be longer than the queue, an indirect one neither (2.7.5.3.1).
        if slots == 0 || chain > size {
            return Err("the queue is too small for so many segments");
        }
        let table_bytes = u64::from(slots) * u64::from(chain) * DESCRIPTOR_SIZE;
        let tables = if indirect { Some(Dma::zeroed(arena, table_bytes)?) } else { None };
        let rings = Dma::zeroed(arena, 2 * PAGE)?;
        let queue = Queue {
            window,
            index,
            size,
            slots,
            chain,
            rings,
            tables,
            event_index: features & feature::EVENT_IDX != 0,
            interrupts: false,
            offered: 0,
            published: 0,
            taken: 0,
            in_flight: [0; _],
            kicks: 0,
        };
        queue.tell_interrupts();
        let start = rings.address();
        window.enable_queue(index, size, [start, start + AVAILABLE, start + USED]);
        Ok(queue)
    }

    pub fn slots(&self) -> u16 {
        self.slots
    }

    /// From now on the device interrupts for each request that it is done with.
    pub fn want_interrupts(&mut self) {
        self.interrupts = true;
        self.tell_interrupts();
    }

    /// By the flag, or by the event index: the next entry, or one that is half a turn away (2.7.7).
    fn tell_interrupts(&self) {
        if self.event_index {
            let used_event = AVAILABLE + 4 + 2 * u64::from(self.size);
            let away = if self.interrupts { 0 } else { 0x8000 };
            self.rings.write16(used_event, self.taken.wrapping_add(away));
        } else {
            self.rings.write16(AVAILABLE, if self.interrupts { 0 } else { NO_INTERRUPT });
        }
    }

    /// Offers a request: its segments, those that the device reads first. The
    /// slot must be free. The device sees it after `publish`.
    pub fn offer(&mut self, slot: u16, segments: impl ExactSizeIterator<Item = Segment>) {
        let count = segments.len() as u16;
        assert!(slot < self.slots && count <= self.chain, "more than a slot has");
        let first = slot * self.chain;
        let (table, base, head) = match self.tables {
            Some(tables) => {
                let place = u64::from(first) * DESCRIPTOR_SIZE;
                let table = tables.part(place, u64::from(self.chain) * DESCRIPTOR_SIZE);
                let length = u32::from(count) * DESCRIPTOR_SIZE as u32;
                describe(self.rings, slot, Segment::readable(table.address(), length), flag::INDIRECT, 0);
                (table, 0, slot)
            }
            None => (self.rings, first, first),
        };
        for (at, segment) in (base..).zip(segments) {
            let more = if at + 1 < base + count { flag::NEXT } else { 0 };
            describe(table, at, segment, more, at + 1);
        }
        let entry = u64::from(self.offered % self.size);
        self.rings.write16(AVAILABLE + 4 + 2 * entry, head);
        self.offered = self.offered.wrapping_add(1);
        self.in_flight[usize::from(slot / 64)] |= 1 << (slot % 64);
    }

    /// Shows the device what was offered, and notifies it if it wants that (2.7.13).
    pub fn publish(&mut self) {
        let (old, new) = (self.published, self.offered);
        if old == new {
            return;
        }
        compiler_fence(Ordering::Release);
        self.rings.write16(AVAILABLE + 2, new);
        self.published = new;
        // The device's wish must not be read before it can see the index.
        fence(Ordering::SeqCst);
        let wanted = if self.event_index {
            let event = self.rings.read16(USED + 4 + 8 * u64::from(self.size));
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            self.rings.read16(USED) & NO_NOTIFY == 0
        };
        if wanted {
            self.window.write(register::QUEUE_NOTIFY, self.index);
            self.kicks += 1;
        }
    }

    /// The next request that the device is done with, if there is one.
    pub fn take(&mut self) -> Result<Option<Used>> {
        let waiting = self.rings.read16(USED + 2).wrapping_sub(self.taken);
        if waiting == 0 {
            return Ok(None);
        }
        if waiting > self.published.wrapping_sub(self.taken) {
            return Err("the used index is ahead of the available one");
        }
        compiler_fence(Ordering::Acquire);
        let entry = USED + 4 + 8 * u64::from(self.taken % self.size);
        let (id, length) = (self.rings.read32(entry), self.rings.read32(entry + 4));
        let chain = if self.tables.is_some() { 1 } else { u32::from(self.chain) };
        let slot = id / chain;
        if id % chain != 0 || slot >= self.slots.into() {
            return Err("the used ring names no request");
        }
        let (word, bit) = (slot as usize / 64, 1 << (slot % 64));
        if self.in_flight[word] & bit == 0 {
            return Err("the used ring names a request that is not in flight");
        }
        self.in_flight[word] &= !bit;
        self.taken = self.taken.wrapping_add(1);
        self.tell_interrupts();
        Ok(Some(Used { slot: slot as u16, length }))
    }
}

fn describe(table: Dma, at: u16, segment: Segment, flags: u16, next: u16) {
    let descriptor = table.part(u64::from(at) * DESCRIPTOR_SIZE, DESCRIPTOR_SIZE);
    descriptor.write64(0, segment.address);
    descriptor.write32(8, segment.length);
    descriptor.write16(12, flags | if segment.writable { flag::WRITE } else { 0 });
    descriptor.write16(14, next);
}
