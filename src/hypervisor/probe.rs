//! What a host's KVM can do, measured with the smallest of machines.

use kvm_bindings::kvm_regs;
use vm_memory::{Bytes, GuestAddress};

use super::{Error, Exit, Hypervisor, Vcpu, Vm};
use crate::config::Size;
use crate::memory;

/// Where the probe's code lies, and the handler of the invalid-opcode exception behind it.
const CODE: u64 = 0x1000;
const HANDLER: u32 = 0x1010;
/// The exception's entry in the real-mode interrupt vector table: offset, then segment.
const INVALID_OPCODE_VECTOR: u64 = 6 * 4;
/// The port that is written when the hypercall has returned, and the one when it has faulted.
const RETURNED: u8 = 0x80;
const FAULTED: u8 = 0x81;
/// A hypercall that asks for nothing: KVM answers that it does not know it.
const NO_HYPERCALL: u64 = 0xffff;

/// Ticks of a counter that has run for years, and what it may go on by meanwhile: minutes.
const FAR_TICKS: u64 = 1 << 60;
const NEAR_TICKS: u64 = 1 << 40;

/// The hypercall by the processor vendor's own instruction, then `out`.
const VMCALL: [u8; 5] = [0x0f, 0x01, 0xc1, 0xe6, RETURNED];
const VMMCALL: [u8; 5] = [0x0f, 0x01, 0xd9, 0xe6, RETURNED];
const REPORT_FAULT: [u8; 2] = [0xe6, FAULTED];

/// Whether a hypercall at CPL 0 reaches KVM and returns.
pub(super) fn hypercalls_work(hypervisor: &Hypervisor) -> Result<bool, Error> {
    let Ok(memory) = memory::allocate(Size::mib(1)) else { return Ok(false) };
    // Leaf 0 of what KVM offers tells whose instruction is native.
    let amd = hypervisor
        .supported_cpuid()?
        .as_slice()
        .iter()
        .any(|leaf| leaf.function == 0 && leaf.ebx.to_le_bytes() == *b"Auth");
    let written = [
        memory.write_slice(if amd { &VMMCALL } else { &VMCALL }, GuestAddress(CODE)),
        memory.write_slice(&REPORT_FAULT, GuestAddress(HANDLER.into())),
        memory.write_slice(&HANDLER.to_le_bytes(), GuestAddress(INVALID_OPCODE_VECTOR)),
    ];
    if written.iter().any(Result::is_err) {
        return Ok(false);
    }
    let vm = Vm::new(hypervisor, memory)?;
    let mut vcpu = vm.create_vcpu(0)?;
    let mut sregs = vcpu.sregs()?;
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
    let regs = kvm_regs { rip: CODE, rflags: 2, rax: NO_HYPERCALL, rsp: CODE, ..Default::default() };
    vcpu.set_registers(&regs, &sregs)?;
    loop {
        match vcpu.run() {
            // A signal of somebody else's.
            Exit::Interrupted => {}
            exit => return Ok(matches!(exit, Exit::PortWrite { port, .. } if port == u16::from(RETURNED))),
        }
    }
}

/// Whether a counter that is set to where no host's is goes on from there.
pub(super) fn tsc_can_be_set(hypervisor: &Hypervisor) -> Result<bool, Error> {
    let Ok(memory) = memory::allocate(Size::mib(1)) else { return Ok(false) };
    let vcpu = Vm::new(hypervisor, memory)?.create_vcpu(0)?;
    vcpu.set_tsc(FAR_TICKS)?;
    Ok(vcpu.tsc()?.is_some_and(|ticks| ticks.abs_diff(FAR_TICKS) < NEAR_TICKS))
}
