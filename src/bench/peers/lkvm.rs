//! kvmtool's `lkvm`.

use std::ffi::OsString;
use std::path::Path;

use super::{Adapter, Guest, Kernel, NotSupported, without_devices, words};

pub(super) struct Lkvm;

impl Adapter for Lkvm {
    fn name(&self) -> &'static str {
        "lkvm"
    }

    fn program(&self) -> &'static str {
        "lkvm"
    }

    fn arguments(&self, guest: &Guest<'_>, _: &Path) -> Result<Vec<OsString>, NotSupported> {
        without_devices(guest, super::ON_PCI)?;
        let Guest { kernel, initrd, words: line, memory_mib, cpus, console: _, .. } = guest;
        if matches!(kernel, Kernel::Embedded(_)) {
            return Err(NotSupported("it boots a bzImage, and the embedded guest is an ELF file".to_owned()));
        }
        let (memory, cpus) = (memory_mib.to_string(), cpus.to_string());
        let mut arguments = words(["run", "--mem", &memory, "--cpus", &cpus, "--params", line]);
        arguments.extend(words(["--console", "serial", "--network", "mode=none"]));
        arguments.extend(["--kernel".into(), kernel.path().into()]);
        if let Some(initrd) = initrd {
            arguments.extend(["--initrd".into(), initrd.into()]);
        }
        Ok(arguments)
    }
}
