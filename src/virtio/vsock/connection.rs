//! One connection: a stream of the guest's and a Unix socket of the host's.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use rustix::net::SendFlags;
use vm_memory::{ReadVolatile, VolatileMemoryError, WriteVolatile};
use vmm_sys_util::epoll::EventSet;

use super::credit::{Credit, ROOM};
use super::packet::{Header, Op, Ports, shut};
use crate::virtio::Cursor;

/// Most bytes in a packet to the guest.
const PACKET_MAX: u32 = 64 << 10;

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The program on the host has still to say which port it wants.
    Greeting,
    /// The guest is to be asked for its port.
    Requesting,
    /// The guest has been asked.
    Requested,
    /// The guest is to be told that the host's program is there.
    Responding,
    /// Bytes go both ways.
    Established,
    /// The guest is to be told that there is no connection any more.
    Resetting,
    /// The guest has done with it; the host's socket has still to take some bytes.
    Lingering,
    /// There is nothing left to do.
    Over,
}

/// One connection.
pub(super) struct Connection {
    pub(super) stage: Stage,
    /// None before the host's program has asked for one of the guest's.
    pub(super) ports: Option<Ports>,
    stream: UnixStream,
    credit: Credit,
    /// Bytes of the guest's that the socket has not taken yet, [`ROOM`] at the most.
    backlog: VecDeque<u8>,
    /// The socket may have bytes: it has not said the contrary since it was last heard of.
    readable: bool,
    /// What the guest no longer does, bits of [`shut`].
    guest_shut: u32,
    /// What the host's program no longer does.
    host_shut: u32,
    /// What the guest knows of that.
    told_shut: u32,
    /// The guest has asked for room.
    credit_wanted: bool,
    /// The guest has been asked for room since there was none.
    credit_asked: bool,
}

impl Connection {
    fn new(stage: Stage, ports: Option<Ports>, stream: UnixStream) -> Self {
        Self {
            stage,
            ports,
            stream,
            credit: Credit::default(),
            backlog: VecDeque::new(),
            readable: false,
            guest_shut: 0,
            host_shut: 0,
            told_shut: 0,
            credit_wanted: false,
            credit_asked: false,
        }
    }

    /// A program on the host has connected.
    pub(super) fn accepted(stream: UnixStream) -> Self {
        Self::new(Stage::Greeting, None, stream)
    }

    /// The guest has connected to a program on the host.
    pub(super) fn dialled(stream: UnixStream, request: &Header) -> Self {
        let mut connection = Self::new(Stage::Responding, Some(request.ports()), stream);
        connection.credit.learn(request.buf_alloc.get(), request.fwd_cnt.get());
        connection
    }

    /// The host's program wants this port of the guest's.
    pub(super) fn request(&mut self, ports: Ports) {
        self.stage = Stage::Requesting;
        self.ports = Some(ports);
        // What follows its first line has been there all the time.
        self.readable = true;
    }

    /// Whether the guest has it for a connection that is, or may yet be.
    pub(super) fn is_the_guests(&self) -> bool {
        match self.stage {
            Stage::Requested | Stage::Responding | Stage::Established | Stage::Resetting => true,
            Stage::Greeting | Stage::Requesting | Stage::Lingering | Stage::Over => false,
        }
    }

    /// The host's socket.
    pub(super) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Takes a packet of the guest's with as many bytes as it says. Whether the answer is a reset.
    pub(super) fn receive(&mut self, op: Op, header: &Header, payload: &mut Cursor<'_, '_>) -> bool {
        self.credit.learn(header.buf_alloc.get(), header.fwd_cnt.get());
        let fine = match (self.stage, op) {
            (_, Op::Reset) => {
                self.stage = Stage::Over;
                return false;
            }
            (Stage::Resetting, _) => true,
            (Stage::Requested, Op::Response) => self.establish(),
            (Stage::Established | Stage::Responding, Op::Shutdown) => return self.shut(header.flags.get()),
            (Stage::Established, Op::Data) => self.receive_data(header.len.get(), payload),
            (Stage::Established, Op::CreditUpdate) => true,
            (Stage::Established, Op::CreditRequest) => {
                self.credit_wanted = true;
                true
            }
            _ => false,
        };
        if !fine {
            self.stage = Stage::Over;
        }
        !fine
    }

