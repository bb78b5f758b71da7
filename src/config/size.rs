use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A number of bytes, written with a binary unit: `512M`, `2G`, `4096`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "Written")]
pub struct Size(u64);

/// The units, largest first, with the power of two that each stands for.
const UNITS: [(char, u32); 4] = [('T', 40), ('G', 30), ('M', 20), ('K', 10)];

impl Size {
    /// So many bytes.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// So many MiB.
    #[must_use]
    pub const fn mib(mib: u32) -> Self {
        Self((mib as u64) << 20)
    }

    /// So many GiB.
    #[must_use]
    pub const fn gib(gib: u32) -> Self {
        Self((gib as u64) << 30)
    }

    /// The number of bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

/// A word that is no size.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("'{0}' is no size: give a number with K, M, G or T, for example 512M")]
pub struct ParseSizeError(String);

impl FromStr for Size {
    type Err = ParseSizeError;

    /// `512M`, `512MiB` and `512m` are the same; a bare number is bytes.
    fn from_str(word: &str) -> Result<Self, Self::Err> {
        let digits = word.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
        let power = match word.get(digits.len()..).unwrap_or_default().to_ascii_uppercase().as_str() {
            "" | "B" => Some(0),
            unit => UNITS
                .into_iter()
                .find(|(letter, _)| [format!("{letter}"), format!("{letter}IB")].iter().any(|u| u == unit))
                .map(|(_, power)| power),
        };
        digits
            .parse::<u64>()
            .ok()
            .zip(power)
            .and_then(|(number, power)| number.checked_mul(1 << power))
            .map(Self)
            .ok_or_else(|| ParseSizeError(word.to_owned()))
    }
}

impl fmt::Display for Size {
    /// With the largest unit that divides it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, power) in UNITS {
            if self.0 != 0 && self.0.is_multiple_of(1 << power) {
                return write!(f, "{}{unit}", self.0 >> power);
            }
        }
        write!(f, "{} bytes", self.0)
    }
}

/// A size in a file: a word, or a bare number of bytes.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Bytes(u64),
    Word(String),
}

impl TryFrom<Written> for Size {
    type Error = ParseSizeError;

    fn try_from(written: Written) -> Result<Self, Self::Error> {
        match written {
            Written::Bytes(bytes) => Ok(Self(bytes)),
            Written::Word(word) => word.parse(),
        }
    }
}

impl From<Size> for String {
    fn from(size: Size) -> Self {
        size.to_string().trim_end_matches(" bytes").to_owned()
    }
}
