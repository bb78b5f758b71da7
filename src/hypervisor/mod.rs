//! The few KVM calls that a machine makes, as values in and out.
//!
//! Everything above this module sees [`Hypervisor`], [`Vm`] and the trait [`Vcpu`] with its
//! [`Exit`]s; a scripted vCPU takes KVM's place in tests.

mod counters;
mod error;
mod failure;
mod kick;
mod probe;
mod state;
mod vcpu;
mod vm;

use std::sync::{Arc, OnceLock};

use kvm_bindings::{CpuId, KVM_API_VERSION, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::{Cap, Kvm};

pub use counters::Counters;
pub use error::Error;
pub use failure::{Failure, FailureKind};
pub use kick::{ImmediateExit, KICK_SIGNAL_OFFSET, KickHandle, Seat};
pub use state::{ClockState, VcpuState};
pub use vcpu::{Exit, KvmVcpu, Vcpu};
pub use vm::Vm;

/// What every machine needs, with the name that an error shows.
const REQUIRED: [(Cap, &str); 8] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::SplitIrqchip, "KVM_CAP_SPLIT_IRQCHIP"),
    (Cap::SignalMsi, "KVM_CAP_SIGNAL_MSI"),
    (Cap::IrqRouting, "KVM_CAP_IRQ_ROUTING"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
];

/// An open `/dev/kvm` that can do what a machine needs. Clones share it; a process with many
/// machines opens it once and what was measured of it is measured once.
#[derive(Clone)]
pub struct Hypervisor {
    inner: Arc<Inner>,
}

struct Inner {
    kvm: Kvm,
    hypercalls: OnceLock<bool>,
}

impl Hypervisor {
    /// Opens `/dev/kvm` and checks its version and capabilities.
    ///
    /// # Errors
    /// The device is missing, may not be opened, or lacks something, which the error names.
    pub fn open() -> Result<Self, Error> {
        let kvm = Kvm::new().map_err(Error::open)?;
        let version = kvm.get_api_version();
        if u32::try_from(version) != Ok(KVM_API_VERSION) {
            return Err(Error::ApiVersion(version));
        }
        let missing = Self::missing_capabilities(&kvm);
        if !missing.is_empty() {
            return Err(Error::Capabilities(missing.join(", ")));
        }
        Ok(Self { inner: Arc::new(Inner { kvm, hypercalls: OnceLock::new() }) })
    }

    fn missing_capabilities(kvm: &Kvm) -> Vec<&'static str> {
        REQUIRED.iter().filter(|(cap, _)| !kvm.check_extension(*cap)).map(|(_, name)| *name).collect()
    }

    /// The CPUID leaves that KVM can give a guest on this host.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn supported_cpuid(&self) -> Result<CpuId, Error> {
        self.kvm().get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(Error::call("KVM_GET_SUPPORTED_CPUID"))
    }

    /// Whether the local APIC's timer has the TSC-deadline mode (a CPUID bit that KVM leaves to us).
    #[must_use]
    pub fn has_tsc_deadline(&self) -> bool {
        self.kvm().check_extension(Cap::TscDeadlineTimer)
    }

    /// Whether a machine can have so many vCPUs.
    ///
    /// # Errors
    /// It cannot.
    pub fn check_vcpus(&self, asked: u32) -> Result<(), Error> {
        let most = self.kvm().get_max_vcpus();
        if asked as usize <= most { Ok(()) } else { Err(Error::TooManyVcpus { asked, most }) }
    }

    /// What KVM answers about one of its `KVM_CAP_` numbers: 0 or less is no.
    #[must_use]
    pub fn extension(&self, capability: u32) -> i32 {
        self.kvm().check_extension_raw(capability.into())
    }

    /// Whether a guest's hypercalls reach KVM, measured once with a small machine. Where guest
    /// kernel code is interpreted they may not, and a guest must not be offered any.
    #[must_use]
    pub fn hypercalls_work(&self) -> bool {
        *self.inner.hypercalls.get_or_init(|| probe::hypercalls_work(self).unwrap_or(false))
    }

    /// Whether a guest's time-stamp counter goes on from where it is set, measured with a small machine. Where it
    /// does not, a guest sees the host's.
    ///
    /// # Errors
    /// KVM refuses to make one.
    pub fn tsc_can_be_set(&self) -> Result<bool, Error> {
        probe::tsc_can_be_set(self)
    }

    fn msrs_to_save(&self) -> Result<Vec<u32>, Error> {
        let list = self.kvm().get_msr_index_list().map_err(Error::call("KVM_GET_MSR_INDEX_LIST"))?;
        Ok(list.as_slice().to_vec())
    }

    fn kvm(&self) -> &Kvm {
        &self.inner.kvm
    }
}

#[cfg(test)]
mod tests;
