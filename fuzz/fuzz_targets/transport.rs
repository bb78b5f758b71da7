#![no_main]
//! The registers and the queues, with more of their kind than a target of a device has: an entropy
//! device has nothing else.

use bantam::virtio::entropy::config::Entropy;
use bantam::virtio::fuzz::{drive_registers, open};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| drive_registers(open(&Entropy::default()), data));
