//! Whether a guest that was promised one processor finds it on another host.

use kvm_bindings::kvm_cpuid_entry2;

use super::topology::{CMP_LEGACY, HTT};

/// The registers of a leaf.
#[derive(Clone, Copy, Debug)]
enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

use Register::{Eax, Ebx, Ecx, Edx};

/// Leaf 1, ECX: what no host's list says (hypervisor, TSC deadline), and what the guest itself turns on
/// (OSXSAVE).
const NOT_THE_HOSTS: u32 = 1 << 31 | 1 << 27 | 1 << 24;
/// Leaf 7, ECX: what the guest itself turns on (OSPKE).
const OSPKE: u32 = 1 << 4;

/// Words of which each bit is a feature: leaf, subleaf, register, and the bits that count. What tells of
/// several processors is about the machine, not its host.
const WORDS: [(u32, u32, Register, u32); 21] = [
    (1, 0, Ecx, !NOT_THE_HOSTS),
    (1, 0, Edx, !HTT),
    (7, 0, Ebx, !0),
    (7, 0, Ecx, !OSPKE),
    (7, 0, Edx, !0),
    (7, 1, Eax, !0),
    (7, 1, Ebx, !0),
    (7, 1, Ecx, !0),
    (7, 1, Edx, !0),
    (7, 2, Edx, !0),
    (0xd, 0, Eax, !0),
    (0xd, 0, Edx, !0),
    (0xd, 1, Eax, !0),
    (0xd, 1, Ecx, !0),
    (0xd, 1, Edx, !0),
    (0x4000_0001, 0, Eax, !0),
    (0x8000_0001, 0, Ecx, !CMP_LEGACY),
    (0x8000_0001, 0, Edx, !0),
    (0x8000_0007, 0, Edx, !0),
    (0x8000_0008, 0, Ebx, !0),
    (0x8000_0021, 0, Eax, !0),
];

/// What a guest with this table has been promised and the host does not support, in the notation of the
/// SDM: `CPUID.7:EBX[16]`. Empty if the guest can run here.
#[must_use]
pub fn missing(guest: &[kvm_cpuid_entry2], host: &[kvm_cpuid_entry2]) -> Vec<String> {
    let mut missing = Vec::new();
    let (ours, theirs) = (vendor(host), vendor(guest));
    if ours != theirs {
        missing.push(format!("the vendor {theirs} (it is {ours})"));
    }
    for (leaf, subleaf, register, counts) in WORDS {
        let [guest, host] = [guest, host].map(|table| word(table, leaf, subleaf, register));
        let lacking = guest & counts & !host;
        for bit in (0..32).filter(|bit| lacking >> bit & 1 != 0) {
            let subleaf = if subleaf == 0 { String::new() } else { format!(".{subleaf}") };
            let register = format!("{register:?}").to_uppercase();
            missing.push(format!("CPUID.{leaf:X}{subleaf}:{register}[{bit}]"));
        }
    }
    missing
}

fn vendor(table: &[kvm_cpuid_entry2]) -> String {
    let name = [Ebx, Edx, Ecx].map(|register| word(table, 0, 0, register).to_le_bytes());
    String::from_utf8_lossy(name.as_flattened()).into_owned()
}

/// A register of a leaf; 0 where there is no such leaf.
fn word(table: &[kvm_cpuid_entry2], leaf: u32, subleaf: u32, register: Register) -> u32 {
    let entry = table.iter().find(|entry| entry.function == leaf && entry.index == subleaf);
    entry.map_or(0, |entry| match register {
        Eax => entry.eax,
        Ebx => entry.ebx,
        Ecx => entry.ecx,
        Edx => entry.edx,
    })
}
