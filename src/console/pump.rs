//! The mover between a serial port and its streams.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex};

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};

use super::outbox::{OUTBOX_MAX, Outbox};
use super::{Input, OnLost, Output, Pty, Streams, shielded};
use crate::bus::lock;
use crate::devices::serial::Serial;

/// Most bytes a write: what a pipe that is ready takes without blocking (`PIPE_BUF`, pipe(7)).
const CHUNK: usize = 4096;

/// Moves bytes between a serial port and its streams, on the event loop.
pub struct Pump {
    serial: Arc<Mutex<Serial>>,
    outbox: Arc<Outbox>,
    output: Option<Output>,
    /// Nobody may be at the other end: rather lose old output than hold the guest up.
    drop_when_full: bool,
    /// Whether the loop waits for the output to become ready.
    output_awaited: bool,
    input: Option<Box<dyn Input>>,
    /// Read from the input, not yet taken by the guest.
    typed: Vec<u8>,
    waiting: Waiting,
    _pty: Option<Pty>,
    /// Told once when the output takes no more.
    on_output_lost: Option<OnLost>,
}

/// How far the output came.
enum Drained {
    /// Nothing is left.
    All,
    /// The stream takes no more for the moment.
    Blocked,
    /// The stream takes no more ever.
    Broken(io::Error),
}

/// What became of a turn at the input.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fed {
    /// There may be more.
    Some,
    /// There is none now.
    Nothing,
    /// The guest takes none now.
    Full,
    /// There will be no more.
    Ended,
}

/// How the loop learns that there is input.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Waiting {
    /// The guest has no room; the loop does not look.
    No,
    /// The loop waits for the descriptor.
    Yes,
    /// The descriptor, a regular file's say, is always ready and cannot be waited for.
    Never,
}

impl Pump {
    /// A pump for this port. `on_output_lost` is told when the output stream breaks; what the
    /// guest sends after that is thrown away.
    #[must_use]
    pub fn new(
        serial: Arc<Mutex<Serial>>,
        outbox: Arc<Outbox>,
        streams: Streams,
        on_output_lost: Option<OnLost>,
    ) -> Self {
        Self {
            serial,
            outbox,
            output: streams.output,
            drop_when_full: streams.pty.is_some(),
            output_awaited: false,
            input: streams.input,
            typed: Vec::new(),
            waiting: Waiting::No,
            _pty: streams.pty,
            on_output_lost,
        }
    }

    /// Writes as much as the stream takes now.
    fn drain(&mut self) -> Drained {
        let mut chunk = Vec::with_capacity(CHUNK);
        let mut was_full = false;
        let mut moved = 0;
        let drained = loop {
            was_full |= self.outbox.peek(&mut chunk, CHUNK);
            let Some(output) = &mut self.output else {
                self.outbox.forget(usize::MAX);
                break Drained::All;
            };
            if chunk.is_empty() {
                break Drained::All;
            }
            match output.write(&chunk) {
                Ok(0) => break Drained::Broken(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.outbox.forget(written);
                    moved += written;
                    if moved >= OUTBOX_MAX {
                        // Others on the loop want their turn, however fast the guest is.
                        self.outbox.wake();
                        break Drained::All;
                    }
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock if output.fd().is_none() => break Drained::Broken(error),
                    io::ErrorKind::WouldBlock if was_full && self.drop_when_full => {
                        self.outbox.forget(OUTBOX_MAX / 2);
                        break Drained::Blocked;
                    }
                    io::ErrorKind::WouldBlock => break Drained::Blocked,
                    _ => break Drained::Broken(error),
                },
            }
        };
        // It may have been full at any moment; a port that does not wait takes no notice.
        lock(&self.serial).output_ready();
        drained
    }

