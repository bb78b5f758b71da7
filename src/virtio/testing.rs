//! A guest's driver for tests: it reaches a device as a guest does, through its registers and through
//! rings in (anonymous) guest memory, while the device is on a real event loop.

#![cfg_attr(fuzzing, allow(dead_code, unused_imports))]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::cast_possible_truncation)]

use std::collections::HashMap;
use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use vm_memory::{Bytes, GuestAddress};

mod conformance;
mod saving;

pub(crate) use self::conformance::conformance;
pub(crate) use self::saving::copy;
use super::status::bit;
use super::transport::Mmio;
use super::{Device, DeviceHandle, Opened, Place, Worker, feature};
use crate::bus::{Registers, lock};
use crate::config::Size;
use crate::event::EventLoop;
use crate::irq::fake::FakeLine;
use crate::memory::{self, GuestMemory};

/// How long a device may take before it counts as hanging.
const PATIENCE: Duration = Duration::from_secs(20);
/// Where the rings are, 64 KiB each.
const RINGS: u64 = 0x10_0000;
const RING_ROOM: u64 = 0x4_0000;
/// Where buffers are.
const BUFFERS: u64 = 0x80_0000;
/// The memory of a test's guest.
const MEMORY: Size = Size::mib(32);

/// What a device under test is told of its machine.
pub(crate) const PLACE: Place<'static> = Place { name: NAME, index: 0, cpus: 1, goes_on: false };
const NAME: &str = "test";

/// Register offsets that tests need (VIRTIO 1.2, table 4.1).
pub(crate) mod reg {
    pub(crate) const DEVICE_ID: u64 = 0x008;
    pub(crate) const DEVICE_FEATURES: u64 = 0x010;
    pub(crate) const DEVICE_FEATURES_SEL: u64 = 0x014;
    pub(crate) const DRIVER_FEATURES: u64 = 0x020;
    pub(crate) const DRIVER_FEATURES_SEL: u64 = 0x024;
    pub(crate) const QUEUE_SEL: u64 = 0x030;
    pub(crate) const QUEUE_NUM_MAX: u64 = 0x034;
    pub(crate) const QUEUE_NUM: u64 = 0x038;
    pub(crate) const QUEUE_READY: u64 = 0x044;
    pub(crate) const QUEUE_NOTIFY: u64 = 0x050;
    pub(crate) const INTERRUPT_STATUS: u64 = 0x060;
    pub(crate) const INTERRUPT_ACK: u64 = 0x064;
    pub(crate) const STATUS: u64 = 0x070;
    pub(crate) const QUEUE_DESC: u64 = 0x080;
    pub(crate) const QUEUE_DRIVER: u64 = 0x090;
    pub(crate) const QUEUE_DEVICE: u64 = 0x0a0;
    pub(crate) const CONFIG: u64 = 0x100;
}

/// Descriptor flags (VIRTIO 1.2, section 2.7.5).
pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

/// A device under test, with its driver.
pub(crate) struct GuestDriver {
    pub(crate) memory: GuestMemory,
    pub(crate) line: Arc<FakeLine>,
    pub(crate) handle: DeviceHandle,
    /// Which of the devices that a test has made this is.
    pub(crate) which: usize,
    /// The device that goes on for this one, on a copy of the memory, when it is next waited for.
    pub(crate) successor: Option<Box<dyn Device>>,
    /// What a successor has gone on for, paused.
    pub(crate) predecessor: Option<Box<Self>>,
    registers: Mutex<Mmio>,
    // Dropped before the worker's memory.
    events: EventLoop<Worker>,
    parked: Vec<Worker>,
    queues: Vec<Ring>,
    /// Where the next buffer goes.
    next_buffer: u64,
    /// The buffers for the device to write, by queue and head.
    inputs: HashMap<(usize, u16), Vec<(u64, usize)>>,
    indirect: bool,
}

/// The driver's side of a queue.
#[derive(Clone, Copy, Default)]
struct Ring {
    size: u16,
    next_descriptor: u16,
    available: u16,
    used: u16,
}

impl GuestDriver {
    /// A device that no driver has touched yet, on a running event loop.
    pub(crate) fn new(device: Box<dyn Device>) -> Self {
        Self::with_memory(device, MEMORY)
    }

    /// As [`Self::new`], of a guest with so much memory.
    pub(crate) fn with_memory(device: Box<dyn Device>, size: Size) -> Self {
        Self::build(device, memory::allocate(size).unwrap(), true)
    }

