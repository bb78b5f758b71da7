use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A length of time, written with its unit: `50ms`, `2s`, `5m`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Span(Duration);

/// The units, largest first, with the microseconds that each stands for.
const UNITS: [(&str, u64); 4] = [("m", 60_000_000), ("s", 1_000_000), ("ms", 1000), ("us", 1)];

/// A word that is no length of time.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("'{0}' is no length of time: give a number with us, ms, s or m, for example 50ms")]
pub struct ParseSpanError(String);

impl From<Span> for Duration {
    fn from(span: Span) -> Self {
        span.0
    }
}

impl FromStr for Span {
    type Err = ParseSpanError;

    /// A number without a unit could be any; only 0 needs none.
    fn from_str(word: &str) -> Result<Self, Self::Err> {
        let digits = word.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
        let unit = word.get(digits.len()..).unwrap_or_default().to_ascii_lowercase();
        let factor = match UNITS.into_iter().find(|(name, _)| *name == unit) {
            Some((_, factor)) => Some(factor),
            None => (word == "0").then_some(1),
        };
        // A sign is none of a number's digits here.
        let number = digits.parse::<u64>().ok().filter(|_| !digits.starts_with('+'));
        number
            .zip(factor)
            .and_then(|(number, factor)| number.checked_mul(factor))
            .map(|microseconds| Self(Duration::from_micros(microseconds)))
            .ok_or_else(|| ParseSpanError(word.to_owned()))
    }
}

impl TryFrom<String> for Span {
    type Error = ParseSpanError;

    fn try_from(word: String) -> Result<Self, Self::Error> {
        word.parse()
    }
}

impl fmt::Display for Span {
    /// With the largest unit that divides it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let microseconds = self.0.as_micros();
        let divides = |factor: u64| microseconds != 0 && microseconds.is_multiple_of(factor.into());
        match UNITS.into_iter().find(|(_, factor)| divides(*factor)) {
            Some((unit, factor)) => write!(f, "{}{unit}", microseconds / u128::from(factor)),
            None => f.write_str("0"),
        }
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        span.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_and_written_alike() {
        let table = [
            ("50ms", 50_000, "50ms"),
            ("2s", 2_000_000, "2s"),
            ("2000MS", 2_000_000, "2s"),
            ("5m", 300_000_000, "5m"),
            ("7us", 7, "7us"),
            ("0", 0, "0"),
            ("0s", 0, "0"),
        ];
        for (word, microseconds, written) in table {
            let span: Span = word.parse().unwrap();
            assert_eq!(Duration::from(span), Duration::from_micros(microseconds), "{word}");
            assert_eq!(span.to_string(), written);
            assert_eq!(written.parse(), Ok(span));
            assert_eq!(serde_json::to_value(span).unwrap(), written);
            assert_eq!(serde_json::from_value::<Span>(word.into()).unwrap(), span);
        }
        for word in ["", "50", "ms", "-1s", "+1s", "1.5s", "1h", "1 s", "99999999999999999m", "5mm"] {
            assert_eq!(word.parse::<Span>(), Err(ParseSpanError(word.to_owned())));
        }
    }
}
