//! The event loop's half of a device: it owns the device and its queues, and takes the driver's
//! requests from the transport.

use std::collections::HashSet;
use std::io;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::time::Duration;

use event_manager::{EventOps, Events, MutEventSubscriber};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::device::{Command, CommandError, Description, Device, Io, Metric, Watch};
use super::feature;
use super::queue::{QueueSetup, Ring, VirtQueue};
use super::save::SaveError;
use super::status::DeviceStatus;
use crate::irq::IrqLine;
use crate::memory::GuestMemory;

/// How long a device may take to answer a command.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Token of the requests' descriptor.
const WAKE: u32 = u32::MAX;
/// Token of the first queue's kicks; a device's own tokens are below.
const KICKS: u32 = 0xffff_0000;

/// A way for the guest's kicks past the vCPU's exit loop.
pub trait Doorbell: Send {
    /// Has KVM signal `kick` when the guest notifies the queue.
    ///
    /// # Errors
    /// KVM refuses; kicks go on to come by the exit loop.
    fn connect(&self, queue: usize, kick: &EventFd) -> io::Result<()>;
}

/// What the event loop is asked for.
pub(super) enum Request {
    /// The driver is set up.
    Activate { features: u64, queues: Vec<QueueSetup> },
    /// The driver wants the device as new; told when nothing of it touches guest memory any more.
    Reset(SyncSender<()>),
    /// The driver wrote to the configuration space.
    ConfigWritten,
    /// The queue is kicked so often that a doorbell pays.
    Connect(usize),
    /// Someone outside wants something.
    Command(Command, SyncSender<Result<(), CommandError>>),
    /// Someone outside wants to know something.
    Metrics(SyncSender<Vec<Metric>>),
}

/// The way to a device's worker, for the transport and for whoever commands the device.
#[derive(Clone)]
pub(super) struct Requests {
    sender: Sender<Request>,
    wake: Arc<EventFd>,
}

impl Requests {
    pub(super) fn send(&self, request: Request) {
        // A worker that is gone needs no requests: whoever waits for an answer sees it.
        if self.sender.send(request).is_ok() {
            let _ = self.wake.write(1);
        }
    }
}

/// Commands a device from outside, whatever the machine is doing.
#[derive(Clone)]
pub struct DeviceHandle {
    requests: Requests,
}

impl DeviceHandle {
    /// Has the device do something and waits until it has, [`ANSWER_WITHIN`] at most.
    ///
    /// # Errors
    /// The device does not know the command or cannot do it, the machine has ended, or there is no answer:
    /// the machine is paused, or the device's event loop is held up. The command is still done later.
    pub fn command(&self, command: Command) -> Result<(), CommandError> {
        let (done, answer) = sync_channel(1);
        self.requests.send(Request::Command(command, done));
        wait_for(&answer)?
    }

    /// What the device knows and counts; waits as [`Self::command`] does.
    ///
    /// # Errors
    /// The machine has ended, or there is no answer.
    pub fn metrics(&self) -> Result<Vec<Metric>, CommandError> {
        let (done, answer) = sync_channel(1);
        self.requests.send(Request::Metrics(done));
        wait_for(&answer)
    }
}

fn wait_for<T>(answer: &Receiver<T>) -> Result<T, CommandError> {
    answer.recv_timeout(ANSWER_WITHIN).map_err(|error| match error {
        RecvTimeoutError::Timeout => CommandError::Busy,
        RecvTimeoutError::Disconnected => CommandError::Gone,
    })
}

/// What the transport needs of a device.
pub(super) struct Front {
    pub(super) description: Description,
    pub(super) status: Arc<DeviceStatus>,
    pub(super) requests: Requests,
    pub(super) kicks: Vec<Arc<EventFd>>,
}

impl Front {
    pub(super) fn handle(&self) -> DeviceHandle {
        DeviceHandle { requests: self.requests.clone() }
    }
}

/// A device on the event loop.
pub struct Worker {
    device: Box<dyn Device>,
    memory: GuestMemory,
    status: Arc<DeviceStatus>,
    queue_sizes: Vec<u16>,
    kicks: Vec<Arc<EventFd>>,
    doorbell: Option<Box<dyn Doorbell>>,
    receiver: Receiver<Request>,
    wake: Arc<EventFd>,
    /// The queues, while the driver is set up.
    active: Option<Vec<VirtQueue>>,
    /// Whether the device has been started and not stopped.
    started: bool,
    /// Whether the driver has to be interrupted anew when work begins: it was another machine that has
    /// done so.
    announces: bool,
    watched: HashSet<RawFd>,
}

