//! The bare calls to KVM, as a process of their own: what no VMM can leave out.

use std::ffi::OsString;
use std::path::Path;

use super::{Adapter, Guest, Kernel, NotSupported, without_devices, words};

pub(super) struct Floor;

impl Adapter for Floor {
    fn name(&self) -> &'static str {
        crate::bench::FLOOR
    }

    fn program(&self) -> &'static str {
        "bantam"
    }

    fn arguments(&self, guest: &Guest<'_>, _: &Path) -> Result<Vec<OsString>, NotSupported> {
        without_devices(guest, "the bare calls have no devices")?;
        let Guest { kernel, initrd, words: line, memory_mib, cpus, console: _, .. } = guest;
        if *cpus != 1 || initrd.is_some() || matches!(kernel, Kernel::File(_)) {
            return Err(NotSupported("the bare calls run the embedded guest on one vCPU only".to_owned()));
        }
        Ok(words(["bench", "floor", &memory_mib.to_string(), line]))
    }
    fn save(&self, _: &Path, _: &Guest<'_>, _: &Path, _: &str) -> anyhow::Result<()> {
        Err(NotSupported("the bare calls bring machines back in the bench's own process".to_owned()).into())
    }
}