    /// As [`Self::new`], of a guest with this memory, of the usual size.
    #[cfg(test)]
    pub(crate) fn on_memory(device: Box<dyn Device>, memory: GuestMemory) -> Self {
        Self::build(device, memory, true)
    }

    /// A device in a guest with this memory; if it `starts`, it is on its event loop.
    fn build(device: Box<dyn Device>, memory: GuestMemory, starts: bool) -> Self {
        let line = Arc::new(FakeLine::default());
        let opened = Opened { name: NAME.into(), iothread: None, kernel_words: None, device };
        let attached = opened.attach(&memory, line.clone(), None).unwrap();
        let (on_loop, parked) = [attached.worker].into_iter().partition(|_| starts);
        Self {
            memory,
            line,
            handle: attached.handle,
            which: 0,
            successor: None,
            predecessor: None,
            registers: Mutex::new(attached.registers),
            events: EventLoop::start("events", on_loop).unwrap(),
            parked,
            queues: Vec::new(),
            next_buffer: BUFFERS,
            inputs: HashMap::new(),
            indirect: false,
        }
    }

    pub(crate) fn read(&self, register: u64) -> u32 {
        let mut word = [0; 4];
        lock(&self.registers).read(register, &mut word);
        u32::from_le_bytes(word)
    }

    pub(crate) fn read_bytes(&self, register: u64, bytes: &mut [u8]) {
        lock(&self.registers).read(register, bytes);
    }

    pub(crate) fn write(&self, register: u64, value: u32) {
        self.write_bytes(register, &value.to_le_bytes());
    }

    pub(crate) fn write_bytes(&self, register: u64, bytes: &[u8]) {
        let _ = lock(&self.registers).write(register, bytes);
    }

    /// `N` bytes of the configuration space.
    pub(crate) fn config<const N: usize>(&self, offset: u64) -> [u8; N] {
        let mut bytes = [0; N];
        lock(&self.registers).read(reg::CONFIG + offset, &mut bytes);
        bytes
    }

    pub(crate) fn status(&self) -> u8 {
        self.read(reg::STATUS) as u8
    }

    /// What the device offers.
    pub(crate) fn offered(&self) -> u64 {
        let half = |select| {
            self.write(reg::DEVICE_FEATURES_SEL, select);
            u64::from(self.read(reg::DEVICE_FEATURES))
        };
        half(0) | half(1) << 32
    }

    /// Goes as far as FEATURES_OK with these features; whether the device takes them.
    pub(crate) fn negotiate(&mut self, features: u64) -> bool {
        self.write(reg::STATUS, u32::from(bit::ACKNOWLEDGE));
        self.write(reg::STATUS, u32::from(bit::ACKNOWLEDGE | bit::DRIVER));
        for (select, half) in [(0, features as u32), (1, (features >> 32) as u32)] {
            self.write(reg::DRIVER_FEATURES_SEL, select);
            self.write(reg::DRIVER_FEATURES, half);
        }
        self.write(reg::STATUS, u32::from(bit::ACKNOWLEDGE | bit::DRIVER | bit::FEATURES_OK));
        self.indirect = features & feature::RING_INDIRECT_DESC != 0;
        self.status() & bit::FEATURES_OK != 0
    }

    /// Address of a queue's ring: descriptors, then the available ring, then the used ring.
    pub(crate) fn ring(queue: usize) -> (u64, u64, u64) {
        let base = RINGS + queue as u64 * RING_ROOM;
        (base, base + 0x1_8000, base + 0x2_0000)
    }

    fn place_queue(&mut self, queue: usize, size: u16) {
        let (descriptors, available, used) = Self::ring(queue);
        let entries = usize::from(size);
        for (area, len) in
            [(descriptors, 16 * entries), (available, 6 + 2 * entries), (used, 6 + 8 * entries)]
        {
            self.memory.write_slice(&vec![0; len], GuestAddress(area)).unwrap();
        }
        self.write(reg::QUEUE_SEL, queue as u32);
        self.write(reg::QUEUE_NUM, size.into());
        for (register, address) in
            [(reg::QUEUE_DESC, descriptors), (reg::QUEUE_DRIVER, available), (reg::QUEUE_DEVICE, used)]
        {
            self.write(register, address as u32);
            self.write(register + 4, (address >> 32) as u32);
        }
        self.write(reg::QUEUE_READY, 1);
        assert_eq!(self.read(reg::QUEUE_READY), 1);
        self.queues.push(Ring { size, ..Ring::default() });
    }

