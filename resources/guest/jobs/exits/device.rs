//! The ways to and from a device: a notification, and the interrupt that comes of it. An entropy device will do.

use crate::apic::{self, vector};
use crate::clock::Stopwatch;
use crate::topology::Topology;
use crate::virtio::Result;
use crate::virtio::mmio::register;
use crate::virtio::rng::Entropy;
use crate::{Machine, cpu, trap};

/// Notifications before the first that counts: some VMMs take notifications on a shorter way when there are many.
const WARM_UP: u32 = 2000;
/// Microseconds in which that way may be made.
const SETTLE: u64 = 50_000;

/// Bytes of a request.
const ASKED: u64 = 8;
/// How long an interrupt may take, in seconds.
const LIMIT: u64 = 30;

/// Where a device is notified that has nothing to do: its queue is empty.
pub fn doorbell(machine: &mut Machine) -> Result<u64> {
    let window = Entropy::start(machine, super::super::device_index(machine.words))?.window();
    for _ in 0..WARM_UP {
        window.write(register::QUEUE_NOTIFY, 0);
    }
    let watch = Stopwatch::start();
    while watch.nanoseconds() < SETTLE * 1000 {
        cpu::pause();
    }
    Ok((window.address + register::QUEUE_NOTIFY).into())
}

/// A device that interrupts when it has answered.
pub struct Answers {
    entropy: Entropy,
    route: (apic::IoApic, u32),
}

impl Answers {
    pub fn start(machine: &mut Machine) -> Result<Self> {
        let mut entropy = Entropy::start(machine, super::super::device_index(machine.words))?;
        entropy.want_interrupts();
        apic::enable();
        let route = Topology::find(&machine.boot).pin(entropy.window().irq as u32);
        route.0.route(route.1, vector::DEVICE, apic::id());
        let mut answers = Answers { entropy, route };
        cpu::allow_interrupts(true);
        answers.round_trip()?;
        Ok(answers)
    }

    /// From before each request to after its interrupt's handler.
    pub fn time(&mut self, batch: &mut [u32]) -> Result<()> {
        batch.iter_mut().try_for_each(|sample| {
            *sample = self.round_trip()? as u32;
            Ok(())
        })
    }

    fn round_trip(&mut self) -> Result<u64> {
        let before = trap::device_count();
        let start = cpu::tsc();
        self.entropy.ask(ASKED);
        let watch = Stopwatch::start();
        while trap::device_count() == before {
            if watch.seconds() >= LIMIT {
                return Err("the device does not interrupt");
            }
            cpu::pause();
        }
        let ticks = cpu::tsc().wrapping_sub(start);
        self.entropy.window().acknowledge();
        self.entropy.answer(ASKED)?.ok_or("the device interrupts before it answers")?;
        Ok(ticks)
    }

    /// Resets the device.
    pub fn stop(&self) -> Result<()> {
        cpu::allow_interrupts(false);
        let (io_apic, pin) = &self.route;
        io_apic.mask(*pin);
        self.entropy.stop()
    }
}
