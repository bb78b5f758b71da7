//! Frames as fast as they go: UDP, or TCP that the device cuts into segments.

use super::frame::{TCP, TRANSPORT, UDP};
use super::{Mibs, addresses, bit, limits, rate};
use crate::Machine;
use crate::clock::{Deadline, Stopwatch};
use crate::console::{print, println};
use crate::cpu;
use crate::virtio::Result;
use crate::virtio::net::{Net, Offload};

const DEFAULT_SIZE: u64 = 1514;
/// With segmentation: as long as an IPv4 packet may be.
const DEFAULT_GSO_SIZE: u64 = MAX_SIZE;
const MAX_SIZE: u64 = u16::MAX as u64 + 14;
/// A segment's data in a packet of 1500 bytes.
const SEGMENT_SIZE: u16 = 1460;
/// The number of the frame, as eight bytes.
const NUMBER: u64 = 8;
/// How long a frame may take, in seconds.
const LIMIT: u64 = 30;
/// How long to send if nothing is said, in microseconds.
const DEFAULT_TIME: u64 = 1_000_000;

pub fn run(machine: &mut Machine) -> Result<()> {
    let words = machine.words;
    let (gso, csum) = (words.has("gso"), words.has("csum"));
    let size = words.number("size").unwrap_or(if gso { DEFAULT_GSO_SIZE } else { DEFAULT_SIZE });
    let headers = if gso { TRANSPORT + TCP } else { TRANSPORT + UDP };
    let size = size.clamp(headers + NUMBER, MAX_SIZE);
    let wanted = if gso { bit::CSUM | bit::HOST_TSO4 } else { bit::CSUM };
    let mut net = super::start(machine, size as u32, if gso || csum { wanted } else { 0 })?;
    if (gso && !net.has(bit::HOST_TSO4)) || (csum && !net.has(bit::CSUM)) {
        return Err("the device does not offer this offload");
    }
    let addresses = addresses(words, &net)?;
    let mut offload = Offload::default();
    // The buffers are filled once; only the frames' numbers change.
    while let Some(slot) = net.slot() {
        let frame = net.frame(slot);
        offload =
            if gso { addresses.tcp(frame, size, SEGMENT_SIZE) } else { addresses.udp(frame, size, csum) };
    }
    (0..net.depth()).for_each(|slot| net.release(slot));

    let (count, time) = limits(words);
    let time = if count == u64::MAX && time == u64::MAX { DEFAULT_TIME } else { time };
    let kicks = net.kicks();
    let watch = Stopwatch::start();
    let sent = transmit(&mut net, size, headers, offload, count, time)?;
    let nanoseconds = watch.nanoseconds();
    let bytes = sent * size;
    print!("net op=send n={sent} bytes={bytes} ns={nanoseconds} pps={}", rate(sent, nanoseconds));
    println!(" mibs={} errors=0 kicks={}", Mibs { bytes, nanoseconds }, net.kicks() - kicks);
    net.stop()
}

/// Sends until the count or the time is up and all frames are gone.
fn transmit(net: &mut Net, size: u64, number: u64, offload: Offload, count: u64, time: u64) -> Result<u64> {
    let (mut offered, mut sent) = (0, 0);
    let (end, mut patience) = (Deadline::after(time), Stopwatch::start());
    loop {
        if offered < count && !end.is_over() {
            while offered < count
                && let Some(slot) = net.slot()
            {
                for (at, byte) in (number..).zip(u64::to_be_bytes(offered)) {
                    net.frame(slot).write8(at, byte);
                }
                net.send(slot, size as u32, offload);
                offered += 1;
            }
            net.publish();
        } else if net.in_flight() == 0 {
            return Ok(sent);
        }
        match net.sent()? {
            0 if patience.seconds() >= LIMIT => return Err("the device does not send"),
            0 => cpu::pause(),
            some => {
                sent += some;
                patience.restart();
            }
        }
    }
}