    /// Most descriptors of a queue; 0 if the device has no such queue.
    pub(crate) fn queue_max(&self, queue: usize) -> u16 {
        self.write(reg::QUEUE_SEL, queue as u32);
        self.read(reg::QUEUE_NUM_MAX) as u16
    }

    pub(crate) fn driver_ok(&self) {
        self.write(reg::STATUS, u32::from(self.status() | bit::DRIVER_OK));
    }

    /// Sets the device up, all its queues at their largest, with these features and VERSION_1.
    pub(crate) fn set_up(&mut self, features: u64) {
        assert!(self.negotiate(features | feature::VERSION_1), "the device refuses {features:#x}");
        self.queues.clear();
        for queue in 0.. {
            match self.queue_max(queue) {
                0 => break,
                size => self.place_queue(queue, size),
            }
        }
        self.driver_ok();
    }

    /// Whether the queues are in place.
    #[cfg(fuzzing)]
    pub(crate) fn is_set_up(&self) -> bool {
        !self.queues.is_empty()
    }

    /// Back to a device that no driver has touched.
    pub(crate) fn reset(&mut self) {
        self.write(reg::STATUS, 0);
        assert_eq!(self.status(), 0);
        self.queues.clear();
        self.inputs.clear();
    }

    /// Takes the device off its loop, as when its machine is paused.
    pub(crate) fn pause(&mut self) {
        let mut taken = self.events.take(|_| true);
        assert_eq!(taken.len() + self.parked.len(), 1, "the device is not on its loop");
        taken.iter_mut().for_each(Worker::pause);
        self.parked.append(&mut taken);
    }

    /// Puts it back.
    pub(crate) fn resume(&mut self) {
        self.events.add(std::mem::take(&mut self.parked));
    }

    /// Writes a descriptor.
    pub(crate) fn descriptor(&self, table: u64, index: u16, address: u64, len: u32, flags: u16, next: u16) {
        let at = GuestAddress(table + 16 * u64::from(index));
        let word = u64::from(len) | u64::from(flags) << 32 | u64::from(next) << 48;
        self.memory.write_obj(address.to_le(), at).unwrap();
        self.memory.write_obj(word.to_le(), GuestAddress(at.0 + 8)).unwrap();
    }

    /// Room for a buffer.
    pub(crate) fn buffer(&mut self, len: usize) -> u64 {
        let end = MEMORY.bytes();
        if self.next_buffer + len as u64 > end {
            self.next_buffer = BUFFERS;
        }
        let address = self.next_buffer;
        self.next_buffer += (len as u64).next_multiple_of(16).max(16);
        assert!(address + len as u64 <= end, "a buffer that is too large for this test");
        address
    }

    /// Makes a chain available, the device's bytes in `outputs`, room for its answers in `inputs`, and
    /// gives its head. It does not kick.
    pub(crate) fn offer(&mut self, queue: usize, outputs: &[&[u8]], inputs: &[usize]) -> u16 {
        let mut buffers = Vec::new();
        for bytes in outputs {
            let address = self.buffer(bytes.len());
            self.memory.write_slice(bytes, GuestAddress(address)).unwrap();
            buffers.push((address, bytes.len(), 0));
        }
        for len in inputs {
            buffers.push((self.buffer(*len), *len, WRITE));
        }
        let indirect = self.indirect && buffers.len() > 1;
        let size = self.queues[queue].size;
        let (table, first) = match indirect {
            true => (self.buffer(16 * buffers.len()), 0),
            false => (Self::ring(queue).0, self.take_descriptors(queue, buffers.len() as u16)),
        };
        let modulus = if indirect { u16::MAX } else { size };
        for (index, (address, len, flags)) in buffers.iter().enumerate() {
            let at = (first + index as u16) % modulus;
            let more = if index + 1 < buffers.len() { NEXT } else { 0 };
            self.descriptor(table, at, *address, *len as u32, flags | more, (at + 1) % modulus);
        }
        let head = if indirect {
            let head = self.take_descriptors(queue, 1);
            self.descriptor(Self::ring(queue).0, head, table, 16 * buffers.len() as u32, INDIRECT, 0);
            head
        } else {
            first
        };
        let answers = buffers.iter().filter(|buffer| buffer.2 == WRITE).map(|buffer| (buffer.0, buffer.1));
        self.inputs.insert((queue, head), answers.collect());
        self.make_available(queue, head);
        head
    }

