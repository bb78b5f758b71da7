//! Network devices (VIRTIO 1.2, 5.1): one pair of queues.

use super::dma::Dma;
use super::mmio::Window;
use super::queue::{MAX_SIZE, Queue, Segment};
use super::{Result, device_id};
use crate::Machine;

/// Feature bits (5.1.3).
pub mod bit {
    pub const CSUM: u64 = 1 << 0;
    pub const GUEST_CSUM: u64 = 1 << 1;
    pub const MTU: u64 = 1 << 3;
    pub const MAC: u64 = 1 << 5;
    pub const GUEST_TSO4: u64 = 1 << 7;
    pub const HOST_TSO4: u64 = 1 << 11;
    pub const MRG_RXBUF: u64 = 1 << 15;
    pub const STATUS: u64 = 1 << 16;
    pub const MQ: u64 = 1 << 22;
}

/// What every driver here takes.
const BASE: u64 = bit::MTU | bit::MAC | bit::MRG_RXBUF | bit::STATUS;

/// Offsets in the configuration space (5.1.4).
pub mod config {
    pub const MAC: u32 = 0;
    pub const STATUS: u32 = 6;
    pub const MAX_PAIRS: u32 = 8;
    pub const MTU: u32 = 10;
}

/// `struct virtio_net_hdr` (5.1.6).
pub const HEADER: u64 = 12;
mod header {
    pub const FLAGS: u64 = 0;
    pub const GSO_TYPE: u64 = 1;
    pub const HDR_LEN: u64 = 2;
    pub const GSO_SIZE: u64 = 4;
    pub const CSUM_START: u64 = 6;
    pub const CSUM_OFFSET: u64 = 8;
    pub const NUM_BUFFERS: u64 = 10;
    pub const NEEDS_CSUM: u8 = 1;
    pub const GSO_TCPV4: u8 = 1;
}

const RECEIVE: u32 = 0;
const TRANSMIT: u32 = 1;

/// A buffer for what comes in: a frame, or a part of a large one.
const RECEIVE_BYTES: u64 = 2048;
const DEFAULT_MTU: u16 = 1500;

/// What the device shall still do with a frame that goes out.
#[derive(Clone, Copy, Default)]
pub struct Offload {
    /// Where the checksum starts, and where it goes from there; zero for none.
    pub checksum_start: u16,
    pub checksum_offset: u16,
    /// Bytes of headers and of each segment's data for TCP over IPv4; zero for
    /// no segmentation.
    pub header_length: u16,
    pub segment_size: u16,
}

/// A buffer that came in.
pub struct Received {
    pub slot: u16,
    /// Bytes of the frame in this buffer.
    pub length: u32,
    /// Whether a frame starts here.
    pub first: bool,
}

pub struct Net {
    window: Window,
    pub features: u64,
    pub mac: [u8; 6],
    receive: Queue,
    transmit: Queue,
    incoming: Dma,
    outgoing: Dma,
    outgoing_bytes: u64,
    free: [u16; MAX_SIZE as usize],
    free_count: u16,
    /// Buffers that still belong to the frame that came in.
    rest: u16,
}

impl Net {
    /// Sets the device up with so many frames under way and such features
    /// beside the usual ones; outgoing frames have at most so many bytes.
    pub fn start(machine: &mut Machine, index: usize, depth: u16, bytes: u32, wanted: u64) -> Result<Self> {
        let window = Window::find(machine, device_id::NETWORK, index)?;
        let features = window.negotiate(BASE | wanted | super::ring_features(machine.words))?;
        let needs = |bit, other| features & bit == 0 || features & other != 0;
        if !needs(bit::GUEST_TSO4, bit::MRG_RXBUF) {
            return Err("large frames need MRG_RXBUF");
        }
        let arena = &mut machine.arena;
        let receive = Queue::new(window, RECEIVE, features, 1, MAX_SIZE, arena)?;
        let transmit = Queue::new(window, TRANSMIT, features, 1, depth.clamp(1, MAX_SIZE), arena)?;
        let mut mac = [0; 6];
        for (offset, byte) in (config::MAC..).zip(&mut mac) {
            *byte = window.config8(offset);
        }
        // Frames start at a multiple of 64.
        let outgoing_bytes = (HEADER + u64::from(bytes)).next_multiple_of(64);
        let mut net = Net {
            window,
            features,
            mac: if features & bit::MAC != 0 { mac } else { [2, 0, 0, 0, 0, 1] },
            incoming: Dma::zeroed(arena, u64::from(receive.slots()) * RECEIVE_BYTES)?,
            outgoing: Dma::zeroed(arena, u64::from(transmit.slots()) * outgoing_bytes)?,
            receive,
            transmit,
            outgoing_bytes,
            free: [0; _],
            free_count: 0,
            rest: 0,
        };
        for slot in (0..net.transmit.slots()).rev() {
            net.release(slot);
        }
        for slot in 0..net.receive.slots() {
            net.recycle(slot);
        }
        window.go()?;
        net.receive.publish();
        Ok(net)
    }

