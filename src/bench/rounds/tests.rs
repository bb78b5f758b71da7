use std::cell::RefCell;

use anyhow::bail;

use super::super::results::Unit;
use super::super::{BANTAM, FLOOR};
use super::*;

fn figure() -> Figure {
    Figure::lower("test/time", "a time", Unit::Nanoseconds)
}

fn sample(value: f64) -> Sample {
    vec![("test/time".to_owned(), value)]
}

fn quiet(_: usize, _: usize) {}

#[test]
fn contestants_take_turns_forth_and_back() {
    let told = RefCell::new(String::new());
    let order = &told;
    let mut contest = Contest::new(vec![figure()], 1, 4);
    for (name, value) in [(FLOOR, 1.0), (BANTAM, 2.0)] {
        contest.add(name, move || {
            order.borrow_mut().push_str(&name[..1]);
            Ok(sample(value))
        });
    }
    contest.add_every(2, "qemu", || {
        order.borrow_mut().push('q');
        Ok(sample(8.0))
    });
    let cases = contest.run(&mut quiet).unwrap();
    // The warm-up, then the rounds: the first and the third with all.
    assert_eq!(*order.borrow(), "fbq".to_owned() + "fbq" + "bf" + "qbf" + "fb");
    let [case] = &cases[..] else { panic!("{cases:?}") };
    let names: Vec<_> = case.series.iter().map(|series| series.vmm.as_str()).collect();
    assert_eq!(names, [FLOOR, BANTAM, "qemu"]);
    let bantam = case.of(BANTAM).unwrap().measured().unwrap();
    assert_eq!((bantam.samples.len(), bantam.ratio_to(FLOOR).unwrap().p50), (4, 2.0));
    let qemu = case.of("qemu").unwrap().measured().unwrap();
    assert_eq!(qemu.samples, [Some(8.0), None, Some(8.0), None]);
    assert_eq!(qemu.ratio_to(BANTAM).unwrap().p50, 4.0);
}

#[test]
fn a_peer_that_fails_is_out_with_its_reason() {
    let mut contest = Contest::new(vec![figure()], 1, 2);
    contest.add(BANTAM, || Ok(sample(1.0)));
    let mut runs = 0;
    contest.add("qemu", || {
        runs += 1;
        if runs == 2 { bail!("no more memory") } else { Ok(sample(1.0)) }
    });
    contest.lacks("lkvm", "it boots a bzImage");
    let cases = contest.run(&mut quiet).unwrap();
    let outcome = |name| cases[0].of(name).map(|series| series.outcome.clone());
    assert_eq!(outcome("qemu"), Some(Outcome::NotSupported("no more memory".to_owned())));
    assert_eq!(outcome("lkvm"), Some(Outcome::NotSupported("it boots a bzImage".to_owned())));
    assert!(cases[0].of(BANTAM).unwrap().measured().is_some());
}

#[test]
fn our_own_failure_is_an_error() {
    for name in [BANTAM, FLOOR] {
        let mut contest = Contest::new(vec![figure()], 1, 2);
        contest.add(name, || bail!("broken"));
        let error = contest.run(&mut quiet).unwrap_err();
        assert_eq!(format!("{error:#}"), format!("{name}: broken"));
    }
}

#[test]
fn a_figure_is_never_missing_in_silence() {
    let other = Figure::lower("test/other", "another", Unit::Count);
    let contest = || {
        let mut contest = Contest::new(vec![figure(), other.clone()], 0, 2);
        contest.add("qemu", || Ok(sample(1.0)));
        contest
    };
    let error = contest().run(&mut quiet).unwrap_err();
    assert_eq!(error.to_string(), "qemu has not measured test/other, and not said why");
    let mut told = contest();
    told.gap("qemu", "test/other", "it does not tell");
    let cases = told.run(&mut quiet).unwrap();
    assert_eq!(cases[1].series[0].outcome, Outcome::NotSupported("it does not tell".to_owned()));

    let mut odd = Contest::new(vec![figure()], 0, 2);
    odd.add("qemu", || Ok(sample(f64::NAN)));
    odd.run(&mut quiet).unwrap_err();
    Contest::new(vec![figure()], 0, 2).run(&mut quiet).unwrap_err();
    let mut twice = contest();
    twice.add("qemu", || Ok(sample(1.0)));
    assert!(twice.run(&mut quiet).unwrap_err().to_string().starts_with("two contenders have one name"));
}
