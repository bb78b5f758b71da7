//! Packets to connections, connections to packets, programs on the host to connections.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::timerfd::TimerFd;
use zerocopy::{FromZeros, IntoBytes};

use super::connection::{Connection, Stage};
use super::host::{Door, Greeting};
use super::packet::{HEADER_LEN, HOST, Header, Op, Ports, STREAM};
use super::saved::{MuxerState, Reset};
use super::table::{FIRST_ID, Id, Table};
use crate::virtio::{Chain, Cursor, Metric, Served};

/// Most connections at a time. Each may keep [`ROOM`](super::credit::ROOM) bytes.
pub(super) const CONNECTIONS_MAX: usize = 4096;
/// Most programs on the host that have connected and not yet said what they want.
pub(super) const GREETINGS_MAX: usize = 256;
/// Most resets that wait for room in the guest's receive queue; with more, its sending queue waits.
const RESETS_MAX: usize = 256;
/// Most programs on the host let in before others have their turn.
const ACCEPTS_MAX: usize = 64;
/// How soon to look again for whoever could not be let in.
const RETRY: Duration = Duration::from_secs(1);
/// The first port that the host's end of a connection gets, when a program on the host begins it.
const FIRST_PORT: u32 = 1 << 30;
const LAST_PORT: u32 = FIRST_PORT | (FIRST_PORT - 1);

/// What the descriptors are known by.
const DOOR: Id = 0;
const TIMER: Id = 1;
const _: () = assert!(TIMER < FIRST_ID);

/// How the door is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watched {
    /// Whoever comes is let in.
    Open,
    /// Enough are in who have not yet said what they want.
    Full,
    /// The host gives no more descriptors; until then.
    Starved(Instant),
}

/// Everything between the queues and the host's sockets.
///
/// The sockets are waited for on an epoll of its own, each for every event, edge by edge: nothing has to
/// be said to the kernel when the guest takes no more or takes again, and the event loop sees one
/// descriptor however many connections there are.
pub(super) struct Muxer {
    /// The device's name.
    name: String,
    cid: u64,
    /// How long a program on the host has time to say what it wants.
    patience: Duration,
    door: Door,
    watched: Watched,
    poll: Epoll,
    timer: TimerFd,
    table: Table,
    resets: VecDeque<Header>,
    /// The guest's sending queue waits for room among the resets.
    blocked: bool,
    next_port: u32,
    /// The host's refusal has been logged.
    complained: bool,
    counts: Counts,
}

/// What has happened so far.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    /// Connections that were begun, by either side.
    connections: u64,
    /// Connections that the host refused.
    refused: u64,
    /// Bytes for the guest.
    received: u64,
    /// Bytes of the guest's.
    transmitted: u64,
    /// Packets and buffers that no driver may send.
    nonsense: u64,
}

impl Muxer {
    /// # Errors
    /// The host gives no descriptors.
    pub(super) fn new(name: &str, cid: u64, door: Door, patience: Duration) -> io::Result<Self> {
        let poll = Epoll::new()?;
        let timer = TimerFd::new()?;
        let add = |fd, events, id| poll.ctl(ControlOperation::Add, fd, EpollEvent::new(events, id));
        add(door.as_raw_fd(), EventSet::IN, DOOR)?;
        // Edge by edge it need not be read, which would block if it had been set anew.
        add(timer.as_raw_fd(), EventSet::IN | EventSet::EDGE_TRIGGERED, TIMER)?;
        Ok(Self {
            name: name.to_owned(),
            cid,
            patience,
            door,
            watched: Watched::Open,
            poll,
            timer,
            table: Table::starting_at(FIRST_ID),
            resets: VecDeque::new(),
            blocked: false,
            next_port: FIRST_PORT,
            complained: false,
            counts: Counts::default(),
        })
    }

    /// Readable when [`Self::poll`] has something to do.
    pub(super) fn fd(&self) -> RawFd {
        self.poll.as_raw_fd()
    }