    fn pump_output(&mut self, ops: &mut EventOps<'_>) {
        let drained = self.drain();
        let Some(fd) = self.output.as_ref().map(Output::fd) else { return };
        let events = fd.map(|fd| Events::new_raw(fd, EventSet::OUT));
        let blocked = matches!(drained, Drained::Blocked);
        if let Some(events) = events.filter(|_| blocked != self.output_awaited) {
            let done = if blocked { ops.add(events) } else { ops.remove(events) };
            self.output_awaited = blocked && done.is_ok();
        }
        if let Drained::Broken(error) = drained {
            self.output = None;
            match self.on_output_lost.take() {
                Some(tell) => shielded(|| tell(&error)).unwrap_or_default(),
                None => log::warn!("the console's output is lost: {error}"),
            }
            self.drain();
        }
    }

    /// Reads as much as the guest takes, once.
    fn feed(&mut self) -> Fed {
        if !self.typed.is_empty() {
            return Fed::Full;
        }
        let Some(input) = &mut self.input else { return Fed::Ended };
        let mut buffer = [0; 64];
        let room = lock(&self.serial).input_room().min(buffer.len());
        let Some(buffer) = buffer.get_mut(..room).filter(|buffer| !buffer.is_empty()) else {
            return Fed::Full;
        };
        match shielded(|| input.read(buffer)).unwrap_or(Ok(0)) {
            Ok(0) => Fed::Ended,
            Ok(read) => {
                self.typed.extend_from_slice(buffer.get(..read).unwrap_or_default());
                self.hand_on();
                Fed::Some
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => Fed::Nothing,
                io::ErrorKind::Interrupted => Fed::Some,
                _ => Fed::Ended,
            },
        }
    }

    /// Gives the guest what was read for it. It may have closed its port since it had room; the rest
    /// then waits.
    fn hand_on(&mut self) {
        let taken = lock(&self.serial).receive(&self.typed);
        self.typed.drain(..taken);
    }

    fn pump_input(&mut self, ops: &mut EventOps<'_>, ready: bool) {
        self.hand_on();
        let Some(fd) = self.input.as_ref().map(|input| input.as_fd().as_raw_fd()) else { return };
        let events = Events::new_raw(fd, EventSet::IN);
        let has_room = || lock(&self.serial).input_room() > 0;
        match self.waiting {
            Waiting::No if has_room() => {
                self.waiting = match ops.add(events) {
                    Ok(()) => Waiting::Yes,
                    Err(event_manager::Error::Epoll(error)) if error.errno() == libc::EPERM => Waiting::Never,
                    Err(error) => {
                        log::warn!("the console's input is lost: {error}");
                        self.input = None;
                        return;
                    }
                };
            }
            Waiting::Yes if !has_room() => {
                let _ = ops.remove(events);
                self.waiting = Waiting::No;
                return;
            }
            _ => {}
        }
        let fed = match self.waiting {
            Waiting::Yes if ready => self.feed(),
            Waiting::Never => {
                let fed = self.feed();
                if fed == Fed::Some {
                    // The next turn, after others have had theirs.
                    self.outbox.wake();
                }
                fed
            }
            _ => Fed::Some,
        };
        if fed == Fed::Ended {
            if self.waiting == Waiting::Yes {
                let _ = ops.remove(events);
            }
            self.input = None;
        }
    }
}

impl MutEventSubscriber for Pump {
    fn init(&mut self, ops: &mut EventOps) {
        if let Err(error) = ops.add(Events::new_raw(self.outbox.wake_fd(), EventSet::IN)) {
            log::error!("the console has no event loop: {error}");
        }
        self.pump_output(ops);
        self.pump_input(ops, false);
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        let fd = events.fd();
        if fd == self.outbox.wake_fd() {
            self.outbox.awake();
            self.pump_output(ops);
            self.pump_input(ops, false);
        } else if self.output.as_ref().and_then(Output::fd) == Some(fd) {
            self.pump_output(ops);
        } else {
            self.pump_input(ops, true);
        }
    }
}

/// What the stream takes without waiting still reaches it.
impl Drop for Pump {
    fn drop(&mut self) {
        self.drain();
        // The guest and whoever waits for its output get on, should the event loop have failed.
        self.outbox.close();
        lock(&self.serial).output_ready();
    }
}
