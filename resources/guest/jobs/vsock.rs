//! `vsock=`: a stream to a program on the host.

use super::{Mibs, rate};
use crate::Machine;
use crate::clock::{Deadline, Stopwatch};
use crate::console::{print, println};
use crate::cpu;
use crate::virtio::Result;
use crate::virtio::dma::Dma;
use crate::virtio::vsock::{LIMIT, ROOM, Received, Stream};
use crate::words::Words;

const DEFAULT_PORT: u64 = 5000;
const DEFAULT_BYTES: u64 = 16 << 10;
const MAX_BYTES: u64 = 64 << 10;
/// How long to send if nothing is said, in microseconds.
const DEFAULT_TIME: u64 = 1_000_000;
/// What is sent is zero but for the last byte of all.
const LAST: u8 = 1;

#[derive(Default)]
struct Tally {
    packets: u64,
    bytes: u64,
    nanoseconds: u64,
}

// Its stack frame is no other job's.
#[inline(never)]
pub fn run(machine: &mut Machine, what: &'static str) {
    let job = match what {
        "send" => send,
        "recv" => receive,
        "echo" => echo,
        _ => return super::complain("no such job for a vsock device", what),
    };
    let mark = machine.arena.mark();
    match stream(machine, what, job) {
        // The device was reset: its memory is free.
        Ok(()) => machine.arena.rewind(mark),
        Err(error) => println!("vsock op={what} error: {error}"),
    }
}

type Work = fn(&mut Stream, Words, Dma) -> Result<Tally>;

fn stream(machine: &mut Machine, name: &str, work: Work) -> Result<()> {
    let words = machine.words;
    let port = words.number("port").unwrap_or(DEFAULT_PORT) as u32;
    let bytes = words.number("bs").unwrap_or(DEFAULT_BYTES).clamp(1, MAX_BYTES);
    let ring = Dma::zeroed(&mut machine.arena, ROOM.into())?;
    let mut stream = Stream::connect(machine, super::device_index(words), port, bytes)?;
    let Tally { packets, bytes, nanoseconds } = work(&mut stream, words, ring)?;
    let kicks = stream.kicks();
    stream.close()?;
    print!("vsock op={name} n={packets} bytes={bytes} ns={nanoseconds} pps={}", rate(packets, nanoseconds));
    println!(" mibs={} kicks={kicks}", Mibs { bytes, nanoseconds });
    Ok(())
}

/// Sends until the time is up or all MiB are gone, then a last byte, and waits until the host has done with it.
fn send(stream: &mut Stream, words: Words, _: Dma) -> Result<Tally> {
    let most = words.number("mib").map_or(u64::MAX, |mib| mib.saturating_mul(1 << 20).max(1));
    let time = words.microseconds().unwrap_or(if most == u64::MAX { DEFAULT_TIME } else { u64::MAX });
    let (watch, end) = (Stopwatch::start(), Deadline::after(time));
    let (mut tally, mut patience) = (Tally::default(), Stopwatch::start());
    let mut last = false;
    while !last {
        while !last
            && stream.room() > 0
            && let Some(slot) = stream.slot()
        {
            let data = stream.outgoing(slot);
            let length = data.length().min(stream.room().into()).min(most - tally.bytes);
            last = tally.bytes + length >= most || end.is_over();
            data.write8(length - 1, if last { LAST } else { 0 });
            stream.send(slot, length as u32);
            (tally.packets, tally.bytes) = (tally.packets + 1, tally.bytes + length);
            patience.restart();
        }
        stream.publish()?;
        step(stream, &patience)?;
        if stream.is_deaf() && !last {
            return Err("the host does not take all of it");
        }
    }
    stream.finish()?;
    tally.nanoseconds = watch.nanoseconds();
    Ok(tally)
}

