//! A paused machine's state: into sections, and out of them into a machine that was just built.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kvm_bindings::{CpuId, kvm_lapic_state};
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

use super::virtio::OnThread;
use super::{Error, Parts, PausedMachine, StopHandle};
use crate::boot::cpuid;
use crate::bus::lock;
use crate::config::Size;
use crate::devices::i8042::I8042;
use crate::devices::ioapic::IoApic;
use crate::devices::rtc::Rtc;
use crate::devices::serial::Serial;
use crate::hypervisor::{self, KvmVcpu, VcpuState};
use crate::memory::{DirtyPages, GuestMemory, Layers, Prefetch};
use crate::state::State;
use crate::vcpu::Desired;
use crate::virtio::{self, Allow};

/// How far two time-stamp counters of one frequency may be apart, in millionths: crystals are not better.
const TSC_TOLERANCE: u64 = 250;

/// How much further a time-stamp counter may be when it is looked at than where it was set, and a rounding error
/// of KVM's with it.
const RESTORING: Duration = Duration::from_secs(1);

/// The devices that every machine has, those without state aside.
pub(super) struct Fixed {
    pub(super) ioapic: Arc<Mutex<IoApic>>,
    pub(super) serial: Arc<Mutex<Serial>>,
    pub(super) rtc: Arc<Mutex<Rtc>>,
    pub(super) i8042: Arc<Mutex<I8042>>,
}

impl Fixed {
    /// All but the serial port, which the caller holds.
    fn save(&self, state: &mut State) -> Result<(), Error> {
        let Self { ioapic, serial: _, rtc, i8042 } = self;
        state.put("ioapic", &lock(ioapic).save())?;
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
    /// What the machine is, memory aside: for a machine that is built with [`Builder::restore`] from the same
    /// configuration. Registers of an embedder's own ([`Builder::mmio_device`]) are the embedder's to keep.
    ///
    /// [`Builder::restore`]: super::Builder::restore
    /// [`Builder::mmio_device`]: super::Builder::mmio_device
    ///
    /// # Errors
    /// KVM does not give a part of it, or a device cannot be kept.
    pub fn save(&mut self) -> Result<State, Error> {
        self.save_in_time(|| Ok(()))
    }

    /// The same, as long as there is time: asked for after each part that may take long, as a disk that brings to
    /// its file what its guest has written.
    pub(crate) fn save_in_time<E: From<Error>>(
        &mut self,
        in_time: impl Fn() -> Result<(), E>,
    ) -> Result<State, E> {
        let mut state = self.save_fixed()?;
        for device in &mut self.parts.parked {
            let registers = lock(&device.registers);
            virtio::save(&device.name, &registers, &mut device.worker, &mut state).map_err(Error::from)?;
            in_time()?;
        }
        Ok(state)
    }

    /// All but the virtio devices.
    fn save_fixed(&self) -> Result<State, Error> {
        let Parts { vm, vcpus, fixed, parked, devices, .. } = &self.parts;
        // What has been read of its memory meanwhile is not what it had.
        if self.parts.is_cut() {
            return Err(Error::Cut);
        }
        if parked.len() != devices.len() {
            return Err(Error::DevicesLost);
        }
        let mut state = State::default();
        // Input goes on to come to the serial port, and with it an interrupt: both are kept, or neither.
        let serial = lock(&fixed.serial);
        state.put("serial", &serial.save())?;
        // The clock runs on until it is read.
        state.put("machine", &vm.save_clock()?)?;
        for (index, vcpu) in vcpus.iter().enumerate() {
            state.put(&vcpu_id(index), &lock(vcpu).save()?)?;
        }
        fixed.save(&mut state)?;
        Ok(state)
    }

    /// The files that the virtio devices' states are of no use without, by the devices' names.
    pub fn overlays(&self) -> impl Iterator<Item = (&str, PathBuf)> {
        let overlay = |device: &'_ OnThread| device.worker.overlay();
        self.parts.parked.iter().filter_map(move |device| Some((device.name.as_str(), overlay(device)?)))
    }

    /// Has changes of memory noted from now on, a moment that is known by `mark` from then on. The guest's
    /// first write to each page is slower.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn track_since(&mut self, mark: u128) -> Result<(), Error> {
        self.parts.track_since(mark)
    }
}

/// Since which moments it is known which pages have changed, the oldest first, and those that were taken from
/// the log since then. A moment stays known until a later one has been of use: what a snapshot was to begin
/// may never have come to be.
#[derive(Default)]
pub(super) struct Basis(Vec<(u128, DirtyPages)>);

