//! Words and numbers as they are on the page.

use super::super::results::Unit;
use super::super::stats::{ENOUGH, Ratio};
use super::super::table;

/// Text that is text wherever it is put, in an element or an attribute. Controls, and what would turn the direction of
/// the line around, are shown as unknown.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            '\n' | '\t' => escaped.push(' '),
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                escaped.push('\u{fffd}')
            }
            _ if letter.is_control() => escaped.push('\u{fffd}'),
            _ => escaped.push(letter),
        }
    }
    escaped
}

/// An id as an anchor of the page.
pub(super) fn anchor(id: &str) -> String {
    let plain = |letter: char| match letter {
        '/' => '.',
        '.' | '-' | 'a'..='z' | 'A'..='Z' | '0'..='9' => letter,
        _ => '_',
    };
    format!("g-{}", id.chars().map(plain).collect::<String>())
}

/// A number with its unit, which stays on its line.
pub(super) fn show(value: f64, unit: Unit) -> String {
    if unit == Unit::Count && value.fract() != 0.0 {
        return ratio(value);
    }
    table::show(value, unit).replace(" us", " µs").replace(' ', "\u{a0}")
}

/// The same with no more digits than it needs, as on an axis.
pub(super) fn brief(value: f64, unit: Unit) -> String {
    let text = show(value, unit);
    let (number, name) = text.split_once('\u{a0}').unwrap_or((text.as_str(), ""));
    let number =
        if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { number };
    if name.is_empty() || value == 0.0 { number.to_owned() } else { format!("{number}\u{a0}{name}") }
}

/// A ratio to three digits.
pub(super) fn ratio(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 99.95 => 0,
        size if size >= 9.995 => 1,
        size if size >= 0.0995 => 2,
        _ => 4,
    };
    format!("{value:.digits$}")
}

/// A number and its 95 % interval.
pub(super) fn with_interval(value: f64, low: f64, high: f64) -> String {
    format!("{} [{},\u{a0}{}]", ratio(value), ratio(low), ratio(high))
}

/// What an advantage comes to, in words: so many times better or worse, or neither that could be told.
pub(super) fn advantage(told: &Ratio) -> String {
    let Ratio { p50: value, low, high, n, to: _ } = *told;
    match () {
        () if n < ENOUGH => format!("{}\u{a0}×, of {n} rounds", ratio(value)),
        () if low > 1.0 => format!("{}\u{a0}× better", ratio(value)),
        () if high < 1.0 => format!("{}\u{a0}× worse", ratio(1.0 / value)),
        () => "no difference told".to_owned(),
    }
}

/// Who cannot do something, and why: each reason once, after all who have it.
pub(super) fn because<'a>(reasons: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut told: Vec<(&str, Vec<&str>)> = Vec::new();
    for (vmm, why) in reasons {
        match told.iter_mut().find(|(reason, _)| *reason == why) {
            Some((_, vmms)) if vmms.contains(&vmm) => {}
            Some((_, vmms)) => vmms.push(vmm),
            None => told.push((why, vec![vmm])),
        }
    }
    let line = |(why, vmms): (&str, Vec<&str>)| {
        let names: Vec<_> = vmms.into_iter().map(|vmm| format!("<bdi>{}</bdi>", escape(vmm))).collect();
        format!("{}: {}", names.join(", "), escape(why))
    };
    told.into_iter().map(line).collect::<Vec<_>>().join("; ")
}
