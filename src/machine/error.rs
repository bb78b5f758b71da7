//! Why a machine cannot be built, saved or restored.

use std::io;
use std::time::Duration;

use thiserror::Error;

use crate::boot::{self, acpi, cpuid, mptable};
use crate::devices::vmgenid;
use crate::memory::{self, layout};
use crate::virtio::{self, SaveError};
use crate::{bus, config, console, event, hypervisor, state};

/// Why a machine cannot be built.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration is no machine's.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// KVM is missing, or refuses.
    #[error(transparent)]
    Hypervisor(#[from] hypervisor::Error),
    /// There is no memory for the guest.
    #[error(transparent)]
    Memory(#[from] memory::Error),
    /// The kernel or initrd cannot be loaded.
    #[error(transparent)]
    Boot(#[from] boot::Error),
    /// The ACPI tables cannot be made.
    #[error(transparent)]
    Acpi(#[from] acpi::Error),
    /// There is no generation id.
    #[error(transparent)]
    VmGenId(#[from] vmgenid::Error),
    /// The MP table cannot be made.
    #[error(transparent)]
    MpTable(#[from] mptable::Error),
    /// A vCPU's CPUID cannot be made.
    #[error(transparent)]
    Cpuid(#[from] cpuid::Error),
    /// A device does not fit its bus.
    #[error(transparent)]
    Bus(#[from] bus::Error),
    /// An embedder's device where the guest would never reach it.
    #[error(
        "a device at {base:#x}+{len:#x} is hidden by {what} at {other:#x}+{other_len:#x}; there is room from {:#x}",
        layout::HOLE_START
    )]
    Hidden {
        /// The device's first address.
        base: u64,
        /// Its number of addresses.
        len: u64,
        /// What the guest reaches there instead.
        what: &'static str,
        /// Its first address.
        other: u64,
        /// Its number of addresses.
        other_len: u64,
    },
    /// A virtio device cannot be opened.
    #[error(transparent)]
    Virtio(#[from] virtio::Error),
    /// More virtio devices than there are interrupts.
    #[error("a machine has at most {most} virtio devices")]
    TooManyDevices {
        /// How many it has.
        most: usize,
    },
    /// The console's streams cannot be opened.
    #[error(transparent)]
    Console(#[from] console::Error),
    /// There is no event loop.
    #[error(transparent)]
    Event(#[from] event::Error),
    /// More memory than the processor can address.
    #[error(
        "the guest's memory does not fit this processor's {bits}-bit physical addresses; give less --memory"
    )]
    AddressWidth {
        /// Bits of a physical address.
        bits: u32,
    },
    /// A part of the machine cannot be kept, or what was kept is none of this machine's.
    #[error(transparent)]
    State(#[from] state::Error),
    /// What was kept is of a machine with more or less memory.
    #[error("the saved machine's memory is {saved}, and this one's {here}: give it the same")]
    MemorySize {
        /// What there was.
        saved: config::Size,
        /// What there is.
        here: config::Size,
    },
    /// A page of memory could not be had while the machine was built.
    #[error("a part of the machine's memory cannot be had")]
    Cut,
    /// An event loop has ended, and its devices with it.
    #[error("the machine cannot be saved: an event loop of its devices has ended")]
    DevicesLost,
    /// Changes of memory are not known since then.
    #[error("the changes of the machine's memory are not known since that snapshot")]
    Basis,
    /// A virtio device cannot be kept, or what was kept does not fit it.
    #[error(transparent)]
    Device(#[from] SaveError),
    /// What was kept is of a host whose processor can do more.
    #[error("this host's processor lacks what the saved machine's guest was promised: {0}")]
    Processor(String),
    /// What was kept is of a host whose time-stamp counter has another frequency.
    #[error(
        "the saved machine's time-stamp counter runs at {saved} kHz, this host's at {host} kHz and cannot be scaled"
    )]
    TscFrequency {
        /// The guest's.
        saved: u32,
        /// The host's.
        host: u32,
    },
    /// The guest would see its time-stamp counter go back.
    #[error(
        "the guest's time-stamp counter would go back by {by:?}: this KVM gives guests the host's, which has begun \
         anew (a reboot), or is another host's; give --allow clock if the guest does not mind"
    )]
    CounterBack {
        /// By how much.
        by: Duration,
    },
    /// The vCPUs' control cannot be made.
    #[error("cannot make the event descriptor of the machine's end")]
    Control(#[source] io::Error),
    /// A vCPU has no thread.
    #[error("cannot start the thread of vCPU {index}")]
    Thread {
        /// The vCPU.
        index: usize,
        /// What the host said.
        source: io::Error,
    },
}
