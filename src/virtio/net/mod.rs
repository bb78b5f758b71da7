//! The network device (VIRTIO 1.2, section 5.1): a tap of the host's as the guest's interface.
//!
//! ```text
//! guest ── transmitq ──> Transmitter ── writev ──> Port ──> tap ──> host
//!       <── receiveq ──  Receiver    <── readv ──       <──
//! ```
//!
//! Frames go between the tap and the guest's buffers without a copy, and with their header: what the
//! driver and the tap leave to each other, checksums and segmentation, passes through.

pub mod config;

mod control;
mod features;
mod interface;
mod port;
mod receive;
mod tap;
mod transmit;

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use vmm_sys_util::epoll::EventSet;

pub use self::tap::Error;

use self::config::{Mac, Net};
use self::control::Command;
use self::port::Port;
use self::receive::Receiver;
use self::tap::Tap;
use self::transmit::Transmitter;
use super::pace::{self, Pace};
use super::{Attach, ConfigSpace, Description, Device, Io, OpenError, Place, Restore, SaveError, Served};
use crate::state::{State, saved};

const ID: u32 = 1;
const QUEUE_SIZE: u16 = 256;
/// Size of a frame's header (section 5.1.6).
const HEADER: usize = 12;
/// Longest frame with its header: an IP packet, in an Ethernet frame with a VLAN tag.
const FRAME: usize = HEADER + 18 + 65535;
/// Frames that a tap keeps, `txqueuelen`, generously.
const TAP_QUEUE: usize = 4096;

/// Tokens of the timers; those below are of the ports.
const RECEIVE_TIMER: u32 = 0x100;
const TRANSMIT_TIMER: u32 = 0x101;

/// Offset of the status in the configuration space, and its bit (section 5.1.4).
const STATUS: usize = 6;
const LINK_UP: u16 = 1;

impl Attach for Net {
    fn open(&self, _: &Place<'_>) -> Result<Box<dyn Device>, OpenError> {
        Ok(Box::new(nic(self, Tap::open(self)?)?))
    }
}

/// A network device on open descriptors of a tap, one for each queue pair, which
/// [`Builder::virtio_device`](crate::machine::Builder::virtio_device) takes. Of the configuration, what
/// is about the tap itself does not count.
///
/// # Errors
/// They are not a tap's, or the tap does not have what the device needs.
pub fn device(config: &Net, taps: Vec<OwnedFd>) -> Result<impl Device + use<>, OpenError> {
    if taps.is_empty() {
        return Err("a network device needs at least one descriptor of a tap".into());
    }
    nic(config, Tap::adopt(taps)?)
}

fn nic(config: &Net, tap: Tap) -> Result<Nic, OpenError> {
    let mac = config.mac.unwrap_or_else(Mac::random);
    log::info!("the guest's address on the tap '{}' is {mac}", tap.name);
    Nic::new(config, tap, mac).map_err(Into::into)
}

/// What is to be done next in a queue.
#[derive(Debug)]
enum Turn {
    /// Nothing, before there is more to do.
    Idle,
    /// There is more to do, but others first.
    More,
    /// The driver has to give buffers.
    Starved,
    /// The port has to take frames.
    Full,
    /// It is too early for the next frame.
    Wait(Duration),
    /// The port has gone.
    Broken(io::Error),
}

/// The device.
struct Nic {
    name: String,
    mac: Mac,
    /// Whether it was asked for: otherwise a restored device has the address that it had.
    mac_given: bool,
    mtu: Option<u16>,
    /// What it offers.
    offered: u64,
    /// What the driver has taken.
    features: u64,
    pairs: Vec<Pair>,
    /// Pairs that the driver uses.
    used: u16,
    /// What of the features the tap has been told of.
    offloads: u64,
    /// Whether the host has heard of a tap that refuses something.
    warned: bool,
    receive_pace: Pace,
    transmit_pace: Pace,
}

saved! {
    "virtio-net", version 1, fingerprint 1106365158;
    /// What the driver has told the device, and the address by which it is known.
    struct NicState {
        mac: [u8; 6],
        /// Queue pairs that the driver uses.
        pairs: u16,
        /// What may be left undone of frames for the driver, as feature bits.
        offloads: u64,
    }
}

