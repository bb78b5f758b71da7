//! A machine in whichever state it is brought to.

use std::os::fd::{AsRawFd, RawFd};

use super::Answer;
use crate::machine::{Error, Outcome, PausedMachine, RunningMachine, StopHandle};
use crate::virtio::{CommandError, DeviceHandle};

/// A machine in whichever state, as requests bring it there.
pub enum Machine {
    /// Its guest runs.
    Running(RunningMachine),
    /// Its guest waits.
    Paused(PausedMachine),
    /// It had ended when it was to be paused.
    Ended(Box<Outcome>),
    /// It could not go on after a pause.
    Failed(Error),
}

impl Machine {
    /// Asks a device; in a paused machine none would answer. An error is one line.
    pub(super) fn ask_device<T>(
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

    pub(super) fn pause(self) -> Self {
        match self {
            Self::Running(machine) => machine.pause().map_or_else(Self::Ended, Self::Paused),
            other => other,
        }
    }

    pub(super) fn resume(self) -> Self {
        match self {
            Self::Paused(machine) => machine.resume().map_or_else(Self::Failed, Self::Running),
            other => other,
        }
    }

    /// What stops it, where something is left to stop.
    #[must_use]
    pub fn stop_handle(&self) -> Option<StopHandle> {
        match self {
            Self::Running(machine) => Some(machine.stop_handle()),
            Self::Paused(machine) => Some(machine.stop_handle()),
            Self::Ended(_) | Self::Failed(_) => None,
        }
    }

    /// The state in a word.
    #[must_use]
    pub fn state(&self) -> &'static str {
        match self {
            Self::Running(_) => "running",
            Self::Paused(_) => "paused",
            Self::Ended(_) | Self::Failed(_) => "ended",
        }
    }

    /// The answer to somebody who wanted it in the state that it should be in by now.
    pub(super) fn acknowledged(&self) -> Answer {
        match self {
            Self::Running(_) | Self::Paused(_) => Answer::done(),
            Self::Ended(_) => Answer::refused(&"the machine has ended"),
            Self::Failed(error) => Answer::refused(error),
        }
    }

    /// A descriptor that is readable once the machine has ended; none where nothing is left to end.
    pub(super) fn ended(&self) -> Option<RawFd> {
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
