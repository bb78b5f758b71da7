//! What of a device is kept in a snapshot, and how another one goes on from there.
//!
//! A device is saved while it is off its event loop: nothing is in flight, so of each queue one index is
//! all there is to keep. Its sections go by its name: its registers, its rings, and its own. Counters
//! ([`Device::metrics`](super::Device::metrics)) are not kept; they begin anew with each machine.

use std::path::PathBuf;

use thiserror::Error;

use super::queue::Ring;
use super::status::bit;
use super::transport::{Mmio, MmioState};
use super::worker::Worker;
use super::{ConfigSpace, OpenError, feature};
use crate::state::{self, Saved, State, saved};

/// Why a device is not saved, or not restored.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SaveError {
    /// Its state is not there, damaged, or cannot be.
    #[error(transparent)]
    State(#[from] state::Error),
    /// It does not say what it keeps.
    #[error(
        "the device {0} cannot be kept in a snapshot: take it out of the machine (or give it Device::save)"
    )]
    Unsaveable(String),
    /// It has been stopped, and still has requests.
    #[error("{device}: requests of queue {queue} are in flight")]
    InFlight {
        /// The device.
        device: String,
        /// The queue's number.
        queue: usize,
    },
    /// The snapshot has another device under this name.
    #[error(
        "{device} was a virtio device with the id {saved}, and has the id {here} here: give the devices that the machine had"
    )]
    Kind {
        /// The device.
        device: String,
        /// Its id (VIRTIO 1.2, chapter 5) in the snapshot.
        saved: u32,
        /// Its id here.
        here: u32,
    },
    /// The driver uses features that the device does not have here.
    #[error(
        "{device}: the guest uses {names}, which the device does not have here: give it the options that it had; or the host lacks them"
    )]
    Features {
        /// The device.
        device: String,
        /// The features' bits.
        missing: u64,
        /// Their names.
        names: String,
    },
    /// A disk is not what it was.
    #[error("{device}: the disk {path} is not as the snapshot left it: {differs}")]
    DiskChanged {
        /// The device.
        device: String,
        /// The file.
        path: PathBuf,
        /// What differs.
        differs: String,
    },
    /// The host does not give what the device had.
    #[error("{device}")]
    Device {
        /// The device.
        device: String,
        /// Why.
        source: OpenError,
    },
}

/// What may differ from what a snapshot says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allow {
    /// Disks that were changed since. What the guest knows of them from before may be wrong then.
    pub changed_disks: bool,
    /// A time-stamp counter that has gone back, where KVM gives a guest the host's.
    pub clock: bool,
}

/// What a device is restored from.
pub struct Restore<'a> {
    /// The device's name, under which its state is kept.
    pub id: &'a str,
    /// The states.
    pub state: &'a mut State,
    /// The configuration space.
    pub config: &'a ConfigSpace,
    /// What may differ.
    pub allow: Allow,
}

impl Restore<'_> {
    /// The state that the device has kept.
    ///
    /// # Errors
    /// It is not there, of an unknown version, or damaged.
    pub fn take<T: Saved>(&mut self) -> Result<T, SaveError> {
        Ok(self.state.take(self.id)?)
    }

    /// The state is nothing that the device could have been in.
    pub fn impossible(&self, reason: impl Into<String>) -> SaveError {
        impossible(self.id, reason)
    }
}

pub(super) fn impossible(id: &str, reason: impl Into<String>) -> SaveError {
    state::Error::Impossible { id: id.to_owned(), reason: reason.into() }.into()
}

saved! {
    "virtio-rings", version 1, fingerprint 212380917;
    /// How far the device is with its queues.
    pub(super) struct Rings {
        /// One for each queue; none as long as the device has not seen that its driver is set up.
        rings: Option<Vec<Ring>>,
    }
}

/// Keeps a device: its registers, its queues, and what it says itself. It goes on where it was when it is
/// put on an event loop again.
///
/// # Errors
/// The device cannot be saved.
pub fn save(name: &str, registers: &Mmio, worker: &mut Worker, state: &mut State) -> Result<(), SaveError> {
    state.put(name, &registers.save())?;
    state.put(name, &Rings { rings: worker.save_rings(name)? })?;
    worker.device().save(name, state)
}