    /// What it knows and counts.
    pub(super) fn metrics(&self) -> Vec<Metric> {
        let Counts { connections, refused, received, transmitted, nonsense } = self.counts;
        vec![
            ("connections", u64::try_from(self.table.len()).unwrap_or(u64::MAX)),
            ("connections_total", connections),
            ("refused_total", refused),
            ("received_bytes", received),
            ("transmitted_bytes", transmitted),
            ("bad_packets_total", nonsense),
        ]
    }

    /// The driver is gone, and all connections with it.
    pub(super) fn reset(&mut self) {
        self.table = Table::starting_at(self.table.next_id());
        self.resets.clear();
        self.blocked = false;
        self.watch_door();
    }

    /// What the guest has to hear when its connections end here and it goes on elsewhere.
    pub(super) fn save(&self) -> MuxerState {
        let Self {
            cid,
            table,
            resets,
            next_port,
            // Of the configuration.
            name: _,
            patience: _,
            // Of the host.
            door: _,
            watched: _,
            poll: _,
            timer: _,
            // The guest's sending queue is looked at anew.
            blocked: _,
            complained: _,
            counts: _,
        } = self;
        let mut pending: Vec<_> = resets.iter().map(Reset::of).collect();
        let connected = table.connections().filter(|connection| connection.is_the_guests());
        let broken = connected.filter_map(|connection| connection.ports).map(Reset::of_stream);
        // A second reset could end what the guest has begun after the first one.
        let broken: Vec<_> = broken.filter(|reset| !pending.contains(reset)).collect();
        pending.extend(broken);
        MuxerState { cid: *cid, next_port: *next_port, resets: pending }
    }

    /// Ends the connections of the machine that this one goes on for; none if they cannot have been.
    pub(super) fn restore(&mut self, saved: &MuxerState) -> Option<()> {
        let MuxerState { cid, next_port, resets } = saved;
        if !(FIRST_PORT..=LAST_PORT).contains(next_port) || resets.len() > CONNECTIONS_MAX + RESETS_MAX {
            return None;
        }
        self.next_port = *next_port;
        self.resets = resets.iter().map(|reset| reset.header(*cid)).collect();
        Some(())
    }

    /// Takes a packet from the guest.
    pub(super) fn receive(&mut self, chain: &Chain<'_>) -> Served {
        if self.resets.len() >= RESETS_MAX {
            self.blocked = true;
            return Served::Stop;
        }
        let mut payload = chain.readable();
        let mut header = Header::new_zeroed();
        if payload.read(header.as_mut_bytes()) < HEADER_LEN {
            self.counts.nonsense += 1;
        } else if self.handle(&header, &mut payload) {
            let reset = header.reset(self.cid);
            // One that the guest has still to hear says all.
            if !self.resets.contains(&reset) {
                self.resets.push_back(reset);
            }
        }
        Served::Done(0)
    }

    /// Does what a packet says. Whether the answer is a reset.
    fn handle(&mut self, header: &Header, payload: &mut Cursor<'_, '_>) -> bool {
        let ours = header.src_cid.get() == self.cid && header.dst_cid.get() == HOST;
        let op = Op::from_number(header.op.get());
        if !ours || header.kind.get() != STREAM {
            self.counts.nonsense += 1;
            return op != Some(Op::Reset);
        }
        let whole = usize::try_from(header.len.get()).is_ok_and(|len| len <= payload.remaining());
        let known = self.table.find(header.ports());
        match (op.filter(|_| whole), known) {
            (Some(Op::Request), None) => !self.dial(header),
            (Some(op), Some(id)) => {
                self.counts.transmitted += if op == Op::Data { header.len.get().into() } else { 0 };
                self.table.update(id, |connection| connection.receive(op, header, payload)).unwrap_or(true)
            }
            (Some(op), None) => op != Op::Reset,
            (None, known) => {
                self.counts.nonsense += 1;
                if let Some(id) = known {
                    self.close(id);
                }
                op != Some(Op::Reset)
            }
        }
    }

