//! Features taken away or added, and the processors' name.

use super::table::Table;
use super::{CpuFeatures, Error};

const NAME_LEAVES: [u32; 3] = [0x8000_0002, 0x8000_0003, 0x8000_0004];
/// The name's length without the NUL that ends it.
const NAME_MAX: usize = 47;

/// Leaf 1, ECX.
const DTES64: u32 = 1 << 2;
const DS_CPL: u32 = 1 << 4;
const VMX: u32 = 1 << 5;
const PDCM: u32 = 1 << 15;
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1, EDX.
const DEBUG_STORE: u32 = 1 << 21;
/// Leaf 6, EAX: the local APIC's timer runs whatever the processor's power state.
const ARAT: u32 = 1 << 2;
/// Leaf 7: EBX, ECX and EDX.
const SGX: u32 = 1 << 2;
const SGX_LAUNCH_CONTROL: u32 = 1 << 30;
const ARCH_LBR: u32 = 1 << 19;
/// Leaf 0x8000_0001, ECX.
const SVM: u32 = 1 << 2;
const IBS: u32 = 1 << 10;
const PERF_CORE: u32 = 1 << 23;
const PERF_NB: u32 = 1 << 24;
const PERF_LLC: u32 = 1 << 28;

pub(super) fn apply(table: &mut Table, features: &CpuFeatures<'_>) -> Result<(), Error> {
    table.update(1, |leaf| {
        leaf.ecx |= HYPERVISOR;
        leaf.ecx &= !TSC_DEADLINE;
        if features.tsc_deadline {
            leaf.ecx |= TSC_DEADLINE;
        }
    });
    // KVM's timer does not stop. Linux looks for an 8254 on a processor that does not say so.
    table.update(6, |leaf| leaf.eax |= ARAT);
    hide_performance_counters(table);
    hide_enclaves(table);
    if !features.nested {
        hide_virtualization(table);
    }
    name(table, &brand(features)?);
    Ok(())
}

/// No performance counters: a guest that finds them takes time to set them up and keeps one
/// running as a watchdog, and their state would have to move with a machine.
fn hide_performance_counters(table: &mut Table) {
    table.each(1, |leaf| {
        leaf.ecx &= !(DTES64 | DS_CPL | PDCM);
        leaf.edx &= !DEBUG_STORE;
    });
    table.each(7, |leaf| {
        if leaf.index == 0 {
            leaf.edx &= !ARCH_LBR;
        }
    });
    table.each(0x8000_0001, |leaf| leaf.ecx &= !(IBS | PERF_CORE | PERF_NB | PERF_LLC));
    // Architectural counters, branch records, AMD's counters, AMD's sampling.
    for leaf in [0xa, 0x1c, 0x8000_0022, 0x8000_001b] {
        table.clear(leaf);
    }
}

/// No SGX: a guest has no enclave memory.
fn hide_enclaves(table: &mut Table) {
    table.each(7, |leaf| {
        if leaf.index == 0 {
            leaf.ebx &= !SGX;
            leaf.ecx &= !SGX_LAUNCH_CONTROL;
        }
    });
    table.clear(0x12);
}

fn hide_virtualization(table: &mut Table) {
    table.each(1, |leaf| leaf.ecx &= !VMX);
    table.each(0x8000_0001, |leaf| leaf.ecx &= !SVM);
    table.clear(0x8000_000a);
}

/// The name given, or one in the form from which software reads the frequency (SDM volume 2A,
/// "The Processor Brand String Method").
fn brand(features: &CpuFeatures<'_>) -> Result<String, Error> {
    match (features.brand, features.tsc_khz) {
        (Some(brand), _) => {
            let printable = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
            if brand.len() > NAME_MAX || !brand.bytes().all(printable) {
                return Err(Error::Brand { brand: brand.to_owned() });
            }
            Ok(brand.to_owned())
        }
        (None, Some(khz)) => {
            // Hundredths of a GHz, rounded.
            let hundredths = (u64::from(khz) + 5_000) / 10_000;
            Ok(format!("Bantam virtual CPU @ {}.{:02}GHz", hundredths / 100, hundredths % 100))
        }
        (None, None) => Ok("Bantam virtual CPU".to_owned()),
    }
}

/// Spreads the name over its leaves, 16 bytes each, with NULs behind it.
fn name(table: &mut Table, name: &str) {
    let mut bytes = name.bytes().chain(std::iter::repeat(0));
    for leaf in NAME_LEAVES {
        let registers = [(); 4].map(|()| [(); 4].map(|()| bytes.next().unwrap_or(0)));
        table.set(leaf, registers.map(u32::from_le_bytes));
    }
}