    /// The guest has taken the connection: the host's program hears of it.
    fn establish(&mut self) -> bool {
        self.stage = Stage::Established;
        let line = format!("OK {}\n", self.ports.map_or(0, |ports| ports.host));
        rustix::net::send(&self.stream, line.as_bytes(), SendFlags::NOSIGNAL) == Ok(line.len())
    }

    /// The guest does less from now on. Whether the connection is at its end, which a reset confirms.
    fn shut(&mut self, flags: u32) -> bool {
        self.guest_shut |= flags & shut::BOTH;
        if self.guest_shut & shut::RECEIVE != 0 {
            self.shut_stream(Shutdown::Read);
        }
        let over = self.guest_shut == shut::BOTH;
        if over {
            self.stage = Stage::Lingering;
        }
        self.after_backlog();
        over
    }

    fn shut_stream(&self, how: Shutdown) {
        // It fails only when the other end has gone, which is found out otherwise.
        let _ = self.stream.shutdown(how);
    }

    /// What had to wait until the host's program has what the guest sent.
    fn after_backlog(&mut self) {
        if !self.backlog.is_empty() {
            return;
        }
        self.backlog = VecDeque::new();
        if self.stage == Stage::Lingering {
            self.stage = Stage::Over;
        } else if self.guest_shut & shut::SEND != 0 {
            self.shut_stream(Shutdown::Write);
        }
    }

    /// Whether the guest was allowed to send this.
    fn receive_data(&mut self, len: u32, payload: &mut Cursor<'_, '_>) -> bool {
        let Ok(len) = usize::try_from(len) else { return false };
        let room = usize::try_from(ROOM).unwrap_or(usize::MAX).saturating_sub(self.backlog.len());
        if len > room || self.guest_shut & shut::SEND != 0 {
            return false;
        }
        let parts = payload.split(len);
        let mut rest = Cursor::new(&parts);
        if self.backlog.is_empty() {
            let done = self.write_through(rest.clone());
            self.credit.forward(done);
            rest.skip(done);
        }
        if self.host_shut & shut::RECEIVE != 0 {
            self.credit.forward(rest.remaining());
        } else {
            self.keep(rest);
        }
        true
    }

    /// Writes what the socket takes at once.
    fn write_through(&mut self, payload: Cursor<'_, '_>) -> usize {
        let mut done = 0;
        for part in payload.slices() {
            match retried(|| (&self.stream).write_volatile(&part)) {
                Ok(count) => {
                    done += count;
                    if count < part.len() {
                        break;
                    }
                }
                Err(error) => {
                    self.write_failed(&error);
                    break;
                }
            }
        }
        done
    }

    fn keep(&mut self, mut rest: Cursor<'_, '_>) {
        let len = rest.remaining();
        if len > 0 && self.backlog.capacity() == 0 {
            // All of it now, so that it never grows past that.
            self.backlog.reserve_exact(usize::try_from(ROOM).unwrap_or(len));
        }
        let mut chunk = [0; 4096];
        loop {
            let count = rest.read(&mut chunk);
            if count == 0 {
                return;
            }
            self.backlog.extend(chunk.get(..count).unwrap_or_default());
        }
    }

    /// Writes of what is kept as much as the socket takes.
    fn flush(&mut self) {
        while !self.backlog.is_empty() {
            let (bytes, _) = self.backlog.as_slices();
            match (&self.stream).write(bytes) {
                Ok(count) => {
                    self.backlog.drain(..count.min(bytes.len()));
                    self.credit.forward(count);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    self.write_failed(&error);
                    break;
                }
            }
        }
        self.after_backlog();
    }

    fn write_failed(&mut self, error: &io::Error) {
        if error.kind() != ErrorKind::WouldBlock {
            self.host_takes_no_more();
        }
    }

    /// Whatever the guest sends goes nowhere from now on.
    fn host_takes_no_more(&mut self) {
        self.host_shut |= shut::RECEIVE;
        self.credit.forward(self.backlog.len());
        self.backlog.clear();
    }

