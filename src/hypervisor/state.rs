//! What KVM keeps of a vCPU and of a machine: out of it, and into another.

// An XSAVE area's size is the host's affair, and KVM reads and writes it by a pointer.
#![allow(unsafe_code)]

use kvm_bindings::{
    CpuId, Msrs, Xsave, kvm_clock_data, kvm_cpuid_entry2, kvm_debugregs, kvm_lapic_state, kvm_mp_state,
    kvm_msr_entry, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs,
};
use kvm_ioctls::Cap;

use super::{Error, KvmVcpu, Vm};
use crate::state::saved;

/// `IA32_TIME_STAMP_COUNTER` and `IA32_TSC_DEADLINE` (SDM volume 4, table 2-2).
const TSC: u32 = 0x10;
const TSC_DEADLINE: u32 = 0x6e0;

/// Most registers that one call takes (`MAX_IO_MSRS` of Linux's KVM).
const MOST_MSRS: usize = 256;

/// More registers than any KVM has.
const ALL_MSRS: usize = 4096;

/// Size of `struct kvm_xsave` without what `KVM_CAP_XSAVE2` adds.
const XSAVE_MIN: usize = 4096;

saved! {
    "vcpu", version 1, fingerprint 492112149;
    /// A vCPU out of its guest: the structures of the KVM API, as their bytes.
    pub struct VcpuState {
        /// `KVM_GET_MP_STATE`.
        pub mp_state: kvm_mp_state,
        /// `KVM_GET_REGS`.
        pub regs: kvm_regs,
        /// `KVM_GET_SREGS`.
        pub sregs: kvm_sregs,
        /// `KVM_GET_XSAVE2`, in words of 32 bits.
        pub xsave: Vec<u32>,
        /// `KVM_GET_XCRS`.
        pub xcrs: kvm_xcrs,
        /// `KVM_GET_DEBUGREGS`.
        pub debug_registers: kvm_debugregs,
        /// `KVM_GET_LAPIC`.
        pub lapic: kvm_lapic_state,
        /// `KVM_GET_VCPU_EVENTS`.
        pub events: kvm_vcpu_events,
        /// `KVM_GET_MSRS`: all that KVM names, without those that it does not give.
        pub msrs: Vec<kvm_msr_entry>,
        /// What `KVM_SET_CPUID2` was given.
        pub cpuid: Vec<kvm_cpuid_entry2>,
        /// `KVM_GET_TSC_KHZ`; 0 where KVM does not know it.
        pub tsc_khz: u32,
    }
}

/// The structures of the KVM API are as large as they were when the version was made.
const _: () = {
    assert!(size_of::<kvm_mp_state>() == 4 && size_of::<kvm_regs>() == 144 && size_of::<kvm_sregs>() == 312);
    assert!(size_of::<kvm_xcrs>() == 392 && size_of::<kvm_debugregs>() == 128);
    assert!(size_of::<kvm_lapic_state>() == 1024 && size_of::<kvm_vcpu_events>() == 64);
    assert!(size_of::<kvm_msr_entry>() == 16 && size_of::<kvm_cpuid_entry2>() == 40);
};

saved! {
    "clock", version 1, fingerprint 584872311;
    /// The clock of a machine that stands still: kvm-clock goes on from there.
    pub struct ClockState {
        /// Nanoseconds since the machine began, without the time that it was kept.
        pub nanoseconds: u64,
    }
}

impl VcpuState {
    /// The time-stamp counter, if KVM has told it.
    #[must_use]
    pub fn tsc(&self) -> Option<u64> {
        self.msrs.iter().find(|entry| entry.index == TSC).map(|entry| entry.data)
    }
}

