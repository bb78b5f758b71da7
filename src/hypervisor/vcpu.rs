//! A vCPU: registers in, exits out.

// `kvm_run` is memory shared with the kernel; its unions are told apart by the exit reason.
#![allow(unsafe_code)]

use kvm_bindings::{
    CpuId, KVM_EXIT_FAIL_ENTRY, KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_INTR, KVM_EXIT_IO, KVM_EXIT_IO_OUT,
    KVM_EXIT_IOAPIC_EOI, KVM_EXIT_MEMORY_FAULT, KVM_EXIT_MMIO, KVM_EXIT_SHUTDOWN,
    KVM_INTERNAL_ERROR_EMULATION, KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES, Msrs,
    kvm_cpuid_entry2, kvm_msr_entry, kvm_regs, kvm_run, kvm_sregs,
};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress};

use super::kick::ImmediateExit;
use super::{Counters, Error, Failure, FailureKind, Vm};

/// Longest x86 instruction.
const INSTRUCTION_MAX: usize = 15;

/// Why a vCPU left its guest, with the data that the guest waits for or gave.
#[derive(Debug)]
pub enum Exit<'a> {
    /// `IN`, or one `INS` of several: `data` holds whole accesses of `width` bytes each.
    PortRead {
        /// The port.
        port: u16,
        /// Bytes an access.
        width: usize,
        /// To be filled.
        data: &'a mut [u8],
    },
    /// `OUT`, or `OUTS` of several accesses.
    PortWrite {
        /// The port.
        port: u16,
        /// Bytes an access.
        width: usize,
        /// What was written.
        data: &'a [u8],
    },
    /// A load from an address without memory.
    MmioRead {
        /// Guest-physical address.
        address: u64,
        /// To be filled.
        data: &'a mut [u8],
    },
    /// A store to an address without memory.
    MmioWrite {
        /// Guest-physical address.
        address: u64,
        /// What was written.
        data: &'a [u8],
    },
    /// The guest ended a level-triggered interrupt.
    IoapicEoi {
        /// Its vector.
        vector: u8,
    },
    /// A triple fault.
    TripleFault,
    /// Another thread kicked the vCPU out; all earlier exits are complete.
    Interrupted,
    /// KVM cannot go on.
    Failed(Box<Failure>),
}

/// What the run loop needs of a vCPU. [`KvmVcpu`] is the real one.
pub trait Vcpu {
    /// Completes the last exit, then runs the guest until the next.
    fn run(&mut self) -> Exit<'_>;

    /// The byte that keeps the vCPU out of the guest, if it has one.
    fn immediate_exit(&mut self) -> Option<ImmediateExit> {
        None
    }
}

/// A vCPU of KVM.
pub struct KvmVcpu {
    fd: VcpuFd,
    index: u32,
    /// Keeps guest memory mapped, and reads instructions for failures.
    vm: Vm,
    /// What the guest was told that its processor is. KVM, asked for it, may answer with what the host's is.
    cpuid: Vec<kvm_cpuid_entry2>,
}

impl KvmVcpu {
    pub(super) fn new(fd: VcpuFd, index: u32, vm: Vm) -> Self {
        Self { fd, index, vm, cpuid: Vec::new() }
    }

    pub(super) fn fd(&self) -> &VcpuFd {
        &self.fd
    }

    pub(super) fn vm(&self) -> &Vm {
        &self.vm
    }

    /// The vCPU's index, which is its local APIC id too.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// KVM's own counters of what this vCPU does.
    ///
    /// # Errors
    /// KVM is older than Linux 5.14, or the process may open no more files.
    pub fn counters(&self) -> Result<Counters, Error> {
        Counters::open(&self.fd)
    }

    /// The guest's TSC frequency in kHz, where KVM knows it.
    #[must_use]
    pub fn tsc_khz(&self) -> Option<u32> {
        self.fd.get_tsc_khz().ok().filter(|khz| *khz != 0)
    }

