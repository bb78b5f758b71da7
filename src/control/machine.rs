//! A machine that does what it is asked.

use std::os::fd::{AsRawFd, RawFd};

use super::{Answer, Request};
use crate::machine::{Error, Outcome, PausedMachine, RunningMachine};
use crate::virtio::{Command, CommandError, DeviceHandle};

/// A machine in whichever state, as requests bring it there.
pub enum Controlled {
    /// Its guest runs.
    Running(RunningMachine),
    /// Its guest waits.
    Paused(PausedMachine),
    /// It had ended when it was to be paused.
    Ended(Box<Outcome>),
    /// It could not go on after a pause.
    Failed(Error),
}

impl Controlled {
    /// Does what is asked.
    #[must_use]
    pub fn answer(self, request: Request) -> (Self, Answer) {
        let (id, command) = match request {
            Request::Balloon { target, id } => (id, Command::BalloonTarget(target)),
            Request::Hinting { on, id } => (id, Command::BalloonHinting(on)),
            Request::Resized { id } => (id, Command::DiskResized),
            Request::Window { id, columns, rows } => (id, Command::ConsoleResize { columns, rows }),
            Request::Metrics { id } => {
                let answer = self.ask_device(&id, |device| {
                    Ok(device.metrics()?.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
                });
                return (self, answer.map_or_else(Answer::Error, Answer::Ok));
            }
            Request::Pause => return self.pause().acknowledged(),
            Request::Resume => return self.resume().acknowledged(),
            Request::Stop => {
                self.stop();
                return (self, Answer::done());
            }
        };
        let answer = self.ask_device(&id, |device| device.command(command));
        (self, answer.map_or_else(Answer::Error, |()| Answer::done()))
    }

    /// Asks a device; in a paused machine none would answer. An error is one line.
    fn ask_device<T>(
        &self,
        id: &str,
        ask: impl FnOnce(&DeviceHandle) -> Result<T, CommandError>,
    ) -> Result<T, String> {
        let Self::Running(machine) = self else {
            return Err("the machine is paused: resume it first".to_owned());
        };
        match machine.device(id) {
            Some(device) => ask(&device).map_err(|error| format!("{id}: {error}")),
            None => {
                let names: Vec<_> = machine.device_names().collect();
                let others = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
                Err(format!("the machine has no device '{id}'; its devices: {others}"))
            }
        }
    }

    fn pause(self) -> Self {
        match self {
            Self::Running(machine) => machine.pause().map_or_else(Self::Ended, Self::Paused),
            other => other,
        }
    }

    fn resume(self) -> Self {
        match self {
            Self::Paused(machine) => machine.resume().map_or_else(Self::Failed, Self::Running),
            other => other,
        }
    }

    fn stop(&self) {
        match self {
            Self::Running(machine) => machine.stop_handle().stop(),
            Self::Paused(machine) => machine.stop_handle().stop(),
            Self::Ended(_) | Self::Failed(_) => {}
        }
    }

    fn acknowledged(self) -> (Self, Answer) {
        let answer = match &self {
            Self::Running(_) | Self::Paused(_) => Answer::done(),
            Self::Ended(_) => Answer::refused(&"the machine has ended"),
            Self::Failed(error) => Answer::refused(error),
        };
        (self, answer)
    }

    /// A descriptor that is readable once the machine has ended; none where nothing is left to end.
    #[must_use]
    pub fn ended(&self) -> Option<RawFd> {
        match self {
            Self::Running(machine) => Some(machine.as_raw_fd()),
            Self::Paused(machine) => Some(machine.as_raw_fd()),
            Self::Ended(_) | Self::Failed(_) => None,
        }
    }

    /// Waits until the machine ends, as [`RunningMachine::wait`] does; one that is paused goes on first.
    ///
    /// # Errors
    /// It could not go on after a pause.
    pub fn wait(self) -> Result<Outcome, Error> {
        match self {
            Self::Running(machine) => Ok(machine.wait()),
            Self::Paused(machine) => Ok(machine.resume()?.wait()),
            Self::Ended(outcome) => Ok(*outcome),
            Self::Failed(error) => Err(error),
        }
    }
}
