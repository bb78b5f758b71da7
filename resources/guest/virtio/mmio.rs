//! Virtio over MMIO (VIRTIO 1.2, 4.2): who is there, and how to set it up.

use super::{Result, feature};
use crate::Machine;
use crate::acpi::Acpi;
use crate::clock::Stopwatch;
use crate::cpu;
use crate::words::{Words, parse_number, split_at_byte};

/// "virt" in little-endian.
const MAGIC: u32 = 0x7472_6976;
/// The version without legacy interface.
const MODERN: u32 = 2;

/// Register offsets (VIRTIO 1.2, 4.2.2).
pub mod register {
    pub const MAGIC_VALUE: u32 = 0x000;
    pub const VERSION: u32 = 0x004;
    pub const DEVICE_ID: u32 = 0x008;
    pub const DEVICE_FEATURES: u32 = 0x010;
    pub const DEVICE_FEATURES_SEL: u32 = 0x014;
    pub const DRIVER_FEATURES: u32 = 0x020;
    pub const DRIVER_FEATURES_SEL: u32 = 0x024;
    pub const QUEUE_SEL: u32 = 0x030;
    pub const QUEUE_NUM_MAX: u32 = 0x034;
    pub const QUEUE_NUM: u32 = 0x038;
    pub const QUEUE_READY: u32 = 0x044;
    pub const QUEUE_NOTIFY: u32 = 0x050;
    pub const INTERRUPT_STATUS: u32 = 0x060;
    pub const INTERRUPT_ACK: u32 = 0x064;
    pub const STATUS: u32 = 0x070;
    pub const QUEUE_DESC: u32 = 0x080;
    pub const QUEUE_DRIVER: u32 = 0x090;
    pub const QUEUE_DEVICE: u32 = 0x0a0;
    pub const CONFIG_GENERATION: u32 = 0x0fc;
    pub const CONFIG: u32 = 0x100;
}

/// Device status (VIRTIO 1.2, 2.1).
pub mod status {
    pub const ACKNOWLEDGE: u32 = 1;
    pub const DRIVER: u32 = 2;
    pub const DRIVER_OK: u32 = 4;
    pub const FEATURES_OK: u32 = 8;
    pub const DEVICE_NEEDS_RESET: u32 = 64;
}

/// How long a device may take for a reset, in seconds.
const RESET_LIMIT: u64 = 10;

/// How often a field that changes while it is read is read again.
const GENERATIONS: u32 = 100;

/// A device's registers.
#[derive(Clone, Copy)]
pub struct Window {
    pub size: u32,
    pub address: u32,
    pub irq: u64,
}

impl Window {
    fn checked(size: u32, address: u32, irq: u64) -> Option<Self> {
        let fits = size >= register::CONFIG && address.checked_add(size).is_some();
        fits.then_some(Window { size, address, irq })
    }

    /// `SIZE@ADDRESS:IRQ[:ID]` (Linux, drivers/virtio/virtio_mmio.c).
    fn parse(text: &str) -> Option<Self> {
        let (size, rest) = split_at_byte(text, b'@')?;
        let (address, irq) = split_at_byte(rest, b':')?;
        let irq = split_at_byte(irq, b':').map_or(irq, |(irq, _)| irq);
        let number = |text| u32::try_from(parse_number(text)?).ok();
        Window::checked(number(size)?, number(address)?, parse_number(irq)?)
    }

    /// Every window on the command line.
    pub fn named(words: Words) -> impl Iterator<Item = Window> {
        words.values("virtio_mmio.device").filter_map(Window::parse)
    }

    /// Every window on the command line; if there is none, those in the DSDT.
    pub fn all(machine: &Machine) -> impl Iterator<Item = Window> + use<> {
        let words = machine.words;
        let dsdt = match Window::named(words).next() {
            Some(_) => None,
            None => Acpi::find(machine.boot.rsdp()).and_then(|acpi| acpi.dsdt()),
        };
        let described = dsdt.into_iter().flat_map(|dsdt| {
            dsdt.devices(*b"LNRO0005")
                .filter_map(|found| Window::checked(found.size, found.address, found.irq.into()))
        });
        Window::named(words).chain(described)
    }

    /// The I-th device of a kind.
    pub fn find(machine: &Machine, device_id: u32, index: usize) -> Result<Self> {
        Window::all(machine)
            .filter(|window| window.identify() == Some((MODERN, device_id)))
            .nth(index)
            .ok_or("no such device")
    }

    /// The modern devices that are there.
    pub fn present(machine: &Machine) -> impl Iterator<Item = Window> {
        Window::all(machine)
            .filter(|window| window.identify().is_some_and(|(version, id)| version == MODERN && id != 0))
    }

    /// Transport version and device ID, if a virtio device answers.
    pub fn identify(self) -> Option<(u32, u32)> {
        (self.read(register::MAGIC_VALUE) == MAGIC)
            .then(|| (self.read(register::VERSION), self.read(register::DEVICE_ID)))
    }

