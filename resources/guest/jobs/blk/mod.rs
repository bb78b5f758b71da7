//! `blk=`: block devices at work.

mod journal;
pub mod pattern;
mod single;
mod stream;

use super::{Mibs, rate};
use crate::Machine;
use crate::console::{print, println};
use crate::virtio::Result;
use crate::virtio::blk::{Block, Kind, SECTOR, Shape};
use crate::words::Words;
use pattern::Pattern;
use stream::{Plan, Tally};

const DEFAULT_BYTES: u64 = 4 << 10;
const DEFAULT_DEPTH: u64 = 32;
/// How long random requests go on if nothing else is said, in microseconds.
const DEFAULT_TIME: u64 = 1_000_000;
/// The data of a request at most.
const MAX_BYTES: u64 = 16 << 20;

// Its stack frame is no other job's.
#[inline(never)]
pub fn run(machine: &mut Machine, what: &'static str) {
    let mark = machine.arena.mark();
    let result = match what {
        "info" => single::info(machine),
        "id" => single::id(machine),
        "discard" => single::ranges(machine, what, Kind::Discard),
        "zero" => single::ranges(machine, what, Kind::WriteZeroes),
        "journal" => journal::write(machine),
        "journal-check" => journal::check(machine),
        "read" | "seqread" => bulk(machine, &[("seqread", Kind::Read, false)]),
        "write" | "seqwrite" => bulk(machine, &[("seqwrite", Kind::Write, false)]),
        "randread" => bulk(machine, &[("randread", Kind::Read, true)]),
        "randwrite" => bulk(machine, &[("randwrite", Kind::Write, true)]),
        "verify" => bulk(machine, &[("verify", Kind::Read, false)]),
        "fill-verify" => bulk(machine, &[("seqwrite", Kind::Write, false), ("verify", Kind::Read, false)]),
        "flush" => bulk(machine, &[("flush", Kind::Flush, false)]),
        _ => return super::complain("no such job for a block device", what),
    };
    match result {
        // The device was reset: its memory is free.
        Ok(()) => machine.arena.rewind(mark),
        Err(error) => println!("blk op={what} error: {error}"),
    }
}

pub fn request_bytes(words: Words) -> Result<u32> {
    let bytes = words.number("bs").unwrap_or(DEFAULT_BYTES);
    if bytes == 0 || bytes % SECTOR != 0 || bytes > MAX_BYTES {
        return Err("bs= is not a number of sectors, or too much");
    }
    Ok(bytes as u32)
}

fn bulk(machine: &mut Machine, passes: &[(&str, Kind, bool)]) -> Result<()> {
    let words = machine.words;
    let number = |key, default| words.number(key).unwrap_or(default).min(u16::MAX.into()) as u16;
    let shape = Shape {
        depth: number("depth", DEFAULT_DEPTH),
        bytes: request_bytes(words)?,
        segments: number("segs", 1).max(1),
        queues: number("queues", 1),
    };
    let mut block = Block::start(machine, super::device_index(words), shape)?;
    for &(name, kind, random) in passes {
        let mut plan = plan(words, &block, kind, random)?;
        plan.verify = name == "verify";
        let tally = stream::run(&mut block, plan)?;
        print_result(name, &tally, &block);
    }
    block.stop()
}

fn plan(words: Words, block: &Block, kind: Kind, random: bool) -> Result<Plan> {
    let capacity = block.info.capacity;
    let first = words.number("off").unwrap_or(0) / SECTOR;
    let whole = capacity.checked_sub(first).ok_or("off= is behind the end of the disk")?;
    let sectors = words.number("span").map_or(whole, |span| (span / SECTOR).min(whole));
    let bytes = block.shape().bytes;
    let mut plan = Plan {
        kind,
        verify: false,
        random,
        pattern: Pattern {
            seed: words.number("seed").unwrap_or(1),
            generation: words.number("gen").unwrap_or(1),
        },
        bytes,
        first,
        sectors,
        count: u64::MAX,
        microseconds: words.microseconds().unwrap_or(u64::MAX),
        flush: words.number("flush").unwrap_or(0),
    };
    let volume = words.number("mib").map(|mib| mib.saturating_mul(1 << 20).div_ceil(bytes.into()));
    if let Some(count) = words.number("count").or(volume) {
        plan.count = count;
    } else if kind == Kind::Flush {
        plan.count = 1;
    } else if plan.microseconds == u64::MAX {
        if random {
            plan.microseconds = DEFAULT_TIME;
        } else {
            plan.count = plan.blocks();
        }
    }
    if plan.blocks() == 0 && kind != Kind::Flush {
        return Err("there is no room on the disk");
    }
    Ok(plan)
}

fn print_result(name: &str, tally: &Tally, block: &Block) {
    let Tally { requests, bytes, errors, wrong, nanoseconds, kicks } = *tally;
    print!("blk op={name} n={requests} bytes={bytes} ns={nanoseconds} iops={}", rate(requests, nanoseconds));
    print!(" mibs={}", Mibs { bytes, nanoseconds });
    println!(" errors={errors} wrong={wrong} kicks={kicks} depth={}", block.shape().depth);
}
