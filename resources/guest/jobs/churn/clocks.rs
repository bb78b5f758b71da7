//! Clocks: they never go back, and between two looks no more time passes than is told.

use core::sync::atomic::Ordering::Relaxed;

use super::worker::{Record, Wrong};
use crate::clock::{Frequency, KvmClock};
use crate::cpu;

/// Longer gaps between two looks are counted as jumps.
const BOUND_NS: u64 = 1_000_000_000;
/// kvm-clock may go back by so much where KVM sets it anew from a clock that runs at a slightly other rate, as
/// KVM does without a stable TSC.
const BACK_NS: u64 = 1000;

pub struct Clocks {
    frequency: Frequency,
    kvm: Option<KvmClock>,
    ticks: u64,
    nanoseconds: u64,
}

impl Clocks {
    pub fn start(kvm: Option<KvmClock>) -> Self {
        let nanoseconds = kvm.as_ref().and_then(KvmClock::nanoseconds).unwrap_or(0);
        let frequency = Frequency::shared();
        Clocks { frequency, kvm, ticks: cpu::tsc(), nanoseconds }
    }

    pub fn look(&mut self, record: &Record) {
        let ticks = cpu::tsc();
        let elapsed = match ticks.checked_sub(self.ticks) {
            Some(elapsed) => self.frequency.nanoseconds(elapsed),
            None => {
                record.back.fetch_add(1, Relaxed);
                record.complain(Wrong::Clock, 0, ticks, self.ticks);
                0
            }
        };
        self.ticks = ticks;
        record.gap.fetch_max(elapsed, Relaxed);
        if elapsed > BOUND_NS {
            record.jumps.fetch_add(1, Relaxed);
        }
        let Some(now) = self.kvm.as_ref().and_then(KvmClock::nanoseconds) else { return };
        let passed = match now.checked_sub(self.nanoseconds) {
            Some(passed) => passed,
            None => {
                record.back.fetch_add(1, Relaxed);
                if self.nanoseconds - now > BACK_NS {
                    record.complain(Wrong::Clock, 1, now, self.nanoseconds);
                }
                0
            }
        };
        self.nanoseconds = now;
        record.skew.fetch_max(passed.abs_diff(elapsed), Relaxed);
    }
}
