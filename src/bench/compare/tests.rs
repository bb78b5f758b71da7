use std::collections::BTreeMap;

use super::super::FLOOR;
use super::super::host::{Host, Quiet};
use super::super::results::{Contender, Figure, Outcome, SCHEMA, Series};
use super::super::stats::{Summary, ratios};
use super::*;

/// A time with noise: some rounds of a host are slow for all, and each sample has some noise of its own.
fn samples(level: f64, seed: u64, rounds: usize) -> Vec<Option<f64>> {
    let mut word = seed;
    let mut noise = || {
        word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        #[allow(clippy::cast_precision_loss, reason = "31 bits")]
        let part = (word >> 33) as f64 / f64::from(1_u32 << 31);
        part
    };
    (0..rounds)
        .map(|round| Some(level * (1.0 + 0.3 * f64::from(u8::from(round % 7 == 0)) + 0.04 * noise())))
        .collect()
}

fn results(figure: &Figure, columns: &[(&str, Vec<Option<f64>>)]) -> Results {
    let all: BTreeMap<_, _> =
        columns.iter().map(|(name, samples)| ((*name).to_owned(), samples.clone())).collect();
    let series = columns.iter().map(|(name, samples)| {
        let there: Vec<_> = samples.iter().flatten().copied().collect();
        let measured = Measured {
            samples: samples.clone(),
            summary: Summary::of(&there).unwrap(),
            ratios: ratios(name, &all),
        };
        Series { vmm: (*name).to_owned(), outcome: Outcome::Measured(measured) }
    });
    Results {
        schema: SCHEMA,
        bantam: String::new(),
        commit: None,
        began: String::new(),
        took_s: 1.0,
        effort: "full".to_owned(),
        host: Host::default(),
        quiet: Quiet::default(),
        vmms: Vec::new(),
        cases: vec![Case { figure: figure.clone(), series: series.collect() }],
    }
}

fn time() -> Figure {
    Figure::lower("exits/serial-out", "a byte", Unit::Nanoseconds)
}

fn verdict(before: &Results, after: &Results) -> Verdict {
    let comparison = Comparison::of(before, after, THRESHOLD);
    comparison.changes.iter().find(|change| change.vmm == BANTAM).unwrap().verdict
}

#[test]
fn twenty_microseconds_more_are_seen_and_nothing_is_where_nothing_changed() {
    let run = |level, seed| {
        results(&time(), &[(FLOOR, samples(12e3, seed, 40)), (BANTAM, samples(level, seed + 1, 40))])
    };
    let before = run(14e3, 10);
    let slower = Comparison::of(&before, &run(34e3, 20), THRESHOLD);
    assert!(slower.has_regression());
    assert_eq!(verdict(&run(34e3, 20), &before), Verdict::Improvement);
    for seed in 30..42 {
        let comparison = Comparison::of(&before, &run(14e3, seed), THRESHOLD);
        assert!(comparison.changes.iter().all(|change| change.verdict == Verdict::Same), "{comparison:?}");
    }
}

#[test]
fn a_slower_host_is_no_regression() {
    let run = |host: f64, seed| {
        results(
            &time(),
            &[(FLOOR, samples(12e3 * host, seed, 40)), (BANTAM, samples(14e3 * host, seed + 1, 40))],
        )
    };
    assert_eq!(verdict(&run(1.0, 1), &run(1.5, 2)), Verdict::Same);
    // Without a floor nobody can tell, but of what is much more than hosts differ by.
    let alone = |level, seed| results(&time(), &[(BANTAM, samples(level, seed, 40))]);
    assert_eq!(verdict(&alone(14e3, 1), &alone(17e3, 2)), Verdict::Same);
    assert_eq!(verdict(&alone(14e3, 1), &alone(21e3, 2)), Verdict::Regression);
    assert!(!Comparison::of(&alone(14e3, 1), &alone(21e3, 2), THRESHOLD).has_regression());
    let beside = |level, seed| {
        let mut run =
            results(&time(), &[(BANTAM, samples(level, seed, 40)), ("qemu", samples(20e3, seed + 1, 40))]);
        run.vmms = vec![Contender { name: "qemu".to_owned(), version: None, program: None }];
        run
    };
    assert!(Comparison::of(&beside(14e3, 1), &beside(17e3, 2), THRESHOLD).has_regression());
}

#[test]
fn more_is_better_where_more_is_better() {
    let figure = Figure::higher("block/read", "reads", Unit::PerSecond);
    let run = |level, seed| results(&figure, &[(BANTAM, samples(level, seed, 40))]);
    assert_eq!(verdict(&run(1000.0, 1), &run(600.0, 2)), Verdict::Regression);
    assert_eq!(verdict(&run(1000.0, 1), &run(1500.0, 2)), Verdict::Improvement);
}

#[test]
fn a_peer_that_has_become_slower_is_told_and_is_no_regression_of_ours() {
    let run = |qemu, seed| {
        results(&time(), &[(BANTAM, samples(14e3, seed, 40)), ("qemu", samples(qemu, seed + 1, 40))])
    };
    let comparison = Comparison::of(&run(20e3, 1), &run(40e3, 2), THRESHOLD);
    let qemu = comparison.changes.iter().find(|change| change.vmm == "qemu").unwrap();
    assert_eq!((qemu.verdict, comparison.has_regression()), (Verdict::Regression, false));
}

#[test]
fn what_one_run_does_not_have_is_told() {
    let one = results(&time(), &[(BANTAM, samples(1.0, 1, 8))]);
    let other =
        results(&Figure::lower("start/exit", "exit", Unit::Nanoseconds), &[(BANTAM, samples(1.0, 1, 8))]);
    let comparison = Comparison::of(&one, &other, THRESHOLD);
    assert_eq!(comparison.missing, ["exits/serial-out (before only)", "start/exit (after only)"]);
    assert_eq!(comparison.changes, []);
}

#[test]
fn another_machine_and_a_busy_one_are_warned_of() {
    let one = results(&time(), &[(BANTAM, samples(1.0, 1, 8))]);
    let mut other = one.clone();
    other.host.cpu = "another".to_owned();
    other.quiet.disturbed = vec!["other processes used 1.00 cores".to_owned()];
    let comparison = Comparison::of(&one, &other, THRESHOLD);
    assert_eq!(
        comparison.warnings,
        ["the runs are of different machines", "after: other processes used 1.00 cores"]
    );
}
