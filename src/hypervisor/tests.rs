use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::config::Size;
use crate::memory;

/// A machine with one vCPU at `code` in real mode; none where there is no KVM.
fn real_mode(code: &[u8]) -> Option<KvmVcpu> {
    real_mode_in(memory::allocate(Size::mib(1)).unwrap(), code).map(|(_, vcpu)| vcpu)
}

fn real_mode_in(memory: memory::GuestMemory, code: &[u8]) -> Option<(Vm, KvmVcpu)> {
    let hypervisor = crate::testing::hypervisor()?;
    memory.write_slice(code, GuestAddress(0x1000)).unwrap();
    let vm = Vm::new(&hypervisor, memory).unwrap();
    let vcpu = vm.create_vcpu(0).unwrap();
    let mut sregs = vcpu.sregs().unwrap();
    (sregs.cs.base, sregs.cs.selector) = (0, 0);
    let regs = kvm_bindings::kvm_regs { rip: 0x1000, rflags: 2, rbx: 0x20_0000, ..Default::default() };
    vcpu.set_registers(&regs, &sregs).unwrap();
    Some((vm, vcpu))
}

#[test]
fn port_exits_carry_their_data_both_ways() {
    // mov al, 'B'; out 0x42, al; in ax, 0x43; out 0x44, ax
    let Some(mut vcpu) = real_mode(&[0xb0, b'B', 0xe6, 0x42, 0xe5, 0x43, 0xe7, 0x44]) else { return };
    match vcpu.run() {
        Exit::PortWrite { port: 0x42, width: 1, data } => assert_eq!(data, b"B"),
        other => panic!("{other:?}"),
    }
    match vcpu.run() {
        Exit::PortRead { port: 0x43, width: 2, data } => data.copy_from_slice(&[0x34, 0x12]),
        other => panic!("{other:?}"),
    }
    match vcpu.run() {
        Exit::PortWrite { port: 0x44, width: 2, data } => assert_eq!(data, [0x34, 0x12]),
        other => panic!("{other:?}"),
    }
}

