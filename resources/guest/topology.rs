//! Which CPUs and interrupt controllers there are.

use crate::acpi::{Acpi, MadtEntry};
use crate::apic::{self, IoApic};
use crate::boot_info::BootInfo;
use crate::mp_table::MpTable;

/// As many as xAPIC mode can name: ID 255 is the broadcast.
pub const MAX_CPUS: usize = 255;

pub struct Topology {
    ids: [u8; MAX_CPUS],
    count: usize,
    pub local_apic: u32,
    /// The IOAPIC that has the first interrupts, the ISA ones among them.
    pub io_apic: u32,
    /// Another one, and its first interrupt.
    further: Option<(u32, u32)>,
    /// Who told.
    pub source: &'static str,
}

impl Topology {
    /// From the MADT, else the MP table, else this CPU alone.
    pub fn find(boot: &BootInfo) -> Self {
        let mut topology = Topology {
            ids: [0; MAX_CPUS],
            count: 0,
            local_apic: apic::LOCAL_APIC,
            io_apic: apic::DEFAULT_IO_APIC,
            further: None,
            source: "CPUID",
        };
        if let Some(madt) = Acpi::find(boot.rsdp()).and_then(|acpi| acpi.madt()) {
            topology.source = "MADT";
            topology.local_apic = madt.local_apic().unwrap_or(apic::LOCAL_APIC);
            topology.add_all(madt.entries());
        } else if let Some(table) = MpTable::find() {
            topology.source = "MP table";
            topology.local_apic = table.local_apic().unwrap_or(apic::LOCAL_APIC);
            topology.add_all(table.entries());
        }
        if topology.count == 0 {
            topology.add(MadtEntry::Cpu(crate::cpu::cpuid(1, 0).ebx >> 24));
        }
        topology
    }

    fn add_all(&mut self, entries: impl Iterator<Item = MadtEntry>) {
        // Bounded, since the table may be nonsense.
        entries.take(1024).for_each(|entry| self.add(entry));
    }

    fn add(&mut self, entry: MadtEntry) {
        match entry {
            MadtEntry::Cpu(id) => {
                if let Ok(id) = u8::try_from(id)
                    && id != u8::MAX
                    && !self.cpus().contains(&id)
                {
                    self.ids[self.count] = id;
                    self.count += 1;
                }
            }
            MadtEntry::IoApic { address, first: 0 } => self.io_apic = address,
            MadtEntry::IoApic { address, first } => self.further = Some((address, first)),
        }
    }

    /// The IOAPIC that an interrupt comes to, and its pin there.
    pub fn pin(&self, interrupt: u32) -> (IoApic, u32) {
        let further = self.further.filter(|&(_, first)| first <= interrupt);
        let (address, first) = further.unwrap_or((self.io_apic, 0));
        (IoApic { address }, interrupt - first)
    }

    /// The local APIC IDs.
    pub fn cpus(&self) -> &[u8] {
        &self.ids[..self.count]
    }
}
