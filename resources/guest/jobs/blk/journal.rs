//! For crash tests: records that are written one after the other, each followed
//! by a flush. What was acknowledged must be there after any crash.

use super::super::device_index;
use super::pattern::Pattern;
use crate::Machine;
use crate::clock::Stopwatch;
use crate::console::println;
use crate::virtio::Result;
use crate::virtio::blk::{Block, Kind, OK, SECTOR, SINGLE, Shape, bit};
use crate::words::Words;

/// The records: the N-th, from 1 on, is the N-th piece of the disk.
struct Journal {
    block: Block,
    slot: u16,
    seed: u64,
    bytes: u32,
    count: u64,
}

impl Journal {
    fn open(machine: &mut Machine) -> Result<Self> {
        let words = machine.words;
        let bytes = super::request_bytes(words)?;
        let mut block = Block::start(machine, device_index(words), Shape { bytes, ..SINGLE })?;
        let slot = block.slot().ok_or("no slot")?;
        let room = block.info.capacity * SECTOR / u64::from(bytes);
        let count = words.number("count").map_or(room, |count| count.min(room));
        Ok(Journal { block, slot, seed: seed(words), bytes, count })
    }

    /// A record's generation is its number.
    fn record(&self, number: u64) -> (u64, Pattern) {
        let sector = (number - 1) * u64::from(self.bytes) / SECTOR;
        (sector, Pattern { seed: self.seed, generation: number })
    }

    fn write(&mut self, number: u64) -> Result<()> {
        let (sector, pattern) = self.record(number);
        pattern.fill(self.block.data(self.slot), sector, self.bytes);
        match self.block.request(self.slot, Kind::Write, sector, self.bytes)? {
            OK => Ok(()),
            _ => Err("a write fails"),
        }
    }

    /// Without the feature, what is written is safe already (VIRTIO 1.2, 5.2.5).
    fn flush(&mut self) -> Result<()> {
        if !self.block.info.has(bit::FLUSH) {
            return Ok(());
        }
        match self.block.request(self.slot, Kind::Flush, 0, 0)? {
            OK => Ok(()),
            _ => Err("a flush fails"),
        }
    }

    fn is_there(&mut self, number: u64) -> Result<bool> {
        let (sector, pattern) = self.record(number);
        if self.block.request(self.slot, Kind::Read, sector, self.bytes)? != OK {
            return Err("a read fails");
        }
        Ok(pattern.wrong(self.block.data(self.slot), sector, self.bytes).next().is_none())
    }
}

fn seed(words: Words) -> u64 {
    words.number("seed").unwrap_or(1)
}

/// Until the disk is full, or `count=`, or the machine is stopped.
pub fn write(machine: &mut Machine) -> Result<()> {
    let mut journal = Journal::open(machine)?;
    let watch = Stopwatch::start();
    for number in 1..=journal.count {
        journal.write(number)?;
        journal.flush()?;
        println!("acked {number}");
    }
    println!("blk op=journal n={} ns={}", journal.count, watch.nanoseconds());
    journal.block.stop()
}

/// The highest number up to which all records are right.
pub fn check(machine: &mut Machine) -> Result<()> {
    let mut journal = Journal::open(machine)?;
    let (watch, mut last) = (Stopwatch::start(), 0);
    while last < journal.count && journal.is_there(last + 1)? {
        last += 1;
    }
    println!("blk op=journal-check last={last} ns={}", watch.nanoseconds());
    journal.block.stop()
}