    pub fn read(self, register: u32) -> u32 {
        cpu::mmio_read32(self.address + register)
    }

    pub fn write(self, register: u32, value: u32) {
        cpu::mmio_write32(self.address + register, value);
    }

    fn write64(self, register: u32, value: u64) {
        self.write(register, value as u32);
        self.write(register + 4, (value >> 32) as u32);
    }

    /// Takes notice of all that the device has interrupted for (4.2.2).
    pub fn acknowledge(self) {
        let pending = self.read(register::INTERRUPT_STATUS);
        self.write(register::INTERRUPT_ACK, pending);
    }

    /// Resets the device and waits until it says that it is done (4.2.3.1).
    pub fn reset(self) -> Result<()> {
        self.write(register::STATUS, 0);
        let watch = Stopwatch::start();
        while self.read(register::STATUS) != 0 {
            if watch.seconds() >= RESET_LIMIT {
                return Err("the device does not finish its reset");
            }
            cpu::pause();
        }
        Ok(())
    }

    /// The features that the device offers.
    pub fn offered(self) -> u64 {
        let half = |select| {
            self.write(register::DEVICE_FEATURES_SEL, select);
            u64::from(self.read(register::DEVICE_FEATURES))
        };
        half(0) | half(1) << 32
    }

    /// From reset to FEATURES_OK (3.1.1, steps 1 to 6): takes what is both wanted
    /// and offered.
    pub fn negotiate(self, wanted: u64) -> Result<u64> {
        self.reset()?;
        let mut state = status::ACKNOWLEDGE;
        self.write(register::STATUS, state);
        state |= status::DRIVER;
        self.write(register::STATUS, state);
        let features = self.offered() & (wanted | feature::VERSION_1);
        if features & feature::VERSION_1 == 0 {
            return Err("the device does not offer VERSION_1");
        }
        for (select, half) in [(0, features), (1, features >> 32)] {
            self.write(register::DRIVER_FEATURES_SEL, select);
            self.write(register::DRIVER_FEATURES, half as u32);
        }
        state |= status::FEATURES_OK;
        self.write(register::STATUS, state);
        if self.read(register::STATUS) & status::FEATURES_OK == 0 {
            return Err("the device refuses the features");
        }
        Ok(features)
    }

    /// The largest size of a queue; zero if there is no such queue.
    pub fn queue_size(self, queue: u32) -> u32 {
        self.write(register::QUEUE_SEL, queue);
        self.read(register::QUEUE_NUM_MAX)
    }

    /// Hands a queue over (4.2.3.2).
    pub fn enable_queue(self, queue: u32, size: u16, [descriptors, available, used]: [u64; 3]) {
        self.write(register::QUEUE_SEL, queue);
        self.write(register::QUEUE_NUM, size.into());
        self.write64(register::QUEUE_DESC, descriptors);
        self.write64(register::QUEUE_DRIVER, available);
        self.write64(register::QUEUE_DEVICE, used);
        self.write(register::QUEUE_READY, 1);
    }

    /// The last step: the device lives.
    pub fn go(self) -> Result<()> {
        let state = self.read(register::STATUS) | status::DRIVER_OK;
        self.write(register::STATUS, state);
        match self.read(register::STATUS) & (status::DRIVER_OK | status::DEVICE_NEEDS_RESET) {
            status::DRIVER_OK => Ok(()),
            _ => Err("the device does not start"),
        }
    }

    fn config<T: Default>(self, offset: u32, read: impl Fn(u32) -> T) -> T {
        let place = register::CONFIG + offset;
        if place + size_of::<T>() as u32 > self.size {
            return T::default();
        }
        read(self.address + place)
    }

    /// Fields of the configuration space, each read by its own width (4.2.2.2);
    /// what is outside the window reads as zero.
    pub fn config8(self, offset: u32) -> u8 {
        self.config(offset, cpu::mmio_read8)
    }

    pub fn config16(self, offset: u32) -> u16 {
        self.config(offset, cpu::mmio_read16)
    }

    pub fn config32(self, offset: u32) -> u32 {
        self.config(offset, cpu::mmio_read32)
    }

    /// Writes a field; outside the window it does nothing.
    pub fn set_config32(self, offset: u32, value: u32) {
        let place = register::CONFIG + offset;
        if place + size_of::<u32>() as u32 <= self.size {
            self.write(place, value);
        }
    }

    /// In two halves that belong together: the generation tells (2.5.1).
    pub fn config64(self, offset: u32) -> u64 {
        let mut value = 0;
        for _ in 0..GENERATIONS {
            let generation = self.read(register::CONFIG_GENERATION);
            value = u64::from(self.config32(offset)) | u64::from(self.config32(offset + 4)) << 32;
            if self.read(register::CONFIG_GENERATION) == generation {
                break;
            }
        }
        value
    }
}