impl Basis {
    /// Forgets all but the newest moment, and begins another.
    fn begin(&mut self, mark: u128) {
        let old = self.0.len().saturating_sub(1);
        self.0.drain(..old);
        self.0.push((mark, DirtyPages::default()));
    }

    fn add(&mut self, taken: &DirtyPages) {
        self.0.iter_mut().for_each(|(_, changed)| *changed = changed.union(taken));
    }

    pub(super) fn marks(&self) -> impl Iterator<Item = u128> + '_ {
        self.0.iter().map(|(mark, _)| *mark)
    }

    pub(super) fn since(&self, mark: u128) -> Result<&DirtyPages, Error> {
        let known = self.0.iter().find(|(known, _)| *known == mark);
        known.map(|(_, changed)| changed).ok_or(Error::Basis)
    }
}

/// What a machine was when it was saved.
pub struct Kept {
    /// Its memory.
    pub memory: GuestMemory,
    /// What that was made of, if of a snapshot.
    pub layers: Option<Arc<Layers>>,
    /// Everything else.
    pub state: State,
    /// What may differ.
    pub allow: Allow,
    /// Has changes of memory noted, as [`PausedMachine::track_since`] does.
    pub track_since: Option<u128>,
    /// What brings in pages meanwhile.
    pub prefetch: Option<Prefetch>,
    /// What is told of the machine, if somebody has to be able to stop it.
    pub lifeline: Option<Arc<Lifeline>>,
}

/// Stops a machine that cannot go on, and that may not have been built when that turns out.
#[derive(Default)]
pub struct Lifeline(Mutex<Life>);

#[derive(Default)]
enum Life {
    #[default]
    Unborn,
    Lives(StopHandle),
    Cut,
}

impl Lifeline {
    /// The machine must not run, or no longer.
    pub fn cut(&self) {
        if let Life::Lives(machine) = std::mem::replace(&mut *lock(&self.0), Life::Cut) {
            machine.stop();
        }
    }

    /// Whether the machine has ended, or is about to.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        match &*lock(&self.0) {
            Life::Unborn => false,
            Life::Lives(machine) => machine.control.desired() == Desired::Stopped,
            Life::Cut => true,
        }
    }

    /// A machine that has been told to stop has no vCPU in its guest, or a signal on the way to it, once this
    /// returns: whoever told it may not have come so far.
    pub fn see_it_end(&self) {
        if let Life::Lives(machine) = &*lock(&self.0)
            && machine.control.desired() == Desired::Stopped
        {
            machine.stop();
        }
    }

    pub(super) fn is_cut(&self) -> bool {
        matches!(&*lock(&self.0), Life::Cut)
    }

    fn attach(&self, machine: StopHandle) -> Result<(), Error> {
        match &mut *lock(&self.0) {
            Life::Cut => Err(Error::Cut),
            life => {
                *life = Life::Lives(machine);
                Ok(())
            }
        }
    }
}

impl Kept {
    /// The memory, if it is as large as it should be.
    pub(super) fn memory(&self, here: Size) -> Result<GuestMemory, Error> {
        let saved = Size::new(self.memory.iter().map(GuestMemoryRegion::len).sum());
        if saved == here { Ok(self.memory.clone()) } else { Err(Error::MemorySize { saved, here }) }
    }
}

impl Parts {
    fn track_since(&mut self, mark: u128) -> Result<(), Error> {
        self.vm.track_dirty(true)?;
        self.take_dirty()?;
        self.basis.begin(mark);
        Ok(())
    }

    /// The pages that have changed since they were last taken. They are not forgotten as long as changes are
    /// asked for since an earlier moment.
    pub(super) fn take_dirty(&mut self) -> Result<DirtyPages, hypervisor::Error> {
        let taken = self.vm.take_dirty()?;
        self.basis.add(&taken);
        Ok(taken)
    }

