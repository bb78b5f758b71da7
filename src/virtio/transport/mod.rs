//! How a guest reaches a device's registers.

mod mmio;

pub use mmio::{DOORBELL, LEN, Mmio};
