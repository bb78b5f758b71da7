//! The time-stamp counter against the host's clock.

use std::time::{Duration, Instant};

/// Long enough that reading both clocks, some 50 ns, is less than 1 in 100,000.
const CALIBRATION: Duration = Duration::from_millis(20);

/// Ticks of the time-stamp counter in a second, as the monotonic clock has it.
#[must_use]
pub fn tsc_hz() -> Option<f64> {
    let (start, first) = (Instant::now(), ticks());
    std::thread::sleep(CALIBRATION);
    let (took, last) = (start.elapsed(), ticks());
    let ticks = last.checked_sub(first).filter(|ticks| *ticks > 0)?;
    #[allow(clippy::cast_precision_loss, reason = "far from 2^52 ticks in some milliseconds")]
    Some(ticks as f64 / took.as_secs_f64())
}

#[allow(unsafe_code)]
fn ticks() -> u64 {
    // SAFETY: RDTSC is there on each x86-64 processor, and Linux lets programs use it.
    unsafe { std::arch::x86_64::_rdtsc() }
}
