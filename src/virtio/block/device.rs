//! The block device (VIRTIO 1.2, section 5.2): requests to an engine and its results back.

use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use vmm_sys_util::epoll::EventSet;

use super::engine::{Completion, Engine, Operation};
use super::image::{DiskState, Image, SECTOR};
use super::request::{ID_LEN, Limits, MAX_RANGE_SECTORS, Request, Status, Task};
use crate::memory::GuestMemory;
use crate::state::State;
use crate::virtio::iovec::IoVecs;
use crate::virtio::pace::Pace;
use crate::virtio::{
    Command, CommandError, ConfigSpace, Description, Device, Io, Restore, SaveError, Served, VirtQueue,
};

const ID: u32 = 2;
const QUEUE_SIZE: u16 = 256;

/// Feature bits (section 5.2.3).
mod feature {
    pub(super) const SEG_MAX: u64 = 1 << 2;
    pub(super) const RO: u64 = 1 << 5;
    pub(super) const BLK_SIZE: u64 = 1 << 6;
    pub(super) const FLUSH: u64 = 1 << 9;
    pub(super) const MQ: u64 = 1 << 12;
    pub(super) const DISCARD: u64 = 1 << 13;
    pub(super) const WRITE_ZEROES: u64 = 1 << 14;
}

/// Most bytes that are transferred at a time, one request aside: a pause, a reset and the machine's end wait
/// for them, and with them all that is on the event loop.
const MOST_BYTES: u64 = 64 << 20;

/// Tokens of the descriptors.
const ENGINE: u32 = 0;
const TIMER: u32 = 1;

/// A request that the engine has.
struct InFlight {
    queue: usize,
    head: u16,
    status: IoVecs,
    /// Bytes for the driver when it succeeds, the status included.
    written: u32,
    /// Bytes that it transfers.
    bytes: u64,
    /// A write that the driver counts as safe when it is done, as it knows no flushes.
    flush_next: bool,
}

/// The device.
pub(super) struct Block {
    name: String,
    image: Image,
    engine: Box<dyn Engine>,
    serial: [u8; ID_LEN],
    queues: u16,
    pace: Pace,
    /// Requests that the engine has, by token, and the tokens that are free.
    in_flight: Vec<Option<InFlight>>,
    free: Vec<usize>,
    /// The bytes of these requests, and whether others wait until there are fewer.
    bytes: u64,
    held: bool,
    /// Whether the driver flushes; without that, a write has to be safe when it is done.
    driver_flushes: bool,
    failures: u64,
    /// Keeps the buffers of what is in flight.
    memory: Option<GuestMemory>,
}

impl Block {
    pub(super) fn new(
        name: String,
        image: Image,
        serial: &str,
        queues: u16,
        pace: Pace,
    ) -> Result<Self, super::image::Error> {
        let mut bytes = [0; ID_LEN];
        bytes.iter_mut().zip(serial.bytes()).for_each(|(to, from)| *to = from);
        Ok(Self {
            name,
            engine: image.start_engine()?,
            image,
            serial: bytes,
            queues: queues.max(1),
            pace,
            in_flight: Vec::new(),
            free: Vec::new(),
            bytes: 0,
            held: false,
            driver_flushes: false,
            failures: 0,
            memory: None,
        })
    }

    fn limits(&self) -> Limits {
        Limits {
            capacity: self.image.capacity(),
            block_size: self.image.block_size(),
            readonly: self.image.readonly(),
        }
    }

    /// The configuration space (section 5.2.4).
    fn config(&self) -> Vec<u8> {
        let mut bytes = self.image.capacity().to_le_bytes().to_vec();
        bytes.extend(0_u32.to_le_bytes()); // size_max: none
        bytes.extend((u32::from(QUEUE_SIZE) - 2).to_le_bytes()); // seg_max: header and status take two
        bytes.extend([0; 4]); // geometry: none
        bytes.extend(self.image.block_size().to_le_bytes());
        bytes.extend([0; 10]); // topology and writeback: not offered
        bytes.extend(self.queues.to_le_bytes());
        // The same for DISCARD and WRITE_ZEROES: most sectors, most segments, then the alignment of a
        // DISCARD or whether a WRITE_ZEROES may unmap.
        let alignment = self.image.block_size() / SECTOR;
        for word in [MAX_RANGE_SECTORS, 1, alignment, MAX_RANGE_SECTORS, 1, 1] {
            bytes.extend(word.to_le_bytes());
        }
        bytes
    }

