//! What a firmware would leave in a processor beyond registers: two MSRs.

use kvm_bindings::kvm_msr_entry;

/// `IA32_MISC_ENABLE` (SDM volume 4, table 2-2).
const MISC_ENABLE: u32 = 0x1a0;
const FAST_STRINGS: u64 = 1 << 0;
const BTS_UNAVAILABLE: u64 = 1 << 11;
const PEBS_UNAVAILABLE: u64 = 1 << 12;

/// `IA32_MTRR_DEF_TYPE` (SDM volume 3A, section 12.11.2.1).
const MTRR_DEF_TYPE: u32 = 0x2ff;
const MTRR_ENABLE: u64 = 1 << 11;
const WRITE_BACK: u64 = 6;

// The local APIC's pins stay as KVM resets them: kernels program both themselves.

/// The MSRs to set on every vCPU before it first runs, in one `KVM_SET_MSRS`.
///
/// Only what a new vCPU does not have yet, as each costs time at start-up. KVM resets the rest to
/// what a guest needs: the PAT to its power-on value, the system-call and `SYSENTER` registers and
/// `KERNEL_GS_BASE` to zero, the time-stamp counters of all vCPUs to one start.
///
/// - `MISC_ENABLE`: without fast strings Linux on an Intel processor copies memory the slow way.
///   The value replaces all bits, so it repeats that branch-trace and event sampling are not
///   there. AMD processors have no such register, but their KVM accepts it.
/// - `MTRR_DEF_TYPE`: all memory write-back, with the MTRRs enabled. Left disabled, memory is
///   uncacheable by the rules, and Linux does without the PAT too.
pub static BOOT_MSRS: [kvm_msr_entry; 2] = [
    kvm_msr_entry {
        index: MISC_ENABLE,
        reserved: 0,
        data: FAST_STRINGS | BTS_UNAVAILABLE | PEBS_UNAVAILABLE,
    },
    kvm_msr_entry { index: MTRR_DEF_TYPE, reserved: 0, data: MTRR_ENABLE | WRITE_BACK },
];

#[cfg(test)]
mod tests;
