use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::config::Size;
use crate::memory;

/// A machine with one vCPU at `code` in real mode; none where there is no KVM.
fn real_mode(code: &[u8]) -> Option<KvmVcpu> {
    let hypervisor = crate::testing::hypervisor()?;
    let memory = memory::allocate(Size::mib(1)).unwrap();
    memory.write_slice(code, GuestAddress(0x1000)).unwrap();
    let vcpu = Vm::new(&hypervisor, memory).unwrap().create_vcpu(0).unwrap();
    let mut sregs = vcpu.sregs().unwrap();
    (sregs.cs.base, sregs.cs.selector) = (0, 0);
    let regs = kvm_bindings::kvm_regs { rip: 0x1000, rflags: 2, rbx: 0x20_0000, ..Default::default() };
    vcpu.set_registers(&regs, &sregs).unwrap();
    Some(vcpu)
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
