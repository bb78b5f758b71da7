//! Many requests in flight: reads and writes, one after the other on the disk
//! or all over it.

use super::pattern::{Pattern, Wrong};
use crate::clock::{Deadline, Stopwatch};
use crate::console::println;
use crate::cpu;
use crate::random::Random;
use crate::virtio::Result;
use crate::virtio::blk::{Block, Done, Kind, LIMIT, OK, SECTOR};

/// How many errors and wrong sectors are told in detail.
const DETAILS: u64 = 4;

/// What is to be done.
#[derive(Clone, Copy)]
pub struct Plan {
    pub kind: Kind,
    /// Look at each byte that was read.
    pub verify: bool,
    pub random: bool,
    pub pattern: Pattern,
    /// Bytes of a request.
    pub bytes: u32,
    /// The part of the disk, in sectors.
    pub first: u64,
    pub sectors: u64,
    /// Requests, and microseconds, until the end.
    pub count: u64,
    pub microseconds: u64,
    /// A flush after so many writes; zero for none.
    pub flush: u64,
}

impl Plan {
    /// Requests that the part of the disk has room for.
    pub fn blocks(&self) -> u64 {
        (self.sectors * SECTOR).div_ceil(self.bytes.into())
    }
}

#[derive(Default)]
pub struct Tally {
    pub requests: u64,
    pub bytes: u64,
    pub errors: u64,
    pub wrong: u64,
    pub nanoseconds: u64,
    pub kicks: u64,
}

struct Stream<'a> {
    block: &'a mut Block,
    plan: Plan,
    tally: Tally,
    random: Random,
    submitted: u64,
    /// Writes since the last flush.
    dirty: u64,
}

/// Runs the plan to its end.
pub fn run(block: &mut Block, plan: Plan) -> Result<Tally> {
    let kicks = block.kicks();
    let random = Random::new(plan.pattern.seed);
    let mut stream = Stream { block, plan, tally: Tally::default(), random, submitted: 0, dirty: 0 };
    let watch = Stopwatch::start();
    stream.transfer()?;
    if stream.dirty > 0 && plan.flush > 0 {
        stream.submit(Kind::Flush);
        stream.block.publish();
        stream.drain()?;
    }
    let mut tally = stream.tally;
    tally.nanoseconds = watch.nanoseconds();
    tally.kicks = block.kicks() - kicks;
    Ok(tally)
}

impl Stream<'_> {
    fn transfer(&mut self) -> Result<()> {
        let end = Deadline::after(self.plan.microseconds);
        let mut patience = Stopwatch::start();
        loop {
            let more = self.submitted < self.plan.count && !end.is_over();
            if more {
                self.fill_up();
            } else if self.block.in_flight() == 0 {
                return Ok(());
            }
            if self.reap()? {
                patience.restart();
            } else if patience.seconds() >= LIMIT {
                return Err("the device does not finish its requests");
            } else {
                cpu::pause();
            }
        }
    }

    fn drain(&mut self) -> Result<()> {
        let watch = Stopwatch::start();
        while self.block.in_flight() > 0 {
            if !self.reap()? && watch.seconds() >= LIMIT {
                return Err("the device does not finish its requests");
            }
        }
        Ok(())
    }

    /// Offers requests until all slots are in flight.
    fn fill_up(&mut self) {
        while self.submitted < self.plan.count && self.block.in_flight() < self.block.shape().depth {
            if self.plan.flush > 0 && self.dirty >= self.plan.flush {
                self.submit(Kind::Flush);
            } else {
                self.submit(self.plan.kind);
                self.submitted += 1;
            }
        }
        self.block.publish();
    }

    fn submit(&mut self, kind: Kind) {
        let Some(slot) = self.block.slot() else { return };
        if kind == Kind::Flush {
            self.dirty = 0;
            return self.block.submit(slot, kind, 0, 0);
        }
        let blocks = self.plan.blocks();
        let number = if self.plan.random { self.random.below(blocks) } else { self.submitted % blocks };
        let start = number * u64::from(self.plan.bytes);
        let length = u64::from(self.plan.bytes).min(self.plan.sectors * SECTOR - start) as u32;
        let sector = self.plan.first + start / SECTOR;
        if kind == Kind::Write {
            self.plan.pattern.fill(self.block.data(slot), sector, length);
            self.dirty += 1;
        }
        self.block.submit(slot, kind, sector, length);
    }

    /// Takes back all that is done; says whether there was anything.
    fn reap(&mut self) -> Result<bool> {
        let mut any = false;
        while let Some(done) = self.block.take()? {
            any = true;
            self.finish(&done);
            self.block.release(done.slot);
        }
        Ok(any)
    }

    fn finish(&mut self, done: &Done) {
        let tally = &mut self.tally;
        if done.status != OK {
            tally.errors += 1;
            if tally.errors <= DETAILS {
                println!("blk error sector={} bytes={} status={}", done.sector, done.length, done.status);
            }
            return;
        }
        if done.kind == Kind::Flush && self.plan.kind != Kind::Flush {
            return;
        }
        tally.requests += 1;
        tally.bytes += u64::from(done.length);
        if self.plan.verify {
            let data = self.block.data(done.slot);
            for Wrong { sector, offset, found, expected } in
                self.plan.pattern.wrong(data, done.sector, done.length)
            {
                tally.wrong += 1;
                if tally.wrong <= DETAILS {
                    println!(
                        "blk wrong sector={sector} offset={offset} found={found:#018x} expected={expected:#018x}"
                    );
                }
            }
        }
    }
}
