//! A machine while it runs: what it waits for, and the requests to it.

use std::os::fd::{AsRawFd, RawFd};

use crate::control::{Controlled, Server};
use crate::machine::{Error, Outcome};

/// A machine, and the socket at which it is asked, if it has one.
pub(super) struct Attended {
    pub(super) machine: Controlled,
    control: Option<Server>,
}

/// What is next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Wait for the descriptors.
    Wait,
    /// As before; the machine was away for something long, and is back.
    Back,
    /// Wait for the machine: it has ended, or is about to.
    End,
}

impl Attended {
    /// How many descriptors it may have.
    pub(super) const FDS: usize = 2;

    pub(super) fn new(machine: Controlled, control: Option<Server>) -> Self {
        Self { machine, control }
    }

    /// The descriptors to wait for; none when nothing is left to end.
    pub(super) fn fds(&self) -> Option<[Option<RawFd>; Self::FDS]> {
        let event = self.machine.event()?;
        Some([Some(event), self.control.as_ref().map(AsRawFd::as_raw_fd)])
    }

    /// Attends to what one of the descriptors stands for, which is readable.
    pub(super) fn attend(self, which: usize) -> (Self, Next) {
        let Self { machine, mut control } = self;
        let was_busy = machine.is_busy();
        let machine = match (which, &mut control) {
            (0, _) if !was_busy => return (Self { machine, control }, Next::End),
            (0, control) => machine.attend(control.as_mut()),
            (_, Some(server)) => machine.serve(server),
            (_, None) => machine,
        };
        let next = match machine.event() {
            None => Next::End,
            Some(_) if was_busy && !machine.is_busy() => Next::Back,
            Some(_) => Next::Wait,
        };
        (Self { machine, control }, next)
    }

    /// Waits until it has ended; it can be asked no more.
    ///
    /// # Errors
    /// It could not go on after a pause.
    pub(super) fn finish(self) -> Result<Outcome, Error> {
        let Self { machine, control } = self;
        drop(control);
        machine.wait()
    }
}
