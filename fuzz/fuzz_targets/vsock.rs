#![no_main]

use bantam::virtio::fuzz::{drive, open};
use bantam::virtio::vsock::config::Vsock;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let uds = std::env::temp_dir().join(format!("bantam-fuzz-{}.vsock", std::process::id()));
    drive(open(&Vsock { cid: 3, uds, id: None, iothread: None }), data);
});
