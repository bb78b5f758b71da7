//! Registers at CPL 0 that nothing here uses: each CPU's hold what it has put there.

use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::Relaxed;

use super::worker::{Record, Wrong};
use crate::cpu::{self, Ring0};
use crate::random::mixed;
use crate::trap;

/// A register: how to read and write it, its number for that, and the bits that may be set as one likes.
struct Special {
    read: Ring0,
    write: Ring0,
    number: u64,
    free: u64,
}

const fn msr(number: u64, free: u64) -> Special {
    Special { read: cpu::ring0_rdmsr, write: cpu::ring0_wrmsr, number, free }
}

/// An address that is canonical below the middle.
const ADDRESS: u64 = 0x7fff_ffff_f000;

/// Model-specific registers (Intel SDM vol. 4, table 2-2), and debug registers without a breakpoint on.
const ALL: [Special; 11] = [
    // FS, GS and the other GS base
    msr(0xc000_0100, ADDRESS),
    msr(0xc000_0101, ADDRESS),
    msr(0xc000_0102, ADDRESS),
    // LSTAR, CSTAR, SFMASK, SYSENTER_ESP, SYSENTER_EIP
    msr(0xc000_0082, ADDRESS),
    msr(0xc000_0083, ADDRESS),
    msr(0xc000_0084, 0xf_ffff),
    msr(0x175, ADDRESS),
    msr(0x176, ADDRESS),
    // TSC_AUX
    msr(0xc000_0103, 0xffff),
    Special { read: cpu::ring0_read_dr0, write: cpu::ring0_write_dr0, number: 0, free: ADDRESS },
    Special { read: cpu::ring0_read_dr3, write: cpu::ring0_write_dr3, number: 3, free: ADDRESS },
];

/// A bit for each of them that keeps what is put there.
static KEPT: AtomicU32 = AtomicU32::new(0);

/// Finds out which registers there are.
pub fn find() {
    extern "sysv64" fn put(index: u64) -> u64 {
        let special = &ALL[index as usize];
        // SAFETY: nothing here uses the register.
        unsafe { (cpu::ring0(special.write, special.number, value(index, u8::MAX), 0), special.get()).1 }
    }
    let keeps = |index: &u64| trap::guarded(put, *index) == Some(value(*index, u8::MAX));
    let kept = (0..ALL.len() as u64).filter(keeps).fold(0, |bits, index| bits | 1 << index);
    KEPT.store(kept, Relaxed);
}

impl Special {
    fn get(&self) -> u64 {
        // SAFETY: reading has no effect.
        unsafe { cpu::ring0(self.read, self.number, 0, 0) }
    }
}

/// What a CPU puts into a register.
fn value(index: u64, id: u8) -> u64 {
    mixed(mixed(index + 1) ^ u64::from(id)) & ALL[index as usize].free
}

/// The registers that are looked at.
pub fn kept() -> impl Iterator<Item = u64> + Clone {
    let bits = KEPT.load(Relaxed);
    (0..ALL.len() as u64).filter(move |index| bits & 1 << index != 0)
}

/// Puts this CPU's values there.
pub fn set(id: u8) {
    for index in kept() {
        let special = &ALL[index as usize];
        // SAFETY: the register is there (`find`), and nothing here uses it.
        unsafe { cpu::ring0(special.write, special.number, value(index, id), 0) };
    }
}

/// Looks at one of them a round, since each look is dear where CPL 0 is interpreted.
pub fn check(id: u8, round: u64, record: &Record) {
    let count = kept().count().max(1) as u64;
    if let Some(index) = kept().nth((round % count) as usize) {
        let (found, expected) = (ALL[index as usize].get(), value(index, id));
        if found != expected {
            record.complain(Wrong::Special, index, found, expected);
        }
    }
}