#[test]
fn mmio_exits_carry_their_data_both_ways() {
    // mov al, [0xf000:0xfff0 + ...] is clumsy in real mode: use an address above memory through
    // a 32-bit base register: mov al, [ebx]; mov [ebx], al.
    let Some(mut vcpu) = real_mode(&[0x67, 0x8a, 0x03, 0x67, 0x88, 0x03]) else { return };
    let mut sregs = vcpu.sregs().unwrap();
    sregs.ds.limit = u32::MAX;
    sregs.ds.g = 1;
    let regs = kvm_bindings::kvm_regs { rip: 0x1000, rflags: 2, rbx: 0x20_0000, ..Default::default() };
    vcpu.set_registers(&regs, &sregs).unwrap();
    match vcpu.run() {
        Exit::MmioRead { address: 0x20_0000, data } => data.copy_from_slice(&[0x5a]),
        other => panic!("{other:?}"),
    }
    match vcpu.run() {
        Exit::MmioWrite { address: 0x20_0000, data } => assert_eq!(data, [0x5a]),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_kick_before_the_run_is_not_lost() {
    // jmp $
    let Some(mut vcpu) = real_mode(&[0xeb, 0xfe]) else { return };
    let handle = KickHandle::default();
    handle.attach();
    let mut seat = Seat::take(&mut vcpu);
    handle.kick();
    assert!(matches!(seat.run(), Exit::Interrupted));
    assert!(matches!(seat.run(), Exit::Interrupted), "a kick holds until it is forgotten");
    seat.forget_kick();
}

#[test]
fn a_kick_interrupts_a_running_guest() {
    let Some(mut vcpu) = real_mode(&[0xeb, 0xfe]) else { return };
    let handle = KickHandle::default();
    handle.attach();
    std::thread::scope(|scope| {
        let handle = &handle;
        let (done, finished) = std::sync::mpsc::channel::<()>();
        scope.spawn(move || {
            while finished
                .recv_timeout(std::time::Duration::from_millis(2))
                .is_err_and(|e| e == std::sync::mpsc::RecvTimeoutError::Timeout)
            {
                handle.kick();
            }
        });
        assert!(matches!(Seat::take(&mut vcpu).run(), Exit::Interrupted));
        drop(done);
    });
}

#[test]
fn an_instruction_that_kvm_cannot_run_is_reported_with_its_bytes() {
    // Execution from an address without memory cannot be emulated anywhere: jmp 0xffff:0x10.
    let Some(mut vcpu) = real_mode(&[0xea, 0x10, 0x00, 0xff, 0xff]) else { return };
    match vcpu.run() {
        Exit::Failed(failure) => {
            assert!(matches!(failure.kind, FailureKind::Internal { .. }), "{failure:?}");
            assert_eq!(failure.regs.rip, 0x10);
            assert!(failure.instruction.is_empty(), "no memory, no bytes");
            assert_eq!(failure.cpl(), 0);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_triple_fault_is_told() {
    // ud2 in protected mode, with an interrupt descriptor table that has no room
    let Some(mut vcpu) = real_mode(&[0x0f, 0x0b]) else { return };
    let mut sregs = vcpu.sregs().unwrap();
    sregs.cr0 |= 1;
    (sregs.cs.db, sregs.cs.g, sregs.cs.limit, sregs.cs.selector) = (1, 1, u32::MAX, 8);
    (sregs.ss.db, sregs.ss.g, sregs.ss.limit, sregs.ss.selector) = (1, 1, u32::MAX, 16);
    sregs.idt.limit = 0;
    let regs = kvm_bindings::kvm_regs { rip: 0x1000, rflags: 2, ..Default::default() };
    vcpu.set_registers(&regs, &sregs).unwrap();
    assert!(matches!(vcpu.run(), Exit::TripleFault));
}

#[test]
fn the_hypercall_probe_ends() {
    let Some(hypervisor) = crate::testing::hypervisor() else { return };
    // Either answer is right; that it comes, and stays the same, is the point.
    assert_eq!(hypervisor.hypercalls_work(), hypervisor.clone().hypercalls_work());
}

#[test]
fn dirty_pages_are_those_that_the_guest_or_the_vmm_wrote() {
    let ranges = [(GuestAddress(0), 1 << 20), (GuestAddress(0x20_0000), 1 << 20)];
    let memory = memory::GuestMemory::from_ranges(&ranges).unwrap();
    // mov [0x3000], al; mov [0x5000], al; mov al, [0x7000]; out 0x42, al
    let first = [0xa2, 0x00, 0x30, 0xa2, 0x00, 0x50, 0xa0, 0x00, 0x70, 0xe6, 0x42];
    // mov [0x3000], al; mov [ebx], al; out 0x42, al
    let second = [0xa2, 0x00, 0x30, 0x67, 0x88, 0x03, 0xe6, 0x42];
    let Some((vm, mut vcpu)) = real_mode_in(memory, &[&first[..], &second, &second].concat()) else { return };
    let mut sregs = vcpu.sregs().unwrap();
    (sregs.ds.limit, sregs.ds.g) = (u32::MAX, 1);
    let regs = kvm_bindings::kvm_regs { rip: 0x1000, rflags: 2, rbx: 0x20_1000, ..Default::default() };
    vcpu.set_registers(&regs, &sregs).unwrap();
    let runs = || vm.take_dirty().unwrap().runs().collect::<Vec<_>>();
    let write = |at| vm.memory().write_obj(1_u8, GuestAddress(at)).unwrap();
    assert!(matches!(vm.take_dirty(), Err(Error::NotTracked)));

    vm.track_dirty(true).unwrap();
    assert_eq!(runs(), []);
    write(0x9000);
    assert!(matches!(vcpu.run(), Exit::PortWrite { .. }));
    write(0x20_0000);
    // The second region's pages follow those of the first.
    assert_eq!(runs(), [(3, 1), (5, 1), (9, 1), (256, 1)]);
    assert_eq!(runs(), []);
    assert!(matches!(vcpu.run(), Exit::PortWrite { .. }));
    // What is on stays as it is.
    vm.track_dirty(true).unwrap();
    assert_eq!(runs(), [(3, 1), (257, 1)]);

    vm.track_dirty(false).unwrap();
    assert!(matches!(vcpu.run(), Exit::PortWrite { .. }));
    write(0x9000);
    assert!(matches!(vm.take_dirty(), Err(Error::NotTracked)));
    vm.track_dirty(true).unwrap();
    assert_eq!(runs(), [], "it begins with nothing");
}

#[test]
fn kvm_counts_by_itself_or_says_nothing() {
    // out 0x42, al; mov al, [ebx]
    let Some(mut vcpu) = real_mode(&[0xe6, 0x42, 0x67, 0x8a, 0x03]) else { return };
    let mut sregs = vcpu.sregs().unwrap();
    (sregs.ds.limit, sregs.ds.g) = (u32::MAX, 1);
    let regs = kvm_bindings::kvm_regs { rip: 0x1000, rflags: 2, rbx: 0x20_0000, ..Default::default() };
    vcpu.set_registers(&regs, &sregs).unwrap();
    let counters = vcpu.counters().unwrap();
    let before = counters.read().unwrap();
    assert!(before.contains_key("exits") && before.contains_key("mmio_exits"), "{before:?}");
    assert!(matches!(vcpu.run(), Exit::PortWrite { port: 0x42, .. }));
    assert!(matches!(vcpu.run(), Exit::MmioRead { address: 0x20_0000, .. }));
    drop(vcpu);
    let after = counters.read().unwrap();
    for (name, most) in [("io_exits", 1), ("mmio_exits", 1), ("halt_exits", 0)] {
        let counted = after.get(name).copied().unwrap_or_default();
        assert!(counted <= most, "{name}: {counted}");
        if counted < most {
            crate::testing::skip(&format!("this KVM does not count {name}"));
        }
    }
}
