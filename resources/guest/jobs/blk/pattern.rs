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

/// Words of a sector before the stream.
const HEADER: u64 = 3;

/// The numbers behind a sector's header.
struct Stream(u64);

impl Stream {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        mixed(self.0)
    }
}

impl Pattern {
    fn header(self, sector: u64) -> [u64; HEADER as usize] {
        [sector, self.seed, self.generation]
    }

    fn stream(self, sector: u64) -> Stream {
        Stream(mixed(mixed(sector ^ self.seed.rotate_left(32)) ^ self.generation))
    }

    /// Fills the buffer with sectors, from this number on.
    pub fn fill(self, buffer: Dma, first: u64, bytes: u32) {
        for (index, sector) in (0..u64::from(bytes) / SECTOR).zip(first..) {
            let place = buffer.part(index * SECTOR, SECTOR);
            for (at, word) in (0..).zip(self.header(sector)) {
                place.write64(at * 8, word);
            }
            let mut stream = self.stream(sector);
            place.part(HEADER * 8, SECTOR - HEADER * 8).write_words(|| stream.next());
        }
    }

    /// Whether the buffer's sector is all as `fill` makes it.
    pub fn matches(self, place: Dma, sector: u64) -> bool {
        let mut difference = 0;
        for (at, word) in (0..).zip(self.header(sector)) {
            difference |= place.read64(at * 8) ^ word;
        }
        let mut stream = self.stream(sector);
        let rest = place.part(HEADER * 8, SECTOR - HEADER * 8);
        rest.read_words(|word| difference |= word ^ stream.next());
        difference == 0
    }

    /// The first word that is not as it should be.
    fn find(self, place: Dma, sector: u64) -> Option<Wrong> {
        let mut stream = self.stream(sector);
        let expected = self.header(sector).into_iter().chain(core::iter::from_fn(|| Some(stream.next())));
        (0..WORDS).zip(expected).find_map(|(at, expected)| {
            let (offset, found) = (at * 8, place.read64(at * 8));
            (found != expected).then_some(Wrong { sector, offset, found, expected })
        })
    }

    /// The sectors that are not as they should be.
    pub fn wrong(self, buffer: Dma, first: u64, bytes: u32) -> impl Iterator<Item = Wrong> {
        (0..u64::from(bytes) / SECTOR).zip(first..).filter_map(move |(index, sector)| {
            let place = buffer.part(index * SECTOR, SECTOR);
            if self.matches(place, sector) { None } else { self.find(place, sector) }
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