/// A receive and a transmit queue with their port.
struct Pair {
    port: Port,
    receiver: Receiver,
    transmitter: Transmitter,
    /// Whether the driver has to give buffers before anything can be received.
    starved: bool,
    /// Whether the port has to take frames before anything can be sent.
    full: bool,
    /// Whether the port has gone.
    broken: bool,
    /// What its port is watched for.
    watched: EventSet,
}

impl Pair {
    fn new(port: Port) -> Self {
        Self {
            port,
            receiver: Receiver::default(),
            transmitter: Transmitter::default(),
            starved: true,
            full: false,
            broken: false,
            watched: EventSet::empty(),
        }
    }
}

impl Nic {
    fn new(config: &Net, tap: Tap, mac: Mac) -> Result<Self, pace::Error> {
        let mut offered = features::MAC | features::STATUS | features::MRG_RXBUF | features::CTRL_VQ;
        if config.offload {
            offered |= features::offloads(tap.offload);
        }
        if config.mtu.is_some() {
            offered |= features::MTU;
        }
        if tap.ports.len() > 1 {
            offered |= features::MQ;
        }
        let mut nic = Self {
            name: tap.name,
            mac,
            mac_given: config.mac.is_some(),
            mtu: config.mtu,
            offered,
            features: 0,
            pairs: tap.ports.into_iter().map(Pair::new).collect(),
            used: 0,
            offloads: 0,
            warned: false,
            receive_pace: Pace::new(config.rate.as_ref())?,
            transmit_pace: Pace::new(config.rate.as_ref())?,
        };
        // Each port takes part from the start.
        nic.used = nic.most_pairs();
        nic.use_pairs(1);
        Ok(nic)
    }

    fn most_pairs(&self) -> u16 {
        u16::try_from(self.pairs.len()).unwrap_or(u16::MAX)
    }

    /// The control queue comes after the others, as many as the driver knows of (section 5.1.2).
    fn control_queue(&self) -> usize {
        2 * if self.features & features::MQ != 0 { self.pairs.len() } else { 1 }
    }

    /// The first `pairs` of the ports take part, the others do not.
    fn use_pairs(&mut self, pairs: u16) -> bool {
        while let Some(pair) = self.pairs.get(usize::from(self.used)).filter(|_| self.used < pairs) {
            if let Err(error) = pair.port.set_attached(true) {
                self.warn(&error);
                return false;
            }
            self.used += 1;
        }
        while let Some(pair) = self.pairs.get(usize::from(self.used - 1)).filter(|_| self.used > pairs) {
            if let Err(error) = pair.port.set_attached(false) {
                log::debug!("queue {} of the tap '{}' stays: {error}", self.used - 1, self.name);
            }
            self.used -= 1;
        }
        true
    }

    /// Frames for the guest come as the features among `features` say.
    fn set_offloads(&mut self, features: u64) -> bool {
        let wanted = features::guest_offloads(features);
        if wanted == self.offloads {
            return true;
        }
        let set = self.pairs.first().map(|pair| pair.port.set_offload(features::to_tap(wanted)));
        if let Some(Err(error)) = &set {
            self.warn(error);
        }
        let done = matches!(set, Some(Ok(())));
        if done {
            self.offloads = wanted;
        }
        done
    }

    /// Tells the host once of a tap that refuses something: the driver may ask as often as it likes.
    fn warn(&mut self, error: &io::Error) {
        let level = if self.warned { log::Level::Debug } else { log::Level::Warn };
        self.warned = true;
        log::log!(level, "the tap '{}' cannot be set as its guest wants it: {error}", self.name);
    }

