//! Snapshots: a machine on disk, as a directory of files. `docs/snapshot-format.md` describes every byte.

pub mod folder;
pub mod format;
pub mod manifest;

#[cfg(test)]
mod testing;
