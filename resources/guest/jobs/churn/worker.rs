//! What each CPU does in a round.

use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicBool, AtomicU64};

use super::super::blk::pattern::Pattern;
use super::clocks::Clocks;
use super::special;
use crate::arena::PAGE;
use crate::clock::KvmClock;
use crate::console::println;
use crate::random::{Random, mixed};
use crate::virtio::blk::SECTOR;
use crate::virtio::dma::Dma;
use crate::{apic, cpu, trap};

/// CPUs with a higher APIC ID take no part.
const MAX_CPUS: usize = 64;
/// Ticks of the local APIC's clock from one timer interrupt to the next: 200 a second with KVM's 1 GHz.
const TICK: u32 = 5_000_000;
/// How often the registers are counted up in a round.
const COUNTS: u64 = 20_000;
/// A round writes one page of so many.
const REWRITTEN: u64 = 4;

/// What a CPU is given, and what it tells.
pub struct Record {
    /// Its pages, their number, and the table of what generation each holds.
    pub memory: AtomicU64,
    pub pages: AtomicU64,
    pub generations: AtomicU64,
    /// A page for its kvm-clock, if there is one.
    pub clock: AtomicU64,
    /// Who gets interrupts from it.
    pub peer: AtomicU64,

    /// The first CPU says that another has begun, and that one that it has ended.
    pub is_working: AtomicBool,
    /// It takes interrupts.
    is_ready: AtomicBool,
    pub rounds: AtomicU64,
    pub wrong: AtomicU64,
    /// Of the first that was wrong: a number for what, where, found, expected.
    first: [AtomicU64; 4],
    /// The longest time between two looks at the clock, and the largest change of one clock against the other,
    /// since they were last told.
    pub gap: AtomicU64,
    pub skew: AtomicU64,
    /// Gaps that were longer than the bound, and times that a clock went back.
    pub jumps: AtomicU64,
    pub back: AtomicU64,
    /// What it has added to `SHARED`, told before it does and after.
    pub before: AtomicU64,
    pub after: AtomicU64,
}

/// What can be wrong.
#[derive(Clone, Copy)]
pub enum Wrong {
    Memory = 1,
    Checksum,
    Registers,
    Special,
    Clock,
}

impl Record {
    const fn new() -> Self {
        const ZERO: AtomicU64 = AtomicU64::new(0);
        Record {
            memory: ZERO,
            pages: ZERO,
            generations: ZERO,
            clock: ZERO,
            peer: ZERO,
            is_working: AtomicBool::new(false),
            is_ready: AtomicBool::new(false),
            rounds: ZERO,
            wrong: ZERO,
            first: [ZERO; 4],
            gap: ZERO,
            skew: ZERO,
            jumps: ZERO,
            back: ZERO,
            before: ZERO,
            after: ZERO,
        }
    }

    /// For the next job; what was added to `SHARED` stays.
    pub fn clear(&self) {
        self.is_ready.store(false, Relaxed);
        for field in [&self.rounds, &self.wrong, &self.gap, &self.skew, &self.jumps, &self.back, &self.first[0]] {
            field.store(0, Relaxed);
        }
    }

    pub fn complain(&self, what: Wrong, at: u64, found: u64, expected: u64) {
        if self.wrong.fetch_add(1, Relaxed) == 0 {
            for (place, value) in self.first.iter().zip([0, at, found, expected]).skip(1) {
                place.store(value, Relaxed);
            }
            self.first[0].store(what as u64, Release);
        }
    }

    /// Says what was wrong first, once.
    pub fn print_first_wrong(&self, id: u8) {
        let name = match self.first[0].swap(0, AcqRel) {
            0 => return,
            1 => "memory",
            2 => "checksum",
            3 => "registers",
            4 => "special",
            _ => "clock",
        };
        let [at, found, expected] = [1, 2, 3].map(|index: usize| self.first[index].load(Relaxed));
        println!("churn wrong what={name} cpu={id} at={at:#x} found={found:#x} expected={expected:#x}");
    }
}

pub static RECORDS: [Record; MAX_CPUS] = [const { Record::new() }; MAX_CPUS];
pub static STOP: AtomicBool = AtomicBool::new(false);
/// All CPUs count here.
pub static SHARED: AtomicU64 = AtomicU64::new(0);

/// What a CPU other than the first does until it is told to stop.
pub extern "sysv64" fn work(id: u8) {
    let Some(record) = RECORDS.get(usize::from(id)) else { return };
    if record.pages.load(Acquire) == 0 {
        return;
    }
    let page = record.clock.load(Relaxed);
    apic::enable();
    let mut worker = Worker::new(id, (page != 0).then(|| KvmClock::enable_in(page)));
    worker.begin();
    while !STOP.load(Acquire) {
        worker.round();
    }
    worker.end();
    record.is_working.store(false, Release);
}

