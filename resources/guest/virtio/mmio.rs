//! Virtio over MMIO (VIRTIO 1.3, 4.2): who is there.

use crate::cpu;
use crate::words::{Words, parse_number, split_at_byte};

/// "virt" in little-endian.
const MAGIC: u64 = 0x7472_6976;

/// Register offsets (VIRTIO 1.3, table 4.1).
mod register {
    pub const MAGIC: u32 = 0x000;
    pub const VERSION: u32 = 0x004;
    pub const DEVICE_ID: u32 = 0x008;
}

/// A device's registers, as the command line tells.
#[derive(Clone, Copy)]
pub struct Window {
    pub size: u32,
    pub address: u32,
    pub irq: u64,
}

impl Window {
    /// `SIZE@ADDRESS:IRQ[:ID]` (Linux, drivers/virtio/virtio_mmio.c).
    fn parse(text: &str) -> Option<Self> {
        let (size, rest) = split_at_byte(text, b'@')?;
        let (address, irq) = split_at_byte(rest, b':')?;
        let irq = split_at_byte(irq, b':').map_or(irq, |(irq, _)| irq);
        let number = |text| u32::try_from(parse_number(text)?).ok();
        let window = Window { size: number(size)?, address: number(address)?, irq: parse_number(irq)? };
        (window.size >= 0x100 && window.address.checked_add(window.size).is_some()).then_some(window)
    }

    /// Every window on the command line.
    pub fn all(words: Words) -> impl Iterator<Item = Window> {
        words.values("virtio_mmio.device").filter_map(Window::parse)
    }

    /// Transport version and device ID, if a virtio device answers.
    pub fn identify(&self) -> Option<(u64, u64)> {
        let read = |register| u64::from(cpu::mmio_read32(self.address + register));
        (read(register::MAGIC) == MAGIC).then(|| (read(register::VERSION), read(register::DEVICE_ID)))
    }
}

/// VIRTIO 1.3, chapter 5.
pub fn device_name(id: u64) -> &'static str {
    match id {
        0 => "empty",
        1 => "network",
        2 => "block",
        3 => "console",
        4 => "entropy",
        5 => "balloon",
        9 => "9P",
        18 => "input",
        19 => "vsock",
        24 => "memory",
        26 => "file system",
        27 => "persistent memory",
        _ => "other",
    }
}
