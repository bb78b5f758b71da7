//! `churn`: works without an end on all that a snapshot has to keep, and looks without an end whether it is
//! still right. It may be stopped at any instruction and go on in another process at any later time.

mod clocks;
mod disk;
mod special;
mod worker;

use core::iter;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::identity::Identity;
use crate::arena::PAGE;
use crate::clock::{KvmClock, Stopwatch};
use crate::console::{self, print, println};
use crate::events::{Events, Keyboard, Typed};
use crate::topology::Topology;
use crate::virtio::Result;
use crate::virtio::dma::Dma;
use crate::words::Words;
use crate::{Machine, apic, cpu, trap};
use disk::Disk;
use worker::{RECORDS, Record, SHARED, STOP, Worker, work};

/// MiB of memory, if no word says otherwise.
const DEFAULT_TOUCH: u64 = 8;
/// Rounds from one line to the next.
const DEFAULT_EVERY: u64 = 16;
/// How long the other CPUs may take for their last round, in seconds.
const LIMIT: u64 = 30;

// Its stack frame is no other job's.
#[inline(never)]
pub fn run(machine: &mut Machine) {
    let mark = machine.arena.mark();
    match churn(machine) {
        // The devices were reset, and the other CPUs stand still: their memory is free.
        Ok(()) => machine.arena.rewind(mark),
        Err(error) => println!("churn error: {error}"),
    }
}

fn churn(machine: &mut Machine) -> Result<()> {
    let words = machine.words;
    let number = |key, default| Words::number(words, key).unwrap_or(default);
    let mut identity = Identity::find(machine)?;
    let mut disk = Disk::find(machine)?;
    let topology = Topology::find(&machine.boot);
    let team = Team { ids: topology.cpus() };
    let clock = if number("kvmclock", 1) == 0 { None } else { KvmClock::enable() };
    team.share_out(machine, number("touch", DEFAULT_TOUCH), clock.is_some())?;
    let mut limits = Limits {
        count: number("count", u64::MAX),
        seconds: number("secs", u64::MAX),
        every: number("every", DEFAULT_EVERY).max(1),
        spoil: words.value("spoil"),
        life: Stopwatch::start(),
        keyboard: Keyboard::default(),
    };
    special::find();
    let events = Events::start(machine, console::IER_DATA_READY | console::IER_TRANSMITTER_EMPTY);
    super::smp::employ(machine, &topology, work);
    let at_work = team.members().filter(|&(id, _)| id != apic::id() && super::smp::is_online(id));
    at_work.for_each(|(_, record)| record.is_working.store(true, Release));

    let mut worker = Worker::new(apic::id(), clock);
    worker.begin();
    println!("churn ready cpus={} special={}", team.members().count(), special::kept().count());
    let result = rounds(&mut worker, &team, &mut identity, disk.as_mut(), &mut limits);
    STOP.store(true, Release);
    team.wait()?;
    worker.end();
    events.stop();
    result?;
    identity.stop()?;
    if let Some(disk) = &mut disk {
        worker.record.wrong.fetch_add(disk.stop()?, Relaxed);
    }
    team.print(worker.record, disk.as_ref(), "end");
    Ok(())
}

/// When it ends, and when it says something.
struct Limits {
    count: u64,
    seconds: u64,
    every: u64,
    spoil: Option<&'static str>,
    life: Stopwatch,
    keyboard: Keyboard,
}

fn rounds(
    worker: &mut Worker,
    team: &Team<'_>,
    identity: &mut Identity,
    mut disk: Option<&mut Disk>,
    limits: &mut Limits,
) -> Result<()> {
    let own = worker.record;
    loop {
        worker.round();
        if let Some(disk) = &mut disk {
            own.wrong.fetch_add(disk.step()?, Relaxed);
        }
        let typed = iter::from_fn(|| limits.keyboard.take()).find(|&typed| typed != Typed::Byte);
        if identity.has_changed() || typed == Some(Typed::Line) {
            identity.print()?;
        }
        let rounds = own.rounds.load(Relaxed);
        if typed == Some(Typed::Quit) || rounds >= limits.count || limits.life.seconds() >= limits.seconds {
            return Ok(());
        }
        if rounds.is_multiple_of(limits.every) {
            team.print(own, disk.as_deref(), "round");
            limits.spoil.take().iter().for_each(|what| worker.spoil(what));
        }
    }
}