    /// Takes what is in a queue, as far as the limit allows it.
    fn take(&mut self, index: usize, io: &mut Io<'_>) {
        let Some(queue) = io.queues.get_mut(index).filter(|_| !self.pace.is_waiting()) else { return };
        let limits = self.limits();
        queue.drain(|chain| {
            let Some(Request { task, status, room }) = Request::parse(chain, limits) else {
                return Served::Done(0);
            };
            match task {
                Task::Operation(_) if self.is_full() => {
                    answer(&status, Status::IoError);
                    Served::Done(1)
                }
                Task::Operation(operation) => {
                    let bytes = transferred(&operation);
                    self.held |= self.bytes > 0 && self.bytes.saturating_add(bytes) > MOST_BYTES;
                    if self.held || !self.passes(index, &operation) {
                        return Served::Stop;
                    }
                    self.bytes += bytes;
                    let flush_next = !self.driver_flushes && operation.writes();
                    let written = 1 + if matches!(operation, Operation::Read { .. }) { room } else { 0 };
                    let head = chain.head();
                    let token =
                        self.keep(InFlight { queue: index, head, status, written, bytes, flush_next });
                    self.engine.submit(token, operation);
                    Served::Deferred
                }
                Task::GetId(room) => {
                    let copied = u32::try_from(room.copy_from(&self.serial)).unwrap_or_default();
                    answer(&status, Status::Ok);
                    Served::Done(copied + 1)
                }
                Task::Refuse(reason) => {
                    answer(&status, reason);
                    Served::Done(1)
                }
            }
        });
        if let Err(error) = self.engine.kick() {
            self.lost(&error, io);
        }
        self.finish(io);
    }

    /// Whether the limit lets an operation pass now; otherwise the timer says when to look again, and no
    /// queue passes before: small operations would keep a large one out for ever.
    fn passes(&mut self, queue: usize, operation: &Operation) -> bool {
        let (_, bytes) = operation.extent();
        let Err(time) = self.pace.take(bytes) else { return true };
        let waits = self.pace.wait(queue, time);
        if let Err(error) = &waits {
            log::warn!("{}: no timer, so no limit: {error}", self.name);
        }
        waits.is_err()
    }

    /// Whether the engine has as many operations as the queues hold. More it would get only of driver after
    /// driver, when it has failed.
    fn is_full(&self) -> bool {
        self.in_flight.len() - self.free.len() >= usize::from(QUEUE_SIZE) * usize::from(self.queues)
    }

    fn keep(&mut self, request: InFlight) -> u64 {
        let token = self.free.pop().unwrap_or_else(|| {
            self.in_flight.push(None);
            self.in_flight.len() - 1
        });
        if let Some(slot) = self.in_flight.get_mut(token) {
            *slot = Some(request);
        }
        token as u64
    }

    /// Hands on what the engine has done.
    fn finish(&mut self, io: &mut Io<'_>) {
        let mut done = Vec::new();
        loop {
            if let Err(error) = self.engine.completions(&mut done) {
                self.lost(&error, io);
            }
            if done.is_empty() {
                break;
            }
            for completion in done.drain(..) {
                self.complete(completion, io);
            }
            // Flushes that follow writes.
            if let Err(error) = self.engine.kick() {
                self.lost(&error, io);
            }
        }
        io.queues.iter_mut().for_each(VirtQueue::signal);
        if self.held && self.bytes < MOST_BYTES {
            self.held = false;
            io.queues.iter().for_each(VirtQueue::look_again);
        }
    }

    fn complete(&mut self, completion: Completion, io: &mut Io<'_>) {
        let Completion { token, result } = completion;
        let Some(slot) = usize::try_from(token).ok().and_then(|token| self.in_flight.get_mut(token)) else {
            return;
        };
        let Some(request) = slot.as_mut() else {
            // Of a driver that is gone.
            self.free.extend(usize::try_from(token));
            return;
        };
        if result.is_ok() && std::mem::take(&mut request.flush_next) {
            self.engine.submit(token, Operation::Flush);
            return;
        }
        let Some(InFlight { queue, head, status, written, bytes, .. }) = slot.take() else { return };
        self.bytes = self.bytes.saturating_sub(bytes);
        self.free.extend(usize::try_from(token));
        let written = match result {
            Ok(_) => {
                answer(&status, Status::Ok);
                written
            }
            Err(error) => {
                self.failed(&error);
                answer(&status, Status::IoError);
                1
            }
        };
        if let Some(queue) = io.queue(queue) {
            queue.complete(head, written);
        }
    }

    /// Says that the host cannot: each time at first, ever more seldom later.
    fn failed(&mut self, error: &io::Error) {
        self.failures += 1;
        if self.failures.is_power_of_two() {
            let path = self.image.path().display();
            log::warn!("{}: {path}: {error} (failure {} of this disk)", self.name, self.failures);
        }
    }

