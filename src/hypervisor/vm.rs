//! A virtual machine as KVM sees it: memory, interrupt controllers, vCPUs.

// KVM maps guest memory by raw host addresses.
#![allow(unsafe_code)]

use std::sync::Arc;

use kvm_bindings::{
    KVM_CAP_DISABLE_QUIRKS2, KVM_CAP_SPLIT_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_MEM_LOG_DIRTY_PAGES,
    KVM_X86_QUIRK_FIX_HYPERCALL_INSN, KvmIrqRouting, kvm_enable_cap, kvm_irq_routing_entry, kvm_msi,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, IoEventAddress, VmFd};
use vm_memory::mmap::MmapRegion;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;

use super::{Error, Hypervisor, KvmVcpu, kick};
use crate::memory::dirty::{self, WriteLog};
use crate::memory::layout::KVM_TSS;
use crate::memory::{DirtyPages, GuestMemory};

/// Pins of the IOAPIC in the VMM, for which KVM keeps routes to report the end of interrupts.
const IOAPIC_PINS: u64 = 24;

/// Most memory a slot: KVM counts its pages in 31 bits, which would be just short of 8 TiB.
const SLOT_MAX: usize = 4 << 40;

/// A machine's KVM side. Clones share it; it is gone when the last clone and vCPU are.
#[derive(Clone)]
pub struct Vm {
    inner: Arc<Inner>,
}

struct Inner {
    // Dropped before the memory that it maps.
    fd: VmFd,
    memory: GuestMemory,
    hypervisor: Hypervisor,
}

/// A part of memory as KVM knows it.
struct Slot<'m> {
    kvm: kvm_userspace_memory_region,
    /// The log of its region, and where in the region it is.
    log: &'m WriteLog,
    offset: usize,
    len: usize,
}

fn slots(memory: &GuestMemory) -> impl Iterator<Item = Slot<'_>> {
    let parts = memory
        .iter()
        .flat_map(|region| (0..region.size()).step_by(SLOT_MAX).map(move |offset| (region, offset)));
    parts.zip(0..).map(|((region, offset), slot)| {
        let len = (region.size() - offset).min(SLOT_MAX);
        let kvm = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: region.start_addr().0 + offset as u64,
            memory_size: len as u64,
            userspace_addr: region.as_ptr() as u64 + offset as u64,
        };
        Slot { kvm, log: MmapRegion::bitmap(region), offset, len }
    })
}

impl Vm {
    /// Makes a virtual machine with this memory, local APICs in KVM and the IOAPIC left to us.
    ///
    /// # Errors
    /// KVM refuses one of the steps.
    pub fn new(hypervisor: &Hypervisor, memory: GuestMemory) -> Result<Self, Error> {
        kick::install_handler()?;
        let fd = loop {
            match hypervisor.kvm().create_vm() {
                // A signal that arrives meanwhile interrupts the creation.
                Err(error) if error.errno() == libc::EINTR => {}
                result => break result.map_err(Error::call("KVM_CREATE_VM"))?,
            }
        };
        let vm = Self { inner: Arc::new(Inner { fd, memory, hypervisor: hypervisor.clone() }) };
        vm.set_memory(0)?;
        vm.fd().set_tss_address(KVM_TSS).map_err(Error::call("KVM_SET_TSS_ADDR"))?;
        vm.enable(KVM_CAP_SPLIT_IRQCHIP, IOAPIC_PINS).map_err(Error::call("KVM_CAP_SPLIT_IRQCHIP"))?;
        // KVM would otherwise rewrite a guest's hypercall instruction to the processor's own; where
        // guest memory cannot be written from there, it retries for ever. Kernels older than 5.17
        // lack the capability and keep the quirk.
        let _ = vm.enable(KVM_CAP_DISABLE_QUIRKS2, u64::from(KVM_X86_QUIRK_FIX_HYPERCALL_INSN));
        Ok(vm)
    }

    pub(super) fn fd(&self) -> &VmFd {
        &self.inner.fd
    }

    pub(super) fn check_extension(&self, capability: Cap) -> i32 {
        self.fd().check_extension_int(capability)
    }

    /// The MSRs that are a part of a vCPU's state.
    pub(super) fn msrs_to_save(&self) -> Result<Vec<u32>, Error> {
        self.inner.hypervisor.msrs_to_save()
    }

    /// The guest's memory.
    #[must_use]
    pub fn memory(&self) -> &GuestMemory {
        &self.inner.memory
    }

    fn enable(&self, cap: u32, argument: u64) -> Result<(), vmm_sys_util::errno::Error> {
        self.fd().enable_cap(&kvm_enable_cap { cap, args: [argument, 0, 0, 0], ..Default::default() })
    }