    pub fn has(&self, bit: u64) -> bool {
        self.features & bit != 0
    }

    pub fn offered(&self) -> u64 {
        self.window.offered()
    }

    pub fn mtu(&self) -> u16 {
        if self.has(bit::MTU) { self.window.config16(config::MTU) } else { DEFAULT_MTU }
    }

    /// Whether the link is up.
    pub fn link(&self) -> bool {
        !self.has(bit::STATUS) || self.window.config16(config::STATUS) & 1 != 0
    }

    pub fn queue_pairs(&self) -> u16 {
        if self.offered() & bit::MQ != 0 { self.window.config16(config::MAX_PAIRS) } else { 1 }
    }

    pub fn kicks(&self) -> u64 {
        self.receive.kicks + self.transmit.kicks
    }

    pub fn depth(&self) -> u16 {
        self.transmit.slots()
    }

    /// Frames on their way out.
    pub fn in_flight(&self) -> u16 {
        self.depth() - self.free_count
    }

    /// A buffer for a frame to send; `None` if all are on their way.
    pub fn slot(&mut self) -> Option<u16> {
        self.free_count = self.free_count.checked_sub(1)?;
        Some(self.free[usize::from(self.free_count)])
    }

    /// Gives a buffer back that was not sent.
    pub fn release(&mut self, slot: u16) {
        self.free[usize::from(self.free_count)] = slot;
        self.free_count += 1;
    }

    fn out_buffer(&self, slot: u16) -> Dma {
        self.outgoing.part(u64::from(slot) * self.outgoing_bytes, self.outgoing_bytes)
    }

    /// The frame in a slot for sending.
    pub fn frame(&self, slot: u16) -> Dma {
        self.out_buffer(slot).part(HEADER, self.outgoing_bytes - HEADER)
    }

    /// Offers a frame; `publish` shows it to the device.
    pub fn send(&mut self, slot: u16, length: u32, offload: Offload) {
        let buffer = self.out_buffer(slot);
        let (needs_csum, gso) = (offload.checksum_start != 0, offload.segment_size != 0);
        buffer.write8(header::FLAGS, if needs_csum { header::NEEDS_CSUM } else { 0 });
        buffer.write8(header::GSO_TYPE, if gso { header::GSO_TCPV4 } else { 0 });
        buffer.write16(header::HDR_LEN, offload.header_length);
        buffer.write16(header::GSO_SIZE, offload.segment_size);
        buffer.write16(header::CSUM_START, offload.checksum_start);
        buffer.write16(header::CSUM_OFFSET, offload.checksum_offset);
        buffer.write16(header::NUM_BUFFERS, 0);
        let length = length + HEADER as u32;
        assert!(u64::from(length) <= self.outgoing_bytes, "a frame is too long");
        self.transmit.offer(slot, [Segment::readable(buffer.address(), length)].into_iter());
    }

    /// Shows the device all frames to send and all buffers that are free again.
    pub fn publish(&mut self) {
        self.transmit.publish();
        self.receive.publish();
    }

    /// Takes back what was sent; says how many frames.
    pub fn sent(&mut self) -> Result<u64> {
        let mut count = 0;
        while let Some(used) = self.transmit.take()? {
            self.release(used.slot);
            count += 1;
        }
        Ok(count)
    }

    /// The next buffer that came in. It is the caller's until `recycle`.
    pub fn received(&mut self) -> Result<Option<Received>> {
        let Some(used) = self.receive.take()? else { return Ok(None) };
        if u64::from(used.length) > RECEIVE_BYTES {
            return Err("a received frame is longer than its buffer");
        }
        if self.rest > 0 {
            self.rest -= 1;
            return Ok(Some(Received { slot: used.slot, length: used.length, first: false }));
        }
        let length = used.length.checked_sub(HEADER as u32).ok_or("a received frame has no header")?;
        if self.has(bit::MRG_RXBUF) {
            let buffers = self.in_buffer(used.slot).read16(header::NUM_BUFFERS);
            self.rest = buffers.checked_sub(1).ok_or("a received frame has no buffers")?;
        }
        Ok(Some(Received { slot: used.slot, length, first: true }))
    }

    fn in_buffer(&self, slot: u16) -> Dma {
        self.incoming.part(u64::from(slot) * RECEIVE_BYTES, RECEIVE_BYTES)
    }

    /// The frame in a buffer that came in and starts a frame.
    pub fn incoming(&self, received: &Received) -> Dma {
        self.in_buffer(received.slot).part(HEADER, received.length.into())
    }

    pub fn recycle(&mut self, slot: u16) {
        let buffer = Segment::writable(self.in_buffer(slot).address(), RECEIVE_BYTES as u32);
        self.receive.offer(slot, [buffer].into_iter());
    }

    /// Resets the device: from now on it has none of our memory.
    pub fn stop(&self) -> Result<()> {
        self.window.reset()
    }
}