    fn receive(&mut self, index: usize, io: &mut Io<'_>) {
        let memory = io.memory;
        let Some((pair, queue)) = self.pairs.get_mut(index).zip(io.queues.get_mut(2 * index)) else { return };
        if index >= usize::from(self.used) || pair.broken || self.receive_pace.is_waiting() {
            return;
        }
        let turn = pair.receiver.run(queue, memory, &pair.port, &mut self.receive_pace);
        pair.starved = matches!(turn, Turn::Starved);
        match turn {
            Turn::Wait(time) => {
                if let Err(error) = self.receive_pace.wait(index, time) {
                    log::error!("the tap '{}' has no limit any more: {error}", self.name);
                    pair.starved = true;
                    queue.look_again();
                }
            }
            Turn::Broken(error) => {
                log::warn!("the tap '{}' is gone: {error}", self.name);
                pair.broken = true;
                io.config.update(STATUS, &0_u16.to_le_bytes());
                io.config_changed();
            }
            Turn::Idle | Turn::More | Turn::Starved | Turn::Full => {}
        }
    }

    fn transmit(&mut self, index: usize, io: &mut Io<'_>) {
        let Some((pair, queue)) = self.pairs.get_mut(index).zip(io.queues.get_mut(2 * index + 1)) else {
            return;
        };
        if index >= usize::from(self.used) || self.transmit_pace.is_waiting() {
            return;
        }
        let turn = pair.transmitter.run(queue, &pair.port, &mut self.transmit_pace);
        pair.full = matches!(turn, Turn::Full);
        match turn {
            Turn::Wait(time) => {
                if let Err(error) = self.transmit_pace.wait(index, time) {
                    log::error!("the tap '{}' has no limit any more: {error}", self.name);
                    queue.look_again();
                }
            }
            Turn::More => queue.look_again(),
            Turn::Idle | Turn::Starved | Turn::Full | Turn::Broken(_) => {}
        }
    }

    /// One command: the host takes its time for some of them, and others on the event loop want theirs.
    fn control(&mut self, index: usize, io: &mut Io<'_>) {
        let Some(queue) = io.queue(index) else { return };
        let (features, most, before) = (self.features, self.most_pairs(), self.used);
        let mut served = false;
        queue.drain(|chain| {
            if std::mem::replace(&mut served, true) {
                return Served::Stop;
            }
            Served::Done(control::serve(chain, features, most, |command| match command {
                Command::Pairs(pairs) => self.use_pairs(pairs),
                Command::Offloads(offloads) => self.set_offloads(offloads),
            }))
        });
        if served {
            queue.look_again();
        }
        for pair in before.into()..self.used.into() {
            self.receive(pair, io);
            self.transmit(pair, io);
        }
    }

    /// A wait is over: all queues of the direction go on, the one that was told to wait first.
    fn go_on(&mut self, first: Option<usize>, io: &mut Io<'_>, run: fn(&mut Self, usize, &mut Io<'_>)) {
        let others = (0..self.pairs.len()).filter(|index| Some(*index) != first);
        for index in first.into_iter().chain(others) {
            run(self, index, io);
        }
    }

    /// Watches each port for what is to be done with it.
    fn watch(&mut self, io: &mut Io<'_>) {
        let waits = self.receive_pace.is_waiting();
        for (token, pair) in (0..).zip(&mut self.pairs) {
            let mut wanted = EventSet::empty();
            if token < u32::from(self.used) && !pair.broken {
                wanted.set(EventSet::IN, !pair.starved && !waits);
                wanted.set(EventSet::OUT, pair.full);
            }
            if wanted == pair.watched {
                continue;
            }
            pair.watched = wanted;
            match wanted.is_empty() {
                true => io.unwatch(pair.port.fd()),
                false => io.watch(pair.port.fd(), token, wanted),
            }
        }
    }
}

impl Device for Nic {
    fn describe(&self) -> Description {
        let mut config = self.mac.octets().to_vec();
        for word in [LINK_UP, self.most_pairs(), self.mtu.unwrap_or_default()] {
            config.extend(word.to_le_bytes());
        }
        Description {
            id: ID,
            features: self.offered,
            queue_sizes: vec![QUEUE_SIZE; 2 * self.pairs.len() + 1],
            config: ConfigSpace::new(config, 0..0),
        }
    }

    fn activate(&mut self, features: u64) {
        self.features = features;
        self.set_offloads(features);
        for pair in &mut self.pairs {
            pair.receiver.activate(features & features::MRG_RXBUF != 0);
            pair.transmitter.activate();
        }
    }

