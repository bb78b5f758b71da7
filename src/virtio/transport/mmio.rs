//! The MMIO transport (VIRTIO 1.2, section 4.2): a device's registers, on the vCPU's thread.

use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use vmm_sys_util::eventfd::EventFd;

use crate::bus::{Effect, Registers};
use crate::state::saved;
use crate::virtio::queue::QueueSetup;
use crate::virtio::save::{SaveError, feature_names, impossible};
use crate::virtio::status::{CONFIG_CHANGE, DeviceStatus, USED_BUFFER, bit};
use crate::virtio::worker::{Front, Request, Requests};
use crate::virtio::{ConfigSpace, Description, feature};

/// Size of a device's window.
pub const LEN: u64 = 0x1000;

/// "virt".
const MAGIC: u32 = 0x7472_6976;
const VERSION: u32 = 2;
/// "Bant": no vendor ids are assigned.
const VENDOR: u32 = u32::from_le_bytes(*b"Bant");

/// Kicks by the exit loop after which a doorbell is made. One costs a grace period of KVM's when the
/// machine ends, milliseconds on some hosts, and saves about a microsecond a kick.
const KICKS_BEFORE_DOORBELL: u32 = 1000;

/// Register offsets (VIRTIO 1.2, table 4.1).
mod reg {
    pub(super) const MAGIC: u64 = 0x000;
    pub(super) const VERSION: u64 = 0x004;
    pub(super) const DEVICE_ID: u64 = 0x008;
    pub(super) const VENDOR_ID: u64 = 0x00c;
    pub(super) const DEVICE_FEATURES: u64 = 0x010;
    pub(super) const DEVICE_FEATURES_SEL: u64 = 0x014;
    pub(super) const DRIVER_FEATURES: u64 = 0x020;
    pub(super) const DRIVER_FEATURES_SEL: u64 = 0x024;
    pub(super) const QUEUE_SEL: u64 = 0x030;
    pub(super) const QUEUE_NUM_MAX: u64 = 0x034;
    pub(super) const QUEUE_NUM: u64 = 0x038;
    pub(super) const QUEUE_READY: u64 = 0x044;
    pub(super) const QUEUE_NOTIFY: u64 = 0x050;
    pub(super) const INTERRUPT_STATUS: u64 = 0x060;
    pub(super) const INTERRUPT_ACK: u64 = 0x064;
    pub(super) const STATUS: u64 = 0x070;
    pub(super) const QUEUE_DESC_LOW: u64 = 0x080;
    pub(super) const QUEUE_DESC_HIGH: u64 = 0x084;
    pub(super) const QUEUE_DRIVER_LOW: u64 = 0x090;
    pub(super) const QUEUE_DRIVER_HIGH: u64 = 0x094;
    pub(super) const QUEUE_DEVICE_LOW: u64 = 0x0a0;
    pub(super) const QUEUE_DEVICE_HIGH: u64 = 0x0a4;
    pub(super) const SHM_LEN_LOW: u64 = 0x0b0;
    pub(super) const SHM_LEN_HIGH: u64 = 0x0b4;
    pub(super) const SHM_BASE_LOW: u64 = 0x0b8;
    pub(super) const SHM_BASE_HIGH: u64 = 0x0bc;
    pub(super) const CONFIG_GENERATION: u64 = 0x0fc;
    pub(super) const CONFIG: u64 = 0x100;
}

/// Where the queues' doorbell is in the window.
pub const DOORBELL: u64 = reg::QUEUE_NOTIFY;

/// A device's registers.
pub struct Mmio {
    description: Description,
    status: Arc<DeviceStatus>,
    requests: Requests,
    kicks: Vec<(Arc<EventFd>, u32)>,
    device_features_sel: u32,
    driver_features_sel: u32,
    driver_features: u64,
    queue_sel: u32,
    queues: Vec<QueueSetup>,
    /// Whether the worker has been told that the driver is set up.
    active: bool,
}