    /// Registers all memory, or changes the flags of what is registered. The first time is before any vCPU
    /// exists: later it waits for every vCPU to leave the guest.
    fn set_memory(&self, flags: u32) -> Result<(), Error> {
        for Slot { kvm, .. } in slots(self.memory()) {
            // SAFETY: the slot is a part of a mapping of ours that `Inner` keeps alive for as long
            // as the file descriptor, and guest memory is only ever touched as volatile bytes.
            unsafe { self.fd().set_user_memory_region(kvm_userspace_memory_region { flags, ..kvm }) }
                .map_err(Error::call("KVM_SET_USER_MEMORY_REGION"))?;
        }
        Ok(())
    }

    /// Has KVM and the VMM note which pages change, or no longer. Begins with none; what is on stays on.
    /// Devices may not be at work meanwhile, as [`dirty::track`] says; vCPUs may run.
    ///
    /// # Errors
    /// KVM refuses; nothing is noted then.
    pub fn track_dirty(&self, on: bool) -> Result<(), Error> {
        let result = self.set_memory(if on { KVM_MEM_LOG_DIRTY_PAGES } else { 0 });
        if on && result.is_err() {
            let _ = self.set_memory(0);
        }
        dirty::track(self.memory(), on && result.is_ok());
        result
    }

    /// The pages that have changed since they were last taken, or since [`Self::track_dirty`]. The machine
    /// may run: what changes from now on may be among them, and is among the next ones. So the pages are to
    /// be copied after this, and the last ones taken while the machine stands still.
    ///
    /// KVM's log comes first, and goes into the VMM's. It is the one that can fail, and then the VMM's still
    /// has what KVM has given and forgotten. And it takes long, as KVM protects the pages anew: what devices
    /// write meanwhile is still among these pages and need not be copied a second time. For what is
    /// complete the order is of no matter: each log is cleared before the pages are copied.
    ///
    /// # Errors
    /// No pages are noted, or KVM does not give its log. No page is lost: a later call has them.
    pub fn take_dirty(&self) -> Result<DirtyPages, Error> {
        if !dirty::is_tracked(self.memory()) {
            return Err(Error::NotTracked);
        }
        for Slot { kvm, log, offset, len } in slots(self.memory()) {
            let words = self.fd().get_dirty_log(kvm.slot, len).map_err(Error::call("KVM_GET_DIRTY_LOG"))?;
            log.merge(offset, &words);
        }
        Ok(dirty::take(self.memory()))
    }

    /// Makes vCPU `index`, whose local APIC id is the index.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn create_vcpu(&self, index: u32) -> Result<KvmVcpu, Error> {
        let fd = self.fd().create_vcpu(u64::from(index)).map_err(Error::call("KVM_CREATE_VCPU"))?;
        Ok(KvmVcpu::new(fd, index, self.clone()))
    }

    /// Delivers a message-signalled interrupt.
    ///
    /// # Errors
    /// KVM refuses the message.
    pub fn signal_msi(&self, address: u32, data: u32) -> Result<(), Error> {
        let msi = kvm_msi { address_lo: address, data, ..Default::default() };
        self.fd().signal_msi(msi).map(|_| ()).map_err(Error::call("KVM_SIGNAL_MSI"))
    }

    /// Has KVM signal `event` when the guest writes the word `value` to a guest-physical address,
    /// without an exit. It stays so until the machine is gone.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn register_ioeventfd(&self, address: u64, value: u32, event: &EventFd) -> Result<(), Error> {
        self.fd()
            .register_ioevent(event, &IoEventAddress::Mmio(address), value)
            .map_err(Error::call("KVM_IOEVENTFD"))
    }

    /// Tells KVM which pins deliver level-triggered messages `(pin, address, data)`, so that it
    /// reports the end of their interrupts.
    ///
    /// # Errors
    /// KVM refuses the routes.
    pub fn set_routes(&self, routes: &[(u32, u32, u32)]) -> Result<(), Error> {
        let entries: Vec<_> = routes
            .iter()
            .map(|&(gsi, address_lo, data)| {
                let mut entry =
                    kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_MSI, ..Default::default() };
                entry.u.msi.address_lo = address_lo;
                entry.u.msi.data = data;
                entry
            })
            .collect();
        let table =
            KvmIrqRouting::from_entries(&entries).map_err(|_| Error::too_many("KVM_SET_GSI_ROUTING"))?;
        self.fd().set_gsi_routing(&table).map_err(Error::call("KVM_SET_GSI_ROUTING"))
    }
}

#[cfg(test)]
mod tests;
