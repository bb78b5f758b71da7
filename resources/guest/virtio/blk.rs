//! Block devices (VIRTIO 1.2, 5.2).

use super::dma::Dma;
use super::mmio::Window;
use super::queue::{MAX_SIZE, Queue, Segment, Used};
use super::{Result, device_id};
use crate::Machine;
use crate::clock::Stopwatch;

pub const SECTOR: u64 = 512;
/// Queues that are driven at most.
pub const MAX_QUEUES: usize = 8;
/// How long a request may take, in seconds.
pub const LIMIT: u64 = 30;

/// Feature bits (5.2.3).
pub mod bit {
    pub const SIZE_MAX: u64 = 1 << 1;
    pub const SEG_MAX: u64 = 1 << 2;
    pub const RO: u64 = 1 << 5;
    pub const BLK_SIZE: u64 = 1 << 6;
    pub const FLUSH: u64 = 1 << 9;
    pub const TOPOLOGY: u64 = 1 << 10;
    pub const MQ: u64 = 1 << 12;
    pub const DISCARD: u64 = 1 << 13;
    pub const WRITE_ZEROES: u64 = 1 << 14;
}

const WANTED: u64 = bit::SIZE_MAX
    | bit::SEG_MAX
    | bit::RO
    | bit::BLK_SIZE
    | bit::FLUSH
    | bit::TOPOLOGY
    | bit::MQ
    | bit::DISCARD
    | bit::WRITE_ZEROES;

/// Offsets in the configuration space (5.2.4).
mod config {
    pub const CAPACITY: u32 = 0;
    pub const SIZE_MAX: u32 = 8;
    pub const SEG_MAX: u32 = 12;
    pub const BLK_SIZE: u32 = 20;
    pub const NUM_QUEUES: u32 = 34;
    pub const MAX_DISCARD_SECTORS: u32 = 36;
    pub const MAX_WRITE_ZEROES_SECTORS: u32 = 48;
}

/// Request types (5.2.6).
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    Read = 0,
    Write = 1,
    Flush = 4,
    GetId = 8,
    Discard = 11,
    WriteZeroes = 13,
}

impl Kind {
    /// Whether the device writes the data.
    fn reads(self) -> bool {
        matches!(self, Kind::Read | Kind::GetId)
    }
}

/// What a request ended with (5.2.6): VIRTIO_BLK_S_OK.
pub const OK: u8 = 0;
/// No status at all: the device has not written it.
const NO_STATUS: u8 = 0xff;

/// What a device says of itself.
#[derive(Clone, Copy)]
pub struct Info {
    pub features: u64,
    /// In sectors of 512 bytes.
    pub capacity: u64,
    pub size_max: u32,
    pub seg_max: u32,
    pub blk_size: u32,
    pub num_queues: u16,
    pub max_discard: u32,
    pub max_zeroes: u32,
}

impl Info {
    fn read(window: Window, features: u64) -> Self {
        let field = |bit, offset, default| {
            if features & bit != 0 { window.config32(offset) } else { default }
        };
        Info {
            features,
            capacity: window.config64(config::CAPACITY),
            size_max: field(bit::SIZE_MAX, config::SIZE_MAX, u32::MAX),
            // The specification has no default: any device takes this many.
            seg_max: field(bit::SEG_MAX, config::SEG_MAX, 1),
            blk_size: field(bit::BLK_SIZE, config::BLK_SIZE, SECTOR as u32),
            num_queues: if features & bit::MQ != 0 { window.config16(config::NUM_QUEUES) } else { 1 },
            max_discard: field(bit::DISCARD, config::MAX_DISCARD_SECTORS, 0),
            max_zeroes: field(bit::WRITE_ZEROES, config::MAX_WRITE_ZEROES_SECTORS, 0),
        }
    }

    pub fn has(&self, bit: u64) -> bool {
        self.features & bit != 0
    }
}

/// How requests shall look.
#[derive(Clone, Copy)]
pub struct Shape {
    /// Requests in flight at most, over all queues.
    pub depth: u16,
    /// Bytes of data that a request has at most, and in how many segments.
    pub bytes: u32,
    pub segments: u16,
    pub queues: u16,
}

/// One request at a time, of up to 64 KiB.
pub const SINGLE: Shape = Shape { depth: 1, bytes: 64 << 10, segments: 1, queues: 1 };

/// A request in the device's hands.
#[derive(Clone, Copy)]
struct Request {
    kind: Kind,
    sector: u64,
    length: u32,
}

/// A request that is done.
pub struct Done {
    pub slot: u16,
    pub kind: Kind,
    pub sector: u64,
    pub length: u32,
    pub status: u8,
}

/// Bytes of a slot for what surrounds the data: header, then status.
const CONTROL: u64 = 32;
const STATUS: u64 = 16;

pub struct Block {
    window: Window,
    pub info: Info,
    shape: Shape,
    queues: [Option<Queue>; MAX_QUEUES],
    control: Dma,
    data: Dma,
    requests: &'static mut [Request],
    /// Slots that are free, as a stack.
    free: [u16; MAX_SIZE as usize],
    free_count: u16,
}

