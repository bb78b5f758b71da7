//! The bare calls that bring back a machine of one vCPU: what no VMM can do without.

// A machine by hand: mappings, and memory that KVM is given.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::ptr::null_mut;

use anyhow::{Context, anyhow, bail, ensure};
use kvm_bindings::{
    CpuId, KVM_CAP_SPLIT_IRQCHIP, Msrs, kvm_clock_data, kvm_enable_cap, kvm_userspace_memory_region,
    kvm_xsave,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};

use crate::bench::floor::{IOAPIC_PINS, LINE_STATUS, SENT, TSS};
use crate::hypervisor::{ClockState, VcpuState};
use crate::memory::layout::COM1_PORT;
use crate::snapshot::Snapshot;

/// The low part of memory ends here at the latest, and what is left of it begins at 4 GiB.
const LOW: usize = 0xc000_0000;
const HIGH: u64 = 0x1_0000_0000;
/// Most registers that one KVM_SET_MSRS takes.
const MOST_MSRS: usize = 256;

/// What a snapshot holds, read and ready.
pub(crate) struct Saved {
    vcpu: VcpuState,
    clock: ClockState,
    memory: File,
    len: usize,
}

/// A machine that is as it was.
pub(crate) struct Machine {
    // Dropped before the memory.
    vcpu: VcpuFd,
    _vm: VmFd,
    _memory: Mapping,
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

impl Saved {
    /// Reads a snapshot that is no diff.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let opened = Snapshot::open(path)?;
        let folder = opened.folder();
        Ok(Self {
            vcpu: folder.state().get("vcpu0")?,
            clock: folder.state().get("machine")?,
            memory: folder.memory()?.try_clone()?,
            len: usize::try_from(opened.config().memory.bytes())?,
        })
    }

    /// A machine over a private mapping of the memory file.
    pub(crate) fn restore(&self, kvm: &Kvm) -> anyhow::Result<Machine> {
        let vm = kvm.create_vm()?;
        let memory = self.map()?;
        let low = self.len.min(LOW);
        let parts = [(0, 0, 0, low), (1, HIGH, low, self.len - low)];
        for (slot, guest_phys_addr, offset, size) in parts.into_iter().filter(|part| part.3 > 0) {
            let region = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr,
                memory_size: size as u64,
                userspace_addr: memory.address as u64 + offset as u64,
            };
            // SAFETY: a part of the mapping, which outlives the machine.
            unsafe { vm.set_user_memory_region(region) }?;
        }
        vm.set_tss_address(TSS)?;
        vm.enable_cap(&kvm_enable_cap {
            cap: KVM_CAP_SPLIT_IRQCHIP,
            args: [IOAPIC_PINS, 0, 0, 0],
            ..kvm_enable_cap::default()
        })?;
        vm.set_clock(&kvm_clock_data { clock: self.clock.nanoseconds, ..kvm_clock_data::default() })?;
        let vcpu = vm.create_vcpu(0)?;
        self.set(&vcpu)?;
        Ok(Machine { vcpu, _vm: vm, _memory: memory })
    }

    fn map(&self) -> anyhow::Result<Mapping> {
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_NORESERVE);
        // SAFETY: a new mapping of a file that stays as it is.
        let address =
            unsafe { libc::mmap(null_mut(), self.len, protection, flags, self.memory.as_raw_fd(), 0) };
        ensure!(address != libc::MAP_FAILED, "mmap: {}", io::Error::last_os_error());
        Ok(Mapping { address, len: self.len })
    }

    fn set(&self, vcpu: &VcpuFd) -> anyhow::Result<()> {
        let state = &self.vcpu;
        let many = |error| anyhow!("{error:?}");
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
        Ok(())
    }
}

impl Machine {
    /// Runs the guest to the next byte that it prints.
    pub(crate) fn run_to_byte(&mut self) -> anyhow::Result<()> {
        loop {
            match self.vcpu.run().context("KVM_RUN")? {
                VcpuExit::IoOut(COM1_PORT, _) => return Ok(()),
                VcpuExit::IoIn(LINE_STATUS, [status]) => *status = SENT,
                VcpuExit::IoapicEoi(_) => {}
                exit => bail!("the floor has no answer to the exit {exit:?}"),
            }
        }
    }
}
