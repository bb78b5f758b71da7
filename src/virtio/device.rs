//! The trait of a virtio device.

use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

use thiserror::Error;
use vmm_sys_util::epoll::EventSet;

use super::save::{Restore, SaveError};
use super::{ConfigSpace, VirtQueue};
use crate::config::Size;
use crate::memory::GuestMemory;
use crate::state::State;

/// What a device is to its driver.
#[derive(Clone, Debug, Default)]
pub struct Description {
    /// Device id (VIRTIO 1.2, chapter 5).
    pub id: u32,
    /// The features that it offers, those of the transport aside.
    pub features: u64,
    /// Most descriptors of each queue, powers of two.
    pub queue_sizes: Vec<u16>,
    /// The configuration space.
    pub config: ConfigSpace,
}

impl Description {
    /// A description of a device without features or configuration.
    #[must_use]
    pub fn new(id: u32, queue_sizes: Vec<u16>) -> Self {
        Self { id, features: 0, queue_sizes, config: ConfigSpace::default() }
    }
}

/// A virtio device. It lives on the event loop by value, together with its queues and whatever it
/// has on the host; no other thread ever touches it.
///
/// The calls come in this order: [`activate`](Self::activate), [`start`](Self::start), any number
/// of events, [`stop`](Self::stop), then `start` again (after a pause) or [`reset`](Self::reset). A device
/// may be [`save`](Self::save)d while it is stopped.
pub trait Device: Send + 'static {
    /// What the driver finds. Asked once.
    fn describe(&self) -> Description;

    /// The pseudo-terminal at the other end of the device, of which its user has to be told.
    fn pty(&self) -> Option<&Path> {
        None
    }

    /// The driver has set the device up, with these of the offered features.
    fn activate(&mut self, features: u64) {
        let _ = features;
    }

    /// Work begins: the device watches its descriptors. Afterwards every queue gets a
    /// [`queue_event`](Self::queue_event).
    fn start(&mut self, io: &mut Io<'_>) {
        let _ = io;
    }

    /// The driver has put something into a queue, or the queue is worth a look.
    fn queue_event(&mut self, queue: usize, io: &mut Io<'_>);

    /// A watched descriptor is ready.
    fn fd_event(&mut self, token: u32, events: EventSet, io: &mut Io<'_>) {
        let _ = (token, events, io);
    }

    /// The driver has written its part of the configuration space.
    fn config_event(&mut self, io: &mut Io<'_>) {
        let _ = io;
    }

    /// Someone outside asks for something, at any time, also before the driver is there.
    ///
    /// # Errors
    /// The device does not know the command, or cannot do it.
    fn command(&mut self, command: &Command, io: &mut Io<'_>) -> Result<(), CommandError> {
        let _ = io;
        Err(CommandError::Unknown(*command))
    }

    /// What the device knows and counts, in numbers with names; asked at any time.
    fn metrics(&self) -> Vec<Metric> {
        Vec::new()
    }

    /// Work ends: waits for whatever is in flight and completes it; afterwards nothing of the device's
    /// touches guest memory. Its descriptors are no longer watched.
    fn stop(&mut self, io: &mut Io<'_>) {
        let _ = io;
    }

    /// The driver is gone; as before [`activate`](Self::activate).
    fn reset(&mut self) {}

    /// Where the file is that has what the guest has written and that a snapshot has to copy, its time of
    /// change included, once the device is [`save`](Self::save)d: a disk's overlay. A path of the process's
    /// own descriptors if the file has no name.
    fn overlay(&self) -> Option<PathBuf> {
        None
    }

    /// Keeps, as a [`Saved`](crate::state::Saved) of this id, what a new device of the same configuration
    /// has to know to go on for the same driver; nothing if there is no such thing. What it has on the host
    /// has to be there for that device, too. Called between [`stop`](Self::stop) and
    /// [`start`](Self::start), and before the first of them; the device goes on as if nothing had been.
    ///
    /// A device that does not say what it keeps is not saved, nor is its machine.
    ///
    /// # Errors
    /// The device cannot be saved.
    fn save(&mut self, id: &str, state: &mut State) -> Result<(), SaveError> {
        let _ = state;
        Err(SaveError::Unsaveable(id.to_owned()))
    }

    /// Goes on for the driver of another device, which has kept this. A driver that was set up has been
    /// [`activate`](Self::activate)d; [`start`](Self::start) comes later. The file that the state comes
    /// from may be anybody's.
    ///
    /// # Errors
    /// The state cannot be, or asks for what this device does not have.
    fn restore(&mut self, from: &mut Restore<'_>) -> Result<(), SaveError> {
        let _ = from;
        Ok(())
    }
}

/// A number with its name. Names end in their unit: `_bytes`, `_pages`, `_total` for a count.
pub type Metric = (&'static str, u64);

/// What someone outside can ask of a device while the machine runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Command {
    /// The memory that a balloon is to take from the guest.
    BalloonTarget(Size),
    /// Whether a balloon's driver is to say, once, which of the guest's pages are free.
    BalloonHinting(bool),
    /// The file or device behind a disk has changed its size.
    DiskResized,
    /// The size of a console's window.
    ConsoleResize {
        /// Characters in a line.
        columns: u16,
        /// Lines.
        rows: u16,
    },
}

/// Why a device did not do what it was asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CommandError {
    /// It is not a command for such a device.
    #[error("the device knows no {0:?}")]
    Unknown(Command),
    /// The device cannot.
    #[error("{0}")]
    Refused(String),
    /// The machine has ended.
    #[error("the machine has ended")]
    Gone,
    /// There was no answer in time.
    #[error("the device does not answer: the machine is paused, or the device waits for the host")]
    Busy,
}

/// What a device works with during a call.
pub struct Io<'a> {
    /// The queues, in the order of the device's description; none before the driver has set it up.
    pub queues: &'a mut [VirtQueue],
    /// The guest's memory.
    pub memory: &'a GuestMemory,
    /// The configuration space.
    pub config: &'a ConfigSpace,
    pub(super) status: &'a super::DeviceStatus,
    pub(super) watch: &'a mut dyn Watch,
}

impl Io<'_> {
    /// The queue with this number.
    pub fn queue(&mut self, index: usize) -> Option<&mut VirtQueue> {
        self.queues.get_mut(index)
    }

    /// Waits for events of a descriptor; they come as [`Device::fd_event`] with `token`. Watching it
    /// again changes what is waited for. It must be unwatched before it is closed.
    pub fn watch(&mut self, fd: RawFd, token: u32, events: EventSet) {
        self.watch.watch(fd, token, events);
    }

    /// No longer waits for a descriptor.
    pub fn unwatch(&mut self, fd: RawFd) {
        self.watch.unwatch(fd);
    }

    /// Tells the driver that the configuration space has changed.
    pub fn config_changed(&self) {
        self.status.config_changed();
    }

    /// The device cannot go on until its driver resets it.
    pub fn needs_reset(&self) {
        self.status.needs_reset();
    }
}

/// How a device waits for its descriptors.
pub trait Watch {
    /// Waits for these events of a descriptor, and no others.
    fn watch(&mut self, fd: RawFd, token: u32, events: EventSet);
    /// Waits for nothing of this descriptor.
    fn unwatch(&mut self, fd: RawFd);
}
