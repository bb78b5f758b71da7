use kvm_bindings::{kvm_regs, kvm_sregs};

/// A vCPU that KVM cannot run on, with what is needed to understand it.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// What KVM said.
    pub kind: FailureKind,
    /// The vCPU's index.
    pub vcpu: u32,
    /// The bytes at RIP; none where they cannot be read.
    pub instruction: Vec<u8>,
    /// General registers; all zero where KVM does not give them.
    pub regs: kvm_regs,
    /// System registers; all zero where KVM does not give them.
    pub sregs: kvm_sregs,
}

/// How KVM gave up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// `KVM_EXIT_INTERNAL_ERROR`.
    Internal {
        /// `KVM_INTERNAL_ERROR_*`.
        suberror: u32,
    },
    /// `KVM_EXIT_FAIL_ENTRY`: the processor refused the guest's state.
    Entry {
        /// The processor's reason (Intel SDM vol. 3D, appendix C).
        reason: u64,
    },
    /// `KVM_EXIT_MEMORY_FAULT`: memory behind a guest address is gone.
    Memory {
        /// Guest-physical address.
        address: u64,
    },
    /// An exit that was never asked for.
    Unexpected {
        /// `KVM_EXIT_*`.
        reason: u32,
    },
    /// `KVM_RUN` itself failed.
    Run {
        /// The host's error number.
        errno: i32,
    },
}

impl Failure {
    /// Current privilege level: the DPL of the stack segment (Intel SDM vol. 3A, 5.5).
    #[must_use]
    pub fn cpl(&self) -> u8 {
        self.sregs.ss.dpl
    }
}
