use super::*;

/// As Linux computes it, in 32 bits.
fn as_linux(ratio: Ratio) -> u32 {
    let crystal_hz = ratio.crystal_khz.checked_mul(1000).unwrap();
    (crystal_hz / 1000).checked_mul(ratio.numerator).unwrap() / ratio.denominator
}

#[test]
fn round_frequencies_have_the_exact_timer_clock() {
    let expect = |tsc_khz, numerator, denominator| {
        let expected = Ratio { denominator, numerator, crystal_khz: APIC_KHZ };
        assert_eq!(ratio(tsc_khz), Some(expected));
        assert_eq!(as_linux(expected), tsc_khz);
    };
    expect(2_500_000, 5, 2);
    expect(1_000_000, 1, 1);
    expect(2_100_000, 21, 10);
    expect(3_393_600, 2121, 625);
}

#[test]
fn every_frequency_is_exact_and_keeps_the_timer_clock_close() {
    let tested = (100_000..6_000_000).step_by(97).chain(1_999_900..2_000_100);
    for tsc_khz in tested {
        let ratio = ratio(tsc_khz).unwrap_or_else(|| panic!("{tsc_khz}"));
        assert_eq!(as_linux(ratio), tsc_khz);
        assert!(ratio.crystal_khz.abs_diff(APIC_KHZ) < 1000, "{tsc_khz}: {ratio:?}");
    }
}

#[test]
fn impossible_frequencies_are_not_announced() {
    for tsc_khz in [0, 1, u32::MAX] {
        if let Some(ratio) = ratio(tsc_khz) {
            assert_eq!(as_linux(ratio), tsc_khz);
        }
    }
    assert_eq!(ratio(0), None);
}
