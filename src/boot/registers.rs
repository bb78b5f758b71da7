//! The boot processor's registers at a kernel's first instruction: values in, values out.

use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment, kvm_sregs};

use crate::memory::layout::{GDT, PAGE_TABLES, PVH_START_INFO, ZERO_PAGE};

/// How a kernel is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// 32-bit protected mode without paging, EBX pointing to the start info (Xen,
    /// `docs/misc/pvh.pandoc`).
    Pvh,
    /// 64-bit mode with identity-mapped pages, RSI pointing to the zero page (boot.rst, "64-bit Boot
    /// Protocol").
    Linux64,
}

/// A kernel's first instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// How it is entered.
    pub protocol: Protocol,
    /// Where, as a physical address.
    pub address: u64,
}

/// Intel SDM 3A, 2.5: protection, extension type (always set), paging.
const CR0_PE: u64 = 1 << 0;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
/// Physical address extension, which 64-bit mode needs.
const CR4_PAE: u64 = 1 << 5;
/// Intel SDM 3A, 2.2.1: 64-bit mode enabled, and active.
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// Bit 1 of RFLAGS is always set; interrupts are off.
const RFLAGS: u64 = 1 << 1;

/// Intel SDM 3A, tables 3-1 and 3-2: segment types.
const TYPE_CODE: u8 = 0b1011; // execute, read, accessed
const TYPE_DATA: u8 = 0b0011; // read, write, accessed
const TYPE_TSS_BUSY: u8 = 0b1011;
const TYPE_LDT: u8 = 0b0010;

/// boot.rst, "64-bit Boot Protocol": `__BOOT_CS` and `__BOOT_DS`.
const BOOT_CS: u16 = 0x10;
const BOOT_DS: u16 = 0x18;
const BOOT_TSS: u16 = 0x20;

/// Null, unused, code, data, and a task state segment, which takes two slots in 64-bit mode.
const GDT_LEN: usize = 6;
#[allow(clippy::cast_possible_truncation, reason = "47")]
const GDT_LIMIT: u16 = (GDT_LEN * size_of::<u64>() - 1) as u16;

const fn flat(type_: u8, selector: u16) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        dpl: 0,
        db: 1,
        s: 1,
        l: 0,
        g: 1,
        avl: 0,
        unusable: 0,
        padding: 0,
    }
}

const DATA: kvm_segment = flat(TYPE_DATA, BOOT_DS);
const CODE_32: kvm_segment = flat(TYPE_CODE, BOOT_CS);
/// In 64-bit mode the default operand size bit must be clear (Intel SDM 3A, 5.2.1).
const CODE_64: kvm_segment = kvm_segment { db: 0, l: 1, ..CODE_32 };
/// The smallest task state segment; PVH asks for this base and limit.
const TSS: kvm_segment = kvm_segment { limit: 0x67, db: 0, s: 0, g: 0, ..flat(TYPE_TSS_BUSY, BOOT_TSS) };
const NO_LDT: kvm_segment =
    kvm_segment { limit: 0, type_: TYPE_LDT, selector: 0, present: 0, unusable: 1, ..TSS };

impl Entry {
    /// The general registers.
    #[must_use]
    pub fn regs(self) -> kvm_regs {
        let entered = kvm_regs { rip: self.address, rflags: RFLAGS, ..kvm_regs::default() };
        match self.protocol {
            Protocol::Pvh => kvm_regs { rbx: PVH_START_INFO, ..entered },
            Protocol::Linux64 => kvm_regs { rsi: ZERO_PAGE, ..entered },
        }
    }

    /// The system registers, given those that KVM has for a processor after reset. The APIC base is
    /// kept.
    #[must_use]
    pub fn sregs(self, reset: kvm_sregs) -> kvm_sregs {
        let flat = kvm_sregs {
            ds: DATA,
            es: DATA,
            fs: DATA,
            gs: DATA,
            ss: DATA,
            tr: TSS,
            ldt: NO_LDT,
            // No handler: an exception before the kernel installs its own ends in a triple fault.
            idt: kvm_dtable::default(),
            cr2: 0,
            ..reset
        };
        match self.protocol {
            Protocol::Pvh => kvm_sregs {
                cs: CODE_32,
                gdt: kvm_dtable::default(),
                cr0: CR0_PE | CR0_ET,
                cr3: 0,
                cr4: 0,
                efer: 0,
                ..flat
            },
            Protocol::Linux64 => kvm_sregs {
                cs: CODE_64,
                gdt: kvm_dtable { base: GDT, limit: GDT_LIMIT, ..kvm_dtable::default() },
                cr0: CR0_PE | CR0_ET | CR0_PG,
                cr3: PAGE_TABLES,
                cr4: CR4_PAE,
                efer: EFER_LME | EFER_LMA,
                ..flat
            },
        }
    }
}

/// The descriptors behind the selectors that the 64-bit protocol starts with.
pub(super) fn gdt() -> [u64; GDT_LEN] {
    // The upper half of the task state segment's descriptor holds bits 32 and up of its base.
    [0, 0, descriptor(&CODE_64), descriptor(&DATA), descriptor(&TSS), TSS.base >> 32]
}

/// Packs a segment (Intel SDM 3A, figure 3-8).
fn descriptor(segment: &kvm_segment) -> u64 {
    let limit = u64::from(if segment.g == 1 { segment.limit >> 12 } else { segment.limit });
    let bit = |value: u8, at: u32| u64::from(value & 1) << at;
    (limit & 0xffff)
        | (segment.base & 0xff_ffff) << 16
        | u64::from(segment.type_ & 0xf) << 40
        | bit(segment.s, 44)
        | u64::from(segment.dpl & 3) << 45
        | bit(segment.present, 47)
        | (limit >> 16 & 0xf) << 48
        | bit(segment.avl, 52)
        | bit(segment.l, 53)
        | bit(segment.db, 54)
        | bit(segment.g, 55)
        | (segment.base >> 24 & 0xff) << 56
}

#[cfg(test)]
mod tests;