    /// Connects the guest with a program on the host.
    fn dial(&mut self, request: &Header) -> bool {
        let port = request.dst_port.get();
        if self.table.len() >= CONNECTIONS_MAX {
            self.complain(&format_args!("no more than {CONNECTIONS_MAX} connections at a time"));
            return false;
        }
        match self.door.dial(port) {
            Ok(stream) => self.insert(Connection::dialled(stream, request), None),
            Err(error) => {
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) {
                    self.counts.refused += 1;
                    log::debug!("{}: nobody listens for port {port} of the host's", self.name);
                } else {
                    self.complain(&format_args!("cannot connect to port {port} of the host's: {error}"));
                }
                false
            }
        }
    }

    /// One more connection, if it can be waited for.
    fn insert(&mut self, connection: Connection, deadline: Option<Instant>) -> bool {
        let events = EventSet::IN | EventSet::OUT | EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED;
        let event = EpollEvent::new(events, self.table.next_id());
        let added = self.poll.ctl(ControlOperation::Add, connection.stream().as_raw_fd(), event);
        match &added {
            Ok(()) => {
                self.table.insert(connection, deadline);
                self.counts.connections += 1;
            }
            Err(error) => self.complain(&format_args!("cannot wait for a connection: {error}")),
        }
        added.is_ok()
    }

    fn close(&mut self, id: Id) {
        self.table.update(id, |connection| connection.stage = Stage::Over);
    }

    /// A guest can make the host refuse as often as it likes; once is enough to know.
    fn complain(&mut self, reason: &std::fmt::Arguments<'_>) {
        self.counts.refused += 1;
        if std::mem::replace(&mut self.complained, true) {
            log::debug!("{}: {reason}", self.name);
        } else {
            log::warn!("{}: {reason}; from now on this is logged as a detail", self.name);
        }
    }

    /// Puts the next packet into a buffer of the guest's.
    pub(super) fn fill(&mut self, chain: &Chain<'_>) -> Served {
        let mut to = chain.writable();
        if to.remaining() <= HEADER_LEN {
            self.counts.nonsense += 1;
            return Served::Done(0);
        }
        let mut payload = to.clone();
        payload.skip(HEADER_LEN);
        let Some(header) = self.next_packet(&payload) else { return Served::Stop };
        to.write(header.as_bytes());
        self.counts.received += u64::from(header.len.get());
        Served::Done(header.len.get().saturating_add(u32::try_from(HEADER_LEN).unwrap_or(0)))
    }

    /// Resets first: what they end may begin again.
    fn next_packet(&mut self, payload: &Cursor<'_, '_>) -> Option<Header> {
        if let Some(reset) = self.resets.pop_front() {
            return Some(reset);
        }
        loop {
            let id = self.table.next_turn()?;
            let next = |connection: &mut Connection| connection.next_packet(self.cid, payload.clone());
            if let Some(packet) = self.table.update(id, next).flatten() {
                return Some(packet);
            }
        }
    }

    /// Whether there may be something to put into the guest's buffers.
    pub(super) fn has_packets(&self) -> bool {
        !self.resets.is_empty() || self.table.has_turns()
    }

    /// Whether the guest's sending queue has waited and need no longer.
    pub(super) fn take_unblocked(&mut self) -> bool {
        let unblocked = self.blocked && self.resets.len() < RESETS_MAX;
        self.blocked &= !unblocked;
        unblocked
    }

    /// Looks what is new on the host's side.
    pub(super) fn poll(&mut self) {
        let mut events = [EpollEvent::default(); 128];
        let count = self.poll.wait(0, &mut events).unwrap_or(0);
        for event in events.iter().take(count) {
            match event.data() {
                DOOR => self.accept(),
                TIMER => self.expire(),
                id => self.host_event(id, event.event_set()),
            }
        }
        if self.watched == Watched::Full && self.table.greeting() < GREETINGS_MAX {
            self.watch_door();
        }
    }

    fn host_event(&mut self, id: Id, events: EventSet) {
        let greeting = self.table.update(id, |connection| {
            connection.host_event(events);
            (connection.stage == Stage::Greeting).then(|| Greeting::read(connection.stream()))
        });
        let ends = events.intersects(EventSet::READ_HANG_UP);
        match greeting.flatten() {
            Some(Greeting::Connect(port)) => self.request(id, port),
            Some(Greeting::Partial) if !ends => {}
            Some(_) => {
                log::debug!("{}: a program on the host did not say CONNECT and a port", self.name);
                self.close(id);
            }
            None => {}
        }
    }

    /// Asks the guest for its port.
    fn request(&mut self, id: Id, guest: u32) {
        let mut ports = Ports { guest, host: self.next_port };
        // One of them is free: there are fewer connections than ports.
        while self.table.find(ports).is_some() {
            ports.host = following(ports.host);
        }
        self.next_port = following(ports.host);
        self.table.update(id, |connection| connection.request(ports));
    }

    /// Lets programs on the host in.
    fn accept(&mut self) {
        for _ in 0..ACCEPTS_MAX {
            if self.table.greeting() >= GREETINGS_MAX {
                self.unwatch_door(Watched::Full);
                return;
            }
            match self.door.accept() {
                Ok(stream) => self.welcome(stream),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => return,
                    ErrorKind::Interrupted | ErrorKind::ConnectionAborted => {}
                    _ => {
                        self.complain(&format_args!("cannot let a program on the host in: {error}"));
                        self.unwatch_door(Watched::Starved(Instant::now() + RETRY));
                        self.set_timer();
                        return;
                    }
                },
            }
        }
    }

    fn welcome(&mut self, stream: UnixStream) {
        if self.table.len() >= CONNECTIONS_MAX {
            self.complain(&format_args!("no more than {CONNECTIONS_MAX} connections at a time"));
            return;
        }
        self.insert(Connection::accepted(stream), Some(Instant::now() + self.patience));
        if self.table.greeting() == 1 {
            self.set_timer();
        }
    }

    fn watch_door(&mut self) {
        self.set_door(EventSet::IN, Watched::Open);
    }

    fn unwatch_door(&mut self, why: Watched) {
        self.set_door(EventSet::empty(), why);
    }

    fn set_door(&mut self, events: EventSet, watched: Watched) {
        self.watched = watched;
        let event = EpollEvent::new(events, DOOR);
        if let Err(error) = self.poll.ctl(ControlOperation::Modify, self.door.as_raw_fd(), event) {
            log::error!("{}: programs on the host are no longer heard: {error}", self.name);
        }
    }

    /// A time has come.
    fn expire(&mut self) {
        let now = Instant::now();
        while let Some(id) = self.table.late(now) {
            log::debug!("{}: a program on the host did not say what it wants", self.name);
            self.close(id);
        }
        if matches!(self.watched, Watched::Starved(until) if until <= now) {
            self.watch_door();
        }
        self.set_timer();
    }

    /// Waits for the next time at which there is something to do.
    fn set_timer(&mut self) {
        let starved = if let Watched::Starved(until) = self.watched { Some(until) } else { None };
        let Some(next) = starved.into_iter().chain(self.table.first_deadline()).min() else { return };
        // A duration of 0 would be no time at all.
        let left = next.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        if let Err(error) = self.timer.reset(left, None) {
            log::error!("{}: the timer fails: {error}", self.name);
        }
    }
}

/// The port after this one, of those that are the host's to give.
fn following(port: u32) -> u32 {
    if port == LAST_PORT { FIRST_PORT } else { port + 1 }
}
