use super::*;

#[test]
fn quantiles_lie_between_the_nearest_samples() {
    let summary = Summary::of(&[5.0, 1.0, 4.0, 2.0, 3.0]).unwrap();
    assert_eq!((summary.n, summary.min, summary.p25, summary.p50), (5, 1.0, 2.0, 3.0));
    assert_eq!((summary.p75, summary.p90, summary.p99), (4.0, 4.6, 4.96));
    assert_eq!(
        (median(&[1.0, 2.0]), median(&[3.0]), median(&[9.0, 1.0, 5.0])),
        (Some(1.5), Some(3.0), Some(5.0))
    );
    assert_eq!(median(&[4.0, 1.0, 8.0, 2.0]), Some(3.0));
    assert_eq!((median(&[]), Summary::of(&[]), interval_of_median(&[])), (None, None, None));
}

#[test]
fn outliers_are_counted_and_stay() {
    let samples: Vec<f64> = (0..100_u32).map(f64::from).chain([1000.0]).collect();
    let summary = Summary::of(&samples).unwrap();
    assert_eq!((summary.n, summary.outliers), (101, 1));
    assert_eq!(Summary::of(&[7.0; 9]).unwrap().outliers, 0);
}

/// Numbers that are spread evenly from 0 to 1.
fn noise(seed: u64, count: usize) -> Vec<f64> {
    let mut random = Random(seed);
    #[allow(clippy::cast_precision_loss, reason = "53 bits")]
    (0..count).map(|_| (random.next() >> 11) as f64 / (1_u64 << 53) as f64).collect()
}

#[test]
fn an_interval_has_the_true_median_in_it_about_as_often_as_it_says() {
    let hits = (0..100_u64).filter(|seed| {
        let (low, high) = interval_of_median(&noise(seed * 1000, 25)).unwrap();
        low <= 0.5 && 0.5 <= high
    });
    let hits = hits.count();
    // 95 of 100, with the spread that so few have.
    assert!((88..=100).contains(&hits), "{hits} of 100");
}

#[test]
fn more_samples_make_an_interval_narrower() {
    let width = |count| interval_of_median(&noise(7, count)).map(|(low, high)| high - low).unwrap();
    assert!(width(1000) < width(50) / 2.0);
}

#[test]
fn a_ratio_is_of_rounds_that_both_have() {
    let (slow, base) = ([Some(4.0), None, Some(20.0), Some(3.0)], [Some(2.0), Some(9.0), Some(10.0), None]);
    let ratio = Ratio::of(&slow, "floor", &base).unwrap();
    assert_eq!((ratio.to.as_str(), ratio.p50, ratio.low, ratio.high), ("floor", 2.0, 2.0, 2.0));
    assert_eq!(Ratio::of(&[Some(1.0)], "floor", &[None]), None);
    assert_eq!(Ratio::of(&[Some(1.0)], "floor", &[Some(0.0)]), None);
}

#[test]
fn a_change_is_seen_through_noise() {
    let at = |level: f64, seed| noise(seed, 60).into_iter().map(|part| level + part).collect::<Vec<_>>();
    let (low, high) = interval_of_change(&at(100.0, 1), &at(120.0, 2)).unwrap();
    assert!(low > 1.19 && high < 1.21, "{low} {high}");
    let (low, high) = interval_of_change(&at(1.0, 3), &at(1.0, 4)).unwrap();
    assert!(low < 1.0 && high > 1.0, "{low} {high}");
}
