#![no_main]
//! A raw image by the engine that works at once, which is quickest, and every fourth time one of the
//! others, or an overlay.

use std::fs::File;

use bantam::virtio::block::config::{Disk, EngineKind, Overlay};
use bantam::virtio::fuzz::{drive, open};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let path = std::env::temp_dir().join(format!("bantam-fuzz-{}.img", std::process::id()));
    File::create(&path).and_then(|file| file.set_len(1 << 20)).expect("a disk image");
    let disk = Disk::new(&path);
    let disk = match data.first().map(|first| first % 16) {
        Some(0) => Disk { engine: EngineKind::Threads, queues: Some(2), ..disk },
        Some(1) => Disk { engine: EngineKind::IoUring, ..disk },
        Some(2) => Disk { readonly: true, engine: EngineKind::Sync, ..disk },
        Some(3) => Disk { overlay: Some(Overlay::Temp), engine: EngineKind::Sync, ..disk },
        _ => Disk { engine: EngineKind::Sync, ..disk },
    };
    drive(open(&disk), data);
});
