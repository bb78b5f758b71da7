//! Virtio, as far as the guest knows it.

pub mod mmio;
