//! A driver that does what a fuzzer's bytes say. Only built for the targets in `fuzz/`.

use vm_memory::{Bytes, GuestAddress};

use super::testing::{GuestDriver, INDIRECT, NEXT, PLACE, WRITE, reg};
use super::{Attach, Command, Device, feature};
use crate::config::Size;

/// The device of a configuration, in a machine of its own.
pub fn open(config: &impl Attach) -> Box<dyn Device> {
    config.open(&PLACE).unwrap_or_else(|error| panic!("{error}"))
}

/// The bytes that a fuzzer gives, as numbers; zeroes when there are no more.
struct Source<'a>(&'a [u8]);

impl<'a> Source<'a> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        let (now, later) = self.0.split_at(N.min(self.0.len()));
        bytes.iter_mut().zip(now).for_each(|(to, from)| *to = *from);
        self.0 = later;
        bytes
    }

    fn byte(&mut self) -> u8 {
        u8::from_le_bytes(self.take())
    }

    fn word(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn bytes(&mut self, most: usize) -> &'a [u8] {
        let len = usize::from(u16::from_le_bytes(self.take())) % (most + 1);
        let (now, later) = self.0.split_at(len.min(self.0.len()));
        self.0 = later;
        now
    }

    /// An address near what a driver uses, or anywhere.
    fn address(&mut self) -> u64 {
        let low = u64::from(self.word());
        match self.byte() % 4 {
            0 => 0x10_0000 + low % 0x8_0000,
            1 => 0x80_0000 + low % 0x1_0000,
            2 => low,
            _ => low << 32 | u64::from(self.word()),
        }
    }
}

/// Most steps: more of them find nothing that fewer do not.
const STEPS: usize = 64;

/// Drives a device as `data` says. After that, and a reset, its driver can set it up again.
pub fn drive(device: Box<dyn Device>, data: &[u8]) {
    let mut driver = GuestDriver::new(device);
    let mut source = Source(data);
    let offered = driver.offered();
    let queues = (0..).take_while(|queue| driver.queue_max(*queue) > 0).count();
    driver.set_up(offered);
    for _ in 0..STEPS {
        if source.0.is_empty() {
            break;
        }
        step(&mut driver, &mut source, offered, queues);
    }
    driver.settle();
    driver.reset();
    driver.set_up(feature::OF_TRANSPORT);
    driver.settle();
}

/// Drives a device as [`drive`] does, with nothing but register accesses and ring contents.
pub fn drive_registers(device: Box<dyn Device>, data: &[u8]) {
    let mut driver = GuestDriver::new(device);
    let mut source = Source(data);
    let words = [0, 1, 2, 3, 7, 11, 15, 64, 128, 0x10_0000, 0x11_8000, 0x12_0000, u32::MAX];
    for _ in 0..STEPS * 4 {
        if source.0.is_empty() {
            break;
        }
        let register = u64::from(source.byte() % 0x44) * 4;
        let choice = usize::from(source.byte());
        let value = words.get(choice).copied().unwrap_or_else(|| source.word());
        match choice % 8 {
            7 => driver.write_bytes(register | u64::from(source.byte()), source.bytes(9)),
            6 => {
                let _ = driver.memory.write_obj(value, GuestAddress(source.address()));
            }
            5 => driver.kick(0),
            4 => {
                let mut bytes = [0; 8];
                driver.read_bytes(register, &mut bytes);
            }
            _ => driver.write(register, value),
        }
    }
    driver.settle();
    driver.reset();
    driver.set_up(feature::OF_TRANSPORT);
    driver.request(0, &[], &[8]);
}

fn step(driver: &mut GuestDriver, source: &mut Source<'_>, offered: u64, queues: usize) {
    let action = source.byte() % 16;
    let queue = usize::from(source.byte()) % queues;
    let is_set_up = driver.is_set_up();
    match action {
        0 => {
            let register = u64::from(source.byte()) * 4;
            // A reset is below; the status register takes one of many values otherwise.
            driver.write(register, source.word());
        }
        1 => driver.write_bytes(reg::CONFIG + u64::from(source.byte()), source.bytes(8)),
        2 => {
            let features = offered & u64::from_le_bytes(source.take());
            driver.reset();
            driver.set_up(features);
        }
        3 => driver.reset(),
        4 => {
            driver.pause();
            driver.resume();
        }
        5 => {
            let commands = [
                Command::BalloonTarget(Size::new(u64::from(source.word()) << 12)),
                Command::BalloonHinting(source.byte() & 1 != 0),
                Command::DiskResized,
                Command::ConsoleResize { columns: source.byte().into(), rows: source.byte().into() },
            ];
            for command in commands {
                let _ = driver.handle.command(command);
            }
        }
        6 => driver.settle(),
        7 => {
            let address = source.address();
            let _ = driver.memory.write_slice(source.bytes(64), GuestAddress(address));
        }
        8 if is_set_up => {
            let index = source.byte().into();
            let (address, len) = (source.address(), source.word());
            let flags = u16::from(source.byte()) & (NEXT | WRITE | INDIRECT);
            driver.descriptor(GuestDriver::ring(queue).0, index, address, len, flags, source.byte().into());
            driver.make_available(queue, index);
            driver.kick(queue);
        }
        9 if is_set_up => {
            driver.publish(queue, u16::from_le_bytes(source.take()));
            driver.kick(queue);
        }
        // Chains as they should be, with whatever in them: these get furthest.
        10.. if is_set_up => {
            let outputs = [source.bytes(256), source.bytes(4096)];
            let inputs = [usize::from(source.byte()), usize::from(source.byte()) * 32];
            driver.offer(queue, &outputs, &inputs);
            driver.kick(queue);
            if action.is_multiple_of(2) {
                driver.settle();
                while driver.used(queue).is_some() {}
            }
        }
        _ => driver.kick(queue),
    }
}
