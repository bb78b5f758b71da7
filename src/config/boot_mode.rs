use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// How the kernel is entered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BootMode {
    /// PVH where the image offers it, otherwise the 64-bit Linux boot protocol.
    #[default]
    Auto,
    /// The PVH entry: 32-bit protected mode, `hvm_start_info`.
    Pvh,
    /// The 64-bit Linux boot protocol: long mode, zero page.
    Linux64,
}

/// A word that is no boot mode.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("'{0}' is no boot mode: give auto, pvh or linux64")]
pub struct ParseBootModeError(String);

impl FromStr for BootMode {
    type Err = ParseBootModeError;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word {
            "auto" => Ok(Self::Auto),
            "pvh" => Ok(Self::Pvh),
            "linux64" => Ok(Self::Linux64),
            _ => Err(ParseBootModeError(word.to_owned())),
        }
    }
}

impl fmt::Display for BootMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Pvh => "pvh",
            Self::Linux64 => "linux64",
        })
    }
}