impl Block {
    /// Sets the device up for requests of such a shape. The depth may become
    /// less than asked for.
    pub fn start(machine: &mut Machine, index: usize, shape: Shape) -> Result<Self> {
        let window = Window::find(machine, device_id::BLOCK, index)?;
        let features = window.negotiate(WANTED | super::ring_features(machine.words))?;
        let info = Info::read(window, features);
        let mut shape = shape;
        shape.queues = shape.queues.clamp(1, info.num_queues.clamp(1, MAX_QUEUES as u16));
        if u32::from(shape.segments) > info.seg_max.max(1) {
            return Err("the device takes fewer segments");
        }
        if shape.bytes.div_ceil(shape.segments.into()) > info.size_max {
            return Err("the device takes smaller segments");
        }
        shape.depth = shape.depth.clamp(1, MAX_SIZE);
        let most = shape.depth.div_ceil(shape.queues);
        let mut queues = [const { None }; MAX_QUEUES];
        let mut depth = shape.depth;
        for (index, place) in (0..shape.queues).zip(&mut queues) {
            let chain = shape.segments + 2;
            let queue = Queue::new(window, index.into(), features, chain, most, &mut machine.arena)?;
            depth = depth.min(queue.slots() * shape.queues);
            *place = Some(queue);
        }
        shape.depth = depth;
        let slots = u64::from(shape.depth);
        let mut free = [0; _];
        for (place, slot) in free.iter_mut().zip((0..shape.depth).rev()) {
            *place = slot;
        }
        let idle = Request { kind: Kind::Flush, sector: 0, length: 0 };
        let requests = machine.arena.slice(shape.depth.into(), idle).ok_or("too little memory")?;
        let block = Block {
            window,
            info,
            shape,
            queues,
            control: Dma::zeroed(&mut machine.arena, slots * CONTROL)?,
            data: Dma::zeroed(&mut machine.arena, slots * u64::from(shape.bytes))?,
            requests,
            free,
            free_count: shape.depth,
        };
        window.go()?;
        Ok(block)
    }

    pub fn shape(&self) -> Shape {
        self.shape
    }

    pub fn kicks(&self) -> u64 {
        self.queues.iter().flatten().map(|queue| queue.kicks).sum()
    }

    pub fn in_flight(&self) -> u16 {
        self.shape.depth - self.free_count
    }

    /// A slot for a request; `None` if all are in flight.
    pub fn slot(&mut self) -> Option<u16> {
        self.free_count = self.free_count.checked_sub(1)?;
        Some(self.free[usize::from(self.free_count)])
    }

    /// The memory of a slot's data.
    pub fn data(&self, slot: u16) -> Dma {
        let bytes = u64::from(self.shape.bytes);
        self.data.part(u64::from(slot) * bytes, bytes)
    }

    /// Offers a request with so many bytes of the slot's data (5.2.6).
    pub fn submit(&mut self, slot: u16, kind: Kind, sector: u64, length: u32) {
        self.requests[usize::from(slot)] = Request { kind, sector, length };
        let control = self.control.part(u64::from(slot) * CONTROL, CONTROL);
        control.write32(0, kind as u32);
        control.write32(4, 0);
        control.write64(8, sector);
        control.write8(STATUS, NO_STATUS);
        let data = self.data(slot).part(0, length.into());
        let count = if length == 0 { 0 } else { u32::from(self.shape.segments).min(length) };
        let piece = length.div_ceil(count.max(1));
        let count = length.div_ceil(piece.max(1));
        let segments = (0..count + 2).map(|at| match at {
            0 => Segment::readable(control.address(), 16),
            at if at > count => Segment::writable(control.address() + STATUS, 1),
            at => {
                let start = (at - 1) * piece;
                let address = data.address() + u64::from(start);
                Segment { address, length: piece.min(length - start), writable: kind.reads() }
            }
        });
        let (queue, local) = (slot % self.shape.queues, slot / self.shape.queues);
        if let Some(queue) = &mut self.queues[usize::from(queue)] {
            queue.offer(local, segments);
        }
    }

    /// Shows the device all that was submitted.
    pub fn publish(&mut self) {
        self.queues.iter_mut().flatten().for_each(Queue::publish);
    }

    /// A request that is done, if there is one. Its slot stays the caller's until
    /// `release`.
    pub fn take(&mut self) -> Result<Option<Done>> {
        for (index, queue) in (0..).zip(self.queues.iter_mut().flatten()) {
            if let Some(Used { slot, length: written }) = queue.take()? {
                let slot = slot * self.shape.queues + index;
                let request = self.requests.get(usize::from(slot)).ok_or("no such slot")?;
                let Request { kind, sector, length } = *request;
                let room = if kind.reads() { length + 1 } else { 1 };
                if written > room {
                    return Err("the device says that it wrote more than there is room for");
                }
                let status = self.control.read8(u64::from(slot) * CONTROL + STATUS);
                return Ok(Some(Done { slot, kind, sector, length, status }));
            }
        }
        Ok(None)
    }

    pub fn release(&mut self, slot: u16) {
        self.free[usize::from(self.free_count)] = slot;
        self.free_count += 1;
    }

    /// One request, from its start to its end. Its data is in the slot that is
    /// returned, and there it must be before.
    pub fn request(&mut self, slot: u16, kind: Kind, sector: u64, length: u32) -> Result<u8> {
        self.submit(slot, kind, sector, length);
        self.publish();
        let watch = Stopwatch::start();
        loop {
            if let Some(done) = self.take()? {
                return Ok(done.status);
            }
            if watch.seconds() >= LIMIT {
                return Err("the device does not finish a request");
            }
            crate::cpu::pause();
        }
    }

    /// Resets the device: from now on it has none of our memory.
    pub fn stop(&self) -> Result<()> {
        self.window.reset()
    }
}
