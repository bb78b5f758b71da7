//! A paused machine's state: into sections, and out of them into a machine that was just built.

use std::sync::{Arc, Mutex};

use kvm_bindings::CpuId;

use super::{Error, Parts, PausedMachine};
use crate::boot::cpuid;
use crate::bus::lock;
use crate::devices::i8042::I8042;
use crate::devices::ioapic::IoApic;
use crate::devices::rtc::Rtc;
use crate::devices::serial::Serial;
use crate::hypervisor::{KvmVcpu, VcpuState};
use crate::memory::GuestMemory;
use crate::state::State;
use crate::virtio::{self, Allow};

/// How far two time-stamp counters of one frequency may be apart, in millionths: crystals are not better.
const TSC_TOLERANCE: u64 = 250;

/// The devices that every machine has, those without state aside.
pub(super) struct Fixed {
    pub(super) ioapic: Arc<Mutex<IoApic>>,
    pub(super) serial: Arc<Mutex<Serial>>,
    pub(super) rtc: Arc<Mutex<Rtc>>,
    pub(super) i8042: Arc<Mutex<I8042>>,
}

impl Fixed {
    fn save(&self, state: &mut State) -> Result<(), Error> {
        let Self { ioapic, serial, rtc, i8042 } = self;
        state.put("ioapic", &lock(ioapic).save())?;
        state.put("serial", &lock(serial).save())?;
        state.put("rtc", &lock(rtc).save())?;
        state.put("i8042", &lock(i8042).save())?;
        Ok(())
    }

    /// All but the IOAPIC, which comes after the devices on its pins.
    fn restore(&self, state: &mut State) -> Result<(), Error> {
        let Self { ioapic: _, serial, rtc, i8042 } = self;
        lock(serial).restore(&state.take("serial")?);
        lock(rtc).restore(&state.take("rtc")?);
        lock(i8042).restore(&state.take("i8042")?);
        Ok(())
    }
}

fn vcpu_id(index: usize) -> String {
    format!("vcpu{index}")
}

impl PausedMachine {
    /// The guest's memory. Nobody writes to it while the machine is paused.
    #[must_use]
    pub fn memory(&self) -> &GuestMemory {
        self.parts.vm.memory()
    }

    /// What the machine is, memory aside: for a machine that is built with [`Builder::restore`] from the same
    /// configuration. Registers of an embedder's own ([`Builder::mmio_device`]) are the embedder's to keep.
    ///
    /// [`Builder::restore`]: super::Builder::restore
    /// [`Builder::mmio_device`]: super::Builder::mmio_device
    ///
    /// # Errors
    /// KVM does not give a part of it, or a device cannot be kept.
    pub fn save(&mut self) -> Result<State, Error> {
        let Parts { vm, vcpus, fixed, .. } = &self.parts;
        let mut state = State::default();
        // The clock runs on until it is read.
        state.put("machine", &vm.save_clock()?)?;
        for (index, vcpu) in vcpus.iter().enumerate() {
            state.put(&vcpu_id(index), &lock(vcpu).save()?)?;
        }
        fixed.save(&mut state)?;
        for device in &mut self.parts.parked {
            let registers = lock(&device.registers);
            virtio::save(&device.name, &registers, &mut device.worker, &mut state)?;
        }
        Ok(state)
    }
}

impl Parts {
    /// Takes a saved state, all of it.
    pub(super) fn restore(&mut self, supported: &CpuId, mut state: State, allow: Allow) -> Result<(), Error> {
        self.vm.restore_clock(&state.take("machine")?)?;
        for (index, vcpu) in self.vcpus.iter().enumerate() {
            let saved: VcpuState = state.take(&vcpu_id(index))?;
            let mut vcpu = lock(vcpu);
            check_processor(&vcpu, supported, &saved)?;
            vcpu.restore(&saved)?;
        }
        self.fixed.restore(&mut state)?;
        for device in &mut self.parked {
            let mut registers = lock(&device.registers);
            virtio::restore(&device.name, &mut registers, &mut device.worker, &mut state, allow)?;
        }
        lock(&self.fixed.ioapic).restore(&state.take("ioapic")?);
        state.finish()?;
        // The same state may go on elsewhere, too: from its first instruction the guest can tell.
        Ok(self.vmgenid.renew()?)
    }
}

/// Whether the guest finds the processor that it was promised.
fn check_processor(vcpu: &KvmVcpu, supported: &CpuId, saved: &VcpuState) -> Result<(), Error> {
    let missing = cpuid::missing(&saved.cpuid, supported.as_slice());
    if !missing.is_empty() {
        return Err(Error::Processor(missing.join(", ")));
    }
    let host = vcpu.tsc_khz().unwrap_or(0);
    let apart = u64::from(host.abs_diff(saved.tsc_khz)) * 1_000_000;
    if apart > u64::from(saved.tsc_khz) * TSC_TOLERANCE && vcpu.set_tsc_khz(saved.tsc_khz).is_err() {
        return Err(Error::TscFrequency { saved: saved.tsc_khz, host });
    }
    Ok(())
}