    /// Sets the guest's TSC frequency in kHz.
    ///
    /// # Errors
    /// The processor cannot scale its counter.
    pub fn set_tsc_khz(&self, khz: u32) -> Result<(), Error> {
        self.fd.set_tsc_khz(khz).map_err(Error::call("KVM_SET_TSC_KHZ"))
    }

    /// Sets what CPUID tells the guest.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn set_cpuid(&mut self, cpuid: &CpuId) -> Result<(), Error> {
        self.fd.set_cpuid2(cpuid).map_err(Error::call("KVM_SET_CPUID2"))?;
        self.cpuid = cpuid.as_slice().to_vec();
        Ok(())
    }

    pub(super) fn cpuid(&self) -> &[kvm_cpuid_entry2] {
        &self.cpuid
    }

    /// Sets model-specific registers.
    ///
    /// # Errors
    /// KVM refuses, or does not take one of them.
    pub fn set_msrs(&self, registers: &[kvm_msr_entry]) -> Result<(), Error> {
        let call = "KVM_SET_MSRS";
        let msrs = Msrs::from_entries(registers).map_err(|_| Error::too_many(call))?;
        let set = self.fd.set_msrs(&msrs).map_err(Error::call(call))?;
        registers.get(set).map_or(Ok(()), |entry| Err(Error::Msr(entry.index)))
    }

    /// The system registers.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn sregs(&self) -> Result<kvm_sregs, Error> {
        self.fd.get_sregs().map_err(Error::call("KVM_GET_SREGS"))
    }

    /// Sets general and system registers.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn set_registers(&self, regs: &kvm_regs, sregs: &kvm_sregs) -> Result<(), Error> {
        self.fd.set_sregs(sregs).map_err(Error::call("KVM_SET_SREGS"))?;
        self.fd.set_regs(regs).map_err(Error::call("KVM_SET_REGS"))
    }

    fn run_page(&mut self) -> &mut kvm_run {
        self.fd.get_kvm_run()
    }

    /// Every exit but those for devices.
    fn rare_exit(&mut self) -> Exit<'_> {
        let run = self.run_page();
        // SAFETY: every field of the union is plain data, and the exit reason says which one KVM
        // has filled.
        let kind = unsafe {
            let detail = &run.__bindgen_anon_1;
            match run.exit_reason {
                KVM_EXIT_IOAPIC_EOI => return Exit::IoapicEoi { vector: detail.eoi.vector },
                KVM_EXIT_SHUTDOWN => return Exit::TripleFault,
                KVM_EXIT_INTR => return Exit::Interrupted,
                KVM_EXIT_INTERNAL_ERROR => FailureKind::Internal { suberror: detail.internal.suberror },
                KVM_EXIT_FAIL_ENTRY => {
                    FailureKind::Entry { reason: detail.fail_entry.hardware_entry_failure_reason }
                }
                KVM_EXIT_MEMORY_FAULT => FailureKind::Memory { address: detail.memory_fault.gpa },
                reason => FailureKind::Unexpected { reason },
            }
        };
        self.failure(kind)
    }

    fn failure(&mut self, kind: FailureKind) -> Exit<'static> {
        let regs = self.fd.get_regs().unwrap_or_default();
        let sregs = self.fd.get_sregs().unwrap_or_default();
        let told = match kind {
            FailureKind::Internal { suberror: KVM_INTERNAL_ERROR_EMULATION } => self.failed_instruction(),
            _ => None,
        };
        let instruction = told.unwrap_or_else(|| self.instruction_at(regs.rip, &sregs));
        Exit::Failed(Box::new(Failure { kind, vcpu: self.index, instruction, regs, sregs }))
    }

    /// The bytes that KVM failed to emulate, when it tells them.
    fn failed_instruction(&mut self) -> Option<Vec<u8>> {
        // SAFETY: every field of the union is plain data; `emulation_failure` is the one in force
        // for an internal error with this suberror.
        let failure = unsafe { self.run_page().__bindgen_anon_1.emulation_failure };
        let told = u64::from(KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES);
        // One word for the flags, two for the size and the bytes.
        if failure.ndata < 3 || failure.flags & told == 0 {
            return None;
        }
        // SAFETY: as above; the union in the union has one field.
        let told = unsafe { failure.__bindgen_anon_1.__bindgen_anon_1 };
        told.insn_bytes
            .get(..usize::from(told.insn_size))
            .filter(|bytes| !bytes.is_empty())
            .map(<[u8]>::to_vec)
    }

    /// The bytes at the instruction pointer, as far as they are mapped.
    fn instruction_at(&self, rip: u64, sregs: &kvm_sregs) -> Vec<u8> {
        let linear = sregs.cs.base.wrapping_add(rip);
        let mut bytes = Vec::with_capacity(INSTRUCTION_MAX);
        for address in (0..INSTRUCTION_MAX as u64).map(|offset| linear.wrapping_add(offset)) {
            let byte =
                self.fd.translate_gva(address).ok().filter(|translation| translation.valid != 0).and_then(
                    |translation| {
                        self.vm.memory().read_obj::<u8>(GuestAddress(translation.physical_address)).ok()
                    },
                );
            match byte {
                Some(byte) => bytes.push(byte),
                None => break,
            }
        }
        bytes
    }
}

