//! The console (VIRTIO 1.2, section 5.3): one port, between two queues and two streams of the host's.
//!
//! Nothing is kept in between. Output that its stream does not take stays with the guest, input that
//! the guest has no buffer for stays in its stream.

pub mod config;

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::time::Duration;

use thiserror::Error;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::timerfd::TimerFd;

use super::{
    Attach, Command, CommandError, ConfigSpace, Description, Device, Io, Metric, OpenError, Place, Restore,
    SaveError, Served,
};
use crate::state::{State, saved};
use crate::streams::{Input, OnLost, Output, Pty, Streams, shielded};

const ID: u32 = 3;
const QUEUE_SIZE: u16 = 128;

/// Queues of the first port (VIRTIO 1.2, section 5.3.2).
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;

/// Feature bit: the window's size is known (section 5.3.3).
const F_SIZE: u64 = 1 << 0;

/// The configuration space (section 5.3.4): columns, lines, number of ports, emergency write.
const CONFIG: [u8; 12] = [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];

/// Bytes that are moved at once: what a pipe that is ready takes without blocking (`PIPE_BUF`, pipe(7)).
const CHUNK: usize = 4096;
/// Most bytes of output in one event; others on the loop wait meanwhile.
const TURN: usize = 64 << 10;

/// How long the guest waits for a reader of a pseudo-terminal, where there may be none.
const PATIENCE: Duration = Duration::from_secs(1);

/// Tokens of the descriptors.
const INPUT: u32 = 0;
const OUTPUT: u32 = 1;
const TIMER: u32 = 2;

/// Why a console cannot be.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// No timer to be had.
    #[error("cannot make the console's timer")]
    Timer(#[source] io::Error),
}

impl Attach for config::Console {
    fn open(&self, place: &Place<'_>) -> Result<Box<dyn Device>, OpenError> {
        Ok(Box::new(Console::new(place.name, Streams::open(&self.stream, place.goes_on)?)?))
    }
}

/// The device.
pub struct Console {
    /// For what it has to say.
    name: String,
    config: ConfigSpace,
    output: Option<Output>,
    /// Of the first chain of output, the bytes that the stream has taken.
    sent: usize,
    /// A pseudo-terminal's reader, for whom the guest does not wait for ever.
    reader: Option<Reader>,
    input: Option<Box<dyn Input>>,
    /// Whether the input's descriptor can be waited for; a regular file is always ready.
    waitable: bool,
    /// Told once when the output takes no more.
    on_output_lost: Option<OnLost>,
    pty: Option<Pty>,
    counts: Counts,
}

saved! {
    "virtio-console", version 1, fingerprint 2262488745;
    /// Where the console is.
    struct ConsoleState {
        columns: u16,
        rows: u16,
        /// Of the first chain of output, the bytes that the stream has had; the others are still to come.
        sent: u32,
    }
}

/// Bytes that have passed.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    transmitted: u64,
    received: u64,
    /// Output that nobody took.
    lost: u64,
}

/// Whoever has a pseudo-terminal open, or nobody.
struct Reader {
    /// Runs while the terminal is full.
    patience: TimerFd,
    /// It has been full for so long that nobody is waited for.
    is_away: bool,
}

/// What became of some output.
enum Sent {
    /// So many bytes are done with.
    Some(usize),
    /// The stream takes none now.
    Full,
    /// The stream takes none ever.
    Broken(io::Error),
}

impl Console {
    /// A console with these streams.
    ///
    /// # Errors
    /// The host gives no timer, which one on a pseudo-terminal needs.
    pub fn new(name: &str, streams: Streams) -> Result<Self, Error> {
        let reader = match &streams.pty {
            Some(_) => {
                let patience = TimerFd::new().map_err(|error| Error::Timer(error.into()))?;
                Some(Reader { patience, is_away: false })
            }
            None => None,
        };
        Ok(Self {
            name: name.to_owned(),
            config: ConfigSpace::new(CONFIG.to_vec(), 0..0),
            output: streams.output,
            sent: 0,
            reader,
            waitable: streams.input.as_ref().is_some_and(|input| is_waitable(input.as_fd().as_raw_fd())),
            input: streams.input,
            on_output_lost: None,
            pty: streams.pty,
            counts: Counts::default(),
        })
    }

