//! Snapshots: a machine on disk, as a directory of files. `docs/snapshot-format.md` describes every byte.

mod error;
pub mod folder;
mod fork;
pub mod format;
pub mod info;
mod live;
pub mod manifest;
mod merge;
mod open;
mod take;
pub mod verify;

pub use error::Error;
pub use live::{Live, Lost, save_running};
pub use manifest::Id;
pub use open::{MemorySource, Restoring, Snapshot};
pub use take::{Options, Saved, Taken};

use crate::memory::Progress;

#[cfg(test)]
pub(crate) mod testing;
