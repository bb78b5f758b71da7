//! A virtual machine as KVM sees it: memory, interrupt controllers, vCPUs.

// KVM maps guest memory by raw host addresses.
#![allow(unsafe_code)]

use std::sync::Arc;

use kvm_bindings::{
    KVM_CAP_DISABLE_QUIRKS2, KVM_CAP_SPLIT_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_X86_QUIRK_FIX_HYPERCALL_INSN,
    KvmIrqRouting, kvm_enable_cap, kvm_irq_routing_entry, kvm_msi, kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, IoEventAddress, VmFd};
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;

use super::{Error, Hypervisor, KvmVcpu, kick};
use crate::memory::GuestMemory;
use crate::memory::layout::KVM_TSS;

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
        vm.register_memory()?;
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

    /// Registers before any vCPU exists: later it waits for every vCPU to leave the guest.
    fn register_memory(&self) -> Result<(), Error> {
        let mut slots = 0..;
        for region in self.memory().iter() {
            for offset in (0..region.len()).step_by(SLOT_MAX) {
                let slot = kvm_userspace_memory_region {
                    slot: slots.next().unwrap_or_default(),
                    flags: 0,
                    guest_phys_addr: region.start_addr().0 + offset,
                    memory_size: (region.len() - offset).min(SLOT_MAX as u64),
                    userspace_addr: region.as_ptr() as u64 + offset,
                };
                // SAFETY: the slot is a part of a mapping of ours that `Inner` keeps alive for as long
                // as the file descriptor, and guest memory is only ever touched as volatile bytes.
                unsafe { self.fd().set_user_memory_region(slot) }
                    .map_err(Error::call("KVM_SET_USER_MEMORY_REGION"))?;
            }
        }
        Ok(())
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
        let table = KvmIrqRouting::from_entries(&entries).map_err(|_| Error::Call {
            call: "KVM_SET_GSI_ROUTING",
            source: vmm_sys_util::errno::Error::new(libc::E2BIG),
        })?;
        self.fd().set_gsi_routing(&table).map_err(Error::call("KVM_SET_GSI_ROUTING"))
    }
}