impl KvmVcpu {
    /// The guest's time-stamp counter by now, if KVM tells it.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn tsc(&self) -> Result<Option<u64>, Error> {
        self.msr(TSC)
    }

    /// Tells KVM where the guest's time-stamp counter is to go on. It may ignore that.
    ///
    /// # Errors
    /// KVM refuses.
    pub(super) fn set_tsc(&self, ticks: u64) -> Result<(), Error> {
        self.set_msrs(&[kvm_msr_entry { index: TSC, data: ticks, ..Default::default() }])
    }

    /// The vCPU's state. It must be out of the guest, with its last exit complete.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn save(&self) -> Result<VcpuState, Error> {
        let fd = self.fd();
        // First, as it has KVM take events in that change registers.
        let mp_state = fd.get_mp_state().map_err(Error::call("KVM_GET_MP_STATE"))?;
        Ok(VcpuState {
            mp_state,
            regs: fd.get_regs().map_err(Error::call("KVM_GET_REGS"))?,
            sregs: fd.get_sregs().map_err(Error::call("KVM_GET_SREGS"))?,
            xsave: self.xsave()?,
            xcrs: fd.get_xcrs().map_err(Error::call("KVM_GET_XCRS"))?,
            debug_registers: fd.get_debug_regs().map_err(Error::call("KVM_GET_DEBUGREGS"))?,
            lapic: fd.get_lapic().map_err(Error::call("KVM_GET_LAPIC"))?,
            msrs: self.msrs()?,
            events: fd.get_vcpu_events().map_err(Error::call("KVM_GET_VCPU_EVENTS"))?,
            cpuid: self.cpuid().to_vec(),
            tsc_khz: self.tsc_khz().unwrap_or(0),
        })
    }

    /// Gives a new vCPU a state.
    ///
    /// # Errors
    /// KVM refuses a part of it: the state is of a host that has what this one lacks, or of none.
    pub fn restore(&mut self, state: &VcpuState) -> Result<(), Error> {
        let VcpuState {
            mp_state,
            regs,
            sregs,
            xsave,
            xcrs,
            debug_registers,
            lapic,
            events,
            msrs,
            cpuid,
            tsc_khz: _,
        } = state;
        let cpuid = CpuId::from_entries(cpuid).map_err(|_| Error::too_many("KVM_SET_CPUID2"))?;
        // What there is decides which registers there are.
        self.set_cpuid(&cpuid)?;
        let fd = self.fd();
        fd.set_mp_state(*mp_state).map_err(Error::call("KVM_SET_MP_STATE"))?;
        self.set_registers(regs, sregs)?;
        self.set_xsave(xsave)?;
        fd.set_xcrs(xcrs).map_err(Error::call("KVM_SET_XCRS"))?;
        fd.set_debug_regs(debug_registers).map_err(Error::call("KVM_SET_DEBUGREGS"))?;
        fd.set_lapic(lapic).map_err(Error::call("KVM_SET_LAPIC"))?;
        // The local APIC's timer mode decides whether a deadline is kept.
        self.restore_msrs(msrs)?;
        fd.set_vcpu_events(events).map_err(Error::call("KVM_SET_VCPU_EVENTS"))?;
        // A guest without kvm-clock has nothing to be told.
        let _ = fd.kvmclock_ctrl();
        Ok(())
    }

    /// Bytes of an XSAVE area on this host.
    fn xsave_size(&self) -> usize {
        let size = self.vm().check_extension(Cap::Xsave2);
        usize::try_from(size).unwrap_or_default().max(XSAVE_MIN)
    }

    fn xsave(&self) -> Result<Vec<u32>, Error> {
        let size = self.xsave_size();
        if size == XSAVE_MIN {
            let area = self.fd().get_xsave().map_err(Error::call("KVM_GET_XSAVE"))?;
            return Ok(area.region.to_vec());
        }
        let mut area = empty_xsave((size - XSAVE_MIN).div_ceil(4))?;
        // SAFETY: the area has the size that KVM_CAP_XSAVE2 tells for this machine.
        unsafe { self.fd().get_xsave2(&mut area) }.map_err(Error::call("KVM_GET_XSAVE2"))?;
        let mut words = area.as_fam_struct_ref().xsave.region.to_vec();
        words.extend_from_slice(area.as_slice());
        Ok(words)
    }

    fn set_xsave(&self, words: &[u32]) -> Result<(), Error> {
        let host = self.xsave_size();
        if words.len() != host.div_ceil(4) {
            return Err(Error::XsaveSize { saved: words.len() * 4, host });
        }
        let (region, extra) = words.split_at(XSAVE_MIN / 4);
        let mut area = empty_xsave(extra.len())?;
        area.as_mut_slice().copy_from_slice(extra);
        // SAFETY: the length of the flexible array is not changed.
        unsafe { area.as_mut_fam_struct() }.xsave.region.copy_from_slice(region);
        // SAFETY: the area has the size that KVM_CAP_XSAVE2 tells for this machine, as compared above.
        unsafe { self.fd().set_xsave2(&area) }.map_err(Error::call("KVM_SET_XSAVE"))
    }

    /// All MSRs that KVM saves. It stops at one that it does not give this vCPU: that one is left out.
    fn msrs(&self) -> Result<Vec<kvm_msr_entry>, Error> {
        let mut wanted = self.vm().msrs_to_save()?;
        // The deadline is lost if the counter that it is compared with comes after it.
        wanted.sort_by_key(|index| match *index {
            TSC => 0,
            TSC_DEADLINE => 2,
            _ => 1,
        });
        let mut saved = Vec::with_capacity(wanted.len());
        let mut rest = wanted.as_slice();
        while !rest.is_empty() {
            let some = rest.get(..MOST_MSRS).unwrap_or(rest);
            let given = self.some_msrs(some)?;
            let done = if given.len() < some.len() { given.len() + 1 } else { given.len() };
            saved.extend(given);
            rest = rest.get(done..).unwrap_or_default();
        }
        Ok(saved)
    }

    /// Sets MSRs. Some can only be read; those have to have their value already.
    fn restore_msrs(&self, saved: &[kvm_msr_entry]) -> Result<(), Error> {
        if saved.len() > ALL_MSRS {
            return Err(Error::too_many("KVM_SET_MSRS"));
        }
        let mut rest = saved;
        while !rest.is_empty() {
            let some = rest.get(..MOST_MSRS).unwrap_or(rest);
            match self.set_msrs(some) {
                Ok(()) => rest = rest.get(some.len()..).unwrap_or_default(),
                Err(Error::Msr(index)) => {
                    let at = some.iter().position(|entry| entry.index == index).unwrap_or_default();
                    if self.msr(index)? != some.get(at).map(|entry| entry.data) {
                        return Err(Error::Msr(index));
                    }
                    rest = rest.get(at + 1..).unwrap_or_default();
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The value of an MSR, if there is one.
    fn msr(&self, index: u32) -> Result<Option<u64>, Error> {
        Ok(self.some_msrs(&[index])?.first().map(|entry| entry.data))
    }

    /// MSRs up to the first that KVM does not give.
    fn some_msrs(&self, indices: &[u32]) -> Result<Vec<kvm_msr_entry>, Error> {
        let call = "KVM_GET_MSRS";
        let entries: Vec<_> =
            indices.iter().map(|index| kvm_msr_entry { index: *index, ..Default::default() }).collect();
        let mut msrs = Msrs::from_entries(&entries).map_err(|_| Error::too_many(call))?;
        let count = self.fd().get_msrs(&mut msrs).map_err(Error::call(call))?;
        Ok(msrs.as_slice().iter().take(count).copied().collect())
    }
}

fn empty_xsave(extra_words: usize) -> Result<Xsave, Error> {
    Xsave::new(extra_words).map_err(|_| Error::too_many("KVM_SET_XSAVE"))
}

impl Vm {
    /// The machine's clock, with all vCPUs out of the guest.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn save_clock(&self) -> Result<ClockState, Error> {
        let clock = self.fd().get_clock().map_err(Error::call("KVM_GET_CLOCK"))?;
        Ok(ClockState { nanoseconds: clock.clock })
    }

    /// Has the clock go on from there; before the vCPUs' registers are restored.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn restore_clock(&self, state: &ClockState) -> Result<(), Error> {
        let ClockState { nanoseconds } = state;
        let clock = kvm_clock_data { clock: *nanoseconds, ..Default::default() };
        self.fd().set_clock(&clock).map_err(Error::call("KVM_SET_CLOCK"))
    }
}
