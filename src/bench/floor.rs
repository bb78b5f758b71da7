//! The floor under every figure: the calls to KVM that no VMM can leave out, made one after the other by one
//! thread, for a machine like Bantam's default one: one vCPU, local APICs in KVM and the IOAPIC outside of it. It
//! looks nothing up, checks nothing and cleans nothing up. Whatever a VMM takes longer than this, the VMM takes.

// A machine by hand: memory that KVM is given.
#![allow(unsafe_code)]

use std::io::{self, Write};
use std::ptr::null_mut;

use anyhow::{Context, bail, ensure};
use kvm_bindings::{
    KVM_CAP_SPLIT_IRQCHIP, KVM_MAX_CPUID_ENTRIES, kvm_enable_cap, kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use linux_loader::elf::{Elf64_Ehdr, Elf64_Nhdr, Elf64_Phdr, PT_LOAD, PT_NOTE};
use linux_loader::start_info::{XEN_HVM_START_MAGIC_VALUE, hvm_memmap_table_entry, hvm_start_info};
use vm_memory::ByteValued;

use crate::boot::{Entry, Protocol};
use crate::machine::EMBEDDED_GUEST;
use crate::memory::layout::{CMDLINE, COM1_PORT, DEBUG_EXIT_PORT, PVH_START_INFO};

/// Where the task state segment for real mode on VT-x lies, outside of memory.
pub(super) const TSS: usize = 0xfffb_d000;
pub(super) const IOAPIC_PINS: u64 = 24;
/// ACPI's sleep control register, at which the embedded guest powers off blind, and what it writes there.
const SLEEP_CONTROL: u16 = 0x600;
const POWER_OFF: u8 = 0x34;
/// Of a 16550: the line status register, and that all is sent.
pub(super) const LINE_STATUS: u16 = COM1_PORT + 5;
pub(super) const SENT: u8 = 0x60;
/// The memory map behind the PVH start info.
const MEMORY_MAP: u64 = PVH_START_INFO + 0x60;

/// Runs the embedded guest with these words until it powers off; its console is standard output.
///
/// # Errors
/// KVM refuses something, or the guest does what this does not know.
pub fn run(memory_mib: u64, words: &str) -> anyhow::Result<()> {
    let kvm = Kvm::new().context("/dev/kvm")?;
    let (vm, memory) = make_machine(&kvm, memory_mib << 20)?;
    let entry = load(memory, words)?;
    let mut vcpu = make_vcpu(&kvm, &vm, entry)?;
    let mut out = io::stdout();
    loop {
        match vcpu.run().context("KVM_RUN")? {
            VcpuExit::IoOut(SLEEP_CONTROL, [POWER_OFF]) | VcpuExit::IoOut(DEBUG_EXIT_PORT, [0]) => {
                return Ok(());
            }
            VcpuExit::IoOut(COM1_PORT, byte) => {
                out.write_all(byte)?;
                out.flush()?;
            }
            VcpuExit::IoIn(LINE_STATUS, [status]) => *status = SENT,
            VcpuExit::IoIn(_, data) | VcpuExit::MmioRead(_, data) => data.fill(0xff),
            VcpuExit::IoOut(..) | VcpuExit::MmioWrite(..) | VcpuExit::IoapicEoi(_) => {}
            exit => bail!("the floor has no answer to the exit {exit:?}"),
        }
    }
}

/// The machine: memory first, since KVM waits for every vCPU that is there when memory changes.
fn make_machine(kvm: &Kvm, size: u64) -> anyhow::Result<(VmFd, &'static mut [u8])> {
    let vm = kvm.create_vm()?;
    let (protection, flags) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE);
    let len = usize::try_from(size)?;
    // SAFETY: a new mapping, which stays until the process ends.
    let address = unsafe { libc::mmap(null_mut(), len, protection, flags, -1, 0) };
    ensure!(address != libc::MAP_FAILED, "mmap: {}", io::Error::last_os_error());
    let region = kvm_userspace_memory_region {
        memory_size: size,
        userspace_addr: address as u64,
        ..kvm_userspace_memory_region::default()
    };
    // SAFETY: the whole mapping, which stays.
    unsafe { vm.set_user_memory_region(region) }?;
    vm.set_tss_address(TSS)?;
    vm.enable_cap(&kvm_enable_cap {
        cap: KVM_CAP_SPLIT_IRQCHIP,
        args: [IOAPIC_PINS, 0, 0, 0],
        ..kvm_enable_cap::default()
    })?;
    // SAFETY: the mapping is so long, and nothing else has it until the guest runs; then it is not touched again.
    Ok((vm, unsafe { std::slice::from_raw_parts_mut(address.cast(), len) }))
}