saved! {
    "virtio-mmio", version 1, fingerprint 733071069;
    /// What a guest can find in the registers.
    pub(in crate::virtio) struct MmioState {
        /// Device id.
        device: u32,
        pub(in crate::virtio) status: u8,
        interrupts: u32,
        device_features_sel: u32,
        driver_features_sel: u32,
        pub(in crate::virtio) driver_features: u64,
        queue_sel: u32,
        pub(in crate::virtio) queues: Vec<QueueSetup>,
        config: Vec<u8>,
        config_generation: u32,
        /// The device has still to be told of what the driver wrote to the configuration space.
        config_written: bool,
    }
}

impl Mmio {
    pub(in crate::virtio) fn new(front: Front) -> Self {
        let Front { description, status, requests, kicks } = front;
        Self {
            queues: initial(&description),
            description,
            status,
            requests,
            kicks: kicks.into_iter().map(|kick| (kick, 0)).collect(),
            device_features_sel: 0,
            driver_features_sel: 0,
            driver_features: 0,
            queue_sel: 0,
            active: false,
        }
    }

    fn queue(&mut self) -> Option<&mut QueueSetup> {
        self.queues.get_mut(usize::try_from(self.queue_sel).ok()?)
    }

    fn read_register(&mut self, offset: u64) -> u32 {
        match offset {
            reg::MAGIC => MAGIC,
            reg::VERSION => VERSION,
            reg::DEVICE_ID => self.description.id,
            reg::VENDOR_ID => VENDOR,
            reg::DEVICE_FEATURES => half(self.description.features, self.device_features_sel),
            reg::QUEUE_NUM_MAX => {
                let index = usize::try_from(self.queue_sel).unwrap_or(usize::MAX);
                self.description.queue_sizes.get(index).copied().unwrap_or(0).into()
            }
            reg::QUEUE_READY => self.queue().is_some_and(|queue| queue.ready).into(),
            reg::INTERRUPT_STATUS => self.status.interrupts(),
            reg::STATUS => self.status.get().into(),
            reg::CONFIG_GENERATION => self.status.config().generation(),
            // No shared memory regions (section 4.2.2.1): length and base are all ones.
            reg::SHM_LEN_LOW | reg::SHM_LEN_HIGH | reg::SHM_BASE_LOW | reg::SHM_BASE_HIGH => u32::MAX,
            _ => 0,
        }
    }

    fn write_register(&mut self, offset: u64, value: u32) {
        match offset {
            reg::DEVICE_FEATURES_SEL => self.device_features_sel = value,
            reg::DRIVER_FEATURES_SEL => self.driver_features_sel = value,
            reg::DRIVER_FEATURES => self.write_features(value),
            reg::QUEUE_SEL => self.queue_sel = value,
            reg::QUEUE_NOTIFY => self.notify(value),
            reg::INTERRUPT_ACK => self.status.acknowledge(value),
            reg::STATUS => self.write_status(value),
            reg::QUEUE_NUM..=reg::QUEUE_DEVICE_HIGH => self.write_queue(offset, value),
            _ => {}
        }
    }

    /// Features are agreed on between DRIVER and FEATURES_OK (section 3.1.1).
    fn write_features(&mut self, value: u32) {
        let status = self.status.get();
        if status & bit::DRIVER == 0 || status & bit::FEATURES_OK != 0 {
            return;
        }
        let (keep, new) = match self.driver_features_sel {
            0 => (!0 << 32, u64::from(value)),
            1 => (0xffff_ffff, u64::from(value) << 32),
            _ => return,
        };
        self.driver_features = self.driver_features & keep | new;
    }