impl Worker {
    /// A device with its way in.
    ///
    /// # Errors
    /// The host gives no event descriptors.
    pub(super) fn new(
        device: Box<dyn Device>,
        memory: GuestMemory,
        line: Arc<dyn IrqLine>,
        doorbell: Option<Box<dyn Doorbell>>,
    ) -> io::Result<(Self, Front)> {
        let mut description = device.describe();
        description.features |= feature::OF_TRANSPORT;
        let status = Arc::new(DeviceStatus::new(line, description.config.clone()));
        let event = || EventFd::new(EFD_NONBLOCK).map(Arc::new);
        let kicks: Vec<_> = description.queue_sizes.iter().map(|_| event()).collect::<Result<_, _>>()?;
        let wake = event()?;
        let (sender, receiver) = channel();
        let requests = Requests { sender, wake: Arc::clone(&wake) };
        let worker = Self {
            device,
            memory,
            status: Arc::clone(&status),
            queue_sizes: description.queue_sizes.clone(),
            kicks: kicks.clone(),
            doorbell,
            receiver,
            wake,
            active: None,
            started: false,
            announces: false,
            watched: HashSet::new(),
        };
        Ok((worker, Front { description, status, requests, kicks }))
    }

    /// Stops work until the worker is on an event loop again: nothing is in flight afterwards, and
    /// nothing is lost. The worker must not be on a loop any more.
    pub fn pause(&mut self) {
        self.watched.clear();
        self.stop(&mut Off);
    }