    /// The next descriptors of the table; tests have few in use at a time.
    fn take_descriptors(&mut self, queue: usize, count: u16) -> u16 {
        let ring = &mut self.queues[queue];
        let first = ring.next_descriptor;
        ring.next_descriptor = (first + count) % ring.size;
        first
    }

    /// Puts a head into the available ring.
    pub(crate) fn make_available(&mut self, queue: usize, head: u16) {
        let ring = &mut self.queues[queue];
        let (_, available, _) = Self::ring(queue);
        let slot = available + 4 + 2 * u64::from(ring.available % ring.size);
        self.memory.write_obj(head, GuestAddress(slot)).unwrap();
        ring.available = ring.available.wrapping_add(1);
        let index = ring.available;
        self.publish(queue, index);
    }

    /// Sets the available ring's index, whatever was there.
    pub(crate) fn publish(&self, queue: usize, index: u16) {
        let (_, available, _) = Self::ring(queue);
        self.memory.store(index, GuestAddress(available + 2), Ordering::Release).unwrap();
        fence(Ordering::SeqCst);
    }

    pub(crate) fn kick(&self, queue: usize) {
        self.write(reg::QUEUE_NOTIFY, queue as u32);
    }

    /// The next used chain, if there is one: its head, how many bytes the device wrote, and what is in
    /// the buffers that were for its answer.
    pub(crate) fn used(&mut self, queue: usize) -> Option<(u16, u32, Vec<u8>)> {
        let ring = &mut self.queues[queue];
        let (_, _, used) = Self::ring(queue);
        let index: u16 = self.memory.load(GuestAddress(used + 2), Ordering::Acquire).unwrap();
        if index == ring.used {
            return None;
        }
        let slot = used + 4 + 8 * u64::from(ring.used % ring.size);
        ring.used = ring.used.wrapping_add(1);
        let head: u32 = self.memory.read_obj(GuestAddress(slot)).unwrap();
        let len: u32 = self.memory.read_obj(GuestAddress(slot + 4)).unwrap();
        let mut bytes = Vec::new();
        for (address, len) in self.inputs.remove(&(queue, head as u16)).unwrap_or_default() {
            let mut part = vec![0; len];
            self.memory.read_slice(&mut part, GuestAddress(address)).unwrap();
            bytes.append(&mut part);
        }
        Some((head as u16, len, bytes))
    }

    /// Waits until the device has used a chain: its head, the number of bytes that it wrote, and the
    /// buffers for its answer.
    pub(crate) fn wait_used(&mut self, queue: usize) -> (u16, u32, Vec<u8>) {
        if let Some(successor) = self.successor.take() {
            self.hand_over(successor);
            self.resume();
        }
        let mut found = None;
        wait("the device uses no buffer", || {
            found = self.used(queue);
            found.is_some()
        });
        found.unwrap()
    }

    /// One request and its answer: the number of bytes that the device wrote, and its buffers.
    pub(crate) fn request(&mut self, queue: usize, outputs: &[&[u8]], inputs: &[usize]) -> (u32, Vec<u8>) {
        let head = self.offer(queue, outputs, inputs);
        self.kick(queue);
        let (used, len, bytes) = self.wait_used(queue);
        assert_eq!(used, head);
        (len, bytes)
    }

    /// Waits until the device says that it cannot go on.
    pub(crate) fn wait_needs_reset(&self) {
        wait("the device does not need a reset", || self.status() & bit::NEEDS_RESET != 0);
    }

    /// Keeps the loop busy for so long, while `act` happens.
    pub(crate) fn stall(&self, time: Duration, act: impl FnOnce(&Self)) {
        let (begin, begun) = std::sync::mpsc::channel();
        let events = &self.events;
        std::thread::scope(|scope| {
            scope.spawn(move || {
                events.take(move |_| {
                    let _ = begin.send(());
                    std::thread::sleep(time);
                    false
                })
            });
            begun.recv().unwrap();
            act(self);
        });
    }

    /// Waits until the loop has handled all that was asked of it before.
    pub(crate) fn settle(&self) {
        self.events.take(|_| false);
        self.events.take(|_| false);
    }
}

/// Waits until something holds.
pub(crate) fn wait(complaint: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "{complaint}");
        std::thread::yield_now();
    }
}
