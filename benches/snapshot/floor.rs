//! The bare calls that bring back a machine of one vCPU: what no monitor can do without.

// A machine by hand: mappings, and memory that KVM is given.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::ptr::null_mut;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use bantam::hypervisor::VcpuState;
use kvm_bindings::{
    CpuId, KVM_CAP_SPLIT_IRQCHIP, KVM_EXIT_IO, Msrs, kvm_enable_cap, kvm_userspace_memory_region, kvm_xsave,
};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};

const TSS: usize = 0xfffb_d000;
const PINS: u64 = 24;
/// Most registers that one KVM_SET_MSRS takes.
const MOST_MSRS: usize = 256;

/// A machine that has run to its first exit.
pub(crate) struct Machine {
    // Dropped before the memory.
    _vcpu: VcpuFd,
    _vm: VmFd,
    _memory: Mapping,
    pub(crate) took: Duration,
}

struct Mapping {
    address: *mut libc::c_void,
    len: usize,
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own.
        unsafe { libc::munmap(self.address, self.len) };
    }
}

/// Restores the vCPU over a private mapping of the memory file, and runs the guest to its first port exit.
pub(crate) fn restore(
    kvm: &Kvm,
    state: &VcpuState,
    clock: u64,
    memory: &File,
    len: usize,
) -> anyhow::Result<Machine> {
    let start = Instant::now();
    let vm = kvm.create_vm()?;
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_NORESERVE);
    // SAFETY: a new mapping of a file that stays as it is.
    let address = unsafe { libc::mmap(null_mut(), len, protection, flags, memory.as_raw_fd(), 0) };
    ensure!(address != libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
    let mapping = Mapping { address, len };
    // The low part of memory, and what is left above 4 GiB.
    let low = len.min(0xc000_0000);
    let parts = [(0, 0, 0, low), (1, 0x1_0000_0000, low, len - low)];
    for (slot, guest_phys_addr, offset, size) in parts.into_iter().filter(|part| part.3 > 0) {
        let region = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr,
            memory_size: size as u64,
            userspace_addr: address as u64 + offset as u64,
        };
        // SAFETY: a part of the mapping, which outlives the machine.
        unsafe { vm.set_user_memory_region(region) }?;
    }
    vm.set_tss_address(TSS)?;
    vm.enable_cap(&kvm_enable_cap {
        cap: KVM_CAP_SPLIT_IRQCHIP,
        args: [PINS, 0, 0, 0],
        ..Default::default()
    })?;
    vm.set_clock(&kvm_bindings::kvm_clock_data { clock, ..Default::default() })?;
    let mut vcpu = vm.create_vcpu(0)?;
    let many = |error| anyhow::anyhow!("{error:?}");
    vcpu.set_cpuid2(&CpuId::from_entries(&state.cpuid).map_err(many)?)?;
    vcpu.set_mp_state(state.mp_state)?;
    vcpu.set_sregs(&state.sregs)?;
    vcpu.set_regs(&state.regs)?;
    let mut xsave = kvm_xsave::default();
    let region = state.xsave.get(..xsave.region.len()).context("no XSAVE area")?;
    ensure!(state.xsave.len() == region.len(), "the host has a larger XSAVE area than this knows");
    xsave.region.copy_from_slice(region);
    // SAFETY: the area is as large as this host's, as just compared.
    unsafe { vcpu.set_xsave(&xsave) }?;
    vcpu.set_xcrs(&state.xcrs)?;
    vcpu.set_debug_regs(&state.debug_registers)?;
    vcpu.set_lapic(&state.lapic)?;
    for msrs in state.msrs.chunks(MOST_MSRS) {
        vcpu.set_msrs(&Msrs::from_entries(msrs).map_err(many)?)?;
    }
    vcpu.set_vcpu_events(&state.events)?;
    loop {
        vcpu.run().map(drop)?;
        match vcpu.get_kvm_run().exit_reason {
            KVM_EXIT_IO => break,
            kvm_bindings::KVM_EXIT_IOAPIC_EOI => {}
            reason => bail!("exit {reason}"),
        }
    }
    Ok(Machine { _vcpu: vcpu, _vm: vm, _memory: mapping, took: start.elapsed() })
}
