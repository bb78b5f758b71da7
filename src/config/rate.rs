use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::Size;

/// How much may pass in a second, and how much of it at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What passes in a second in the long run. At least 1.
    pub per_second: u64,
    /// What passes at once after a rest. At least 1.
    pub burst: u64,
}

/// A limit on a device's traffic, written `BYTES[/OPERATIONS][:BURST_BYTES[/BURST_OPERATIONS]]`.
///
/// `100M` is 100 MiB a second, `100M/2000` also 2000 operations a second, `/2000` just these.
/// What follows a colon passes at once after a rest: `100M/2000:1G/10000`. A burst that is not given is
/// what passes in a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Rate {
    /// Bytes.
    pub bytes: Option<Limit>,
    /// Operations: requests of a disk, packets of a network.
    pub operations: Option<Limit>,
}

/// A word that is no rate.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "'{0}' is no rate: give bytes a second, for example 100M, with operations 100M/2000 or /2000, with bursts 100M/2000:1G/10000"
)]
pub struct ParseRateError(String);

/// A number of bytes and one of operations, either of which may be missing. Neither may be 0.
fn pair(word: &str) -> Option<(Option<u64>, Option<u64>)> {
    let (bytes, operations) = match word.split_once('/') {
        Some((bytes, operations)) => (bytes, Some(operations.parse().ok()?)),
        None => (word, None),
    };
    let bytes = match bytes {
        "" => None,
        bytes => Some(bytes.parse::<Size>().ok()?.bytes()),
    };
    (bytes != Some(0) && operations != Some(0)).then_some((bytes, operations))
}

/// A burst needs a rate that it belongs to.
fn limit(per_second: Option<u64>, burst: Option<u64>) -> Option<Option<Limit>> {
    match (per_second, burst) {
        (Some(per_second), burst) => Some(Some(Limit { per_second, burst: burst.unwrap_or(per_second) })),
        (None, None) => Some(None),
        (None, Some(_)) => None,
    }
}

fn parse(word: &str) -> Option<Rate> {
    let (rate, burst) = match word.split_once(':') {
        Some((_, "")) => return None,
        Some((rate, burst)) => (pair(rate)?, pair(burst)?),
        None => (pair(word)?, (None, None)),
    };
    let rate = Rate { bytes: limit(rate.0, burst.0)?, operations: limit(rate.1, burst.1)? };
    (rate != Rate::default()).then_some(rate)
}

impl FromStr for Rate {
    type Err = ParseRateError;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        parse(word).ok_or_else(|| ParseRateError(word.to_owned()))
    }
}

/// The two numbers of a pair, as [`pair`] reads them.
fn written(bytes: Option<u64>, operations: Option<u64>) -> String {
    let bytes = bytes.map(|bytes| String::from(Size::new(bytes)));
    let operations = operations.map(|operations| format!("/{operations}"));
    bytes.into_iter().chain(operations).collect()
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per_second = |limit: Limit| limit.per_second;
        f.write_str(&written(self.bytes.map(per_second), self.operations.map(per_second)))?;
        let burst = |limit: Limit| (limit.burst != limit.per_second).then_some(limit.burst);
        match written(self.bytes.and_then(burst), self.operations.and_then(burst)).as_str() {
            "" => Ok(()),
            bursts => write!(f, ":{bursts}"),
        }
    }
}

impl TryFrom<String> for Rate {
    type Error = ParseRateError;

    fn try_from(word: String) -> Result<Self, Self::Error> {
        word.parse()
    }
}

impl From<Rate> for String {
    fn from(rate: Rate) -> Self {
        rate.to_string()
    }
}

#[cfg(test)]
mod tests;
