//! `virtio=hostile`: a driver that does what no driver should, by chance and the
//! same for each seed. A monitor must bear it; the guest survives it too.

mod ground;

use crate::console::{println, say};
use crate::random::Random;
use crate::virtio::mmio::{Window, register, status};
use crate::virtio::{Result, device_id, device_name, feature};
use crate::words::Words;
use crate::{Machine, cpu};
use ground::Ground;

const DEFAULT_ROUNDS: u64 = 100;
const MAX_DEVICES: usize = 64;

/// Registers that only `enable` writes: a ready queue always has addresses that
/// harm nobody. Of each range, the first byte and the first one behind.
const SPARED: [(u32, u32); 2] =
    [(register::QUEUE_READY, register::QUEUE_READY + 4), (register::QUEUE_DESC, register::QUEUE_DEVICE + 8)];

/// Sizes of queues, good and bad.
const SIZES: [u32; 12] = [1, 2, 4, 8, 16, 64, 128, 256, 3, 0, 32768, 65535];

struct Attack {
    window: Window,
    device: u32,
    ground: Ground,
    random: Random,
}

// Its stack frame is no other job's.
#[inline(never)]
pub fn run(machine: &mut Machine, what: &'static str) {
    if what != "hostile" {
        return super::complain("virtio= knows hostile", what);
    }
    let words = machine.words;
    let rounds = words.number("rounds").unwrap_or(DEFAULT_ROUNDS);
    match attack_all(machine, words, rounds) {
        Ok(()) => println!("hostile rounds={rounds} ok"),
        Err(error) => println!("hostile error: {error}"),
    }
}

fn attack_all(machine: &mut Machine, words: Words, rounds: u64) -> Result<()> {
    let ground = Ground::take(&mut machine.arena)?;
    let only = words.number("dev");
    let mut windows = [None; MAX_DEVICES];
    let mut count = 0;
    for (place, (_, window)) in windows
        .iter_mut()
        .zip((0..).zip(Window::present(machine)).filter(|(index, _)| only.is_none_or(|only| only == *index)))
    {
        *place = Some(window);
        count += 1;
    }
    if count == 0 {
        return Err("there is no such device");
    }
    let mut random = Random::new(words.number("seed").unwrap_or(1));
    for round in 0..rounds {
        for window in windows.iter().copied().flatten() {
            let (_, device) = window.identify().ok_or("a device has gone")?;
            let mut attack = Attack { window, device, ground, random: Random::new(random.next()) };
            if let Err(error) = attack.round() {
                println!("hostile device={} round={round} error: {error}", device_name(device));
                return Err("a device does not recover");
            }
        }
        if round % 100 == 99 {
            say!("hostile round {}", round + 1);
        }
    }
    Ok(())
}

impl Attack {
    /// Some sense, then much nonsense; afterwards the device must be as new.
    fn round(&mut self) -> Result<()> {
        self.ground.fill(&mut self.random);
        if self.random.below(4) > 0 {
            self.begin()?;
        }
        for _ in 0..self.random.below(48) {
            self.step();
        }
        self.window.reset()?;
        self.window.negotiate(u64::MAX & !feature::ACCESS_PLATFORM)?;
        self.window.reset()
    }

    /// As a driver does, though with features and rings of chance.
    fn begin(&mut self) -> Result<()> {
        let taken = match self.random.below(3) {
            0 => 0,
            1 => feature::INDIRECT_DESC | feature::EVENT_IDX,
            _ => self.random.next(),
        };
        // A device may refuse a strange choice.
        let _ = self.window.negotiate(taken);
        if self.random.below(8) > 0 {
            self.ground.restart();
        }
        for queue in 0..3 {
            self.enable(queue);
        }
        if self.random.below(4) > 0 {
            let state = self.window.read(register::STATUS) | status::DRIVER_OK;
            self.window.write(register::STATUS, state);
        }
        Ok(())
    }

    fn step(&mut self) {
        match self.random.below(20) {
            0..4 => self.poke(),
            4 | 5 => self.peek(),
            6 => self.window.write(register::STATUS, self.random.next() as u32 & 0xff),
            7 => self.window.write(register::STATUS, 0),
            8 => {
                let queue = self.queue();
                self.enable(queue);
            }
            9 => {
                let queue = self.queue();
                self.window.write(register::QUEUE_SEL, queue);
                self.window.write(register::QUEUE_READY, 0);
            }
            10 => self.features(),
            11 => self.ground.fill(&mut self.random),
            12 => {
                let _ = self.begin();
            }
            _ => {
                self.ground.advance(&mut self.random);
                let queue = self.queue();
                self.window.write(register::QUEUE_NOTIFY, queue);
            }
        }
    }

    fn queue(&mut self) -> u32 {
        if self.random.below(16) == 0 { self.random.next() as u32 } else { self.random.below(3) as u32 }
    }

    /// Addresses first, then ready: in this order always. A balloon gets no queue:
    /// it takes what it reads for numbers of pages to drop, ours among them.
    fn enable(&mut self, queue: u32) {
        if self.device == device_id::BALLOON {
            return;
        }
        let offered = self.window.queue_size(queue);
        let size = match self.random.below(4) {
            0 => SIZES[self.random.below(SIZES.len() as u64) as usize],
            1 => offered.min(1 << self.random.below(9)),
            _ => offered,
        };
        let rings = self.ground.rings(&mut self.random);
        self.window.enable_queue(queue, size as u16, rings);
    }

    fn features(&mut self) {
        self.window.write(register::DEVICE_FEATURES_SEL, self.random.below(4) as u32);
        self.window.write(register::DRIVER_FEATURES_SEL, self.random.below(4) as u32);
        self.window.write(register::DRIVER_FEATURES, self.random.next() as u32);
    }

    /// Any register, the configuration space included, in any width.
    fn place(&mut self) -> (u32, u32) {
        let width = 1 << self.random.below(4);
        let offset = self.random.below(u64::from(self.window.size.min(0x200) - 8)) as u32;
        let offset = if self.random.below(4) > 0 { offset & !(width - 1) } else { offset };
        (offset, width)
    }

    fn poke(&mut self) {
        let (offset, width) = self.place();
        let spared = |(from, to): &(u32, u32)| offset < *to && *from < offset + width;
        if !SPARED.iter().any(spared) {
            cpu::mmio_write(self.window.address + offset, width, self.random.next());
        }
    }

    fn peek(&mut self) {
        let (offset, width) = self.place();
        cpu::mmio_read(self.window.address + offset, width);
    }
}
