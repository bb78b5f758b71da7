//! The host's files, below a root that a test puts elsewhere.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::str::FromStr;

/// Where `/proc`, `/sys`, `/dev` and `/etc` are.
pub(super) struct Root(PathBuf);

/// Whose a file is, and who may use it.
pub(super) struct Owner {
    pub(super) mode: u32,
    pub(super) user: u32,
    pub(super) group: u32,
}

impl Root {
    pub(super) fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.join(path.trim_start_matches('/'))
    }

    pub(super) fn exists(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// A file's text without the blanks around it; none if it cannot be read.
    pub(super) fn read(&self, path: &str) -> Option<String> {
        let bytes = fs::read(self.path(path)).ok()?;
        Some(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    /// A file's text as a number, or anything else that is parsed.
    pub(super) fn parse<T: FromStr>(&self, path: &str) -> Option<T> {
        self.read(path)?.parse().ok()
    }

    /// A module parameter that is on or off, in either of the two spellings.
    pub(super) fn switch(&self, path: &str) -> Option<bool> {
        match self.read(path)?.as_str() {
            "Y" | "y" => Some(true),
            "N" | "n" => Some(false),
            // The level of nesting and the like: any but none is on.
            other => other.parse::<u32>().ok().map(|number| number != 0),
        }
    }

    /// The word in brackets, by which the kernel shows which of several is chosen.
    pub(super) fn chosen(&self, path: &str) -> Option<String> {
        let text = self.read(path)?;
        let (_, rest) = text.split_once('[')?;
        Some(rest.split_once(']')?.0.to_owned())
    }

    /// The names in a folder, sorted.
    pub(super) fn list(&self, path: &str) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.path(path))
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    }

    /// The value of the first line `key: value` of a file such as `/proc/cpuinfo`.
    pub(super) fn field(&self, path: &str, key: &str) -> Option<String> {
        self.read(path)?.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            (name.trim() == key).then(|| value.trim().to_owned())
        })
    }

    pub(super) fn owner(&self, path: &str) -> Option<Owner> {
        let metadata = fs::metadata(self.path(path)).ok()?;
        Some(Owner { mode: metadata.mode() & 0o7777, user: metadata.uid(), group: metadata.gid() })
    }

    /// A user's or group's name by `/etc/passwd` or `/etc/group`; else its number.
    pub(super) fn name_of(&self, file: &str, id: u32) -> String {
        let names = self.read(file).unwrap_or_default();
        let found = names.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)?.parse() == Ok(id)).then(|| name.to_owned())
        });
        found.unwrap_or_else(|| id.to_string())
    }

    /// A bit of this process's effective capabilities; true where they cannot be read.
    pub(super) fn has_capability(&self, bit: u32) -> bool {
        self.field("proc/self/status", "CapEff")
            .and_then(|text| u64::from_str_radix(&text, 16).ok())
            .is_none_or(|set| set >> bit & 1 == 1)
    }

    /// Whether this process is root's.
    pub(super) fn is_superuser(&self) -> bool {
        let ids = self.field("proc/self/status", "Uid").unwrap_or_default();
        ids.split_whitespace().nth(1) == Some("0")
    }
}
