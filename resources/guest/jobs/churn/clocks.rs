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

/// Both clocks are compared where they were read with no more time between.
const TOGETHER_NS: u64 = 20_000;

pub struct Clocks {
    frequency: Frequency,
    kvm: Option<KvmClock>,
    ticks: u64,
    nanoseconds: u64,
    /// Both clocks when they were compared last.
    compared: Option<[u64; 2]>,
}

impl Clocks {
    pub fn start(kvm: Option<KvmClock>) -> Self {
        let nanoseconds = kvm.as_ref().and_then(KvmClock::nanoseconds).unwrap_or(0);
        Clocks { frequency: Frequency::shared(), kvm, ticks: cpu::tsc(), nanoseconds, compared: None }
    }

    pub fn look(&mut self, record: &Record) {
        let elapsed = self.look_at_tsc(record);
        record.gap.fetch_max(elapsed, Relaxed);
        if elapsed > BOUND_NS {
            record.jumps.fetch_add(1, Relaxed);
        }
        let Some(now) = self.kvm.as_ref().and_then(KvmClock::nanoseconds) else { return };
        let back = self.nanoseconds.saturating_sub(now);
        if back > 0 {
            record.back.fetch_add(1, Relaxed);
        }
        if back > BACK_NS {
            record.complain(Wrong::Clock, 1, now, self.nanoseconds);
        }
        self.nanoseconds = now;

        let before = self.ticks;
        let between = self.look_at_tsc(record);
        record.gap.fetch_max(between, Relaxed);
        if between <= TOGETHER_NS {
            if let Some([ticks, nanoseconds]) = self.compared.replace([before, now]) {
                let elapsed = self.frequency.nanoseconds(before.wrapping_sub(ticks));
                record.skew.fetch_max(now.wrapping_sub(nanoseconds).abs_diff(elapsed), Relaxed);
            }
        }
    }

    /// The nanoseconds since the last look.
    fn look_at_tsc(&mut self, record: &Record) -> u64 {
        let (now, before) = (cpu::tsc(), self.ticks);
        self.ticks = now;
        if now < before {
            record.back.fetch_add(1, Relaxed);
            record.complain(Wrong::Clock, 0, now, before);
        }
        self.frequency.nanoseconds(now.saturating_sub(before))
    }
}