/// Counts what comes until the host sends no more.
fn receive(stream: &mut Stream, _: Words, _: Dma) -> Result<Tally> {
    let (watch, mut patience) = (Stopwatch::start(), Stopwatch::start());
    let (mut tally, mut first) = (Tally::default(), 0);
    loop {
        match stream.poll()? {
            Some(received) => {
                let now = watch.nanoseconds();
                first = if tally.packets == 0 { now } else { first };
                tally.nanoseconds = now - first;
                let length = take(stream, &received);
                (tally.packets, tally.bytes) = (tally.packets + 1, tally.bytes + u64::from(length));
                patience.restart();
            }
            None if stream.has_ended() => return Ok(tally),
            None => {
                stream.publish()?;
                wait_a_little(&patience)?;
            }
        }
    }
}

/// Sends back what comes until the host sends no more, and has all.
fn echo(stream: &mut Stream, _: Words, ring: Dma) -> Result<Tally> {
    let mut ring = Ring { memory: ring, start: 0, length: 0 };
    let (watch, mut patience) = (Stopwatch::start(), Stopwatch::start());
    let (mut tally, mut first) = (Tally::default(), 0);
    loop {
        let mut any = false;
        while let Some(received) = stream.poll()? {
            first = if tally.packets == 0 { watch.nanoseconds() } else { first };
            tally.packets += 1;
            ring.put(stream.incoming(&received))?;
            stream.give_back(&received);
            any = true;
        }
        while ring.length > 0
            && stream.room() > 0
            && let Some(slot) = stream.slot()
        {
            let data = stream.outgoing(slot);
            let length = ring.take(data.part(0, data.length().min(stream.room().into())));
            stream.consume(length as u32);
            stream.send(slot, length as u32);
            tally.bytes += length;
            tally.nanoseconds = watch.nanoseconds() - first;
            any = true;
        }
        stream.publish()?;
        if any {
            patience.restart();
        } else if stream.is_deaf() || (stream.has_ended() && ring.length == 0) {
            stream.finish()?;
            return Ok(tally);
        } else {
            wait_a_little(&patience)?;
        }
    }
}

/// Has no use for data that come.
fn step(stream: &mut Stream, patience: &Stopwatch) -> Result<()> {
    match stream.poll()? {
        Some(received) => {
            take(stream, &received);
            Ok(())
        }
        None => wait_a_little(patience),
    }
}

fn take(stream: &mut Stream, received: &Received) -> u32 {
    let length = stream.incoming(received).length() as u32;
    stream.consume(length);
    stream.give_back(received);
    length
}

fn wait_a_little(patience: &Stopwatch) -> Result<()> {
    if patience.seconds() >= LIMIT {
        return Err("the host neither sends nor takes anything");
    }
    cpu::pause();
    Ok(())
}

/// Bytes that have come and not yet gone.
struct Ring {
    memory: Dma,
    start: u64,
    length: u64,
}

impl Ring {
    /// Copies between the ring, from a place on, and a buffer: in two parts where the ring ends.
    fn parts(&self, at: u64, length: u64) -> [(Dma, u64); 2] {
        let at = at % self.memory.length();
        let first = length.min(self.memory.length() - at);
        [(self.memory.part(at, first), 0), (self.memory.part(0, length - first), first)]
    }

    fn put(&mut self, data: Dma) -> Result<()> {
        if data.length() > self.memory.length() - self.length {
            return Err("the host sends more than there is room for");
        }
        for (place, offset) in self.parts(self.start + self.length, data.length()) {
            place.copy(data.part(offset, place.length()));
        }
        self.length += data.length();
        Ok(())
    }

    /// Fills as much of a buffer as there is; says how much.
    fn take(&mut self, data: Dma) -> u64 {
        let length = data.length().min(self.length);
        for (place, offset) in self.parts(self.start, length) {
            data.part(offset, place.length()).copy(place);
        }
        self.start = (self.start + length) % self.memory.length();
        self.length -= length;
        length
    }
}
