//! What the monitor itself adds to an exit: the exit loop, the bus and the device's registers, with
//! a script in the place of KVM. A figure is the time of one exit.
//!
//! ```text
//! cargo bench --bench exits
//! ```

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bantam::bus::{Bus, Effect, Registers};
use bantam::devices::ioapic::{IoApic, IoApicPin, Message, MsiSink};
use bantam::devices::serial::{Serial, Transmit};
use bantam::hypervisor::{Exit, Seat, Vcpu};
use bantam::memory::layout;
use bantam::vcpu::{Buses, Control, End, ExitCounter, run};
use criterion::{Criterion, Throughput};

/// Transmitter holding register and line status register of a 16550.
const THR: u16 = layout::COM1_PORT;
const LSR: u16 = layout::COM1_PORT + 5;
/// A port where no device is.
const NOBODY: u16 = 0x0b80;
/// Size of an MMIO device's window.
const WINDOW: u64 = 0x1000;

/// The exit that a script repeats.
#[derive(Clone, Copy)]
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
fn window(index: u64) -> u64 {
    layout::VIRTIO_MMIO + index * WINDOW
}

/// The machine's serial port on its IOAPIC, as many further port devices as a machine has, and so
/// many MMIO devices.
fn buses(mmio_devices: u64) -> Result<Buses, bantam::bus::Error> {
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

/// The time that so many exits take.
fn time(kind: Kind, exits: u64, buses: &Buses, control: &Control, counter: &ExitCounter) -> Duration {
    let mut script = Script { kind, left: exits, data: [b'x', 0, 0, 0] };
    let start = Instant::now();
    let end = run(&mut Seat::take(&mut script), buses, control, counter);
    let taken = start.elapsed();
    assert_eq!((end, script.left), (End::TripleFault, 0), "the script runs to its end");
    taken
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let control = Control::new(1)?;
    control.resume();
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("exit");
    group.throughput(Throughput::Elements(1));
    let detailed = "serial THR write, counted by place";
    for (name, kind, mmio_devices) in [
        ("loop alone", Kind::Kick, 0),
        ("serial THR write", Kind::Out(THR), 0),
        (detailed, Kind::Out(THR), 0),
        ("serial LSR read", Kind::In(LSR), 0),
        ("unmapped port write", Kind::Out(NOBODY), 0),
        ("unmapped port read", Kind::In(NOBODY), 0),
        ("MMIO write, 1 device", Kind::Store(window(0)), 1),
        ("MMIO write, 10 devices", Kind::Store(window(7)), 10),
        ("MMIO write, 100 devices", Kind::Store(window(70)), 100),
        ("MMIO read, 100 devices", Kind::Load(window(70)), 100),
    ] {
        let buses = buses(mmio_devices)?;
        let counter = ExitCounter::new(name == detailed);
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|exits| time(kind, exits, &buses, &control, &counter));
        });
    }
    group.finish();
    criterion.final_summary();
    Ok(())
}
