#![no_main]

use bantam::virtio::balloon::config::Balloon;
use bantam::virtio::fuzz::{drive, open};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let balloon =
        Balloon { deflate_on_oom: true, stats: Some(1), reporting: true, hinting: true, ..Balloon::default() };
    drive(open(&balloon), data);
});
