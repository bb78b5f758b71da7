//! Cloud Hypervisor.

use std::ffi::OsString;
use std::path::Path;

use super::{Adapter, Guest, NotSupported, without_devices, words};

pub(super) struct CloudHypervisor;

impl Adapter for CloudHypervisor {
    fn name(&self) -> &'static str {
        "cloud-hypervisor"
    }

    fn program(&self) -> &'static str {
        "cloud-hypervisor"
    }

    fn arguments(&self, guest: &Guest<'_>, _: &Path) -> Result<Vec<OsString>, NotSupported> {
        without_devices(guest, super::ON_PCI)?;
        let Guest { kernel, initrd, words: line, memory_mib, cpus, console, .. } = guest;
        let (memory, cpus) = (format!("size={memory_mib}M"), format!("boot={cpus}"));
        let serial = if *console { "tty" } else { "off" };
        let mut arguments = words(["--memory", &memory, "--cpus", &cpus, "--cmdline", line]);
        arguments.extend(words(["--console", "off", "--serial", serial]));
        arguments.extend(["--kernel".into(), kernel.path().into()]);
        if let Some(initrd) = initrd {
            arguments.extend(["--initramfs".into(), initrd.into()]);
        }
        Ok(arguments)
    }
}
