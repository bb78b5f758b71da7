//! What written sectors hold: number, seed and generation, then a stream of
//! numbers that depends on all three. Every byte can be told.

use crate::random::{GOLDEN, mixed};
use crate::virtio::blk::SECTOR;
use crate::virtio::dma::Dma;

const WORDS: u64 = SECTOR / 8;

#[derive(Clone, Copy)]
pub struct Pattern {
    pub seed: u64,
    pub generation: u64,
}

impl Pattern {
    fn word(self, sector: u64, at: u64) -> u64 {
        match at {
            0 => sector,
            1 => self.seed,
            2 => self.generation,
            _ => self.stream(sector, at),
        }
    }

    /// The stream's start, then a step for each word.
    fn stream(self, sector: u64, at: u64) -> u64 {
        mixed(self.start(sector).wrapping_add(at.wrapping_mul(GOLDEN)))
    }

    fn start(self, sector: u64) -> u64 {
        mixed(mixed(sector ^ self.seed.rotate_left(32)) ^ self.generation)
    }

    /// Fills the buffer with sectors, from this number on.
    pub fn fill(self, buffer: Dma, first: u64, bytes: u32) {
        for (index, sector) in (0..u64::from(bytes) / SECTOR).zip(first..) {
            let place = buffer.part(index * SECTOR, SECTOR);
            let mut state = self.start(sector).wrapping_add(GOLDEN.wrapping_mul(3));
            for at in 0..3 {
                place.write64(at * 8, self.word(sector, at));
            }
            for at in 3..WORDS {
                place.write64(at * 8, mixed(state));
                state = state.wrapping_add(GOLDEN);
            }
        }
    }

    /// Whether the buffer's sector is all as `fill` makes it.
    fn matches(self, place: Dma, sector: u64) -> bool {
        let mut state = self.start(sector).wrapping_add(GOLDEN.wrapping_mul(3));
        let mut difference = (0..3).fold(0, |sum, at| sum | (place.read64(at * 8) ^ self.word(sector, at)));
        for at in 3..WORDS {
            difference |= place.read64(at * 8) ^ mixed(state);
            state = state.wrapping_add(GOLDEN);
        }
        difference == 0
    }

    /// The sectors that are not as they should be.
    pub fn wrong(self, buffer: Dma, first: u64, bytes: u32) -> impl Iterator<Item = Wrong> {
        (0..u64::from(bytes) / SECTOR).zip(first..).filter_map(move |(index, sector)| {
            let place = buffer.part(index * SECTOR, SECTOR);
            if self.matches(place, sector) {
                return None;
            }
            let at = (0..WORDS).find(|&at| place.read64(at * 8) != self.word(sector, at)).unwrap_or(0);
            let (found, expected) = (place.read64(at * 8), self.word(sector, at));
            Some(Wrong { sector, offset: at * 8, found, expected })
        })
    }
}

/// A sector's first wrong word.
pub struct Wrong {
    pub sector: u64,
    pub offset: u64,
    pub found: u64,
    pub expected: u64,
}
