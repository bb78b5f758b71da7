//! `rng=N`: N bytes from an entropy device.

use crate::Machine;
use crate::clock::Stopwatch;
use crate::console::{print, println};
use crate::virtio::Result;
use crate::virtio::rng::Entropy;
use crate::words::parse_number;

const SHOWN: u64 = 8;

// Its stack frame is no other job's.
#[inline(never)]
pub fn run(machine: &mut Machine, count: &'static str) {
    let Some(count) = parse_number(count) else {
        return super::complain("rng= wants a number", count);
    };
    let mark = machine.arena.mark();
    match read(machine, count) {
        // The device was reset: its memory is free.
        Ok(()) => machine.arena.rewind(mark),
        Err(error) => println!("rng error: {error}"),
    }
}

fn read(machine: &mut Machine, count: u64) -> Result<()> {
    let mut entropy = Entropy::start(machine, super::device_index(machine.words))?;
    let (watch, mut bytes, mut first) = (Stopwatch::start(), 0, [0; SHOWN as usize]);
    while bytes < count {
        let part = entropy.read(count - bytes)?;
        for (place, at) in first.iter_mut().skip(bytes as usize).zip(0..part.length()) {
            *place = part.read8(at);
        }
        bytes += part.length();
    }
    print!("rng n={bytes} ns={} first=", watch.nanoseconds());
    for byte in &first[..bytes.min(SHOWN) as usize] {
        print!("{byte:02x}");
    }
    println!();
    entropy.stop()
}
