//! What the guest can do: one word of the command line, one job.

mod balloon;
mod blk;
mod churn;
mod echo;
mod exits;
mod fault;
mod hello;
mod hostile;
mod identity;
mod interrupts;
mod mips;
mod net;
mod pages;
mod poke;
mod rng;
mod smp;
mod stress;
mod time;
mod touch;
mod vsock;

use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::Machine;
use crate::console::{self, println};
use crate::cpu::{self, out8};
use crate::words::Words;

/// The port and the value that a VMM's start-up measurement waits for; the
/// console's first byte is the same. entry.s has them too.
const BOOT_TIME_PORT: u16 = 0x0b0b;
const BOOT_TIME_BYTE: u8 = b'B';

unsafe extern "C" {
    static boot_announced: AtomicBool;
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Job {
    Hello,
    Boot,
    Exits(&'static str),
    Memory(&'static str),
    Blk(&'static str),
    Net(&'static str),
    Rng(&'static str),
    Balloon,
    Churn,
    Identity,
    Pages(pages::What, &'static str),
    Virtio(&'static str),
    Vsock(&'static str),
    Smp,
    Echo,
    Fault(&'static str),
    Spin,
    SpinRing0,
    Halt,
    Flood,
    Poke,
    PokeAll,
    Mips,
    Interrupts,
    Time,
}

impl Job {
    /// The job that a word names; most words on a command line name none.
    #[inline(never)]
    pub fn parse(word: &'static str) -> Option<Self> {
        Some(match word {
            "hello" => Job::Hello,
            "boot" => Job::Boot,
            "balloon" => Job::Balloon,
            "churn" => Job::Churn,
            "identity" => Job::Identity,
            "smp" => Job::Smp,
            "echo" => Job::Echo,
            "spin" => Job::Spin,
            "spin=cpl0" => Job::SpinRing0,
            "halt" => Job::Halt,
            "flood" => Job::Flood,
            "poke" => Job::Poke,
            "poke=all" => Job::PokeAll,
            "mips" => Job::Mips,
            "interrupts" => Job::Interrupts,
            "time" => Job::Time,
            _ => match crate::words::split_at_byte(word, b'=')? {
                ("exits", count) => Job::Exits(count),
                ("memory", what) => Job::Memory(what),
                ("blk", what) => Job::Blk(what),
                ("net", what) => Job::Net(what),
                ("rng", count) => Job::Rng(count),
                ("working-set", size) => Job::Pages(pages::What::Read, size),
                ("dirty", size) => Job::Pages(pages::What::Write, size),
                ("virtio", what) => Job::Virtio(what),
                ("vsock", what) => Job::Vsock(what),
                ("fault", kind) => Job::Fault(kind),
                _ => return None,
            },
        })
    }

    pub fn run(self, machine: &mut Machine) {
        match self {
            Job::Hello => hello::run(machine),
            Job::Boot => announce(),
            Job::Exits(count) => exits::run(machine, count),
            Job::Memory(what) => touch::run(machine, what),
            Job::Blk(what) => blk::run(machine, what),
            Job::Net(what) => net::run(machine, what),
            Job::Rng(count) => rng::run(machine, count),
            Job::Balloon => balloon::run(machine),
            Job::Churn => churn::run(machine),
            Job::Identity => identity::run(machine),
            Job::Pages(what, size) => pages::run(machine, what, size),
            Job::Virtio(what) => hostile::run(machine, what),
            Job::Vsock(what) => vsock::run(machine, what),
            Job::Smp => smp::run(machine),
            Job::Echo => echo::run(),
            Job::Fault(kind) => fault::run(kind),
            Job::Spin => stress::spin(),
            Job::SpinRing0 => stress::spin_ring0(),
            Job::Halt => cpu::stop(),
            Job::Flood => stress::flood(),
            Job::Poke => poke::run(machine, poke::SAMPLE),
            Job::PokeAll => poke::run(machine, 1),
            Job::Mips => mips::run(),
            Job::Interrupts => interrupts::run(machine),
            Job::Time => time::run(),
        }
    }
}

/// The guest runs: the boot-time port, then one byte on the console. entry.s has
/// done it if the command line starts with `boot`.
fn announce() {
    // SAFETY: a byte of entry.s.
    if !unsafe { boot_announced.swap(true, Ordering::Relaxed) } {
        out8(BOOT_TIME_PORT, BOOT_TIME_BYTE);
        out8(console::PORT, BOOT_TIME_BYTE);
    }
}

/// A job's word that makes no sense.
fn complain(what: &str, word: &str) {
    println!("guest: {what}: `{word}`");
}

/// The `dev=` word: which of the devices of a kind.
fn device_index(words: Words) -> usize {
    words.number("dev").unwrap_or(0) as usize
}

/// So many a second.
fn rate(count: u64, nanoseconds: u64) -> u64 {
    (u128::from(count) * 1_000_000_000 / u128::from(nanoseconds.max(1))) as u64
}

/// MiB a second, with a decimal.
struct Mibs {
    bytes: u64,
    nanoseconds: u64,
}

impl fmt::Display for Mibs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenths = rate(self.bytes.saturating_mul(10), self.nanoseconds) >> 20;
        write!(f, "{}.{}", tenths / 10, tenths % 10)
    }
}