    fn start(&mut self, io: &mut Io<'_>) {
        for pair in &mut self.pairs {
            (pair.starved, pair.full, pair.watched) = (true, false, EventSet::empty());
        }
        let timers =
            [(self.receive_pace.timer(), RECEIVE_TIMER), (self.transmit_pace.timer(), TRANSMIT_TIMER)];
        for (timer, token) in timers {
            if let Some(timer) = timer {
                io.watch(timer, token, EventSet::IN);
            }
        }
    }

    fn queue_event(&mut self, queue: usize, io: &mut Io<'_>) {
        if queue == self.control_queue() {
            self.control(queue, io);
        } else if queue % 2 == 1 {
            self.transmit(queue / 2, io);
        } else if self.pairs.get(queue / 2).is_some_and(|pair| pair.starved) {
            self.receive(queue / 2, io);
        }
        self.watch(io);
    }

    fn fd_event(&mut self, token: u32, events: EventSet, io: &mut Io<'_>) {
        match token {
            RECEIVE_TIMER => {
                let first = self.receive_pace.end_wait();
                self.go_on(first, io, Self::receive);
            }
            TRANSMIT_TIMER => {
                let first = self.transmit_pace.end_wait();
                self.go_on(first, io, Self::transmit);
            }
            port => {
                let index = usize::try_from(port).unwrap_or(usize::MAX);
                // An error alone is also an answer to who waits to send: a tap that has gone is never ready.
                if events != EventSet::IN {
                    self.transmit(index, io);
                }
                if events != EventSet::OUT {
                    self.receive(index, io);
                }
            }
        }
        self.watch(io);
    }

    fn stop(&mut self, io: &mut Io<'_>) {
        self.receive_pace.end_wait();
        self.transmit_pace.end_wait();
        for (pair, queue) in self.pairs.iter_mut().zip(io.queues.iter_mut().step_by(2)) {
            pair.receiver.stop(queue);
            let (missed, dropped) = (pair.receiver.dropped(), pair.transmitter.dropped());
            log::debug!("the tap '{}': {missed} frames not received, {dropped} not sent", self.name);
        }
    }

    /// The next driver gets none of the frames that were for this one, which may have offloads that it
    /// does not know.
    fn reset(&mut self) {
        self.use_pairs(1);
        self.set_offloads(0);
        self.features = 0;
        for pair in &self.pairs {
            pair.port.discard(TAP_QUEUE);
        }
    }

    /// Frames that the tap holds are of this machine's network: another one begins without them.
    fn save(&mut self, id: &str, state: &mut State) -> Result<(), SaveError> {
        let Self {
            mac,
            used,
            offloads,
            // Of the configuration and the tap.
            name: _,
            mac_given: _,
            mtu: _,
            offered: _,
            pairs: _,
            warned: _,
            // Told again by the driver's features.
            features: _,
            // Of this machine.
            receive_pace: _,
            transmit_pace: _,
        } = self;
        Ok(state.put(id, &NicState { mac: mac.octets(), pairs: *used, offloads: *offloads })?)
    }

    fn restore(&mut self, from: &mut Restore<'_>) -> Result<(), SaveError> {
        let NicState { mac, pairs, offloads } = from.take()?;
        let most = if self.features & features::MQ != 0 { self.most_pairs() } else { 1 };
        if !(1..=most).contains(&pairs) {
            return Err(from.impossible(format!("its driver uses {pairs} of {most} queue pairs")));
        }
        if offloads & !features::guest_offloads(self.features) != 0 {
            return Err(from.impossible("it has offloads that its driver has not asked for"));
        }
        if !self.mac_given {
            self.mac = Mac::from_octets(mac)
                .ok_or_else(|| from.impossible("its address is not that of one interface"))?;
            from.config.update(0, &mac);
        }
        if !self.use_pairs(pairs) || !self.set_offloads(offloads) {
            let source = format!("the tap '{}' cannot be set as the one was that it had", self.name).into();
            return Err(SaveError::Device { device: from.id.to_owned(), source });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
