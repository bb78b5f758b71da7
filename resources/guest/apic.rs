//! The local APIC in xAPIC mode (Intel SDM vol. 3, "Advanced Programmable Interrupt Controller") and the IOAPIC
//! (Intel 82093AA data sheet).

use crate::cpu;

/// Where every CPU has its local APIC after a reset. The interrupt handlers in
/// trap.s know it too.
pub const LOCAL_APIC: u32 = 0xfee0_0000;
pub const DEFAULT_IO_APIC: u32 = 0xfec0_0000;

/// Vectors of the guest's own choice.
pub mod vector {
    pub const SERIAL: u8 = 0x24;
    pub const GENERATION: u8 = 0x25;
    pub const DEVICE: u8 = 0x26;
    pub const TIMER: u8 = 0x30;
    pub const TICK: u8 = 0x31;
    pub const PEER: u8 = 0x32;
    pub const SPURIOUS: u8 = 0xff;
}

/// Register offsets in the local APIC's page.
mod register {
    pub const ID: u32 = 0x020;
    pub const VERSION: u32 = 0x030;
    pub const TASK_PRIORITY: u32 = 0x080;
    pub const SPURIOUS: u32 = 0x0f0;
    pub const ICR_LOW: u32 = 0x300;
    pub const ICR_HIGH: u32 = 0x310;
    pub const LVT_TIMER: u32 = 0x320;
    pub const INITIAL_COUNT: u32 = 0x380;
    pub const DIVIDE: u32 = 0x3e0;
}

const PERIODIC: u32 = 1 << 17;
const SOFTWARE_ENABLE: u32 = 1 << 8;
const MASKED: u32 = 1 << 16;
const DIVIDE_BY_1: u32 = 0b1011;
const ICR_PENDING: u32 = 1 << 12;
const ICR_INIT: u32 = 0b101 << 8 | 1 << 14;
const ICR_STARTUP: u32 = 0b110 << 8 | 1 << 14;

const IA32_APIC_BASE: u64 = 0x1b;
const BASE_X2APIC: u64 = 1 << 10;

/// Whether the loader has left the APIC in x2APIC mode, where its page is gone.
pub fn is_x2apic() -> bool {
    // SAFETY: every CPU with an APIC has this register.
    unsafe { cpu::ring0(cpu::ring0_rdmsr, IA32_APIC_BASE, 0, 0) & BASE_X2APIC != 0 }
}

fn read(register: u32) -> u32 {
    cpu::mmio_read32(LOCAL_APIC + register)
}

fn write(register: u32, value: u32) {
    cpu::mmio_write32(LOCAL_APIC + register, value);
}

pub fn id() -> u8 {
    (read(register::ID) >> 24) as u8
}

pub fn version() -> u8 {
    read(register::VERSION) as u8
}

pub fn enable() {
    write(register::TASK_PRIORITY, 0);
    write(register::SPURIOUS, SOFTWARE_ENABLE | u32::from(vector::SPURIOUS));
}

/// One timer interrupt after so many ticks of the APIC's clock.
pub fn arm_timer(ticks: u32) {
    write(register::DIVIDE, DIVIDE_BY_1);
    write(register::LVT_TIMER, vector::TIMER.into());
    write(register::INITIAL_COUNT, ticks);
}

/// A timer interrupt every so many ticks of the APIC's clock, each CPU's counted by itself.
pub fn arm_periodic(ticks: u32) {
    write(register::DIVIDE, DIVIDE_BY_1);
    write(register::LVT_TIMER, PERIODIC | u32::from(vector::TICK));
    write(register::INITIAL_COUNT, ticks);
}

/// An interrupt to another CPU, or to this one.
pub fn send_peer(id: u8) {
    send(id, vector::PEER.into());
}

pub fn disarm_timer() {
    write(register::LVT_TIMER, MASKED | u32::from(vector::TIMER));
    write(register::INITIAL_COUNT, 0);
}

/// INIT to another CPU.
pub fn send_init(id: u8) {
    send(id, ICR_INIT);
}

/// Start-up at a page below 1 MiB.
pub fn send_startup(id: u8, address: u32) {
    send(id, ICR_STARTUP | address >> 12);
}

fn send(id: u8, command: u32) {
    write(register::ICR_HIGH, u32::from(id) << 24);
    write(register::ICR_LOW, command);
    let mut tries = 1000;
    while read(register::ICR_LOW) & ICR_PENDING != 0 && tries > 0 {
        tries -= 1;
        cpu::pause();
    }
}

/// An IOAPIC: an index register and a data window.
pub struct IoApic {
    pub address: u32,
}

impl IoApic {
    pub fn read(&self, index: u32) -> u32 {
        cpu::mmio_write32(self.address, index);
        cpu::mmio_read32(self.address + 0x10)
    }

    pub fn write(&self, index: u32, value: u32) {
        cpu::mmio_write32(self.address, index);
        cpu::mmio_write32(self.address + 0x10, value);
    }

    /// Version and number of pins, if something answers here.
    pub fn version(&self) -> Option<(u64, u64)> {
        let version = u64::from(self.read(1));
        (version != u64::from(u32::MAX) && version & 0xff != 0)
            .then_some((version & 0xff, (version >> 16 & 0xff) + 1))
    }

    /// Sends an edge-triggered, active-high pin to a CPU.
    pub fn route(&self, pin: u32, vector: u8, cpu: u8) {
        self.write(0x11 + 2 * pin, u32::from(cpu) << 24);
        self.write(0x10 + 2 * pin, vector.into());
    }

    pub fn mask(&self, pin: u32) {
        self.write(0x10 + 2 * pin, MASKED);
    }
}
