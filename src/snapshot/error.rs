//! Why a machine is not saved, or a snapshot not restored.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use super::{folder, format, manifest, verify};
use crate::machine;
use crate::{config, memory, state};

/// What can go wrong between a machine and its snapshot.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The snapshot's directory.
    #[error(transparent)]
    Folder(#[from] folder::Error),
    /// The snapshot's description of itself.
    #[error(transparent)]
    Manifest(#[from] manifest::Error),
    /// What is to be merged is damaged.
    #[error(transparent)]
    Damaged(#[from] verify::Error),
    /// The state file.
    #[error(transparent)]
    Format(#[from] format::Error),
    /// A part's state.
    #[error(transparent)]
    State(#[from] state::Error),
    /// The guest's memory.
    #[error(transparent)]
    Memory(#[from] memory::Error),
    /// The machine.
    #[error(transparent)]
    Machine(#[from] machine::Error),
    /// A configuration that cannot be.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// The host has no random numbers for an id.
    #[error("the host has no random numbers")]
    Random(#[source] io::Error),
    /// No more descriptors.
    #[error("the host gives no more descriptors")]
    Descriptor(#[source] io::Error),
    /// An overlay cannot be copied.
    #[error("the copy of the overlay of {device} cannot be made")]
    Overlay {
        /// The device.
        device: String,
        /// What the host said.
        source: io::Error,
    },
    /// A file of a snapshot cannot be copied.
    #[error("cannot copy {path}")]
    Copy {
        /// The file.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// A disk's copy is of no disk.
    #[error("{path} is said to be of '{device}', and the saved machine has no such device")]
    StrayCopy {
        /// The copy.
        path: PathBuf,
        /// The device.
        device: String,
    },
    /// What is merged is to take the place of a part of it.
    #[error(
        "{0} is one of the snapshots that are merged, and others may need it: give the new one another path, and remove that one afterwards"
    )]
    ReplacesPart(PathBuf),
    /// A diff was asked for, and it is not known what has changed.
    #[error("it is not known what has changed since {base}: {known}")]
    OtherBase {
        /// The snapshot that was asked for.
        base: PathBuf,
        /// What is known.
        known: String,
    },
    /// What an overlay lies over is gone.
    #[error(
        "{device} lies over {path}, which is not there any more: a copy of its overlay would be of no use"
    )]
    ImageGone {
        /// The device.
        device: String,
        /// The image.
        path: PathBuf,
    },
    /// The guest changes memory faster than it can be written.
    #[error(
        "the guest would have to stand still for about {needed:?}, and may for {allowed:?}: it changes memory too fast; give a longer pause, or save when it is idle"
    )]
    Pause {
        /// How long it would be.
        needed: Duration,
        /// How long it may be.
        allowed: Duration,
    },
    /// A stream cannot bring the memory of a diff.
    #[error(
        "{0} holds only a part of its memory: make it whole with bantam snapshot merge before it is sent as a stream"
    )]
    StreamOfDiff(PathBuf),
    /// A machine could not be made out of the snapshot; those before it are gone again.
    #[error("copy {index} of {count}, counted from 0, cannot be made")]
    Fork {
        /// Which, from 0.
        index: usize,
        /// How many there were to be.
        count: usize,
        /// Why.
        source: Box<Error>,
    },
}
