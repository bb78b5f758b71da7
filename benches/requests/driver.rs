//! The driver's side: a device with its registers and queues in anonymous memory, no guest and no KVM.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use anyhow::{Context, ensure};
use bantam::bus::Registers;
use bantam::config::Size;
use bantam::irq::IrqLine;
use bantam::memory::{self, GuestMemory};
use bantam::virtio::{Attach, Opened, Place, Worker, feature};
use event_manager::{EventManager, SubscriberOps};
use vm_memory::{Bytes, GuestAddress};

/// Registers (VIRTIO 1.2, table 4.1).
mod reg {
    pub(super) const DRIVER_FEATURES: u64 = 0x020;
    pub(super) const DRIVER_FEATURES_SEL: u64 = 0x024;
    pub(super) const QUEUE_SEL: u64 = 0x030;
    pub(super) const QUEUE_NUM: u64 = 0x038;
    pub(super) const QUEUE_READY: u64 = 0x044;
    pub(super) const QUEUE_NOTIFY: u64 = 0x050;
    pub(super) const STATUS: u64 = 0x070;
    pub(super) const QUEUE_DESC: u64 = 0x080;
    pub(super) const QUEUE_DRIVER: u64 = 0x090;
    pub(super) const QUEUE_DEVICE: u64 = 0x0a0;
}

/// ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK, in their order (section 2.1).
const STEPS: [u32; 4] = [1, 3, 11, 15];
const FEATURES_OK: u32 = 8;

/// Descriptor flags (section 2.7.5).
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

const QUEUE_SIZE: u16 = 256;
/// Where the rings of a queue are, at what distance, and where its indirect tables are.
const RINGS: u64 = 0x10_0000;
const DISTANCE: u64 = 0x1_0000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;
const TABLES: u64 = 0x8000;
/// Most descriptors of a request.
pub(crate) const LONGEST: u16 = 4;

/// A buffer of a request: its address and length, and whether the device writes it.
#[derive(Clone, Copy)]
pub(crate) struct Buffer(pub(crate) u64, pub(crate) u32, pub(crate) bool);

struct NoLine;

impl IrqLine for NoLine {
    fn set_level(&self, _: bool) {}
}

pub(crate) struct Driver {
    pub(crate) memory: GuestMemory,
    registers: Box<dyn Registers>,
    events: EventManager<Worker>,
    features: u64,
    rings: u64,
    queue: u32,
    offered: u16,
}

impl Driver {
    /// Sets a device up with these features of the transport, to use one of its queues.
    pub(crate) fn set_up(
        config: &impl Attach,
        queue: u32,
        queues: u32,
        features: u64,
    ) -> anyhow::Result<Self> {
        let memory = memory::allocate(Size::mib(32))?;
        let name = "measured";
        let device = config
            .open(&Place { name, index: 0, cpus: 1, goes_on: false })
            .map_err(|error| anyhow::anyhow!(error))?;
        let opened = Opened { name: name.to_owned(), iothread: None, kernel_words: None, device };
        let attached = opened.attach(&memory, Arc::new(NoLine), None)?;
        let mut events = EventManager::new().map_err(|error| anyhow::anyhow!("{error:?}"))?;
        events.add_subscriber(attached.worker);
        let features = features | feature::VERSION_1;
        let rings = RINGS + u64::from(queue) * DISTANCE;
        let registers = Box::new(attached.registers);
        let mut driver = Self { memory, registers, events, features, rings, queue, offered: 0 };
        driver.negotiate(queues)?;
        driver.turn();
        Ok(driver)
    }

    fn write(&mut self, register: u64, value: u32) {
        let _ = self.registers.write(register, &value.to_le_bytes());
    }

    fn write64(&mut self, register: u64, value: u64) {
        for (register, half) in [(register, value & 0xffff_ffff), (register + 4, value >> 32)] {
            self.write(register, u32::try_from(half).unwrap_or_default());
        }
    }

