use proptest::prelude::*;

use super::*;

fn limiter(rate: &str, now: Instant) -> Limiter {
    Limiter::new(&rate.parse().unwrap(), now)
}

#[test]
fn a_burst_passes_and_then_the_rate() {
    let start = Instant::now();
    let mut limiter = limiter("1000:4000", start);
    assert_eq!(limiter.take(4000, 1, start), Ok(()));
    assert_eq!(limiter.take(500, 1, start), Err(Duration::from_millis(500)));
    assert_eq!(limiter.take(500, 1, start + Duration::from_millis(499)), Err(Duration::from_millis(1)));
    assert_eq!(limiter.take(500, 1, start + Duration::from_millis(500)), Ok(()));
}

#[test]
fn both_limits_hold_and_nothing_is_taken_by_halves() {
    let start = Instant::now();
    let mut limiter = limiter("1000/10", start);
    assert_eq!(limiter.take(100, 10, start), Ok(()));
    assert_eq!(limiter.take(900, 1, start), Err(Duration::from_millis(100)));
    assert_eq!(limiter.take(900, 0, start), Ok(()));
}

#[test]
fn a_request_larger_than_the_burst_passes_when_its_size_has_come_in() {
    let start = Instant::now();
    let mut limiter = limiter("1000:10", start);
    assert_eq!(limiter.take(1010, 1, start), Err(Duration::from_secs(1)));
    assert_eq!(limiter.take(1010, 1, start + Duration::from_secs(1)), Ok(()));
    // A rest does not pile up more than a burst.
    assert_eq!(limiter.take(11, 1, start + Duration::from_secs(100)), Err(Duration::from_millis(1)));
}

#[test]
fn time_that_runs_backwards_and_extremes_do_no_harm() {
    let start = Instant::now() + Duration::from_secs(10);
    let mut limiter = limiter("1000", start);
    assert_eq!(limiter.take(1000, 1, start), Ok(()));
    assert_eq!(limiter.take(1000, 1, start - Duration::from_secs(5)), Err(Duration::from_secs(1)));
    assert_eq!(limiter.take(1000, 1, start + Duration::from_secs(1)), Ok(()));
    assert!(limiter.take(u64::MAX, u64::MAX, start + Duration::from_secs(2)).is_err());
    let top = Limit { per_second: u64::MAX, burst: u64::MAX };
    let mut limiter = Limiter::new(&Rate { bytes: Some(top), operations: Some(top) }, start);
    assert_eq!(limiter.take(u64::MAX, u64::MAX, start + Duration::from_secs(1 << 30)), Ok(()));
    let mut open = Limiter::new(&Rate::default(), start);
    assert_eq!(open.take(u64::MAX, u64::MAX, start), Ok(()));
}

proptest! {
    #[test]
    fn no_run_passes_more_than_the_rate_and_a_burst(
        per_second in 1_u64..1 << 40,
        burst in 1_u64..1 << 40,
        asks in proptest::collection::vec((0_u64..1 << 41, 0_u64..2_000_000_000), 1..200),
    ) {
        let start = Instant::now();
        let mut limiter = Limiter::new(
            &Rate { bytes: Some(Limit { per_second, burst }), operations: None }, start);
        let (mut elapsed, mut passed) = (Duration::ZERO, 0_u128);
        for (amount, pause) in asks {
            elapsed += Duration::from_nanos(pause);
            if limiter.take(amount, 1, start + elapsed).is_ok() {
                passed += u128::from(amount);
            }
            let allowed = u128::from(burst) * PARTS + elapsed.as_nanos() * u128::from(per_second);
            prop_assert!(passed * PARTS <= allowed);
        }
    }

    #[test]
    fn a_saturated_limiter_passes_the_rate(
        per_second in 1000_u64..1 << 40,
        burst_share in 1_u64..200,
        size_share in 1_u64..300,
    ) {
        let burst = (per_second * burst_share / 100).max(1);
        let size = (per_second * size_share / 10_000).max(1);
        let start = Instant::now();
        let mut limiter = Limiter::new(
            &Rate { bytes: Some(Limit { per_second, burst }), operations: None }, start);
        let (mut elapsed, mut passed) = (Duration::ZERO, 0_u64);
        while elapsed < Duration::from_secs(10) {
            match limiter.take(size, 1, start + elapsed) {
                Ok(()) => passed += size,
                Err(wait) => elapsed += wait,
            }
        }
        let expected = u128::from(burst) * PARTS + elapsed.as_nanos() * u128::from(per_second);
        prop_assert!(u128::from(passed) * PARTS * 100 >= expected * 99, "{passed} of {expected}");
    }
}