    /// Queues are set up between FEATURES_OK and DRIVER_OK, each before it is ready.
    fn write_queue(&mut self, offset: u64, value: u32) {
        let status = self.status.get();
        if status & (bit::FEATURES_OK | bit::DRIVER_OK) != bit::FEATURES_OK {
            return;
        }
        let Some(queue) = self.queue() else { return };
        match offset {
            reg::QUEUE_READY => queue.ready = value & 1 != 0,
            _ if queue.ready => {}
            // A size that no queue has stays as it is written: the queue is refused when it is used.
            reg::QUEUE_NUM => queue.size = u16::try_from(value).unwrap_or(0),
            reg::QUEUE_DESC_LOW => set_low(&mut queue.descriptors, value),
            reg::QUEUE_DESC_HIGH => set_high(&mut queue.descriptors, value),
            reg::QUEUE_DRIVER_LOW => set_low(&mut queue.available, value),
            reg::QUEUE_DRIVER_HIGH => set_high(&mut queue.available, value),
            reg::QUEUE_DEVICE_LOW => set_low(&mut queue.used, value),
            reg::QUEUE_DEVICE_HIGH => set_high(&mut queue.used, value),
            _ => {}
        }
    }

    fn notify(&mut self, queue: u32) {
        let index = usize::try_from(queue).unwrap_or(usize::MAX);
        let Some((kick, count)) = self.kicks.get_mut(index).filter(|_| self.active) else { return };
        // It fails only if the counter is full, when it is readable anyway.
        let _ = kick.write(1);
        *count = count.saturating_add(1);
        if *count == KICKS_BEFORE_DOORBELL {
            self.requests.send(Request::Connect(index));
        }
    }

    /// Section 2.1: a driver sets bits, one step of the initialization after the other; 0 is a reset.
    fn write_status(&mut self, value: u32) {
        let Ok(value) = u8::try_from(value) else { return };
        if value == 0 {
            self.reset();
            return;
        }
        let new = value & !self.status.get();
        self.status.set(new & (bit::ACKNOWLEDGE | bit::DRIVER | bit::FAILED));
        let reached = self.status.get();
        if new & bit::FEATURES_OK != 0 && reached & bit::DRIVER != 0 && self.features_are_fine() {
            self.status.set(bit::FEATURES_OK);
        }
        let reached = self.status.get();
        let ready = bit::FEATURES_OK | bit::DRIVER;
        if new & bit::DRIVER_OK != 0 && reached & ready == ready && reached & bit::NEEDS_RESET == 0 {
            self.status.set(bit::DRIVER_OK);
            self.active = true;
            let (features, queues) = (self.driver_features, self.queues.clone());
            self.requests.send(Request::Activate { features, queues });
        }
    }

    /// What the device is told of itself.
    pub(in crate::virtio) fn config(&self) -> &ConfigSpace {
        self.status.config()
    }

    pub(in crate::virtio) fn save(&self) -> MmioState {
        let Self {
            description,
            status,
            requests: _,
            kicks: _,
            device_features_sel,
            driver_features_sel,
            driver_features,
            queue_sel,
            queues,
            // As long as DRIVER_OK is set.
            active: _,
        } = self;
        MmioState {
            device: description.id,
            status: status.get(),
            interrupts: status.interrupts(),
            device_features_sel: *device_features_sel,
            driver_features_sel: *driver_features_sel,
            driver_features: *driver_features,
            queue_sel: *queue_sel,
            queues: queues.clone(),
            config: status.config().bytes(),
            config_generation: status.config().generation(),
            config_written: status.has_config_write(),
        }
    }

    /// Whether these can be registers of this device.
    pub(in crate::virtio) fn check(&self, name: &str, saved: &MmioState) -> Result<(), SaveError> {
        let device = || name.to_owned();
        let Description { id, features, queue_sizes, .. } = &self.description;
        if saved.device != *id {
            return Err(SaveError::Kind { device: device(), saved: saved.device, here: *id });
        }
        let has = |bits: u8| saved.status & bits == bits;
        if saved.status & !bit::ALL != 0
            || saved.interrupts & !(USED_BUFFER | CONFIG_CHANGE) != 0
            || has(bit::DRIVER_OK) && !has(bit::FEATURES_OK | bit::DRIVER)
        {
            return Err(impossible(name, "no device has such a status"));
        }
        let missing = saved.driver_features & !features;
        if has(bit::FEATURES_OK) && missing != 0 {
            return Err(SaveError::Features {
                device: device(),
                missing,
                names: feature_names(*id, missing),
            });
        }
        if has(bit::FEATURES_OK) && saved.driver_features & feature::VERSION_1 == 0 {
            return Err(impossible(name, "its driver is one of before VIRTIO 1.0"));
        }
        let (had, has) = (saved.queues.len(), queue_sizes.len());
        if had == has {
            Ok(())
        } else {
            Err(impossible(name, format!("it had {had} queues, and has {has} here")))
        }
    }

