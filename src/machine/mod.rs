//! A machine's life: built, paused, running, ended. What can be done in a state is what its type
//! offers.

mod builder;
mod error;
mod interrupts;
mod outcome;
mod state;
mod virtio;

use std::fmt;
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

pub use builder::{Builder, EMBEDDED_GUEST};
pub use error::Error;
pub use outcome::{ExitReason, Outcome};

use crate::console::{Outbox, Pump};
use event_manager::{EventOps, Events, MutEventSubscriber};

use self::state::{Basis, Fixed};
pub use self::state::{Kept, Lifeline};
use self::virtio::OnThread;
use crate::bus::lock;
use crate::config::MachineConfig;
use crate::devices::vmgenid::VmGenId;
use crate::event::EventLoop;
use crate::hypervisor::{self, Counters, KvmVcpu, Vm};
use crate::memory::{DirtyPages, GuestMemory, Layers, Prefetch};
use crate::timeline::{Phase, Timeline};
use crate::vcpu::{Buses, Control, ExitCounter, ExitStats, VcpuThread};
use crate::virtio::DeviceHandle;

/// What every state of a machine owns. Dropping it stops the machine and joins its threads.
struct Parts {
    config: MachineConfig,
    /// What memory comes from, where that is a snapshot.
    layers: Option<Arc<Layers>>,
    prefetch: Option<Prefetch>,
    /// What memory that comes from elsewhere stops the machine by.
    lifeline: Option<Arc<Lifeline>>,
    basis: Basis,
    control: Arc<Control>,
    /// Until the first start.
    idle: Option<Idle>,
    vm: Vm,
    /// Each is locked by its thread while it may run.
    vcpus: Vec<Arc<Mutex<KvmVcpu>>>,
    threads: Vec<VcpuThread>,
    fixed: Fixed,
    outbox: Arc<Outbox>,
    /// Dropped after the vCPU threads are joined, so that it still takes their last output.
    loops: Vec<NamedLoop>,
    /// The virtio devices, while they are on no loop.
    parked: Vec<OnThread>,
    /// The ways to command them, by their names.
    devices: Vec<(String, DeviceHandle)>,
    vmgenid: VmGenId,
    timeline: Arc<Timeline>,
    /// Those of each vCPU.
    exits: Vec<Arc<ExitCounter>>,
    pty: Option<PathBuf>,
    device_ptys: Vec<(String, PathBuf)>,
}

/// What goes to the threads at the first start.
struct Idle {
    buses: Arc<Buses>,
    pump: Pump,
}

/// An event loop: the machine's own, or one that devices have asked for by name.
struct NamedLoop {
    name: Option<String>,
    /// A loop without devices is left alone by a pause: its console's writer may block.
    has_devices: bool,
    events: EventLoop<Subscriber>,
}

/// What the event loops own.
enum Subscriber {
    Console(Pump),
    Device(Box<OnThread>),
}

impl Subscriber {
    fn is_device(&self) -> bool {
        matches!(self, Self::Device(_))
    }

    fn inner(&mut self) -> &mut dyn MutEventSubscriber {
        match self {
            Self::Console(pump) => pump,
            Self::Device(device) => &mut device.worker,
        }
    }
}

impl MutEventSubscriber for Subscriber {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        self.inner().init(ops);
    }

    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        self.inner().process(events, ops);
    }
}

impl Parts {
    /// Starts the threads: the vCPUs' first, as they have the longest way to go.
    fn start(&mut self, idle: Idle) -> Result<(), Error> {
        for (index, (vcpu, exits)) in self.vcpus.iter().zip(&self.exits).enumerate() {
            let (control, timeline) = (Arc::clone(&self.control), Arc::clone(&self.timeline));
            let thread = VcpuThread::spawn(
                Arc::clone(vcpu),
                index,
                Arc::clone(&idle.buses),
                control,
                timeline,
                Arc::clone(exits),
            )
            .map_err(|source| Error::Thread { index, source })?;
            self.threads.push(thread);
        }
        self.start_devices(Some(idle.pump))
    }

    /// Puts the devices on their loops, which are started where they are not there yet.
    fn start_devices(&mut self, console: Option<Pump>) -> Result<(), Error> {
        let mut subscribers: Vec<(Option<String>, Vec<Subscriber>)> = Vec::new();
        subscribers.extend(console.map(|pump| (None, vec![Subscriber::Console(pump)])));
        for device in self.parked.drain(..) {
            let iothread = device.iothread.clone();
            let device = Subscriber::Device(Box::new(device));
            match subscribers.iter_mut().find(|(name, _)| *name == iothread) {
                Some((_, devices)) => devices.push(device),
                None => subscribers.push((iothread, vec![device])),
            }
        }
        for (name, subscribers) in subscribers {
            let has_devices = subscribers.iter().any(Subscriber::is_device);
            if let Some(old) = self.loops.iter().find(|one| one.name == name) {
                old.events.add(subscribers);
            } else {
                let events = EventLoop::start(name.as_deref().unwrap_or("events"), subscribers)?;
                self.loops.push(NamedLoop { name, has_devices, events });
            }
        }
        Ok(())
    }

