//! A CPUID table under construction.

use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

/// First leaf of each range; its EAX is the last leaf of that range.
const RANGES: [u32; 3] = [0, 0x4000_0000, 0x8000_0000];

/// Whose rules the processor follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Vendor {
    /// AMD's, or Hygon's, which are the same.
    Amd,
    /// Intel's, and all others: they follow Intel.
    Intel,
}

/// Entries by leaf and subleaf.
pub(super) struct Table {
    entries: Vec<kvm_cpuid_entry2>,
}

impl Table {
    pub(super) fn new(supported: &[kvm_cpuid_entry2]) -> Self {
        // Room for what is added, so that it does not move.
        let mut entries = Vec::with_capacity(supported.len() + 16);
        entries.extend_from_slice(supported);
        Self { entries }
    }

    pub(super) fn vendor(&self) -> Vendor {
        let name = |entry: &kvm_cpuid_entry2| [entry.ebx, entry.edx, entry.ecx].map(u32::to_le_bytes);
        match self.entries.iter().find(|entry| entry.function == 0).map(name) {
            Some([first, ..]) if first == *b"Auth" || first == *b"Hygo" => Vendor::Amd,
            _ => Vendor::Intel,
        }
    }

    pub(super) fn contains(&self, leaf: u32) -> bool {
        self.entries.iter().any(|entry| entry.function == leaf)
    }

    /// Changes all subleaves of a leaf that is there.
    pub(super) fn each(&mut self, leaf: u32, change: impl FnMut(&mut kvm_cpuid_entry2)) {
        self.entries.iter_mut().filter(|entry| entry.function == leaf).for_each(change);
    }

    /// Changes a leaf without subleaves, which is all zero if it was not there.
    pub(super) fn update(&mut self, leaf: u32, change: impl FnOnce(&mut kvm_cpuid_entry2)) {
        match self.entries.iter_mut().find(|entry| entry.function == leaf) {
            Some(entry) => change(entry),
            None => {
                let mut entry = kvm_cpuid_entry2 { function: leaf, ..Default::default() };
                change(&mut entry);
                self.entries.push(entry);
            }
        }
    }

    /// Sets EAX to EDX of a leaf without subleaves.
    pub(super) fn set(&mut self, leaf: u32, [eax, ebx, ecx, edx]: [u32; 4]) {
        self.update(leaf, |entry| {
            (entry.eax, entry.ebx, entry.ecx, entry.edx) = (eax, ebx, ecx, edx);
        });
    }

    /// Makes all of a leaf that is there read zero: what it describes is not offered.
    pub(super) fn clear(&mut self, leaf: u32) {
        self.each(leaf, |entry| (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0));
    }

    /// Replaces a leaf by these subleaves, from 0 on.
    pub(super) fn set_subleaves(&mut self, leaf: u32, subleaves: impl IntoIterator<Item = [u32; 4]>) {
        self.remove(leaf);
        self.entries.extend((0..).zip(subleaves).map(|(index, [eax, ebx, ecx, edx])| kvm_cpuid_entry2 {
            function: leaf,
            index,
            flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
            eax,
            ebx,
            ecx,
            edx,
            ..Default::default()
        }));
    }

    pub(super) fn remove(&mut self, leaf: u32) {
        self.entries.retain(|entry| entry.function != leaf);
    }

    /// The entries in order, with each range's last leaf at least the last that is there.
    pub(super) fn finish(mut self) -> Vec<kvm_cpuid_entry2> {
        for range in RANGES {
            let in_range = |leaf: &u32| leaf >> 28 == range >> 28;
            let last = self.entries.iter().map(|entry| entry.function).filter(in_range).max();
            if let Some(last) = last {
                self.update(range, |entry| entry.eax = entry.eax.max(last));
            }
        }
        self.entries.sort_by_key(|entry| (entry.function, entry.index));
        self.entries
    }
}
