//! Which processors there are and which caches they share.

use kvm_bindings::kvm_cpuid_entry2;

use super::table::{Table, Vendor};

/// Leaf 1, EDX: the package has several logical processors, and EBX says how many.
pub(super) const HTT: u32 = 1 << 28;
/// Leaf 0x8000_0001, ECX: those are cores, not threads.
pub(super) const CMP_LEGACY: u32 = 1 << 1;

/// Leaves 0xB and 0x1F, ECX bits 15 to 8: what a level consists of.
const LEVEL_THREAD: u32 = 1 << 8;
const LEVEL_CORE: u32 = 2 << 8;

/// Extended topology, and its second version.
const EXTENDED: u32 = 0xb;
const EXTENDED_V2: u32 = 0x1f;

pub(super) fn apply(table: &mut Table, vendor: Vendor, cpus: u32) {
    package(table, vendor, cpus);
    extended(table, cpus);
    // Cache parameters: Intel's, which count the ids that could share a cache, a power of two;
    // AMD's, which count the processors that do.
    let ids = cpus.next_power_of_two();
    table.each(0x4, |leaf| {
        if share_cache(leaf, ids) {
            // Bits 31 to 26: core ids in the package, less one; 64 is all that can be said.
            leaf.eax = (leaf.eax & 0x03ff_ffff) | ((ids.min(64) - 1) << 26);
        }
    });
    table.each(0x8000_001d, |leaf| {
        share_cache(leaf, cpus);
    });
    if vendor == Vendor::Amd {
        amd(table, cpus);
    }
}

/// Leaf 1: bits 23 to 16 of EBX count the package's processors. Intel counts their possible ids,
/// so that dividing by the cores of leaf 4 gives the threads of each.
fn package(table: &mut Table, vendor: Vendor, cpus: u32) {
    let count = match vendor {
        Vendor::Amd => cpus,
        Vendor::Intel => cpus.next_power_of_two().min(255),
    };
    table.update(1, |leaf| {
        leaf.ebx = (leaf.ebx & 0x0000_ffff) | (count << 16);
        leaf.edx = if cpus > 1 { leaf.edx | HTT } else { leaf.edx & !HTT };
    });
}

/// A thread level of one, a core level of all, and the level that ends the list. KVM may have
/// listed the host's topology, which goes. The second version is given where there was one.
fn extended(table: &mut Table, cpus: u32) {
    let levels = [
        [0, 1, LEVEL_THREAD, 0],
        // EAX: how far to shift an id to number the packages.
        [id_bits(cpus), cpus, LEVEL_CORE | 1, 0],
        [0, 0, 2, 0],
    ];
    table.set_subleaves(EXTENDED, levels);
    if table.contains(EXTENDED_V2) {
        table.set_subleaves(EXTENDED_V2, levels);
    }
    table.remove(0x8000_0026);
}

/// Sets bits 25 to 14 of a cache leaf: how many share it, less one. First- and second-level caches
/// are a core's own, others the package's. Returns whether the subleaf is a cache at all.
fn share_cache(leaf: &mut kvm_cpuid_entry2, sharers: u32) -> bool {
    let (kind, level) = (leaf.eax & 0x1f, leaf.eax >> 5 & 0x7);
    if kind == 0 {
        return false;
    }
    let sharers = if level <= 2 { 1 } else { sharers };
    leaf.eax = (leaf.eax & !(0xfff << 14)) | ((sharers - 1) << 14);
    true
}

fn amd(table: &mut Table, cpus: u32) {
    table.update(0x8000_0001, |leaf| {
        leaf.ecx = if cpus > 1 { leaf.ecx | CMP_LEGACY } else { leaf.ecx & !CMP_LEGACY };
    });
    // ECX: bits 7 to 0, cores less one; bits 15 to 12, how many bits of an id number them.
    table.update(0x8000_0008, |leaf| {
        leaf.ecx = (leaf.ecx & !0xf0ff) | (cpus - 1) | (id_bits(cpus) << 12);
    });
    // One thread a core, one node; the ids follow for each processor.
    table.clear(0x8000_001e);
}

/// How many bits number `cpus` processors.
fn id_bits(cpus: u32) -> u32 {
    cpus.next_power_of_two().trailing_zeros()
}

/// Puts a processor's id into its copy of the table.
pub(super) fn identify(entries: &mut [kvm_cpuid_entry2], apic_id: u32) {
    for leaf in entries {
        match leaf.function {
            1 => leaf.ebx = (leaf.ebx & 0x00ff_ffff) | (apic_id << 24),
            EXTENDED | EXTENDED_V2 => leaf.edx = apic_id,
            0x8000_001e => {
                leaf.eax = apic_id;
                leaf.ebx = (leaf.ebx & !0xff) | apic_id;
            }
            _ => {}
        }
    }
}