    /// Takes the devices off their loops, with nothing of theirs in flight.
    fn park_devices(&mut self) {
        for one in self.loops.iter().filter(|one| one.has_devices) {
            for subscriber in one.events.take(Subscriber::is_device) {
                if let Subscriber::Device(mut device) = subscriber {
                    device.worker.pause();
                    self.parked.push(*device);
                }
            }
        }
    }

    fn device(&self, name: &str) -> Option<DeviceHandle> {
        self.devices.iter().find(|(own, _)| own == name).map(|(_, handle)| handle.clone())
    }

    /// Joins the vCPU threads, which have been told to stop; false if one of them panicked.
    fn join(&mut self) -> bool {
        let others = self.threads.iter().filter(|thread| !thread.is_current()).count();
        self.control.wait_until_gone(others);
        let joined: Vec<_> = self.threads.drain(..).map(VcpuThread::join).collect();
        joined.iter().all(|orderly| *orderly)
    }

    fn exits(&self) -> ExitStats {
        let mut all = ExitStats::default();
        self.exits.iter().for_each(|exits| all.merge(&exits.read()));
        all
    }

    /// Whether memory that comes from elsewhere could not be had.
    fn is_cut(&self) -> bool {
        self.lifeline.as_ref().is_some_and(|lifeline| lifeline.is_cut())
    }

    fn stop_handle(&self) -> StopHandle {
        StopHandle { control: Arc::clone(&self.control), outbox: Arc::clone(&self.outbox) }
    }

    fn end(mut self) -> Outcome {
        let orderly = self.join();
        self.timeline.mark(Phase::Exit);
        let reason = self.control.take_end().map_or(ExitReason::Stopped, ExitReason::from);
        let reason = match reason {
            _ if !orderly => ExitReason::Panicked,
            _ if self.is_cut() => ExitReason::MemoryLost,
            reason => reason,
        };
        Outcome { reason, stats: self.exits(), timeline: Arc::clone(&self.timeline) }
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        self.control.stop();
        self.join();
        self.loops.clear();
    }
}

/// A machine whose vCPUs wait: just built, or paused between two instructions with every exit
/// complete.
pub struct PausedMachine {
    parts: Parts,
}

/// A machine whose vCPUs run.
pub struct RunningMachine {
    parts: Parts,
}

/// Stops a machine from any thread, while another waits for it.
#[derive(Clone)]
pub struct StopHandle {
    control: Arc<Control>,
    outbox: Arc<Outbox>,
}

impl StopHandle {
    /// Stops the machine; one that has ended stays as it ended. A [`RunningMachine::wait`] for its
    /// console's reader ends.
    pub fn stop(&self) {
        self.control.stop();
        self.outbox.hurry();
    }
}

impl PausedMachine {
    /// Lets the vCPUs run.
    ///
    /// # Errors
    /// The first time, the host may not give the threads that a machine needs; it is gone then.
    pub fn resume(mut self) -> Result<RunningMachine, Error> {
        if let Some(idle) = self.parts.idle.take() {
            self.parts.control.resume();
            self.parts.start(idle)?;
        } else {
            self.parts.start_devices(None)?;
            self.parts.control.resume();
        }
        Ok(RunningMachine { parts: self.parts })
    }

    /// Gives the machine a new generation id, as one has to that is not what it was: a copy of another,
    /// or one that went back in time. Its guest is told.
    ///
    /// # Errors
    /// The host has no random numbers.
    pub fn renew_generation(&mut self) -> Result<(), Error> {
        Ok(self.parts.vmgenid.renew()?)
    }

    /// Has it noted which pages of guest memory change from now on, or no longer. That makes a guest's first
    /// write to each page slower.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn track_dirty(&mut self, on: bool) -> Result<(), hypervisor::Error> {
        self.parts.basis = Basis::default();
        self.parts.vm.track_dirty(on)
    }

    /// KVM's own counters of each vCPU. They can be read while the machine runs.
    ///
    /// # Errors
    /// KVM is older than Linux 5.14, or the process may open no more files.
    pub fn kvm_counters(&self) -> Result<Vec<Counters>, hypervisor::Error> {
        self.parts.vcpus.iter().map(|vcpu| lock(vcpu).counters()).collect()
    }

    /// Waits until the console's stream has taken all that the guest has sent; [`StopHandle::stop`] ends that
    /// wait. A machine that is dropped may take the last of it along.
    pub fn flush_console(&self) {
        self.parts.outbox.wait_until_drained();
    }

    /// The pseudo-terminal of a machine whose console is one.
    #[must_use]
    pub fn pty(&self) -> Option<&Path> {
        self.parts.pty.as_deref()
    }

    /// The names of the virtio devices that have a pseudo-terminal, with these.
    #[must_use]
    pub fn device_ptys(&self) -> &[(String, PathBuf)] {
        &self.parts.device_ptys
    }

    /// A handle that stops the machine from another thread.
    #[must_use]
    pub fn stop_handle(&self) -> StopHandle {
        self.parts.stop_handle()
    }
}

