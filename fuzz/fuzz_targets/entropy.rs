#![no_main]

use bantam::virtio::entropy::config::Entropy;
use bantam::virtio::fuzz::{drive, open};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| drive(open(&Entropy::default()), data));