impl Vcpu for KvmVcpu {
    fn run(&mut self) -> Exit<'_> {
        // The crate's own exit is dropped: it borrows the vCPU, which the failures below need
        // again, and it does not tell the width of string I/O.
        let result = self.fd.run().map(drop);
        if let Err(error) = result {
            return match error.errno() {
                libc::EINTR | libc::EAGAIN => Exit::Interrupted,
                errno => self.failure(FailureKind::Run { errno }),
            };
        }
        match self.run_page().exit_reason {
            KVM_EXIT_IO => port_exit(self.run_page()),
            KVM_EXIT_MMIO => mmio_exit(self.run_page()),
            _ => self.rare_exit(),
        }
    }

    fn immediate_exit(&mut self) -> Option<ImmediateExit> {
        Some(ImmediateExit(&raw mut self.run_page().immediate_exit))
    }
}

/// The exit of an `IN` or `OUT`.
fn port_exit(run: &mut kvm_run) -> Exit<'_> {
    let base = std::ptr::from_mut(run).cast::<u8>();
    // SAFETY: every field of the union is plain data; `io` is the one in force for this exit.
    let io = unsafe { run.__bindgen_anon_1.io };
    let width = usize::from(io.size).max(1);
    let len = width * io.count as usize;
    #[allow(clippy::cast_possible_truncation, reason = "an offset into a mapping of a few pages")]
    let offset = io.data_offset as usize;
    // SAFETY: KVM puts the data of a port exit `data_offset` bytes into the vCPU's mapping, past
    // the structure `kvm_run` that it begins with (KVM API, KVM_EXIT_IO), and keeps it there until
    // the next KVM_RUN, which needs the vCPU that the result borrows.
    let data = unsafe { std::slice::from_raw_parts_mut(base.add(offset), len) };
    if u32::from(io.direction) == KVM_EXIT_IO_OUT {
        Exit::PortWrite { port: io.port, width, data }
    } else {
        Exit::PortRead { port: io.port, width, data }
    }
}

/// The exit of a load or store outside of memory.
fn mmio_exit(run: &mut kvm_run) -> Exit<'_> {
    // SAFETY: every field of the union is plain data; `mmio` is the one in force for this exit.
    let mmio = unsafe { &mut run.__bindgen_anon_1.mmio };
    let len = (mmio.len as usize).min(mmio.data.len());
    let (address, (data, _)) = (mmio.phys_addr, mmio.data.split_at_mut(len));
    if mmio.is_write == 0 { Exit::MmioRead { address, data } } else { Exit::MmioWrite { address, data } }
}
