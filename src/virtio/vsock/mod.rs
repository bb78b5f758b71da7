//! The socket device (VIRTIO 1.2, section 5.10): streams between the guest and Unix sockets of the host's.
//!
//! ```text
//! host program ── uds ── CONNECT port ──>  Muxer ── REQUEST ──>  the guest's listener
//! host program, listening at uds_P  <────  Muxer  <── REQUEST ── a guest's connect to cid 2, port P
//! ```

pub mod config;

mod connection;
mod credit;
mod host;
mod muxer;
mod packet;
mod table;

use std::time::Duration;

use vmm_sys_util::epoll::EventSet;

use self::config::Vsock;
use self::host::Door;
use self::muxer::Muxer;
use super::{Attach, ConfigSpace, Description, Device, Io, Metric, OpenError, Place, Served};

const ID: u32 = 19;
/// Streams, and nothing else (section 5.10.3).
const F_STREAM: u64 = 1;
/// The queues (section 5.10.2). On the last one the device would say that all connections are gone; it
/// never does.
const QUEUE_SIZES: [u16; 3] = [256, 256, 16];
const RX: usize = 0;
const TX: usize = 1;
const EVENT: usize = 2;
/// How long a program on the host has time for its first line: it may be typed by hand.
const PATIENCE: Duration = Duration::from_secs(30);

impl Attach for Vsock {
    fn open(&self, place: &Place<'_>) -> Result<Box<dyn Device>, OpenError> {
        Ok(Box::new(Sockets::open(self, place.name, PATIENCE)?))
    }
}

/// The device.
struct Sockets {
    cid: u64,
    muxer: Muxer,
}

impl Sockets {
    fn open(config: &Vsock, name: &str, patience: Duration) -> Result<Self, OpenError> {
        let door = Door::open(&config.uds)?;
        Ok(Self { cid: config.cid, muxer: Muxer::new(name, config.cid, door, patience)? })
    }

    /// Gives the guest what there is for it.
    fn fill(&mut self, io: &mut Io<'_>) {
        if let Some(queue) = io.queue(RX) {
            queue.drain(|chain| self.muxer.fill(chain));
        }
        if self.muxer.take_unblocked()
            && let Some(queue) = io.queue(TX)
        {
            queue.look_again();
        }
    }
}

impl Device for Sockets {
    fn describe(&self) -> Description {
        Description {
            id: ID,
            features: F_STREAM,
            queue_sizes: QUEUE_SIZES.to_vec(),
            config: ConfigSpace::new(self.cid.to_le_bytes().to_vec(), 0..0),
        }
    }

    fn start(&mut self, io: &mut Io<'_>) {
        io.watch(self.muxer.fd(), 0, EventSet::IN);
    }

    fn queue_event(&mut self, queue: usize, io: &mut Io<'_>) {
        match (queue, io.queue(queue)) {
            (TX, Some(queue)) => queue.drain(|chain| self.muxer.receive(chain)),
            (EVENT, Some(queue)) => queue.drain(|_| Served::Stop),
            _ => {}
        }
        if queue == RX || self.muxer.has_packets() {
            self.fill(io);
        }
    }

    fn fd_event(&mut self, _: u32, _: EventSet, io: &mut Io<'_>) {
        self.muxer.poll();
        if self.muxer.has_packets() {
            self.fill(io);
        }
    }

    fn metrics(&self) -> Vec<Metric> {
        self.muxer.metrics()
    }

    fn reset(&mut self) {
        self.muxer.reset();
    }
}

#[cfg(test)]
mod tests;