/// Puts the guest, its command line and the PVH start info into memory; the guest's entry.
fn load(memory: &mut [u8], words: &str) -> anyhow::Result<Entry> {
    let mut put = |at: u64, bytes: &[u8]| {
        let at = usize::try_from(at)?;
        let place = memory.get_mut(at..at + bytes.len()).context("the guest does not fit into its memory")?;
        place.copy_from_slice(bytes);
        anyhow::Ok(())
    };
    let guest = Elf::of(EMBEDDED_GUEST)?;
    for (at, bytes) in guest.segments {
        put(at, bytes)?;
    }
    put(CMDLINE, words.as_bytes())?;
    let info = hvm_start_info {
        magic: XEN_HVM_START_MAGIC_VALUE,
        version: 1,
        cmdline_paddr: CMDLINE,
        memmap_paddr: MEMORY_MAP,
        memmap_entries: 1,
        ..hvm_start_info::default()
    };
    put(PVH_START_INFO, info.as_slice())?;
    let ram =
        hvm_memmap_table_entry { size: memory.len() as u64, type_: 1, ..hvm_memmap_table_entry::default() };
    let at = usize::try_from(MEMORY_MAP)?;
    memory.get_mut(at..at + size_of_val(&ram)).context("too little memory")?.copy_from_slice(ram.as_slice());
    Ok(guest.entry)
}

/// The vCPU, with every feature that the host offers, at the guest's entry.
fn make_vcpu(kvm: &Kvm, vm: &VmFd, entry: Entry) -> anyhow::Result<VcpuFd> {
    let vcpu = vm.create_vcpu(0)?;
    vcpu.set_cpuid2(&kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?)?;
    vcpu.set_sregs(&entry.sregs(vcpu.get_sregs()?))?;
    vcpu.set_regs(&entry.regs())?;
    Ok(vcpu)
}

/// What is needed of the guest's file, which was built with this program.
struct Elf<'a> {
    /// Physical addresses, and what is there. The rest is zero, as fresh memory is.
    segments: Vec<(u64, &'a [u8])>,
    entry: Entry,
}

impl<'a> Elf<'a> {
    fn of(file: &'a [u8]) -> anyhow::Result<Self> {
        let header: Elf64_Ehdr = at(file, 0)?;
        let (mut segments, mut entry) = (Vec::new(), None);
        for index in 0..u64::from(header.e_phnum) {
            let segment: Elf64_Phdr = at(file, header.e_phoff + index * size_of::<Elf64_Phdr>() as u64)?;
            let bytes = part(file, segment.p_offset, segment.p_filesz)?;
            match segment.p_type {
                PT_LOAD => segments.push((segment.p_paddr, bytes)),
                // The only note is the PVH entry: a header, `Xen` and a zero, and the address.
                PT_NOTE => {
                    let address: u32 = at(bytes, size_of::<Elf64_Nhdr>() as u64 + 4)?;
                    entry = Some(Entry { protocol: Protocol::Pvh, address: address.into() });
                }
                _ => {}
            }
        }
        Ok(Self { segments, entry: entry.context("the guest has no note")? })
    }
}

fn part(bytes: &[u8], at: u64, len: u64) -> anyhow::Result<&[u8]> {
    let (at, len) = (usize::try_from(at)?, usize::try_from(len)?);
    bytes.get(at..at + len).context("the guest's file is too short")
}

fn at<T: ByteValued>(bytes: &[u8], at: u64) -> anyhow::Result<T> {
    let mut value = T::zeroed();
    value.as_mut_slice().copy_from_slice(part(bytes, at, size_of::<T>() as u64)?);
    Ok(value)
}
