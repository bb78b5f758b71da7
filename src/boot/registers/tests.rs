use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VcpuExit};
use linux_loader::bootparam::setup_header;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress};

use super::super::BootMode;
use super::super::testing::*;
use super::*;
use crate::memory::GuestMemory;

const APIC_BASE: u64 = 0xfee0_0900;

/// About what KVM has after reset.
fn reset() -> kvm_sregs {
    kvm_sregs {
        cr0: 0x6000_0010,
        cr2: 5,
        cr3: 7,
        cr4: 9,
        efer: 11,
        apic_base: APIC_BASE,
        ..kvm_sregs::default()
    }
}

#[test]
fn pvh_starts_in_flat_protected_mode() {
    let entry = Entry { protocol: Protocol::Pvh, address: 0x10_0020 };
    let regs = entry.regs();
    assert_eq!((regs.rip, regs.rbx, regs.rsi, regs.rflags), (0x10_0020, 0x6000, 0, 2));

    // pvh.pandoc: PE alone, flat 32-bit segments, a task state segment with limit 0x67.
    let sregs = entry.sregs(reset());
    assert_eq!((sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer), (0x11, 0, 0, 0));
    assert_eq!((sregs.cs.base, sregs.cs.limit, sregs.cs.type_), (0, u32::MAX, 11));
    assert_eq!((sregs.cs.db, sregs.cs.l, sregs.cs.g, sregs.cs.s), (1, 0, 1, 1));
    for data in [sregs.ds, sregs.es, sregs.ss, sregs.fs, sregs.gs] {
        assert_eq!((data.base, data.limit, data.type_, data.db, data.present), (0, u32::MAX, 3, 1, 1));
    }
    assert_eq!((sregs.tr.base, sregs.tr.limit, sregs.tr.type_, sregs.tr.s), (0, 0x67, 11, 0));
    assert_eq!(sregs.apic_base, APIC_BASE);
}

#[test]
fn linux64_starts_in_long_mode() {
    let entry = Entry { protocol: Protocol::Linux64, address: 0x100_0200 };
    let regs = entry.regs();
    assert_eq!((regs.rip, regs.rsi, regs.rbx, regs.rflags), (0x100_0200, 0x7000, 0, 2));

    let sregs = entry.sregs(reset());
    assert_eq!((sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer), (0x8000_0011, 0x9000, 0x20, 0x500));
    assert_eq!((sregs.cs.selector, sregs.cs.l, sregs.cs.db), (0x10, 1, 0));
    assert_eq!((sregs.ds.selector, sregs.es.selector, sregs.ss.selector), (0x18, 0x18, 0x18));
    assert_eq!((sregs.gdt.base, sregs.gdt.limit), (0x500, 47));
    assert_eq!((sregs.tr.type_, sregs.ldt.unusable), (11, 1));
    assert_eq!(sregs.apic_base, APIC_BASE);
}

/// Runs a kernel on a processor of its own until it writes to a port, and returns what it writes.
/// None where there is no KVM.
#[allow(unsafe_code, reason = "KVM must be given memory")]
fn first_output(memory: &GuestMemory, entry: Entry) -> Option<Vec<u8>> {
    let kvm = Kvm::new().ok()?;
    let vm = kvm.create_vm().unwrap();
    for (slot, region) in (0..).zip(memory.iter()) {
        let region = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: region.get_host_address(MemoryRegionAddress(0)).unwrap() as u64,
        };
        // SAFETY: the region is mapped as long as `memory`, which outlives `vm`; the guest's writes
        // race with nobody, since nothing else runs until it exits.
        unsafe { vm.set_user_memory_region(region) }.unwrap();
    }
    let mut vcpu = vm.create_vcpu(0).unwrap();
    vcpu.set_sregs(&entry.sregs(vcpu.get_sregs().unwrap())).unwrap();
    vcpu.set_regs(&entry.regs()).unwrap();
    match vcpu.run().unwrap() {
        VcpuExit::IoOut(0xf4, data) => Some(data.to_vec()),
        other => panic!("unexpected exit: {other:?}"),
    }
}

#[test]
fn a_processor_accepts_both_entries() {
    // Loads DS from the GDT and reads the command line's address from the zero page, which RSI
    // points to; or reads the magic of the start info, which EBX points to.
    let linux64 = b"\x66\xb8\x18\x00\x8e\xd8\x66\xba\xf4\x00\x8b\x86\x28\x02\x00\x00\xef\xf4";
    let pvh = b"\x66\xba\xf4\x00\x8b\x03\xef\xf4";
    let segments = [
        FileSegment::load(MIB, linux64, 0x1000),
        FileSegment::load(2 * MIB, pvh, 0x1000),
        pvh_note(0x20_0000),
    ];
    let elf = elf_file(elf_header(MIB), &segments);
    let far = 3 << 30;
    let mut bzimage = vec![0xf4; 0x200];
    bzimage.extend(linux64);
    bzimage.resize(0x400, 0xf4);
    let bzimage = bz_file(setup_header { pref_address: far - 2 * MIB, ..bz_header() }, &bzimage);

    let (near, two) = (&[(0, 4 * MIB)][..], &[(0, 4 * MIB), (far - 4 * MIB, 4 * MIB)][..]);
    for (kernel, mode, ranges, expected) in [
        (&elf, BootMode::Pvh, near, 0x336e_c578_u32),
        (&elf, BootMode::Linux64, near, 0x2_0000),
        (&bzimage, BootMode::Auto, two, 0x2_0000),
    ] {
        let memory = memory(ranges);
        let loaded = load_kernel(&memory, kernel, mode).unwrap();
        match first_output(&memory, loaded.entry) {
            Some(output) => assert_eq!(output, expected.to_le_bytes(), "{mode}"),
            None => eprintln!("no KVM here: not run"),
        }
    }
}
