//! How a guest reaches a device's registers.

mod mmio;

pub(super) use mmio::MmioState;
pub use mmio::{DOORBELL, LEN, Mmio};