    /// Has somebody told, once, when the output stream breaks. What the guest sends then is thrown away.
    #[must_use]
    pub fn on_output_lost(mut self, tell: impl FnOnce(&io::Error) + Send + 'static) -> Self {
        self.on_output_lost = Some(Box::new(tell));
        self
    }

    /// Gives the stream what the driver sends.
    fn transmit(&mut self, io: &mut Io<'_>) {
        let Some(queue) = io.queue(TRANSMIT) else { return };
        let (mut left, mut full, mut broken) = (TURN, false, None);
        queue.drain(|chain| {
            loop {
                let mut text = chain.readable();
                text.skip(self.sent);
                let mut chunk = [0; CHUNK];
                let len = text.read(&mut chunk);
                let Some(chunk) = chunk.get(..len).filter(|chunk| !chunk.is_empty()) else {
                    self.sent = 0;
                    return Served::Done(0);
                };
                if left == 0 {
                    return Served::Stop;
                }
                match self.send(chunk) {
                    Sent::Some(count) => {
                        self.sent += count;
                        left = left.saturating_sub(count);
                    }
                    Sent::Full => {
                        full = true;
                        return Served::Stop;
                    }
                    Sent::Broken(error) => {
                        broken = Some(error);
                        return Served::Stop;
                    }
                }
            }
        });
        if left == 0 || broken.is_some() {
            queue.look_again();
        }
        self.await_output(full, io);
        if let Some(error) = broken {
            self.output = None;
            match self.on_output_lost.take() {
                Some(tell) => shielded(|| tell(&error)).unwrap_or_default(),
                None => log::warn!("{}: the output is lost: {error}", self.name),
            }
        }
    }

    fn send(&mut self, chunk: &[u8]) -> Sent {
        let is_away = self.reader.as_ref().is_some_and(|reader| reader.is_away);
        if let Some(output) = &mut self.output {
            match output.write(chunk) {
                Ok(0) => return Sent::Broken(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    self.counts.transmitted += count as u64;
                    return Sent::Some(count);
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => return Sent::Some(0),
                    io::ErrorKind::WouldBlock if is_away => {}
                    io::ErrorKind::WouldBlock if output.fd().is_some() => return Sent::Full,
                    _ => return Sent::Broken(error),
                },
            }
        }
        self.counts.lost += chunk.len() as u64;
        Sent::Some(chunk.len())
    }

    /// Waits for an output that is full, or no longer.
    fn await_output(&mut self, full: bool, io: &mut Io<'_>) {
        let Some(fd) = self.output.as_ref().and_then(Output::fd) else { return };
        if full || self.reader.as_ref().is_some_and(|reader| reader.is_away) {
            io.watch(fd, OUTPUT, EventSet::OUT);
        } else {
            io.unwatch(fd);
        }
        if let Some(Reader { patience, .. }) = &mut self.reader {
            let set = match (full, patience.is_armed()) {
                (true, Ok(true)) => Ok(()),
                (true, _) => patience.reset(PATIENCE, None),
                (false, _) => patience.clear(),
            };
            if let Err(error) = set {
                log::debug!("{}: the timer stays as it was: {error}", self.name);
            }
        }
    }