    /// The engine itself has failed: nothing can be done until someone makes a new one. What it has may be
    /// done at any time, even after its end, so the guest's memory stays where it is for good.
    fn lost(&mut self, error: &io::Error, io: &Io<'_>) {
        std::mem::forget(self.memory.take());
        self.failed(error);
        io.needs_reset();
    }
}

/// Bytes that an operation moves between the guest and the disk.
fn transferred(operation: &Operation) -> u64 {
    match operation {
        Operation::Read { buffers, .. } | Operation::Write { buffers, .. } => buffers.len(),
        Operation::Flush | Operation::Discard { .. } | Operation::WriteZeroes { .. } => 0,
    }
}

fn answer(status: &IoVecs, value: Status) {
    status.copy_from(&[value as u8]);
}

impl Device for Block {
    fn describe(&self) -> Description {
        let always = feature::SEG_MAX | feature::BLK_SIZE | feature::FLUSH;
        let of_access =
            if self.image.readonly() { feature::RO } else { feature::DISCARD | feature::WRITE_ZEROES };
        let of_queues = if self.queues > 1 { feature::MQ } else { 0 };
        Description {
            id: ID,
            features: always | of_access | of_queues,
            queue_sizes: vec![QUEUE_SIZE; self.queues.into()],
            config: ConfigSpace::new(self.config(), 0..0),
        }
    }

    fn activate(&mut self, features: u64) {
        self.driver_flushes = features & feature::FLUSH != 0;
    }

    fn start(&mut self, io: &mut Io<'_>) {
        self.memory = Some(io.memory.clone());
        if let Some(fd) = self.engine.fd() {
            io.watch(fd.as_raw_fd(), ENGINE, EventSet::IN);
        }
        if let Some(timer) = self.pace.timer() {
            io.watch(timer, TIMER, EventSet::IN);
        }
    }

    fn queue_event(&mut self, queue: usize, io: &mut Io<'_>) {
        self.take(queue, io);
    }

    fn fd_event(&mut self, token: u32, _: EventSet, io: &mut Io<'_>) {
        if token == ENGINE {
            self.finish(io);
        } else {
            let first = self.pace.end_wait();
            let others = (0..io.queues.len()).filter(|queue| Some(*queue) != first);
            first.into_iter().chain(others).for_each(|queue| self.take(queue, io));
        }
    }

    fn command(&mut self, command: &Command, io: &mut Io<'_>) -> Result<(), CommandError> {
        let Command::DiskResized = command else { return Err(CommandError::Unknown(*command)) };
        let capacity = self.image.refresh_size().map_err(|error| CommandError::Refused(error.to_string()))?;
        io.config.update(0, &capacity.to_le_bytes());
        io.config_changed();
        Ok(())
    }

    fn stop(&mut self, io: &mut Io<'_>) {
        self.pace.end_wait();
        if let Err(error) = self.engine.wait_all() {
            self.lost(&error, io);
        }
        self.finish(io);
        // Flushes that followed writes.
        while self.engine.pending() > 0 {
            if let Err(error) = self.engine.wait_all() {
                self.lost(&error, io);
                break;
            }
            self.finish(io);
        }
    }

    /// The token of a request that the engine still has, as it has failed, is not free before it tells of it.
    fn reset(&mut self) {
        self.in_flight.iter_mut().for_each(|request| *request = None);
        (self.bytes, self.held) = (0, false);
    }

    fn overlay(&self) -> Option<PathBuf> {
        self.image.overlay()
    }

    /// What is on the disk is in its file, and stays there.
    fn save(&mut self, id: &str, state: &mut State) -> Result<(), SaveError> {
        let Self {
            image,
            // Of the configuration.
            name: _,
            serial: _,
            queues: _,
            // Told again by the driver's features.
            driver_flushes: _,
            // Empty while the device is stopped.
            engine: _,
            in_flight: _,
            free: _,
            bytes: _,
            held: _,
            memory: _,
            // Of this machine.
            pace: _,
            failures: _,
        } = self;
        let device = |source| SaveError::Device { device: id.to_owned(), source: Box::new(source) };
        Ok(state.put(id, &image.save().map_err(device)?)?)
    }

    fn restore(&mut self, from: &mut Restore<'_>) -> Result<(), SaveError> {
        let saved: DiskState = from.take()?;
        let device = from.id.to_owned();
        if !self.image.takes_blocks_of(&saved) {
            let source = "it has larger blocks than it had: leave out direct, if it is given".into();
            return Err(SaveError::Device { device, source });
        }
        match self.image.difference(&saved).filter(|_| !from.allow.changed_disks) {
            Some((path, differs)) => Err(SaveError::DiskChanged { device, path, differs }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