    /// Takes what was saved, all of it.
    pub(super) fn restore(&mut self, supported: &CpuId, kept: Kept) -> Result<(), Error> {
        let Kept { memory: _, layers, mut state, allow, track_since, prefetch, lifeline } = kept;
        self.layers = layers;
        self.prefetch = prefetch;
        // Before anything writes to memory: KVM does too, when it is given some registers.
        if let Some(mark) = track_since {
            self.track_since(mark)?;
        }
        self.vm.restore_clock(&state.take("machine")?)?;
        let mut interrupts = Interrupts::default();
        for (index, vcpu) in self.vcpus.iter().enumerate() {
            let saved: VcpuState = state.take(&vcpu_id(index))?;
            let mut vcpu = lock(vcpu);
            check_processor(&vcpu, supported, &saved)?;
            vcpu.restore(&saved)?;
            interrupts.add(&saved.lapic);
            if index == 0 {
                check_counter(&vcpu, &saved, allow)?;
            }
        }
        self.fixed.restore(&mut state)?;
        for device in &mut self.parked {
            let mut registers = lock(&device.registers);
            virtio::restore(&device.name, &mut registers, &mut device.worker, &mut state, allow)?;
        }
        let mut ioapic = lock(&self.fixed.ioapic);
        ioapic.restore(&state.take("ioapic")?);
        // A vCPU may have been paused between its end of a level-triggered interrupt and its exit that tells of
        // it, and KVM keeps that exit to itself.
        if !interrupts.withheld {
            ioapic.settle(|vector| interrupts.held(vector));
        }
        drop(ioapic);
        lock(&self.fixed.serial).connect();
        state.finish()?;
        // The same state may go on elsewhere, too: from its first instruction the guest can tell.
        self.vmgenid.renew()?;
        self.lifeline = lifeline;
        self.lifeline.as_ref().map_or(Ok(()), |lifeline| lifeline.attach(self.stop_handle()))
    }
}

/// The interrupts that local APICs have (Intel SDM volume 3A, "Local APIC Register Address Map").
#[derive(Default)]
struct Interrupts {
    /// A bit for each vector that waits or is in service.
    vectors: [u32; 8],
    /// A guest tells the IOAPIC itself when one has ended, and may be about to.
    withheld: bool,
}

impl Interrupts {
    fn add(&mut self, lapic: &kvm_lapic_state) {
        /// The spurious-interrupt vector register, and its bit that suppresses EOI broadcasts.
        const SVR: usize = 0xf0;
        const SUPPRESS: u32 = 1 << 12;
        /// The first registers of those in service, and of those that wait; each has 16 bytes.
        const ISR: usize = 0x100;
        const IRR: usize = 0x200;
        let register = |at: usize| {
            let bytes = lapic.regs.iter().skip(at).take(4).rev();
            bytes.fold(0, |word: u32, byte| word << 8 | u32::from(byte.to_ne_bytes()[0]))
        };
        for (vectors, at) in self.vectors.iter_mut().zip((0..).step_by(16)) {
            *vectors |= register(ISR + at) | register(IRR + at);
        }
        self.withheld |= register(SVR) & SUPPRESS != 0;
    }

    fn held(&self, vector: u8) -> bool {
        self.vectors.get(usize::from(vector / 32)).is_some_and(|word| word >> (vector % 32) & 1 != 0)
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

/// Whether the guest's time-stamp counter goes on from where it was. KVM may have ignored what it was told, and
/// give the guest the host's counter: one that is ahead looks as if the guest had been held up, one that has
/// gone back is a clock that goes back.
fn check_counter(vcpu: &KvmVcpu, saved: &VcpuState, allow: Allow) -> Result<(), Error> {
    let (Some(was), Some(is)) = (saved.tsc(), vcpu.tsc()?) else { return Ok(()) };
    match Counter::of(was, is, saved.tsc_khz) {
        Counter::GoesOn => {}
        Counter::Ahead(time) => {
            log::info!("this KVM gives a guest the host's time-stamp counter: it is ahead by {time:?}");
        }
        Counter::Back(by) if allow.clock => {
            log::warn!("the guest's time-stamp counter has gone back by {by:?}");
        }
        Counter::Back(by) => return Err(Error::CounterBack { by }),
    }
    Ok(())
}

/// How a time-stamp counter is to where it was.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Counter {
    /// As good as there.
    GoesOn,
    /// Further, by more than restoring takes.
    Ahead(Duration),
    /// Not as far.
    Back(Duration),
}

impl Counter {
    /// A counter that runs at so many kHz.
    pub(super) fn of(was: u64, is: u64, khz: u32) -> Self {
        // Where KVM does not know it, it is about this.
        let khz = if khz == 0 { 1_000_000 } else { khz };
        match Duration::from_millis(is.abs_diff(was) / u64::from(khz)) {
            apart if apart <= RESTORING => Self::GoesOn,
            apart if is > was => Self::Ahead(apart),
            apart => Self::Back(apart),
        }
    }
}