    /// Gives the driver what the stream brings; `ready` if it brings something.
    fn receive(&mut self, ready: bool, io: &mut Io<'_>) {
        let Some(queue) = io.queue(RECEIVE) else { return };
        let Some(input) = &mut self.input else {
            // The buffers stay as they are; a ring that makes no sense is found all the same.
            queue.drain(|_| Served::Stop);
            return;
        };
        // One read at a time: the next might wait.
        let mut may_read = ready || !self.waitable;
        let (mut has_buffers, mut ended) = (false, false);
        queue.drain(|chain| {
            let mut to = chain.writable();
            let mut chunk = [0; CHUNK];
            let room = to.remaining().min(CHUNK);
            let Some(chunk) = chunk.get_mut(..room).filter(|chunk| !chunk.is_empty()) else {
                return Served::Done(0);
            };
            has_buffers = true;
            if !std::mem::take(&mut may_read) {
                return Served::Stop;
            }
            match shielded(|| input.read(chunk)).unwrap_or(Ok(0)) {
                Ok(0) => ended = true,
                Ok(count) => {
                    has_buffers = false;
                    let written = to.write(chunk.get(..count).unwrap_or_default());
                    self.counts.received += written as u64;
                    return Served::Done(u32::try_from(written).unwrap_or_default());
                }
                Err(error) => {
                    ended = !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted);
                }
            }
            Served::Stop
        });
        let fd = input.as_fd().as_raw_fd();
        if has_buffers && !ended {
            if self.waitable {
                io.watch(fd, INPUT, EventSet::IN);
            } else {
                queue.look_again();
            }
        } else {
            io.unwatch(fd);
        }
        if ended {
            self.input = None;
        }
    }
}

/// Whether an event loop can wait for a descriptor.
fn is_waitable(fd: RawFd) -> bool {
    let event = EpollEvent::new(EventSet::IN, 0);
    Epoll::new().and_then(|epoll| epoll.ctl(ControlOperation::Add, fd, event)).is_ok()
}

impl Device for Console {
    fn describe(&self) -> Description {
        Description {
            features: F_SIZE,
            config: self.config.clone(),
            ..Description::new(ID, vec![QUEUE_SIZE; 2])
        }
    }

    fn start(&mut self, io: &mut Io<'_>) {
        if let Some(reader) = &self.reader {
            io.watch(reader.patience.as_raw_fd(), TIMER, EventSet::IN);
        }
    }

    fn queue_event(&mut self, queue: usize, io: &mut Io<'_>) {
        match queue {
            RECEIVE => self.receive(false, io),
            TRANSMIT => self.transmit(io),
            _ => {}
        }
    }

    fn fd_event(&mut self, token: u32, _: EventSet, io: &mut Io<'_>) {
        if token == INPUT {
            self.receive(true, io);
            return;
        }
        if let Some(reader) = &mut self.reader {
            // Either the terminal takes something again, or nobody has taken anything for long.
            reader.is_away = token == TIMER;
        }
        self.transmit(io);
    }

    fn command(&mut self, command: &Command, io: &mut Io<'_>) -> Result<(), CommandError> {
        let Command::ConsoleResize { columns, rows } = *command else {
            return Err(CommandError::Unknown(*command));
        };
        let [[a, b], [c, d]] = [columns.to_le_bytes(), rows.to_le_bytes()];
        self.config.update(0, &[a, b, c, d]);
        io.config_changed();
        Ok(())
    }

    fn save(&mut self, id: &str, state: &mut State) -> Result<(), SaveError> {
        let Self {
            config,
            sent,
            // Of the host.
            name: _,
            output: _,
            reader: _,
            input: _,
            waitable: _,
            on_output_lost: _,
            pty: _,
            counts: _,
        } = self;
        let [columns, rows] = [config.get(0), config.get(2)].map(u16::from_le_bytes);
        // A chain has less than 4 GiB.
        let sent = u32::try_from(*sent).unwrap_or(u32::MAX);
        Ok(state.put(id, &ConsoleState { columns, rows, sent })?)
    }

    fn restore(&mut self, from: &mut Restore<'_>) -> Result<(), SaveError> {
        let ConsoleState { columns, rows, sent } = from.take()?;
        self.config.update(0, &columns.to_le_bytes());
        self.config.update(2, &rows.to_le_bytes());
        self.sent = usize::try_from(sent).unwrap_or_default();
        Ok(())
    }

    fn metrics(&self) -> Vec<Metric> {
        let Counts { transmitted, received, lost } = self.counts;
        vec![("transmitted_bytes", transmitted), ("received_bytes", received), ("lost_bytes", lost)]
    }

    fn pty(&self) -> Option<&Path> {
        self.pty.as_ref().map(|pty| pty.path.as_path())
    }

    fn reset(&mut self) {
        self.sent = 0;
    }
}

#[cfg(test)]
mod tests;
