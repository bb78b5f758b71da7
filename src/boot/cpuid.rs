//! What `CPUID` tells a guest: a pure function of what KVM supports and what the machine is.
//!
//! The table starts as KVM's own list of what it supports (`KVM_GET_SUPPORTED_CPUID`) and stays
//! within it, but for the leaves that describe the machine rather than the processor: topology,
//! frequencies, the hypervisor, the name. Leaves are those of the Intel SDM, volume 2A, `CPUID`;
//! from 0x8000_0000 on, those of the AMD APM, volume 3, appendix E; from 0x4000_0000 on, those of
//! Linux's `Documentation/virt/kvm/x86/cpuid.rst`.

mod features;
mod fit;
mod kvm;
mod table;
mod timing;
mod topology;

use std::num::NonZeroU8;

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use thiserror::Error;

pub use fit::missing;
use table::Table;

/// How the processors are arranged: one package of single-threaded cores, with the APIC ids 0, 1,
/// 2 and so on.
#[derive(Clone, Copy, Debug)]
pub struct Topology {
    /// Number of processors.
    pub cpus: NonZeroU8,
}

/// What a guest may use, and what its processors are called.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuFeatures<'a> {
    /// The frequency of the time-stamp counter (`KVM_GET_TSC_KHZ`), if known. A guest that is told
    /// need not measure it, for which this machine has no timer.
    pub tsc_khz: Option<u32>,
    /// Whether the local APIC's timer can follow the time-stamp counter
    /// (`KVM_CAP_TSC_DEADLINE_TIMER`; KVM's list of features never says it).
    pub tsc_deadline: bool,
    /// Whether a guest kernel's `vmcall` works. Where KVM cannot execute it, features whose use
    /// is a hypercall must not be offered.
    pub pv_hypercalls: bool,
    /// Whether the guest may run virtual machines itself, if KVM can do that.
    pub nested: bool,
    /// The processors' name, at most 47 printable ASCII characters; `None` makes one up.
    pub brand: Option<&'a str>,
}

/// Why there is no table.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Error {
    /// The table is longer than KVM takes.
    #[error("CPUID table has {count} entries; KVM takes at most {KVM_MAX_CPUID_ENTRIES}")]
    Entries {
        /// Number of entries.
        count: usize,
    },
    /// The brand string is too long, or not printable ASCII.
    #[error("processor name {brand:?} is not at most 47 printable ASCII characters")]
    Brand {
        /// The name.
        brand: String,
    },
    /// There is no such processor.
    #[error("there is no processor {index}: the machine has {cpus}")]
    Index {
        /// The number asked for.
        index: u8,
        /// Number of processors.
        cpus: NonZeroU8,
    },
}

/// The table that all processors of a machine share, but for their own APIC ids.
#[derive(Clone, Debug)]
pub struct GuestCpuid {
    entries: Vec<kvm_cpuid_entry2>,
    cpus: NonZeroU8,
}

impl GuestCpuid {
    /// Makes a machine's table out of what KVM supports.
    ///
    /// # Errors
    /// The table would be too long, or the brand string does not fit.
    pub fn new(supported: &CpuId, topology: Topology, features: &CpuFeatures<'_>) -> Result<Self, Error> {
        let mut table = Table::new(supported.as_slice());
        let vendor = table.vendor();
        let cpus = u32::from(topology.cpus.get());
        features::apply(&mut table, features)?;
        topology::apply(&mut table, vendor, cpus);
        timing::apply(&mut table, vendor, features.tsc_khz);
        kvm::apply(&mut table, features);
        let entries = table.finish();
        if entries.len() > KVM_MAX_CPUID_ENTRIES {
            return Err(Error::Entries { count: entries.len() });
        }
        Ok(Self { entries, cpus: topology.cpus })
    }

    /// The table for processor `index`, whose APIC id is the same number (`KVM_SET_CPUID2`).
    ///
    /// # Errors
    /// The machine has no such processor.
    pub fn for_cpu(&self, index: u8) -> Result<CpuId, Error> {
        if index >= self.cpus.get() {
            return Err(Error::Index { index, cpus: self.cpus });
        }
        let count = self.entries.len();
        let mut cpuid = CpuId::from_entries(&self.entries).map_err(|_| Error::Entries { count })?;
        topology::identify(cpuid.as_mut_slice(), index.into());
        Ok(cpuid)
    }
}

#[cfg(test)]
mod tests;
