//! Virtio devices (VIRTIO 1.2): one transport, one queue skeleton, one way to attach a device.
//!
//! ```text
//! vCPU thread                      event loop
//! transport::Mmio ── Request ──>   Worker ── owns ──> Device, its VirtQueues, its host descriptors
//!   (registers only)  <── DeviceStatus, interrupt ──    drain ─> serve one Chain ─> used ring
//! ```
//!
//! A device is a folder here with its configuration (`config.rs`) and a [`Device`], and one line in
//! the table `with_devices` of [`config`](crate::config).

pub mod balloon;
pub mod block;
pub mod chain;
pub mod config_space;
pub mod console;
pub mod device;
pub mod entropy;
pub mod iovec;
pub mod net;
pub mod queue;
pub mod rate;
pub mod save;
pub mod status;
pub mod transport;
pub mod vsock;
pub mod worker;

mod attach;
mod pace;

pub use attach::{Attach, Attached, Error, OpenError, Opened, Place, open_all};
pub use chain::{Chain, Cursor};
pub use config_space::ConfigSpace;
pub use device::{Command, CommandError, Description, Device, Io, Metric, Watch};
pub use queue::{QueueSetup, Served, VirtQueue};
pub use save::{Allow, Restore, SaveError, restore, save};
pub use status::DeviceStatus;
pub use worker::{ANSWER_WITHIN, DeviceHandle, Doorbell, Worker};

/// Features that the transport and the queues have for every device (VIRTIO 1.2, chapter 6).
pub mod feature {
    /// Chains may lie in a table of their own.
    pub const RING_INDIRECT_DESC: u64 = 1 << 28;
    /// Either side says from where on it wants to be told.
    pub const RING_EVENT_IDX: u64 = 1 << 29;
    /// Not the legacy interface.
    pub const VERSION_1: u64 = 1 << 32;
    /// All of them.
    pub const OF_TRANSPORT: u64 = RING_INDIRECT_DESC | RING_EVENT_IDX | VERSION_1;
}

#[cfg(fuzzing)]
pub mod fuzz;
#[cfg(any(test, fuzzing))]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
