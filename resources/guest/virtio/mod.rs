//! Virtio (VIRTIO 1.2): modern devices over MMIO, polled. No driver here waits
//! without a limit, and none believes what a device returns.

use crate::words::Words;

pub mod balloon;
pub mod blk;
pub mod dma;
pub mod mmio;
pub mod net;
pub mod queue;
pub mod rng;
pub mod vsock;

/// What went wrong, in words.
pub type Result<T> = core::result::Result<T, &'static str>;

/// Feature bits of no particular device (VIRTIO 1.2, chapter 6).
pub mod feature {
    pub const INDIRECT_DESC: u64 = 1 << 28;
    pub const EVENT_IDX: u64 = 1 << 29;
    pub const VERSION_1: u64 = 1 << 32;
    pub const ACCESS_PLATFORM: u64 = 1 << 33;
}

/// Device IDs (VIRTIO 1.2, chapter 5).
pub mod device_id {
    pub const NETWORK: u32 = 1;
    pub const BLOCK: u32 = 2;
    pub const ENTROPY: u32 = 4;
    pub const BALLOON: u32 = 5;
    pub const VSOCK: u32 = 19;
}

pub fn device_name(id: u32) -> &'static str {
    match id {
        0 => "empty",
        device_id::NETWORK => "network",
        device_id::BLOCK => "block",
        3 => "console",
        device_id::ENTROPY => "entropy",
        device_id::BALLOON => "balloon",
        9 => "9P",
        18 => "input",
        device_id::VSOCK => "vsock",
        24 => "memory",
        26 => "file system",
        27 => "persistent memory",
        _ => "other",
    }
}

/// The ring features that the words leave on: `noevent` and `noindirect` switch
/// them off.
pub fn ring_features(words: Words) -> u64 {
    let unless = |word, bit| if words.has(word) { 0 } else { bit };
    unless("noevent", feature::EVENT_IDX) | unless("noindirect", feature::INDIRECT_DESC)
}
