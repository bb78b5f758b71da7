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
mod saved;
mod table;

use std::time::Duration;

use vmm_sys_util::epoll::EventSet;

use self::config::Vsock;
use self::host::Door;
use self::muxer::Muxer;
use self::saved::MuxerState;
use super::{
    Attach, Chain, ConfigSpace, Description, Device, Io, Metric, OpenError, Place, Restore, SaveError, Served,
};
use crate::state::State;

const ID: u32 = 19;
/// Streams, and nothing else (section 5.10.3).
const F_STREAM: u64 = 1;
/// The queues (section 5.10.2). On the last one the device says that all connections are gone.
const QUEUE_SIZES: [u16; 3] = [256, 256, 16];
const RX: usize = 0;
const TX: usize = 1;
const EVENT: usize = 2;
/// That event: `VIRTIO_VSOCK_EVENT_TRANSPORT_RESET` (section 5.10.6.7).
const TRANSPORT_RESET: u32 = 0;
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
    /// The driver has still to be told that all connections are gone, and that its context id may be
    /// another one.
    lost_all: bool,
}

impl Sockets {
    fn open(config: &Vsock, name: &str, patience: Duration) -> Result<Self, OpenError> {
        let door = Door::open(&config.uds)?;
        Ok(Self { cid: config.cid, muxer: Muxer::new(name, config.cid, door, patience)?, lost_all: false })
    }

    /// Tells the driver what it has to know of the whole device.
    fn tell(&mut self, chain: &Chain<'_>) -> Served {
        if !self.lost_all {
            return Served::Stop;
        }
        match chain.writable().write_obj(&TRANSPORT_RESET.to_le()) {
            Ok(()) => {
                self.lost_all = false;
                Served::Done(size_of_val(&TRANSPORT_RESET).try_into().unwrap_or_default())
            }
            // No room for it: the next buffer may have some.
            Err(_) => Served::Done(0),
        }
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
            (EVENT, Some(queue)) => queue.drain(|chain| self.tell(chain)),
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
        self.lost_all = false;
    }

    /// Connections are this machine's: another one begins without them.
    fn save(&mut self, id: &str, state: &mut State) -> Result<(), SaveError> {
        // Whoever goes on tells the driver that all is lost; the context id is the configuration's.
        let Self { cid: _, muxer, lost_all: _ } = self;
        Ok(state.put(id, &muxer.save())?)
    }

    fn restore(&mut self, from: &mut Restore<'_>) -> Result<(), SaveError> {
        let saved: MuxerState = from.take()?;
        self.muxer.restore(&saved).ok_or_else(|| from.impossible("there are no such connections"))?;
        self.lost_all = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