/// Makes a device that no driver has touched the one that was kept. It goes on when it is put on an event
/// loop; a configuration space that is not what the driver has read is told to it then.
///
/// # Errors
/// The state does not fit this device, or cannot be. The device is of no use then.
pub fn restore(
    name: &str,
    registers: &mut Mmio,
    worker: &mut Worker,
    state: &mut State,
    allow: Allow,
) -> Result<(), SaveError> {
    let kept: MmioState = state.take(name)?;
    let Rings { rings } = state.take(name)?;
    registers.check(name, &kept)?;
    if let Some(rings) = &rings {
        if kept.status & bit::DRIVER_OK == 0 {
            return Err(impossible(name, "it has queues without a driver"));
        }
        let broken = rings.iter().zip(&kept.queues).any(|(ring, setup)| setup.ready && ring.closed);
        if broken && kept.status & bit::NEEDS_RESET == 0 {
            return Err(impossible(name, "it has a broken queue and needs no reset"));
        }
        let restored = worker.restore_rings(kept.driver_features, &kept.queues, rings);
        restored.map_err(|reason| impossible(name, reason))?;
    }
    let config = registers.config().clone();
    worker.device().restore(&mut Restore { id: name, state, config: &config, allow })?;
    registers.restore(kept, rings.is_some());
    worker.announce();
    Ok(())
}

/// The names of a device's features; numbers of those that have none here.
pub(super) fn feature_names(device: u32, features: u64) -> String {
    let name = |bit: u32| {
        let found = NAMES.iter().find(|(id, own, _)| *own == bit && (*id == device || *id == ANY));
        found.map_or_else(|| format!("feature {bit}"), |(_, _, name)| (*name).to_owned())
    };
    let names: Vec<_> = (0..u64::BITS).filter(|bit| features >> bit & 1 != 0).map(name).collect();
    names.join(", ")
}

/// Of every device.
const ANY: u32 = 0;

/// Features by device id and bit (VIRTIO 1.2, chapters 5 and 6; those of UDP's segmentation are of 1.3).
const NAMES: [(u32, u32, &str); 36] = [
    (ANY, feature::RING_INDIRECT_DESC.trailing_zeros(), "VIRTIO_F_INDIRECT_DESC"),
    (ANY, feature::RING_EVENT_IDX.trailing_zeros(), "VIRTIO_F_EVENT_IDX"),
    (ANY, feature::VERSION_1.trailing_zeros(), "VIRTIO_F_VERSION_1"),
    (1, 0, "VIRTIO_NET_F_CSUM"),
    (1, 1, "VIRTIO_NET_F_GUEST_CSUM"),
    (1, 2, "VIRTIO_NET_F_CTRL_GUEST_OFFLOADS"),
    (1, 3, "VIRTIO_NET_F_MTU"),
    (1, 5, "VIRTIO_NET_F_MAC"),
    (1, 7, "VIRTIO_NET_F_GUEST_TSO4"),
    (1, 8, "VIRTIO_NET_F_GUEST_TSO6"),
    (1, 9, "VIRTIO_NET_F_GUEST_ECN"),
    (1, 10, "VIRTIO_NET_F_GUEST_UFO"),
    (1, 11, "VIRTIO_NET_F_HOST_TSO4"),
    (1, 12, "VIRTIO_NET_F_HOST_TSO6"),
    (1, 13, "VIRTIO_NET_F_HOST_ECN"),
    (1, 14, "VIRTIO_NET_F_HOST_UFO"),
    (1, 15, "VIRTIO_NET_F_MRG_RXBUF"),
    (1, 16, "VIRTIO_NET_F_STATUS"),
    (1, 17, "VIRTIO_NET_F_CTRL_VQ"),
    (1, 22, "VIRTIO_NET_F_MQ"),
    (1, 54, "VIRTIO_NET_F_GUEST_USO4"),
    (1, 55, "VIRTIO_NET_F_GUEST_USO6"),
    (1, 56, "VIRTIO_NET_F_HOST_USO"),
    (2, 2, "VIRTIO_BLK_F_SEG_MAX"),
    (2, 5, "VIRTIO_BLK_F_RO"),
    (2, 6, "VIRTIO_BLK_F_BLK_SIZE"),
    (2, 9, "VIRTIO_BLK_F_FLUSH"),
    (2, 12, "VIRTIO_BLK_F_MQ"),
    (2, 13, "VIRTIO_BLK_F_DISCARD"),
    (2, 14, "VIRTIO_BLK_F_WRITE_ZEROES"),
    (3, 0, "VIRTIO_CONSOLE_F_SIZE"),
    (5, 1, "VIRTIO_BALLOON_F_STATS_VQ"),
    (5, 2, "VIRTIO_BALLOON_F_DEFLATE_ON_OOM"),
    (5, 3, "VIRTIO_BALLOON_F_FREE_PAGE_HINT"),
    (5, 5, "VIRTIO_BALLOON_F_PAGE_REPORTING"),
    (19, 0, "VIRTIO_VSOCK_F_STREAM"),
];

#[cfg(test)]
mod tests;