pub struct Worker {
    id: u8,
    pub record: &'static Record,
    memory: Dma,
    generations: Dma,
    pages: u64,
    peer: u8,
    /// Interrupts that were sent to the peer, and that it had before.
    sent: u64,
    had: u64,
    /// Of the pages' numbers and generations, kept as they change.
    checksum: u64,
    random: Random,
    clocks: Clocks,
}

impl Worker {
    pub fn new(id: u8, clock: Option<KvmClock>) -> Self {
        let record = &RECORDS[usize::from(id)];
        let (pages, peer) = (record.pages.load(Relaxed), record.peer.load(Relaxed) as u8);
        Worker {
            id,
            record,
            memory: Dma::known(record.memory.load(Relaxed), pages * PAGE),
            generations: Dma::known(record.generations.load(Relaxed), pages * 8),
            pages,
            peer,
            sent: 0,
            had: trap::peer_count(peer),
            checksum: (0..pages).fold(0, |sum: u64, page| sum.wrapping_add(summand(page, 0))),
            random: Random::new(id.into()),
            clocks: Clocks::start(clock),
        }
    }

    /// Writes all pages, and lets interrupts in from now on.
    pub fn begin(&mut self) {
        for page in 0..self.pages {
            self.write(page, 1);
        }
        special::set(self.id);
        apic::arm_periodic(TICK);
        cpu::allow_interrupts(true);
        self.record.is_ready.store(true, Release);
    }

    pub fn end(&mut self) {
        cpu::allow_interrupts(false);
        apic::disarm_timer();
    }

    pub fn round(&mut self) {
        let round = self.record.rounds.load(Relaxed);
        self.record.before.fetch_add(1, AcqRel);
        SHARED.fetch_add(1, AcqRel);
        self.record.after.fetch_add(1, AcqRel);
        // One under way at most, as a second one would be lost, and one to a CPU that takes none.
        let is_ready = RECORDS[usize::from(self.peer)].is_ready.load(Acquire);
        if is_ready && trap::peer_count(self.peer).wrapping_sub(self.had) >= self.sent {
            self.sent += 1;
            apic::send_peer(self.peer);
        }
        for _ in 0..self.pages.div_ceil(REWRITTEN) {
            let page = self.random.below(self.pages);
            self.write(page, round + 2);
        }
        let seed = self.random.next();
        // SAFETY: it keeps to the ABI and touches nothing but its stack.
        let left = unsafe { cpu::hold_registers(seed, COUNTS, 0) };
        if left != 0 {
            self.record.complain(Wrong::Registers, round, left, 0);
        }
        special::check(self.id, round, self.record);
        self.verify();
        self.record.rounds.store(round + 1, Release);
    }

    /// Makes something wrong, to see that it is found.
    pub fn spoil(&mut self, what: &str) {
        match what {
            "memory" => self.memory.write64(self.pages / 2 * PAGE + 1024, 0),
            "checksum" => self.checksum ^= 1 << 40,
            "special" => special::set(self.id ^ 1),
            _ => {}
        }
    }

    fn write(&mut self, page: u64, generation: u64) {
        self.checksum = self
            .checksum
            .wrapping_sub(summand(page, self.generations.read64(page * 8)))
            .wrapping_add(summand(page, generation));
        self.generations.write64(page * 8, generation);
        self.pattern(generation).fill(self.page(page), page * (PAGE / SECTOR), PAGE as u32);
    }

    fn verify(&mut self) {
        let mut sum = 0_u64;
        for page in 0..self.pages {
            let generation = self.generations.read64(page * 8);
            sum = sum.wrapping_add(summand(page, generation));
            let first = page * (PAGE / SECTOR);
            let pattern = self.pattern(generation);
            if let Some(wrong) = pattern.wrong(self.page(page), first, PAGE as u32).next() {
                let at = self.memory.address() + wrong.sector * SECTOR + wrong.offset;
                self.record.complain(Wrong::Memory, at, wrong.found, wrong.expected);
                // Told once.
                pattern.fill(self.page(page), first, PAGE as u32);
            }
            self.clocks.look(self.record);
        }
        if sum != self.checksum {
            self.record.complain(Wrong::Checksum, self.pages, sum, self.checksum);
            self.checksum = sum;
        }
    }

    fn pattern(&self, generation: u64) -> Pattern {
        Pattern { seed: self.id.into(), generation }
    }

    fn page(&self, page: u64) -> Dma {
        self.memory.part(page * PAGE, PAGE)
    }
}

fn summand(page: u64, generation: u64) -> u64 {
    mixed(mixed(page + 1) ^ generation)
}
