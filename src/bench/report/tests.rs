use super::super::results::Unit;
use super::scale::{Scale, View};
use super::text::{advantage, anchor, because, brief, escape, ratio, show};
use super::*;
use crate::bench::stats::Ratio;

fn ticks(scale: &Scale, unit: Unit) -> Vec<String> {
    scale.ticks(unit).into_iter().map(|(_, name)| name.replace('\u{a0}', " ")).collect()
}

fn names(scales: &[Scale]) -> Vec<&'static str> {
    scales.iter().map(|scale| scale.view.name()).collect()
}

#[test]
fn hostile_text_stays_text() {
    assert_eq!(escape(r#"<a href="x" title='y'>&"#), "&lt;a href=&quot;x&quot; title=&#39;y&#39;&gt;&amp;");
    assert_eq!(escape("a\nb\u{0}c\u{1b}d\u{202e}e"), "a b\u{fffd}c\u{fffd}d\u{fffd}e");
    assert_eq!(anchor("start/first-byte"), "g-start.first-byte");
    assert_eq!(anchor("a\" onclick=\"b"), "g-a__onclick__b");
}

#[test]
fn numbers_have_their_units_and_no_more_digits_than_they_need() {
    assert_eq!(show(1500.0, Unit::Nanoseconds), "1.50\u{a0}µs");
    assert_eq!(brief(1500.0, Unit::Nanoseconds), "1.5\u{a0}µs");
    assert_eq!(brief(2_000_000.0, Unit::Nanoseconds), "2\u{a0}ms");
    assert_eq!(brief(100.0 * 1024.0, Unit::Bytes), "100\u{a0}KiB");
    assert_eq!((brief(0.0, Unit::Bytes), brief(1000.0, Unit::Count)), ("0".to_owned(), "1000".to_owned()));
    assert_eq!([0.004_56, 0.456, 4.567, 45.67, 456.7].map(ratio), ["0.0046", "0.46", "4.57", "45.7", "457"]);
}

#[test]
fn an_advantage_needs_its_whole_interval() {
    let advantage = |p50, low, high| advantage(&Ratio { to: String::new(), n: 9, p50, low, high });
    assert_eq!(advantage(2.0, 1.1, 3.0), "2.00\u{a0}× better");
    assert_eq!(advantage(0.5, 0.3, 0.9), "2.00\u{a0}× worse");
    assert_eq!(advantage(1.2, 0.9, 1.5), "no difference told");
}

#[test]
fn a_reason_is_told_once() {
    let reasons = [("a", "no <disk>"), ("b", "no tap"), ("c", "no <disk>"), ("a", "no <disk>")];
    assert_eq!(
        because(reasons.into_iter()),
        "<bdi>a</bdi>, <bdi>c</bdi>: no &lt;disk&gt;; <bdi>b</bdi>: no tap"
    );
}

#[test]
fn a_curve_is_called_what_its_points_have_in_common() {
    let common = |titles: &[&str]| curves::in_common(titles);
    let sizes = ["opening 16 MiB to the first byte", "opening 1 GiB to the first byte"];
    assert_eq!(common(&sizes).unwrap(), "opening … to the first byte");
    assert_eq!(common(&["each: 1 idle", "each: 10 idle", "each: 100 idle"]).unwrap(), "each: … idle");
    assert_eq!(common(&["the same", "the same"]).unwrap(), "the same");
    assert_eq!(common(&["one", "other"]), None);
}

#[test]
fn a_family_has_one_colour_and_marks_of_its_own() {
    let vmms = vec!["floor", "bantam", "bantam-library", "qemu", "qemu-9.2", "fio"];
    let page = Page { runs: &[], vmms, plots: Vec::new() };
    let colours: Vec<_> = page.vmms.iter().map(|name| page.class(name)).collect();
    assert_eq!(colours, ["v0", "v1", "v1", "v2", "v2", "v3"]);
    let marks: BTreeSet<_> = page.vmms.iter().map(|name| page.mark(name, "")).collect();
    assert_eq!(marks.len(), page.vmms.len());
}

#[test]
fn what_is_far_apart_is_shown_in_ratios_first() {
    let views = |values: &[f64]| names(&Scale::views(values, values, f64::INFINITY));
    assert_eq!(views(&[1e6, 8e7]), ["logarithmic", "from zero"]);
    assert_eq!(views(&[1e6, 5e6]), ["from zero", "logarithmic"]);
    assert_eq!(views(&[9e5, 1e6]), ["from zero", "magnified"]);
    assert_eq!(views(&[0.0, 1e6]), ["from zero"]);
    assert_eq!(views(&[5.0]), ["from zero"]);
}

#[test]
fn outliers_beyond_an_axis_are_on_the_logarithmic_one() {
    let scales = Scale::views(&[10.0, 11.0, 12.0, 90.0], &[11.0], 15.0);
    assert_eq!(names(&scales), ["from zero", "magnified", "logarithmic"]);
    assert_eq!(scales.iter().map(|scale| scale.is_beyond(90.0)).collect::<Vec<_>>(), [true, true, false]);
    assert!(scales.iter().all(|scale| !scale.is_beyond(12.0)));
}

#[test]
fn places_lie_in_proportion_from_zero_and_in_ratios_on_a_logarithmic_scale() {
    let scales = Scale::views(&[1.0, 10.0, 100.0], &[1.0, 100.0], f64::INFINITY);
    let [log, zero] = scales.as_slice() else { panic!("{scales:?}") };
    assert_eq!((log.view, zero.view), (View::Log, View::Zero));
    assert_eq!(zero.place(0.0), 0.0);
    assert!((zero.place(100.0) / zero.place(10.0) - 10.0).abs() < 1e-9);
    let steps = (log.place(10.0) - log.place(1.0), log.place(100.0) - log.place(10.0));
    assert!((steps.0 - steps.1).abs() < 1e-9 && steps.0 > 0.4, "{steps:?}");
    assert_eq!((log.place(0.0), log.place(1e9)), (0.0, 1.0));
}

#[test]
fn ticks_are_round_numbers() {
    let zero = |most: f64| Scale::views(&[most], &[most], f64::INFINITY).remove(0);
    assert_eq!(ticks(&zero(10_300_000.0), Unit::Nanoseconds), ["0", "5 ms", "10 ms"]);
    assert_eq!(ticks(&zero(3.6 * 1024.0 * 1024.0), Unit::Bytes), ["0", "1 MiB", "2 MiB", "3 MiB"]);
    let log = |values: &[f64]| Scale::views(values, values, f64::INFINITY).remove(0);
    assert_eq!(ticks(&log(&[2e6, 8e7]), Unit::Nanoseconds), ["2 ms", "5 ms", "10 ms", "20 ms", "50 ms"]);
    assert_eq!(ticks(&log(&[1024.0, 12_000.0]), Unit::Bytes), ["1 KiB", "2 KiB", "4 KiB", "8 KiB"]);
}

#[test]
fn no_numbers_are_too_odd_for_an_axis() {
    for values in [
        vec![],
        vec![0.0, 0.0],
        vec![-3.0, 5.0],
        vec![f64::MIN_POSITIVE, f64::MAX / 2.0],
        vec![1e-300, 1e-299],
    ] {
        for scale in Scale::views(&values, &values, f64::INFINITY) {
            assert!(scale.ticks(Unit::Bytes).len() <= 9, "{values:?}");
            assert!(values.iter().all(|value| (0.0..=1.0).contains(&scale.place(*value))), "{values:?}");
        }
    }
}

#[test]
fn no_runs_make_a_page_too() {
    assert!(page(&[]).contains("No results"));
}
