//! Where a hostile driver's rings and buffers are: at the end of RAM, far from
//! the guest's own image, and ordered so that nothing a device writes is ever
//! taken for an address. The device's reads and writes go there or nowhere.

use crate::arena::{Arena, PAGE};
use crate::random::Random;
use crate::virtio::Result;
use crate::virtio::dma::Dma;

/// Room for queues of the largest size (VIRTIO 1.2, 2.7: 32768), twice over.
const DESCRIPTORS: u64 = (1 << 20) + SLACK;
const AVAILABLE: u64 = (128 << 10) + SLACK;
const USED: u64 = (512 << 10) + SLACK;
const SOURCE: u64 = 64 << 10;
const TARGET: u64 = 1 << 20;
/// How far from its area's start a ring may begin.
const SLACK: u64 = 16 << 10;

/// Descriptors and entries that are filled with something.
const FILLED: u64 = 256;
const DESCRIPTOR: u64 = 16;
/// Descriptors of a block request, and headers of requests in the source.
const REQUEST: u64 = 3;
const HEADERS: u64 = 64;
mod flag {
    pub const NEXT: u64 = 1;
    pub const WRITE: u64 = 2;
    pub const INDIRECT: u64 = 4;
}

/// An address below 4 GiB where a microVM has nothing.
const HOLE: u64 = 0xd000_0000;

/// Request types of block devices, and others that are none.
const TYPES: [u64; 8] = [0, 1, 4, 8, 11, 13, 2, u32::MAX as u64];

#[derive(Clone, Copy)]
pub struct Ground {
    /// Only the driver writes these three.
    descriptors: Dma,
    available: Dma,
    source: Dma,
    /// The device writes these; nobody reads an address from them. The target is
    /// the last, so that what runs over its end leaves RAM.
    used: Dma,
    target: Dma,
}

impl Ground {
    pub fn take(arena: &mut Arena) -> Result<Self> {
        let bytes = DESCRIPTORS + AVAILABLE + SOURCE + USED + TARGET;
        let whole = Dma::last(arena, bytes)?;
        let mut next = 0;
        let mut part = |length| {
            let part = whole.part(next, length);
            next += length;
            part
        };
        Ok(Ground {
            descriptors: part(DESCRIPTORS),
            available: part(AVAILABLE),
            source: part(SOURCE),
            used: part(USED),
            target: part(TARGET),
        })
    }

    /// Addresses for a queue: mostly good, some misaligned, some where no RAM is.
    pub fn rings(&self, random: &mut Random) -> [u64; 3] {
        [self.descriptors, self.available, self.used].map(|area| match random.below(16) {
            0 => nowhere(random),
            // By multiples of four: a shifted descriptor then has no address
            // between 512 KiB and the target.
            1 => area.address() + 4 * random.below(SLACK / 4),
            _ => area.address(),
        })
    }

    /// New descriptors, requests and entries. Half of the time most of them are
    /// such as a block driver makes, so that a device gets to work.
    pub fn fill(&self, random: &mut Random) {
        let sane = random.below(2) == 0;
        for at in 0..FILLED {
            if sane && random.below(16) > 0 {
                self.describe_request(random, at);
            } else {
                self.describe(random, at);
            }
        }
        for at in 0..FILLED {
            let head = match random.below(16) {
                0 => random.next(),
                _ if sane => REQUEST * random.below(16),
                _ => random.below(FILLED),
            };
            self.available.write16(4 + 2 * at, head as u16);
        }
        for at in 0..HEADERS {
            // Block requests: type, priority and sector.
            let sector = if random.below(8) == 0 { random.next() } else { random.below(4096) };
            self.source.write64(DESCRIPTOR * at, TYPES[random.below(8) as usize]);
            self.source.write64(DESCRIPTOR * at + 8, sector);
        }
    }

    /// The index starts again, as it has to for a device that was reset.
    pub fn restart(&self) {
        self.available.write16(2, 0);
    }

    /// The index that the device follows moves on, or jumps; the flags beside it
    /// change.
    pub fn advance(&self, random: &mut Random) {
        let index = self.available.read16(2);
        let step = if random.below(16) == 0 { random.next() } else { random.below(16) };
        self.available.write16(0, (random.below(8) == 0).into());
        self.available.write16(2, index.wrapping_add(step as u16));
    }

    /// Header, data and status, by turns.
    fn describe_request(&self, random: &mut Random, at: u64) {
        let target = self.target.address() + random.below(TARGET);
        let bytes = 512 * (1 + random.below(16));
        let (address, length, flags) = match (at % REQUEST, random.below(2)) {
            (0, _) => (self.source.address() + DESCRIPTOR * random.below(HEADERS), 16, flag::NEXT),
            (1, 0) => (self.source.address(), bytes, flag::NEXT),
            (1, _) => (target, bytes, flag::NEXT | flag::WRITE),
            _ => (target, 1, flag::WRITE),
        };
        self.put(at, address, length, flags, at + 1);
    }

    fn put(&self, at: u64, address: u64, length: u64, flags: u64, next: u64) {
        let descriptor = self.descriptors.part(at * DESCRIPTOR, DESCRIPTOR);
        descriptor.write64(0, address);
        descriptor.write64(8, length | flags << 32 | next << 48);
    }

    fn describe(&self, random: &mut Random, at: u64) {
        let mut flags = match random.below(8) {
            0 => random.next() & 0xffff,
            1 => flag::INDIRECT,
            2 => flag::INDIRECT | flag::NEXT,
            _ => random.below(4),
        };
        let next = match random.below(4) {
            0 => random.below(FILLED),
            1 if random.below(8) == 0 => random.next() & 0xffff,
            _ => (at + 1) % FILLED,
        };
        let length = self.length(random, flags);
        let address = if random.below(16) == 0 {
            nowhere(random)
        } else if flags & flag::INDIRECT != 0 {
            // Nothing but tables: a table is part of the table that names it.
            flags &= !flag::WRITE;
            self.descriptors.address() + DESCRIPTOR * random.below(FILLED)
        } else if flags & flag::WRITE != 0 {
            self.target.address() + random.below(TARGET)
        } else {
            self.source.address() + DESCRIPTOR * random.below(HEADERS)
        };
        self.put(at, address, length, flags, next);
    }

    /// Short, or longer than all memory; nothing between, see `rings`.
    fn length(&self, random: &mut Random, flags: u64) -> u64 {
        match random.below(16) {
            0 => u64::from(u32::MAX) - random.below(4096),
            1 => 0,
            2 => random.below(512 << 10),
            _ if flags & flag::INDIRECT != 0 => DESCRIPTOR * random.below(32) + random.below(16) / 15,
            3..8 => 16,
            8..11 => 1,
            _ => 512 * (1 + random.below(16)),
        }
    }
}

/// An address without RAM, whose halves look like no address of ours either. Not
/// the local APIC's: what a device writes there is an interrupt, and may be INIT.
fn nowhere(random: &mut Random) -> u64 {
    match random.below(4) {
        0 => u64::MAX - random.below(PAGE),
        1 => HOLE + random.below(PAGE),
        _ => 0xf000_0000_f000_0000 | random.next(),
    }
}
