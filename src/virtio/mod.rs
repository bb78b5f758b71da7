//! Virtio devices.

pub mod block;
pub mod iovec;
pub mod rate;
