//! A disk that always has requests in flight: blocks are written, and read again at some later time.

use super::super::blk::{pattern::Pattern, request_bytes};
use crate::Machine;
use crate::clock::Stopwatch;
use crate::console::println;
use crate::cpu;
use crate::random::{Random, mixed};
use crate::virtio::blk::{Block, Done, Kind, LIMIT, OK, SECTOR, Shape, bit};
use crate::virtio::mmio::Window;
use crate::virtio::{Result, device_id};

const DEFAULT_DEPTH: u64 = 8;
/// Bytes of the disk that are used, if no word says otherwise.
const DEFAULT_SPAN: u64 = 16 << 20;
/// A flush after so many writes.
const FLUSH: u64 = 64;

pub struct Disk {
    block: Block,
    first: u64,
    seed: u64,
    /// What each block holds; zero for nothing that we have written.
    generations: &'static mut [u64],
    random: Random,
    /// Requests of either kind that are done.
    pub written: u64,
    pub verified: u64,
    submitted: u64,
}

impl Disk {
    /// The disk that the words name, if there is one that can be written.
    pub fn find(machine: &mut Machine) -> Result<Option<Self>> {
        let words = machine.words;
        let index = super::super::device_index(words);
        if Window::find(machine, device_id::BLOCK, index).is_err() {
            return Ok(None);
        }
        let depth = words.number("depth").unwrap_or(DEFAULT_DEPTH).min(u16::MAX.into()) as u16;
        let shape = Shape { depth, bytes: request_bytes(words)?, segments: 1, queues: 1 };
        let block = Block::start(machine, index, shape)?;
        if block.info.has(bit::RO) {
            return block.stop().map(|()| None);
        }
        let first = words.number("off").unwrap_or(0) / SECTOR;
        let whole = block.info.capacity.checked_sub(first).ok_or("off= is behind the end of the disk")?;
        let span = words.number("span").unwrap_or(DEFAULT_SPAN).min(whole.saturating_mul(SECTOR));
        let blocks = span / u64::from(block.shape().bytes);
        if blocks < block.shape().depth.into() {
            return Err("there is no room on the disk");
        }
        let generations = machine.arena.slice(blocks as usize, 0).ok_or("too little memory")?;
        let seed = words.number("seed").unwrap_or(1);
        let random = Random::new(seed);
        Ok(Some(Disk { block, first, seed, generations, random, written: 0, verified: 0, submitted: 0 }))
    }

    /// Takes back what is done, and offers as much again; how much was wrong.
    pub fn step(&mut self) -> Result<u64> {
        let wrong = self.reap()?;
        while let Some(slot) = self.block.slot() {
            self.submit(slot);
        }
        self.block.publish();
        Ok(wrong)
    }

    /// Takes back all that is in flight, and resets the device; how much was wrong.
    pub fn stop(&mut self) -> Result<u64> {
        let (watch, mut wrong) = (Stopwatch::start(), 0);
        while self.block.in_flight() > 0 {
            wrong += self.reap()?;
            if watch.seconds() >= LIMIT {
                return Err("the device does not finish its requests");
            }
            cpu::pause();
        }
        self.block.stop()?;
        Ok(wrong)
    }

    /// Writes one of the slot's own blocks, or reads one that was written: so no block is in flight twice.
    fn submit(&mut self, slot: u16) {
        self.submitted += 1;
        if self.submitted % FLUSH == 0 && self.block.info.has(bit::FLUSH) {
            return self.block.submit(slot, Kind::Flush, 0, 0);
        }
        let (depth, bytes) = (u64::from(self.block.shape().depth), self.block.shape().bytes);
        let number = self.random.below(self.generations.len() as u64 / depth) * depth + u64::from(slot);
        let sector = self.first + number * u64::from(bytes) / SECTOR;
        let data = self.block.data(slot);
        let generation = &mut self.generations[number as usize];
        if *generation == 0 || self.random.below(2) == 0 {
            *generation = self.submitted;
            Pattern { seed: self.seed, generation: self.submitted }.fill(data, sector, bytes);
            self.block.submit(slot, Kind::Write, sector, bytes);
        } else {
            // What the device does not write is told from what it does.
            let poison = mixed(self.submitted);
            data.write_words(|| poison);
            self.block.submit(slot, Kind::Read, sector, bytes);
        }
    }

    fn reap(&mut self) -> Result<u64> {
        let mut wrong = 0;
        while let Some(done) = self.block.take()? {
            wrong += u64::from(!self.is_right(&done));
            self.block.release(done.slot);
        }
        Ok(wrong)
    }

    fn is_right(&mut self, done: &Done) -> bool {
        let Done { slot, kind, sector, length, status } = *done;
        if status != OK {
            println!("churn wrong what=disk sector={sector} bytes={length} status={status}");
            return false;
        }
        if kind != Kind::Read {
            self.written += u64::from(kind == Kind::Write);
            return true;
        }
        self.verified += 1;
        let number = (sector - self.first) * SECTOR / u64::from(length);
        let generation = self.generations[number as usize];
        let mut wrong = Pattern { seed: self.seed, generation }.wrong(self.block.data(slot), sector, length);
        let Some(first) = wrong.next() else { return true };
        println!(
            "churn wrong what=disk sector={} offset={} found={:#x} expected={:#x}",
            first.sector, first.offset, first.found, first.expected
        );
        false
    }
}
