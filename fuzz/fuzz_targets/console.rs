#![no_main]

use bantam::config::Console as Stream;
use bantam::virtio::console::config::Console;
use bantam::virtio::fuzz::{drive, open};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let stream = if data.first().is_some_and(|first| first % 4 == 0) { Stream::Pty } else { Stream::Off };
    drive(open(&Console { stream, ..Console::default() }), data);
});
