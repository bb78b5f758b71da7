use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Where the serial console goes. Written as a word: `stdio`, `off`, `pty` or `file:PATH`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Console {
    /// Standard input and output of the process.
    #[default]
    Stdio,
    /// Output is thrown away, there is no input.
    Off,
    /// A new pseudo-terminal, whose name is told at the start.
    Pty,
    /// Output goes to a file, there is no input. A machine that boots makes the file anew; one that goes on from a
    /// snapshot adds to it.
    File(PathBuf),
}

/// A word that is no console.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("'{0}' is no console: give stdio, pty, off or file:PATH")]
pub struct ParseConsoleError(String);

impl FromStr for Console {
    type Err = ParseConsoleError;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word {
            "stdio" => Ok(Self::Stdio),
            "off" => Ok(Self::Off),
            "pty" => Ok(Self::Pty),
            _ => match word.strip_prefix("file:") {
                Some(path) if !path.is_empty() => Ok(Self::File(path.into())),
                _ => Err(ParseConsoleError(word.to_owned())),
            },
        }
    }
}

impl fmt::Display for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdio => f.write_str("stdio"),
            Self::Off => f.write_str("off"),
            Self::Pty => f.write_str("pty"),
            Self::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

impl TryFrom<String> for Console {
    type Error = ParseConsoleError;

    fn try_from(word: String) -> Result<Self, Self::Error> {
        word.parse()
    }
}

impl From<Console> for String {
    fn from(console: Console) -> Self {
        console.to_string()
    }
}
