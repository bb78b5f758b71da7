//! Bantam itself.

use std::ffi::OsString;
use std::path::Path;

use super::{Adapter, Guest, Kernel, NotSupported, words};
use crate::bench::inside;

/// In the folder of a machine that was saved.
const SAVED: &str = "snapshot";

pub(super) struct Bantam;

impl Adapter for Bantam {
    fn name(&self) -> &'static str {
        crate::bench::BANTAM
    }

    fn program(&self) -> &'static str {
        "bantam"
    }

    fn arguments(&self, guest: &Guest<'_>, _: &Path) -> Result<Vec<OsString>, NotSupported> {
        let Guest { kernel, initrd, words: line, memory_mib, cpus, console, disk, tap, vsock, entropy } =
            guest;
        let (memory, cpus) = (format!("{memory_mib}M"), cpus.to_string());
        let mut arguments = words(["run", "--memory", &memory, "--cpus", &cpus, "--cmdline", line]);
        if let Kernel::File(path) = kernel {
            arguments.extend(["--kernel".into(), path.into()]);
        }
        if let Some(initrd) = initrd {
            arguments.extend(["--initrd".into(), initrd.into()]);
        }
        if !console {
            arguments.extend(words(["--console", "off"]));
        }
        if let Some(disk) = disk {
            let mut value = OsString::from("path=");
            value.push(disk.path);
            value.push(",format=raw");
            value.push(if disk.direct { ",direct" } else { "" });
            value.push(disk.engine.map(|engine| format!(",engine={engine}")).unwrap_or_default());
            arguments.extend(["--disk".into(), value]);
        }
        if let Some(tap) = tap {
            arguments.extend(words(["--net", &format!("tap={tap}")]));
        }
        if let Some((cid, socket)) = vsock {
            arguments.extend(words(["--vsock", &format!("cid={cid},uds={}", socket.display())]));
        }
        if *entropy {
            arguments.push("--entropy".into());
        }
        Ok(arguments)
    }

    fn save(&self, _: &Path, guest: &Guest<'_>, folder: &Path, until: &str) -> anyhow::Result<()> {
        let config = inside::config(guest.memory_mib, &guest.words);
        inside::save(&folder.join(SAVED), config, until)
    }

    fn restore(&self, _: &Guest<'_>, folder: &Path) -> Result<Vec<OsString>, NotSupported> {
        Ok(vec!["restore".into(), folder.join(SAVED).into()])
    }

    fn disk_engines(&self) -> &'static [&'static str] {
        &["io_uring", "threads", "sync"]
    }
}