    fn with_io<T>(
        &mut self,
        watch: &mut dyn Watch,
        call: impl FnOnce(&mut dyn Device, &mut Io<'_>) -> T,
    ) -> T {
        let mut io = Io {
            queues: self.active.as_deref_mut().unwrap_or_default(),
            memory: &self.memory,
            config: self.status.config(),
            status: &self.status,
            watch,
        };
        call(self.device.as_mut(), &mut io)
    }

    /// Runs a part of the device's work on the event loop.
    fn on_loop<T>(
        &mut self,
        ops: &mut EventOps<'_>,
        call: impl FnOnce(&mut dyn Device, &mut Io<'_>) -> T,
    ) -> T {
        let mut watched = std::mem::take(&mut self.watched);
        let result = self.with_io(&mut OnLoop { ops, watched: &mut watched }, call);
        self.watched = watched;
        result
    }

    fn start(&mut self, ops: &mut EventOps<'_>) {
        let Some(count) = self.active.as_ref().map(Vec::len) else { return };
        self.started = true;
        self.on_loop(ops, |device, io| {
            device.start(io);
            (0..count).for_each(|queue| device.queue_event(queue, io));
        });
    }

    fn stop(&mut self, watch: &mut dyn Watch) {
        if std::mem::take(&mut self.started) {
            self.with_io(watch, |device, io| {
                device.stop(io);
                io.queues.iter_mut().for_each(VirtQueue::signal);
            });
        }
    }

    /// The queues as the driver has set them up, if they make sense.
    fn open_queues(&self, features: u64, setups: &[QueueSetup]) -> Option<Vec<VirtQueue>> {
        let event_idx = features & feature::RING_EVENT_IDX != 0;
        let memory = Arc::new(self.memory.clone());
        setups
            .iter()
            .zip(&self.queue_sizes)
            .zip(&self.kicks)
            .map(|((setup, most), kick)| {
                VirtQueue::open(&memory, setup, *most, event_idx, &self.status, kick)
            })
            .collect()
    }

    fn activate(&mut self, features: u64, setups: &[QueueSetup], ops: &mut EventOps<'_>) {
        self.active = self.open_queues(features, setups);
        if self.active.is_none() {
            self.status.needs_reset();
            return;
        }
        self.device.activate(features);
        self.start(ops);
    }

    /// The file that a snapshot of the device has to copy: [`Device::overlay`].
    #[must_use]
    pub fn overlay(&self) -> Option<PathBuf> {
        self.device.overlay()
    }

    /// The device itself.
    pub(super) fn device(&mut self) -> &mut dyn Device {
        self.device.as_mut()
    }

    /// How far the queues are; none if the driver's set-up has not been seen yet.
    pub(super) fn save_rings(&self, name: &str) -> Result<Option<Vec<Ring>>, SaveError> {
        let Some(queues) = &self.active else { return Ok(None) };
        let rings = queues.iter().enumerate().map(|(number, queue)| {
            queue.save().ok_or_else(|| SaveError::InFlight { device: name.to_owned(), queue: number })
        });
        rings.collect::<Result<_, _>>().map(Some)
    }

    /// Has the queues as another device had them, and the device set up with these features.
    pub(super) fn restore_rings(
        &mut self,
        features: u64,
        setups: &[QueueSetup],
        rings: &[Ring],
    ) -> Result<(), &'static str> {
        let queues = self.open_queues(features, setups);
        let mut queues = queues.ok_or("a queue makes no sense, or is not in the guest's memory")?;
        if queues.len() != rings.len() {
            return Err("it does not say of each queue how far it is");
        }
        queues.iter_mut().zip(rings).for_each(|(queue, ring)| queue.restore(ring));
        self.active = Some(queues);
        self.device.activate(features);
        Ok(())
    }

    /// Has the driver interrupted anew when work begins, if it has not taken notice of something: an
    /// interrupt too many does no harm.
    pub(super) fn announce(&mut self) {
        self.announces = true;
    }

    fn reset(&mut self, ops: &mut EventOps<'_>) {
        for fd in self.watched.drain() {
            forget(ops, fd);
        }
        self.stop(&mut Off);
        self.active = None;
        self.device.reset();
    }

    fn take_requests(&mut self, ops: &mut EventOps<'_>) {
        while let Ok(request) = self.receiver.try_recv() {
            match request {
                Request::Activate { features, queues } => self.activate(features, &queues, ops),
                Request::Reset(done) => {
                    self.reset(ops);
                    let _ = done.send(());
                }
                Request::ConfigWritten => {
                    self.status.take_config_write();
                    self.on_loop(ops, |device, io| device.config_event(io));
                }
                Request::Connect(queue) => self.connect(queue),
                Request::Command(command, done) => {
                    let result = self.on_loop(ops, |device, io| device.command(&command, io));
                    let _ = done.send(result);
                }
                Request::Metrics(done) => {
                    let _ = done.send(self.device.metrics());
                }
            }
        }
    }

    fn connect(&self, queue: usize) {
        let Some((doorbell, kick)) = self.doorbell.as_ref().zip(self.kicks.get(queue)) else { return };
        if let Err(error) = doorbell.connect(queue, kick) {
            log::debug!("queue {queue} keeps its kicks on the exit loop: {error}");
        }
    }
}

/// Nothing of a device may go on when the machine's memory goes.
impl Drop for Worker {
    fn drop(&mut self) {
        self.pause();
    }
}

impl MutEventSubscriber for Worker {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        let wake = [(WAKE, &self.wake)];
        let kicks = (KICKS..).zip(&self.kicks);
        for (token, event) in wake.into_iter().chain(kicks) {
            if let Err(error) = ops.add(Events::with_data(event.as_ref(), token, EventSet::IN)) {
                log::error!("a device is deaf: {error}");
            }
        }
        if std::mem::take(&mut self.announces) {
            self.status.interrupt_again();
        }
        self.start(ops);
    }

    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        match events.data() {
            WAKE => {
                let _ = self.wake.read();
                self.take_requests(ops);
            }
            token @ KICKS.. => {
                let queue = usize::try_from(token - KICKS).unwrap_or(usize::MAX);
                let kicked = self.kicks.get(queue).is_some_and(|kick| kick.read().is_ok());
                if kicked && self.started {
                    self.on_loop(ops, |device, io| device.queue_event(queue, io));
                }
            }
            // A descriptor that an earlier event of the same turn has let go.
            _ if !self.watched.contains(&events.fd()) => {}
            token => self.on_loop(ops, |device, io| device.fd_event(token, events.event_set(), io)),
        }
    }
}

fn forget(ops: &mut EventOps<'_>, fd: RawFd) {
    if let Err(error) = ops.remove(Events::empty_raw(fd)) {
        log::debug!("descriptor {fd} was not watched: {error}");
    }
}

/// Watches on the event loop.
struct OnLoop<'a, 'o> {
    ops: &'a mut EventOps<'o>,
    watched: &'a mut HashSet<RawFd>,
}

impl Watch for OnLoop<'_, '_> {
    fn watch(&mut self, fd: RawFd, token: u32, events: EventSet) {
        let events = Events::with_data_raw(fd, token, events);
        let is_new = self.watched.insert(fd);
        if let Err(error) = if is_new { self.ops.add(events) } else { self.ops.modify(events) } {
            // The guest's kicks may repeat this as often as they like.
            log::debug!("a device cannot wait for descriptor {fd}: {error}");
            if is_new {
                self.watched.remove(&fd);
            }
        }
    }

    fn unwatch(&mut self, fd: RawFd) {
        if self.watched.remove(&fd) {
            forget(self.ops, fd);
        }
    }
}

/// Off the event loop nothing is watched.
struct Off;

impl Watch for Off {
    fn watch(&mut self, _: RawFd, _: u32, _: EventSet) {}
    fn unwatch(&mut self, _: RawFd) {}
}
