//! The hypervisor's leaves: KVM's signature and paravirtual features.

use super::CpuFeatures;
use super::table::Table;
use super::timing::APIC_KHZ;

const SIGNATURE: u32 = 0x4000_0000;
const FEATURES: u32 = 0x4000_0001;
/// Frequencies, as VMware defined them and guests look for them under KVM too.
const TIMING: u32 = 0x4000_0010;

/// Features whose use is a hypercall: wake a waiting processor, send interrupts to several, yield
/// to one, tell of pages shared with the host.
const HYPERCALLS: u32 = 1 << 7 | 1 << 11 | 1 << 13 | 1 << 16;

/// The features are those that KVM supports: the clocks and their stability, asynchronous page
/// faults, stolen time and the like need only MSRs and memory.
pub(super) fn apply(table: &mut Table, features: &CpuFeatures<'_>) {
    // "KVMKVMKVM"; the last leaf follows from what is in the table.
    let [ebx, ecx, edx] = [*b"KVMK", *b"VMKV", *b"M\0\0\0"].map(u32::from_le_bytes);
    table.set(SIGNATURE, [FEATURES, ebx, ecx, edx]);
    table.update(FEATURES, |leaf| {
        if !features.pv_hypercalls {
            leaf.eax &= !HYPERCALLS;
        }
    });
    if let Some(khz) = features.tsc_khz {
        table.set(TIMING, [khz, APIC_KHZ, 0, 0]);
    }
}