impl RunningMachine {
    /// Takes the vCPUs out of the guest, between two instructions and with every exit complete.
    ///
    /// # Errors
    /// The machine has ended; its outcome is the error. What the console's stream does not take at
    /// once is lost.
    pub fn pause(mut self) -> Result<PausedMachine, Box<Outcome>> {
        if self.parts.control.pause() {
            self.parts.park_devices();
            Ok(PausedMachine { parts: self.parts })
        } else {
            Err(Box::new(self.parts.end()))
        }
    }

    /// Waits until the machine ends. Where its guest ended it, that is when the console's stream has
    /// taken all output; [`StopHandle::stop`] ends that wait.
    #[must_use]
    pub fn wait(self) -> Outcome {
        let parts = self.parts;
        parts.control.wait_for_end();
        parts.timeline.mark(Phase::Exit);
        parts.outbox.wait_until_drained();
        parts.end()
    }

    /// Stops the machine, wherever its guest is. What the console's stream does not take at once is
    /// lost.
    #[must_use]
    pub fn stop(self) -> Outcome {
        self.parts.control.stop();
        self.parts.end()
    }

    /// A handle that stops the machine from another thread.
    #[must_use]
    pub fn stop_handle(&self) -> StopHandle {
        self.parts.stop_handle()
    }
}

/// What is the same in both states.
macro_rules! of_both_states {
    ($($state:ident)*) => {
        $(
            impl $state {
                /// The way to command a virtio device, by its id or, without one, by its kind and number
                /// (`disk0`).
                #[must_use]
                pub fn device(&self, name: &str) -> Option<DeviceHandle> {
                    self.parts.device(name)
                }

                /// The exits of all vCPUs by now.
                #[must_use]
                pub fn exits(&self) -> ExitStats {
                    self.parts.exits()
                }

                /// What the machine was built from.
                #[must_use]
                pub fn config(&self) -> &MachineConfig {
                    &self.parts.config
                }

                /// The guest's memory.
                #[must_use]
                pub fn memory(&self) -> &GuestMemory {
                    self.parts.vm.memory()
                }

                /// The snapshots that memory comes from, if it does.
                #[must_use]
                pub fn layers(&self) -> Option<&Layers> {
                    self.parts.layers.as_deref()
                }

                /// The moments since which changes of memory are known, the newest last.
                pub fn tracked_since(&self) -> impl Iterator<Item = u128> + '_ {
                    self.parts.basis.marks()
                }

                /// The pages that have changed since the moment `mark`. They are the same, and more, the next
                /// time.
                ///
                /// # Errors
                /// It is not known, or KVM does not tell.
                pub fn changed_since(&mut self, mark: u128) -> Result<&DirtyPages, Error> {
                    self.parts.basis.since(mark)?;
                    self.parts.take_dirty()?;
                    self.parts.basis.since(mark)
                }

                /// The pages that have changed since they were last taken, or since
                /// [`PausedMachine::track_dirty`]. Those of a machine that runs may change on; then they are among
                /// the next ones too.
                ///
                /// # Errors
                /// Changes are not tracked, or KVM refuses; no page is lost.
                pub fn take_dirty(&mut self) -> Result<DirtyPages, hypervisor::Error> {
                    self.parts.take_dirty()
                }

                /// The names of the virtio devices.
                pub fn device_names(&self) -> impl Iterator<Item = &str> {
                    self.parts.devices.iter().map(|(name, _)| name.as_str())
                }
            }

            /// A descriptor that is readable once the machine has ended, for a poll together with others.
            impl AsRawFd for $state {
                fn as_raw_fd(&self) -> RawFd {
                    self.parts.control.ended()
                }
            }
        )*
    };
}
of_both_states!(PausedMachine RunningMachine);

impl fmt::Debug for PausedMachine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PausedMachine").field("pty", &self.pty()).finish_non_exhaustive()
    }
}

impl fmt::Debug for RunningMachine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunningMachine").field("vcpus", &self.parts.config.cpus).finish_non_exhaustive()
    }
}

impl fmt::Debug for StopHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StopHandle").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
