//! crosvm, without its sandbox, which needs a set-up of its own.

use std::ffi::OsString;
use std::path::Path;

use super::{Adapter, Guest, NotSupported, without_devices, words};

pub(super) struct Crosvm;

impl Adapter for Crosvm {
    fn name(&self) -> &'static str {
        "crosvm"
    }

    fn program(&self) -> &'static str {
        "crosvm"
    }

    fn arguments(&self, guest: &Guest<'_>, _: &Path) -> Result<Vec<OsString>, NotSupported> {
        without_devices(guest, super::ON_PCI)?;
        let Guest { kernel, initrd, words: line, memory_mib, cpus, console, .. } = guest;
        let (memory, cpus) = (memory_mib.to_string(), cpus.to_string());
        let serial = format!("type={},hardware=serial,num=1", if *console { "stdout" } else { "sink" });
        let mut arguments = words(["run", "--disable-sandbox", "--mem", &memory, "--cpus", &cpus]);
        arguments.extend(words(["--serial", &serial, "--params", line]));
        if let Some(initrd) = initrd {
            arguments.extend(["--initrd".into(), initrd.into()]);
        }
        arguments.push(kernel.path().into());
        Ok(arguments)
    }
}