    /// Takes over registers that have been checked. The worker gets anew what it has not `taken` of what
    /// the driver did.
    pub(in crate::virtio) fn restore(&mut self, saved: MmioState, taken: bool) {
        let MmioState {
            device: _,
            status,
            mut interrupts,
            device_features_sel,
            driver_features_sel,
            driver_features,
            queue_sel,
            queues,
            config,
            config_generation,
            config_written,
        } = saved;
        self.active = status & bit::DRIVER_OK != 0;
        if self.config().restore(&config, config_generation) && self.active {
            interrupts |= CONFIG_CHANGE;
        }
        self.status.restore(status, interrupts);
        self.device_features_sel = device_features_sel;
        self.driver_features_sel = driver_features_sel;
        self.driver_features = driver_features;
        self.queue_sel = queue_sel;
        self.queues = queues;
        if self.active && !taken {
            let (features, queues) = (driver_features, self.queues.clone());
            self.requests.send(Request::Activate { features, queues });
        }
        if config_written && self.status.note_config_write() {
            self.requests.send(Request::ConfigWritten);
        }
    }

    fn features_are_fine(&self) -> bool {
        self.driver_features & !self.description.features == 0
            && self.driver_features & feature::VERSION_1 != 0
    }

    /// Waits for what is in flight: afterwards the memory is the guest's own again, as drivers expect
    /// when the write is done.
    fn reset(&mut self) {
        if std::mem::take(&mut self.active) {
            // From here on no event of the device may reach the driver.
            self.status.clear(bit::DRIVER_OK);
            let (done, wait) = sync_channel(1);
            self.requests.send(Request::Reset(done));
            // A worker that is gone touches no memory.
            let _ = wait.recv();
        }
        self.status.reset();
        self.queues = initial(&self.description);
        self.driver_features = 0;
        self.device_features_sel = 0;
        self.driver_features_sel = 0;
        self.queue_sel = 0;
    }
}

/// The queues of a device after reset.
fn initial(description: &Description) -> Vec<QueueSetup> {
    description.queue_sizes.iter().map(|size| QueueSetup { size: *size, ..QueueSetup::default() }).collect()
}

/// One half of the features.
fn half(features: u64, select: u32) -> u32 {
    let bytes = features.to_le_bytes();
    let at = match select {
        0 => 0,
        1 => 4,
        _ => return 0,
    };
    let mut word = [0; 4];
    word.iter_mut().zip(bytes.iter().skip(at)).for_each(|(to, from)| *to = *from);
    u32::from_le_bytes(word)
}

fn set_low(address: &mut u64, value: u32) {
    *address = *address & !0xffff_ffff | u64::from(value);
}

fn set_high(address: &mut u64, value: u32) {
    *address = *address & 0xffff_ffff | u64::from(value) << 32;
}

/// Registers take aligned words (section 4.2.2.2) and nothing else; the configuration space takes any
/// access.
impl Registers for Mmio {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if let Some(at) = offset.checked_sub(reg::CONFIG) {
            self.status.config().read(usize::try_from(at).unwrap_or(usize::MAX), data);
        } else if data.len() == 4 && offset.is_multiple_of(4) {
            data.copy_from_slice(&self.read_register(offset).to_le_bytes());
        } else {
            data.fill(0);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Effect {
        if let Some(at) = offset.checked_sub(reg::CONFIG) {
            let changed = self.status.config().write(usize::try_from(at).unwrap_or(usize::MAX), data);
            if changed && self.status.note_config_write() {
                self.requests.send(Request::ConfigWritten);
            }
        } else if let (Ok(word), true) = (<[u8; 4]>::try_from(data), offset.is_multiple_of(4)) {
            self.write_register(offset, u32::from_le_bytes(word));
        }
        Effect::None
    }
}
