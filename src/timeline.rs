//! When a machine reached each phase of its start.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// A phase of a machine's life, in the order in which they come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The process began.
    ProcessStart,
    /// `/dev/kvm` is open and can do what is needed.
    KvmOpened,
    /// Guest memory is mapped and the virtual machine made.
    MemoryMapped,
    /// Kernel, initrd and tables are in guest memory.
    KernelLoaded,
    /// All vCPUs are made and set up.
    VcpusCreated,
    /// A vCPU enters the guest for the first time.
    FirstRun,
    /// The guest sent its first byte to the console.
    FirstConsoleByte,
    /// The guest wrote the magic byte to the boot-time port.
    BootTimePort,
    /// The machine ended.
    Exit,
}

impl Phase {
    /// All phases in order.
    pub const ALL: [Self; 9] = [
        Self::ProcessStart,
        Self::KvmOpened,
        Self::MemoryMapped,
        Self::KernelLoaded,
        Self::VcpusCreated,
        Self::FirstRun,
        Self::FirstConsoleByte,
        Self::BootTimePort,
        Self::Exit,
    ];

    /// The phase in words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ProcessStart => "process start",
            Self::KvmOpened => "KVM opened",
            Self::MemoryMapped => "memory mapped",
            Self::KernelLoaded => "kernel loaded",
            Self::VcpusCreated => "vCPUs created",
            Self::FirstRun => "first KVM_RUN",
            Self::FirstConsoleByte => "first console byte",
            Self::BootTimePort => "boot-time port",
            Self::Exit => "exit",
        }
    }
}

/// The instants of a machine's phases. Any thread marks them; the first mark of a phase stays.
#[derive(Debug, Default)]
pub struct Timeline {
    instants: [OnceLock<Instant>; Phase::ALL.len()],
}

impl Timeline {
    /// The phase is reached now.
    pub fn mark(&self, phase: Phase) {
        if let Some(slot) = self.instants.get(phase as usize).filter(|slot| slot.get().is_none()) {
            let _ = slot.set(Instant::now());
        }
    }

    /// The phase was reached at `instant`.
    pub fn mark_at(&self, phase: Phase, instant: Instant) {
        if let Some(slot) = self.instants.get(phase as usize) {
            let _ = slot.set(instant);
        }
    }

    /// When the phase was reached, if it was.
    #[must_use]
    pub fn get(&self, phase: Phase) -> Option<Instant> {
        self.instants.get(phase as usize)?.get().copied()
    }

    /// The phases that were reached.
    pub fn phases(&self) -> impl Iterator<Item = (Phase, Instant)> + '_ {
        Phase::ALL.into_iter().filter_map(|phase| Some((phase, self.get(phase)?)))
    }
}

/// Milliseconds to the nanosecond, which is all that there is, in digits that say no more.
#[must_use]
pub fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e9).round() / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_mark_of_a_phase_stays() {
        let timeline = Timeline::default();
        assert_eq!(timeline.phases().count(), 0);
        let start = Instant::now();
        timeline.mark_at(Phase::ProcessStart, start);
        timeline.mark_at(Phase::ProcessStart, start + Duration::from_secs(1));
        timeline.mark(Phase::Exit);
        let exit = timeline.get(Phase::Exit).unwrap();
        timeline.mark(Phase::Exit);
        let phases: Vec<_> = timeline.phases().collect();
        assert_eq!(phases, [(Phase::ProcessStart, start), (Phase::Exit, exit)]);
    }

    #[test]
    fn all_phases_are_listed_in_order() {
        assert!(Phase::ALL.iter().enumerate().all(|(index, phase)| *phase as usize == index));
    }
}