/// The CPUs that take part: those with a record.
struct Team<'a> {
    ids: &'a [u8],
}

impl Team<'_> {
    fn members(&self) -> impl Iterator<Item = (u8, &'static Record)> + Clone {
        self.ids.iter().filter_map(|&id| Some((id, RECORDS.get(usize::from(id))?)))
    }

    /// Gives each CPU its part of the memory, the table of its pages' generations, a page for its clock,
    /// and another CPU to send interrupts to.
    fn share_out(&self, machine: &mut Machine, mebibytes: u64, with_clock: bool) -> Result<()> {
        let count = self.members().count() as u64;
        let pages = (mebibytes.saturating_mul(1 << 20) / PAGE / count.max(1)).max(1);
        let next = self.members().cycle().skip(1);
        STOP.store(false, Release);
        for ((_, record), (peer, _)) in self.members().zip(next) {
            record.clear();
            let bytes = pages.checked_mul(PAGE).ok_or("too little memory")?;
            record.memory.store(Dma::zeroed(&mut machine.arena, bytes)?.address(), Relaxed);
            record.generations.store(Dma::zeroed(&mut machine.arena, pages * 8)?.address(), Relaxed);
            let clock = if with_clock { Dma::zeroed(&mut machine.arena, PAGE)?.address() } else { 0 };
            record.clock.store(clock, Relaxed);
            record.peer.store(peer.into(), Relaxed);
            record.pages.store(pages, Release);
        }
        Ok(())
    }

    /// Waits until the other CPUs have done their last round.
    fn wait(&self) -> Result<()> {
        let own = apic::id();
        let watch = Stopwatch::start();
        let working = |&(id, record): &(u8, &Record)| id != own && record.is_working.load(Acquire);
        while self.members().any(|member| working(&member)) {
            if watch.seconds() >= LIMIT {
                return Err("a CPU does not end its round");
            }
            cpu::pause();
        }
        Ok(())
    }

    fn print(&self, own: &Record, disk: Option<&Disk>, what: &str) {
        self.members().for_each(|(id, record)| record.print_first_wrong(id));
        let sum = |field: fn(&Record) -> &AtomicU64| -> u64 {
            self.members().map(|(_, record)| field(record).load(Relaxed)).sum()
        };
        // Those who count are always ahead of the count, and it is ahead of those who have counted.
        let wrong = sum(|record| &record.wrong) + u64::from(!self.counts_agree());
        let least = |field: fn(u8, &Record) -> u64| {
            self.members().map(|(id, record)| field(id, record)).min().unwrap_or(0)
        };
        print!("churn {what}={} wrong={wrong}", own.rounds.load(Relaxed));
        print!(" slowest={}", least(|_, record| record.rounds.load(Relaxed)));
        print!(" ticks={} peers={}", least(|id, _| trap::tick_count(id)), least(|id, _| trap::peer_count(id)));
        print!(" serial={}", trap::serial_count());
        let most = |field: fn(&Record) -> &AtomicU64| -> u64 {
            self.members().map(|(_, record)| field(record).swap(0, Relaxed)).max().unwrap_or(0)
        };
        print!(" gap_ns={} skew_ns={}", most(|record| &record.gap), most(|record| &record.skew));
        print!(" jumps={} back={}", sum(|record| &record.jumps), sum(|record| &record.back));
        match disk {
            Some(disk) => println!(" written={} verified={}", disk.written, disk.verified),
            None => println!(),
        }
    }

    fn counts_agree(&self) -> bool {
        let sum = |field: fn(&Record) -> u64| self.members().map(|(_, record)| field(record)).sum::<u64>();
        let after = sum(|record| record.after.load(Acquire));
        let shared = SHARED.load(Acquire);
        let before = sum(|record| record.before.load(Acquire));
        after <= shared && shared <= before
    }
}
