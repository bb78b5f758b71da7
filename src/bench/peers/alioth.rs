//! Alioth.

use std::ffi::OsString;
use std::path::Path;

use super::{Adapter, Guest, NotSupported, without_devices, words};

pub(super) struct Alioth;

impl Adapter for Alioth {
    fn name(&self) -> &'static str {
        "alioth"
    }

    fn program(&self) -> &'static str {
        "alioth"
    }

    fn arguments(&self, guest: &Guest<'_>, _: &Path) -> Result<Vec<OsString>, NotSupported> {
        without_devices(guest, super::ON_PCI)?;
        let Guest { kernel, initrd, words: line, memory_mib, cpus, console: _, .. } = guest;
        let (memory, cpus) = (format!("size={memory_mib}M"), format!("count={cpus}"));
        let mut arguments = words(["boot", "--memory", &memory, "--cpu", &cpus, "--cmdline", line]);
        arguments.extend(["--pvh".into(), kernel.path().into()]);
        if let Some(initrd) = initrd {
            arguments.extend(["--initramfs".into(), initrd.into()]);
        }
        Ok(arguments)
    }
}
