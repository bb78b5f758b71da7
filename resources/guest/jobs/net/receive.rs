//! Frames that come in: counted, or sent back. ARP and ICMP echo requests are
//! answered, so that a host can find and ping the guest.

use super::frame::Addresses;
use super::{Mibs, addresses, bit, limits, rate};
use crate::Machine;
use crate::clock::{Deadline, Stopwatch};
use crate::console::{print, println};
use crate::cpu;
use crate::virtio::Result;
use crate::virtio::net::{Net, Received};

/// How long the first frame may take beyond the time that is given, in microseconds.
const LIMIT: u64 = 30_000_000;
/// The longest answer.
const ANSWER: u32 = 2048;

#[derive(Default)]
struct Tally {
    frames: u64,
    bytes: u64,
    /// Frames that are not for the port, and answers that found no room.
    other: u64,
    dropped: u64,
    /// Nanoseconds at the first and at the last frame.
    first: u64,
    last: u64,
}

struct Receiver {
    net: Net,
    addresses: Addresses,
    echo: bool,
    watch: Stopwatch,
    /// How long to go on after the first frame, in microseconds, and until when.
    time: u64,
    end: Deadline,
    tally: Tally,
    /// Whether the frame that goes on counts.
    counts: bool,
}

pub fn run(machine: &mut Machine, name: &str, echo: bool) -> Result<()> {
    let words = machine.words;
    let wanted = if words.has("gso") && !echo { bit::GUEST_CSUM | bit::GUEST_TSO4 } else { 0 };
    let net = super::start(machine, ANSWER, wanted)?;
    let addresses = addresses(words, &net)?;
    let (count, time) = limits(words);
    print!("net ready mac=");
    super::print_mac(net.mac);
    println!(" port={}", addresses.port);

    let (watch, end) = (Stopwatch::start(), Deadline::after(time.saturating_add(LIMIT)));
    let mut receiver =
        Receiver { net, addresses, echo, watch, time, end, tally: Tally::default(), counts: false };
    while receiver.tally.frames < count && !receiver.end.is_over() {
        receiver.poll(count)?;
    }
    let Tally { frames, bytes, other, dropped, first, last } = receiver.tally;
    let nanoseconds = last - first;
    print!("net op={name} n={frames} bytes={bytes} ns={nanoseconds} pps={}", rate(frames, nanoseconds));
    print!(" mibs={} errors={dropped} other={other}", Mibs { bytes, nanoseconds });
    println!(" kicks={}", receiver.net.kicks());
    receiver.flush()?;
    receiver.net.stop()
}

impl Receiver {
    /// Takes all that has come, or as much as still counts.
    fn poll(&mut self, count: u64) -> Result<()> {
        let mut any = self.net.sent()? > 0;
        while self.tally.frames < count
            && let Some(received) = self.net.received()?
        {
            any = true;
            self.handle(&received);
            self.net.recycle(received.slot);
        }
        if any {
            self.net.publish();
        } else {
            cpu::pause();
        }
        Ok(())
    }

    fn handle(&mut self, received: &Received) {
        if !received.first {
            if self.counts {
                self.tally.bytes += u64::from(received.length);
            }
            return;
        }
        let frame = self.net.incoming(received);
        self.counts = !self.echo && self.addresses.is_for_port(frame);
        if self.counts || self.answer(received) {
            let now = self.watch.nanoseconds();
            if self.tally.frames == 0 {
                self.tally.first = now;
                self.end = Deadline::after(self.time);
            }
            self.tally.last = now;
            self.tally.frames += 1;
            self.tally.bytes += u64::from(received.length);
        } else {
            self.tally.other += 1;
        }
    }

    /// Whether the frame was answered as an echo does; what only says where we
    /// are is answered and not counted.
    fn answer(&mut self, received: &Received) -> bool {
        let Some(slot) = self.net.slot() else {
            self.tally.dropped += 1;
            return false;
        };
        let frame = self.net.frame(slot).part(0, received.length.into());
        frame.copy(self.net.incoming(received));
        if !self.addresses.answer(frame, self.echo) {
            self.net.release(slot);
            return false;
        }
        self.net.send(slot, received.length, Default::default());
        self.echo
    }

    /// Waits a second at most for the last answers to go.
    fn flush(&mut self) -> Result<()> {
        let watch = Stopwatch::start();
        self.net.publish();
        while self.net.in_flight() > 0 && watch.seconds() < 1 {
            self.net.sent()?;
            cpu::pause();
        }
        Ok(())
    }
}