    fn negotiate(&mut self, queues: u32) -> anyhow::Result<()> {
        let [acknowledge, driver, features_ok, driver_ok] = STEPS;
        self.write(reg::STATUS, acknowledge);
        self.write(reg::STATUS, driver);
        for (select, half) in [(0, self.features & 0xffff_ffff), (1, self.features >> 32)] {
            self.write(reg::DRIVER_FEATURES_SEL, select);
            self.write(reg::DRIVER_FEATURES, u32::try_from(half)?);
        }
        self.write(reg::STATUS, features_ok);
        let mut status = [0; 4];
        self.registers.read(reg::STATUS, &mut status);
        ensure!(u32::from_le_bytes(status) & FEATURES_OK != 0, "the device refuses {:#x}", self.features);
        for queue in 0..queues {
            let rings = RINGS + u64::from(queue) * DISTANCE;
            self.write(reg::QUEUE_SEL, queue);
            self.write(reg::QUEUE_NUM, QUEUE_SIZE.into());
            self.write64(reg::QUEUE_DESC, rings);
            self.write64(reg::QUEUE_DRIVER, rings + AVAILABLE);
            self.write64(reg::QUEUE_DEVICE, rings + USED);
            self.write(reg::QUEUE_READY, 1);
        }
        // As a driver that polls: without interrupts.
        self.memory.write_obj(1_u16, GuestAddress(self.rings + AVAILABLE))?;
        self.memory.write_obj(0x8000_u16, self.used_event())?;
        self.write(reg::STATUS, driver_ok);
        Ok(())
    }

    fn used_event(&self) -> GuestAddress {
        GuestAddress(self.rings + AVAILABLE + 4 + 2 * u64::from(QUEUE_SIZE))
    }

    fn describe(
        &self,
        table: u64,
        index: u16,
        Buffer(address, len, _): Buffer,
        flags: u16,
    ) -> anyhow::Result<()> {
        let at = table + 16 * u64::from(index);
        let word = u64::from(len) | u64::from(flags) << 32 | u64::from(index + 1) << 48;
        self.memory.write_obj(address.to_le(), GuestAddress(at))?;
        self.memory.write_obj(word.to_le(), GuestAddress(at + 8))?;
        Ok(())
    }

    /// Offers a request in one of the slots, which are as many as a turn has requests.
    pub(crate) fn offer(&mut self, slot: u16, buffers: &[Buffer]) -> anyhow::Result<()> {
        ensure!(buffers.len() <= usize::from(LONGEST), "too many buffers");
        let last = buffers.len().checked_sub(1).context("no buffers")?;
        let indirect = self.features & feature::RING_INDIRECT_DESC != 0;
        let (table, first, head) = if indirect {
            let table = self.rings + TABLES + 16 * u64::from(LONGEST * slot);
            let len = u32::try_from(16 * buffers.len())?;
            self.describe(self.rings, slot, Buffer(table, len, false), INDIRECT)?;
            (table, 0, slot)
        } else {
            (self.rings, slot * LONGEST, slot * LONGEST)
        };
        for (at, buffer) in buffers.iter().enumerate() {
            let next = if at < last { NEXT } else { 0 };
            let write = if buffer.2 { WRITE } else { 0 };
            self.describe(table, first + u16::try_from(at)?, *buffer, next | write)?;
        }
        let entry = self.rings + AVAILABLE + 4 + 2 * u64::from(self.offered % QUEUE_SIZE);
        self.memory.write_obj(head.to_le(), GuestAddress(entry))?;
        self.offered = self.offered.wrapping_add(1);
        Ok(())
    }

    /// Shows the device what was offered, and notifies it.
    pub(crate) fn publish(&mut self) -> anyhow::Result<()> {
        let index = GuestAddress(self.rings + AVAILABLE + 2);
        self.memory.store(self.offered.to_le(), index, Ordering::Release)?;
        fence(Ordering::SeqCst);
        self.write(reg::QUEUE_NOTIFY, self.queue);
        Ok(())
    }

    /// Has the event loop do all that there is to do.
    pub(crate) fn turn(&mut self) {
        while self.events.run_with_timeout(0).is_ok_and(|handled| handled > 0) && !self.is_done() {}
    }

    /// Whether the device has used all that was offered.
    pub(crate) fn is_done(&self) -> bool {
        let index = GuestAddress(self.rings + USED + 2);
        self.memory.load(index, Ordering::Acquire).is_ok_and(|used: u16| u16::from_le(used) == self.offered)
    }

    /// Goes on wanting no interrupts (section 2.7.7).
    pub(crate) fn taken(&mut self) -> anyhow::Result<()> {
        Ok(self.memory.write_obj(self.offered.wrapping_add(0x8000).to_le(), self.used_event())?)
    }
}
