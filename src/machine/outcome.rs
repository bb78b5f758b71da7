use std::fmt;
use std::sync::Arc;

use crate::hypervisor::Failure;
use crate::timeline::Timeline;
use crate::vcpu::{End, ExitStats, FailureReport};

/// Why a machine ended.
#[derive(Debug, PartialEq)]
#[non_exhaustive]
pub enum ExitReason {
    /// The guest powered it off (ACPI sleep state S5).
    PowerOff,
    /// The guest asked for a reset: a reboot, through ACPI or the keyboard controller.
    Reset,
    /// A triple fault: an exception that the guest could not handle, twice over.
    TripleFault,
    /// The guest wrote this value to the debug-exit port.
    DebugExit(u32),
    /// Its owner stopped it.
    Stopped,
    /// A page of its memory could not be had; why has been logged.
    MemoryLost,
    /// KVM could not run a vCPU on.
    Failed(Box<Failure>),
    /// A vCPU's thread panicked: a defect of this library or of an embedder's device.
    Panicked,
}

impl ExitReason {
    /// The exit code of a process that ran the machine. Codes of our own are even, but for 1,
    /// an error of the host's; those of the debug-exit port are odd, as QEMU's `isa-debug-exit` makes them: `(value << 1) | 1`.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::PowerOff | Self::Stopped => 0,
            Self::MemoryLost => 1,
            Self::Reset => 4,
            Self::TripleFault => 6,
            Self::Failed(_) => 8,
            Self::Panicked => 10,
            // A process has eight bits for its exit code.
            Self::DebugExit(value) => (value << 1 | 1).to_le_bytes()[0],
        }
    }

    /// One word for machines to read.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::PowerOff => "power-off",
            Self::Reset => "reset",
            Self::TripleFault => "triple-fault",
            Self::DebugExit(_) => "debug-exit",
            Self::Stopped => "stopped",
            Self::MemoryLost => "memory-lost",
            Self::Failed(_) => "failed",
            Self::Panicked => "panicked",
        }
    }
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PowerOff => f.write_str("the guest powered off"),
            Self::Reset => f.write_str("the guest asked for a reset"),
            Self::TripleFault => f.write_str("triple fault: the guest could not handle an exception"),
            Self::DebugExit(value) => {
                write!(f, "the guest ended the machine with debug-exit value {value:#x}")
            }
            Self::Stopped => f.write_str("the machine was stopped"),
            Self::MemoryLost => f.write_str("a part of the machine's memory could not be had"),
            Self::Failed(failure) => FailureReport(failure).fmt(f),
            Self::Panicked => f.write_str("a vCPU's thread panicked"),
        }
    }
}

impl From<End> for ExitReason {
    fn from(end: End) -> Self {
        match end {
            End::Asked => Self::Stopped,
            End::PowerOff => Self::PowerOff,
            End::Reset => Self::Reset,
            End::DebugExit(value) => Self::DebugExit(value),
            End::TripleFault => Self::TripleFault,
            End::Failed(failure) => Self::Failed(failure),
        }
    }
}

/// What a machine leaves when it has ended.
#[derive(Debug)]
pub struct Outcome {
    /// Why it ended.
    pub reason: ExitReason,
    /// The exits of all its vCPUs.
    pub stats: ExitStats,
    /// When it reached which phase.
    pub timeline: Arc<Timeline>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the machine has ended: {}", self.reason)
    }
}

/// To a caller who wanted the machine to go on, its end is an error.
impl std::error::Error for Outcome {}
