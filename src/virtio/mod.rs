//! Virtio devices.

pub mod iovec;
pub mod rate;
