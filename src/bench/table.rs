//! Results as lines of text: a compact table with bars.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::results::{Case, Outcome, Results, Unit};
use super::stats::{ENOUGH, Summary};

/// Characters of the longest bar.
const BAR: f64 = 24.0;

/// All of it.
#[must_use]
pub fn table(results: &Results) -> String {
    let mut text = String::new();
    let host = &results.host;
    let _ = writeln!(
        text,
        "{}, {} cores, Linux {}, {}, guest code {}",
        host.cpu,
        host.cores,
        host.kernel,
        host.kvm.join(" "),
        host.guest_code
    );
    for disturbance in &results.quiet.disturbed {
        let _ = writeln!(text, "NOT QUIET: {disturbance}. Ratios count for more than times.");
    }
    for cases in results.cases.chunk_by(|one, next| one.figure.group() == next.figure.group()) {
        let Some(first) = cases.first() else { continue };
        let _ = writeln!(text, "\n{}", first.figure.group());
        cases.iter().for_each(|case| text += &rows(case));
        text += &gaps(cases);
    }
    text
}

/// A figure of all who have it.
fn rows(case: &Case) -> String {
    let measured: Vec<_> =
        case.series.iter().filter_map(|series| Some((series.vmm.as_str(), series.measured()?))).collect();
    let longest = measured.iter().map(|(_, measured)| measured.summary.p50).fold(0.0, f64::max);
    let mut text = if measured.is_empty() { String::new() } else { format!("  {}\n", case.figure.title) };
    for (name, measured) in measured {
        let Summary { p50, low, high, p90, n, outliers, .. } = measured.summary;
        let value = |value| show(value, case.figure.unit);
        let interval = if n < ENOUGH { String::new() } else { format!(" [{}, {}]", value(low), value(high)) };
        let odd = if outliers > 0 { format!(", {outliers} outliers") } else { String::new() };
        let ratio = measured.to_reference().map_or_else(String::new, |ratio| {
            let interval = format!(" [{:.2}, {:.2}]", ratio.low, ratio.high);
            let interval = if ratio.n < ENOUGH { String::new() } else { interval };
            format!("  {:.2} x {}{interval}", ratio.p50, ratio.to)
        });
        let _ = writeln!(
            text,
            "    {name:<16} {:<24} {:>10}{interval} p90 {}, n {n}{odd}{ratio}",
            bar(p50 / longest),
            value(p50),
            value(p90),
        );
    }
    text
}

/// Who cannot do what, each reason once.
fn gaps(cases: &[Case]) -> String {
    let mut gaps: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for case in cases {
        for series in &case.series {
            if let Outcome::NotSupported(why) = &series.outcome {
                gaps.entry((&series.vmm, why)).or_default().push(&case.figure.title);
            }
        }
    }
    let line = |((vmm, why), what): ((&str, &str), Vec<&str>)| {
        let what = if what.len() == cases.len() { String::new() } else { format!(": {}", what.join("; ")) };
        format!("    {vmm:<16} not supported, as {why}{what}\n")
    };
    gaps.into_iter().map(line).collect()
}

/// Eighths of a character make a bar.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small number of characters")]
fn bar(part: f64) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = if part.is_finite() { (part * BAR * 8.0).round().max(1.0) as usize } else { 0 };
    "█".repeat(eighths / 8) + EIGHTHS.get(eighths % 8).unwrap_or(&"")
}

/// A number with its unit, to three digits.
#[must_use]
pub fn show(value: f64, unit: Unit) -> String {
    let (thousand, names): (f64, &[&str]) = match unit {
        Unit::Nanoseconds => (1000.0, &["ns", "us", "ms", "s"]),
        Unit::Bytes => (1024.0, &["B", "KiB", "MiB", "GiB"]),
        Unit::BytesPerSecond => (1024.0, &["B/s", "KiB/s", "MiB/s", "GiB/s"]),
        Unit::PerSecond => (1000.0, &["/s", "k/s", "M/s"]),
        Unit::Count => return if value.fract() == 0.0 { format!("{value}") } else { format!("{value:.2}") },
    };
    let mut value = value;
    let mut names = names.iter();
    let mut name = names.next().unwrap_or(&"");
    for next in names {
        if value.abs() < thousand {
            break;
        }
        value /= thousand;
        name = next;
    }
    let digits = if value.abs() < 10.0 { 2 } else { usize::from(value.abs() < 100.0) };
    format!("{value:.digits$} {name}")
}

#[cfg(test)]
mod tests;
