//! Firecracker: a configuration in JSON, and no API.

use std::ffi::OsString;
use std::path::Path;

use serde_json::{Value, json};

use super::{Adapter, Disk, Guest, NotSupported};

pub(super) struct Firecracker;

impl Adapter for Firecracker {
    fn name(&self) -> &'static str {
        "firecracker"
    }

    fn program(&self) -> &'static str {
        "firecracker"
    }

    fn arguments(&self, guest: &Guest<'_>, folder: &Path) -> Result<Vec<OsString>, NotSupported> {
        let path = folder.join("machine.json");
        std::fs::write(&path, configuration(guest)?.to_string())
            .map_err(|error| NotSupported(format!("cannot write {}: {error}", path.display())))?;
        // Its log would come before the guest's first byte.
        let log = folder.join("log");
        std::fs::write(&log, "")
            .map_err(|error| NotSupported(format!("cannot write {}: {error}", log.display())))?;
        let options =
            ["--no-api".into(), "--config-file".into(), path.into(), "--log-path".into(), log.into()];
        Ok(options.into())
    }

    fn disk_engines(&self) -> &'static [&'static str] {
        &["Async", "Sync"]
    }
}

/// The machine in Firecracker's words. Its console is always standard output.
fn configuration(guest: &Guest<'_>) -> Result<Value, NotSupported> {
    let Guest { kernel, initrd, words, memory_mib, cpus, console: _, disk, tap, vsock, entropy } = guest;
    if disk.is_some_and(|disk| disk.direct) {
        return Err(NotSupported("it always goes through the host's page cache".to_owned()));
    }
    let drive = |disk: &Disk<'_>| {
        json!({
            "drive_id": "d", "path_on_host": disk.path, "is_root_device": false, "is_read_only": false,
            "cache_type": "Writeback", "io_engine": disk.engine.unwrap_or("Async"),
        })
    };
    let interface = |tap| json!({ "iface_id": "n", "host_dev_name": tap });
    Ok(json!({
        "boot-source": { "kernel_image_path": kernel.path(), "boot_args": words, "initrd_path": initrd },
        "machine-config": { "vcpu_count": cpus, "mem_size_mib": memory_mib },
        "drives": disk.iter().map(drive).collect::<Vec<_>>(),
        "network-interfaces": tap.iter().map(interface).collect::<Vec<_>>(),
        "entropy": entropy.then(|| json!({})),
        "vsock": vsock.map(|(cid, socket)| json!({ "guest_cid": cid, "uds_path": socket })),
    }))
}
