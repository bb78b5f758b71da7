//! What Bantam itself adds to an exit: the exit loop, the bus and the device's registers, with a script in the place
//! of KVM. Criterion's bench `exits` and `bantam bench exits` measure the same cases.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::bus::{self, Bus, Effect, Registers};
use crate::devices::ioapic::{IoApic, IoApicPin, Message, MsiSink};
use crate::devices::serial::{Serial, Transmit};
use crate::hypervisor::{Exit, Seat, Vcpu};
use crate::memory::layout;
use crate::vcpu::{Buses, Control, End, ExitCounter, run};

/// Transmitter holding register and line status register of a 16550.
const THR: u16 = layout::COM1_PORT;
const LSR: u16 = layout::COM1_PORT + 5;
/// A port where no device is.
const NOBODY: u16 = 0x0b80;
/// Size of an MMIO device's window.
const WINDOW: u64 = 0x1000;

/// An exit to dispatch, and in what machine.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// In ids.
    pub name: &'static str,
    /// In words.
    pub title: &'static str,
    kind: Kind,
    mmio_devices: u64,
    /// By kind and place, as `--stats` has it.
    counted: bool,
}

impl Case {
    const fn new(name: &'static str, title: &'static str, kind: Kind) -> Self {
        Self { name, title, kind, mmio_devices: 0, counted: false }
    }

    const fn among(self, mmio_devices: u64) -> Self {
        Self { mmio_devices, ..self }
    }

    const fn counted(self) -> Self {
        Self { counted: true, ..self }
    }
}

/// All cases.
pub const CASES: [Case; 10] = [
    Case::new("loop", "loop alone", Kind::Kick),
    Case::new("serial", "serial THR write", Kind::Out(THR)),
    Case::new("serial-counted", "serial THR write, counted by place", Kind::Out(THR)).counted(),
    Case::new("serial-status", "serial LSR read", Kind::In(LSR)),
    Case::new("pio-out", "unmapped port write", Kind::Out(NOBODY)),
    Case::new("pio-in", "unmapped port read", Kind::In(NOBODY)),
    Case::new("mmio-write-1", "MMIO write, 1 device", Kind::Store(window(0))).among(1),
    Case::new("mmio-write-10", "MMIO write, 10 devices", Kind::Store(window(7))).among(10),
    Case::new("mmio-write-100", "MMIO write, 100 devices", Kind::Store(window(70))).among(100),
    Case::new("mmio-read-100", "MMIO read, 100 devices", Kind::Load(window(70))).among(100),
];

/// The exit that a script repeats.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Out(u16),
    In(u16),
    Store(u64),
    Load(u64),
    /// One without a device: the loop's own part.
    Kick,
}

/// A vCPU whose guest makes the same exit so many times and ends with a triple fault.
struct Script {
    kind: Kind,
    left: u64,
    data: [u8; 4],
}

impl Vcpu for Script {
    fn run(&mut self) -> Exit<'_> {
        let Some(left) = self.left.checked_sub(1) else { return Exit::TripleFault };
        self.left = left;
        match self.kind {
            Kind::Out(port) => Exit::PortWrite { port, width: 1, data: self.data.split_at(1).0 },
            Kind::In(port) => Exit::PortRead { port, width: 1, data: self.data.split_at_mut(1).0 },
            Kind::Store(address) => Exit::MmioWrite { address, data: &self.data },
            Kind::Load(address) => Exit::MmioRead { address, data: &mut self.data },
            Kind::Kick => Exit::Interrupted,
        }
    }
}

/// A terminal that takes everything, and an interrupt controller's way to nowhere.
struct Nowhere;

impl Transmit for Nowhere {
    fn send(&mut self, byte: u8) {
        std::hint::black_box(byte);
    }

    fn room(&self) -> bool {
        true
    }

    fn input_wanted(&self) {}
}

impl MsiSink for Nowhere {
    fn deliver(&self, message: Message) {
        std::hint::black_box(message);
    }

    fn set_level_routes(&self, _: &[(u8, Message)]) {}
}

/// A device of one register.
#[derive(Default)]
struct Register([u8; 4]);

impl Registers for Register {
    fn read(&mut self, _: u64, data: &mut [u8]) {
        data.iter_mut().zip(self.0).for_each(|(to, from)| *to = from);
    }

    fn write(&mut self, _: u64, data: &[u8]) -> Effect {
        self.0.iter_mut().zip(data).for_each(|(to, from)| *to = *from);
        Effect::None
    }
}

/// The window of MMIO device `index`.
const fn window(index: u64) -> u64 {
    layout::VIRTIO_MMIO + index * WINDOW
}

/// The machine's serial port on its IOAPIC, as many further port devices as a machine has, and so
/// many MMIO devices.
fn buses(mmio_devices: u64) -> Result<Buses, bus::Error> {
    let ioapic = Arc::new(Mutex::new(IoApic::new(Box::new(Nowhere))));
    let line = IoApicPin::new(Arc::clone(&ioapic), layout::COM1_IRQ);
    let mut ports = Bus::ports();
    ports.insert(THR.into(), 8, Arc::new(Mutex::new(Serial::new(Box::new(Nowhere), Arc::new(line)))))?;
    for port in [
        layout::I8042_PORT,
        layout::RTC_PORT,
        layout::DEBUG_EXIT_PORT,
        layout::ACPI_PORT,
        layout::BOOT_TIME_PORT,
    ] {
        ports.insert(port.into(), 1, Arc::new(Mutex::new(Register::default())))?;
    }
    let mut mmio = Bus::mmio();
    mmio.insert(layout::IOAPIC, layout::IOAPIC_LEN, ioapic)?;
    for index in 0..mmio_devices {
        mmio.insert(window(index), WINDOW, Arc::new(Mutex::new(Register::default())))?;
    }
    Ok(Buses { ports, mmio, end_of_interrupt: Box::new(|_| {}) })
}

/// A case that is ready to be timed.
pub struct Dispatch {
    kind: Kind,
    buses: Buses,
    control: Control,
    counter: ExitCounter,
}

impl Dispatch {
    /// Makes the case's machine.
    ///
    /// # Errors
    /// The host gives no event descriptors.
    pub fn new(case: &Case) -> anyhow::Result<Self> {
        let control = Control::new(1)?;
        control.resume();
        let counter = ExitCounter::new(case.counted);
        Ok(Self { kind: case.kind, buses: buses(case.mmio_devices)?, control, counter })
    }

    /// The time that so many exits take.
    ///
    /// # Errors
    /// The script has not run to its end.
    pub fn time(&self, exits: u64) -> anyhow::Result<Duration> {
        let mut script = Script { kind: self.kind, left: exits, data: [0; 4] };
        let start = Instant::now();
        let end = run(&mut Seat::take(&mut script), &self.buses, &self.control, &self.counter);
        let taken = start.elapsed();
        ensure!(end == End::TripleFault && script.left == 0, "the script has ended with {end:?}");
        Ok(taken)
    }
}
