//! Snapshots: a machine on disk, as a directory of files. `docs/snapshot-format.md` describes every byte.

pub mod folder;
pub mod format;
pub mod info;
pub mod manifest;
pub mod verify;

#[cfg(test)]
pub(crate) mod testing;