    /// Something is new with the host's socket.
    pub(super) fn host_event(&mut self, events: EventSet) {
        let hung_up = events.intersects(EventSet::HANG_UP | EventSet::ERROR);
        self.readable |= hung_up || events.intersects(EventSet::IN | EventSet::READ_HANG_UP);
        match self.stage {
            Stage::Greeting | Stage::Requesting if hung_up => self.stage = Stage::Over,
            Stage::Requested if hung_up => {
                self.shut_stream(Shutdown::Both);
                self.stage = Stage::Resetting;
            }
            Stage::Responding | Stage::Established | Stage::Lingering => {
                if hung_up {
                    self.host_takes_no_more();
                    // Nobody reads any more what would tell of the end.
                    self.host_shut |= if self.guest_shut & shut::RECEIVE != 0 { shut::SEND } else { 0 };
                }
                self.flush();
            }
            _ => {}
        }
    }

    /// Whether the guest is to hear something, now.
    pub(super) fn has_news(&self) -> bool {
        match self.stage {
            Stage::Requesting | Stage::Responding | Stage::Resetting => true,
            Stage::Established => {
                let reads = self.reads() && (self.credit.guest_free() > 0 || !self.credit_asked);
                reads || self.host_shut != self.told_shut || self.credit_wanted || self.credit.is_news()
            }
            Stage::Greeting | Stage::Requested | Stage::Lingering | Stage::Over => false,
        }
    }

    /// Whether there may be bytes for the guest.
    fn reads(&self) -> bool {
        self.readable && (self.host_shut & shut::SEND) | (self.guest_shut & shut::RECEIVE) == 0
    }

    /// The next packet for the guest; its bytes are in `payload` already. None if there is nothing to say.
    pub(super) fn next_packet(&mut self, cid: u64, payload: Cursor<'_, '_>) -> Option<Header> {
        let (op, flags, len) = match self.stage {
            Stage::Requesting => {
                self.stage = Stage::Requested;
                (Op::Request, 0, 0)
            }
            Stage::Responding => {
                self.stage = Stage::Established;
                (Op::Response, 0, 0)
            }
            Stage::Resetting => {
                self.stage = Stage::Over;
                (Op::Reset, 0, 0)
            }
            Stage::Established => self.next_news(payload)?,
            Stage::Greeting | Stage::Requested | Stage::Lingering | Stage::Over => return None,
        };
        let (buf_alloc, fwd_cnt) = self.credit.tell();
        self.credit_wanted = false;
        Some(Header {
            len: len.into(),
            flags: flags.into(),
            buf_alloc: buf_alloc.into(),
            fwd_cnt: fwd_cnt.into(),
            ..Header::to_guest(cid, self.ports?, op)
        })
    }

    /// What a packet of an established connection is about, its flags and its length.
    fn next_news(&mut self, payload: Cursor<'_, '_>) -> Option<(Op, u32, u32)> {
        let len = if self.reads() { self.read(payload) } else { 0 };
        if len > 0 {
            self.credit.send(len);
            self.credit_asked = false;
            Some((Op::Data, 0, len))
        } else if self.host_shut != self.told_shut {
            self.told_shut = self.host_shut;
            Some((Op::Shutdown, self.host_shut, 0))
        } else if self.credit_wanted || self.credit.is_news() {
            Some((Op::CreditUpdate, 0, 0))
        } else if self.reads() && !self.credit_asked {
            self.credit_asked = true;
            Some((Op::CreditRequest, 0, 0))
        } else {
            None
        }
    }

    /// Reads from the host's socket what the guest has room for.
    fn read(&mut self, mut payload: Cursor<'_, '_>) -> u32 {
        let most = self.credit.guest_free().min(PACKET_MAX);
        let parts = payload.split(usize::try_from(most).unwrap_or(0));
        let mut done = 0;
        for mut part in parts {
            match retried(|| (&self.stream).read_volatile(&mut part)) {
                Ok(0) => {
                    self.host_shut |= shut::SEND;
                    break;
                }
                Ok(count) => {
                    done += count;
                    if count < part.len() {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.readable = false;
                    break;
                }
                Err(_) => {
                    self.host_takes_no_more();
                    self.host_shut |= shut::SEND;
                    break;
                }
            }
        }
        u32::try_from(done).unwrap_or(PACKET_MAX)
    }
}

/// A transfer that no signal interrupts.
fn retried(mut transfer: impl FnMut() -> Result<usize, VolatileMemoryError>) -> io::Result<usize> {
    loop {
        match transfer() {
            Ok(count) => return Ok(count),
            Err(VolatileMemoryError::IOError(error)) if error.kind() == ErrorKind::Interrupted => {}
            Err(VolatileMemoryError::IOError(error)) => return Err(error),
            Err(other) => return Err(io::Error::other(other)),
        }
    }
}
