//! Why a guest could not be loaded, in words for the person who chose its files.

use std::fmt;
use std::io;

use thiserror::Error;

use crate::memory::layout::{HOLE_END, HOLE_START};

/// Why a guest could not be loaded.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be opened.
    #[error("cannot open {name}")]
    Open {
        /// The file.
        name: String,
        /// What the host said.
        source: io::Error,
    },
    /// A path names something that has no fixed content.
    #[error("{name} is {kind}, not a file")]
    NotRegular {
        /// The path.
        name: String,
        /// What it is instead.
        kind: &'static str,
    },
    /// A file could not be read, or changed while it was.
    #[error("cannot read {name}")]
    Read {
        /// The file.
        name: String,
        /// What the host said.
        source: io::Error,
    },
    /// Guest memory refused boot data.
    #[error("cannot write {what} to guest memory at {address:#x}")]
    Write {
        /// What was to be written.
        what: &'static str,
        /// Where.
        address: u64,
        /// What guest memory said.
        source: vm_memory::GuestMemoryError,
    },
    /// The file ends before its contents do.
    #[error(
        "{name} is cut off: {what} should end at byte {end}, but the file has {len} bytes; copy or build it again"
    )]
    Truncated {
        /// The file.
        name: String,
        /// The part that is missing.
        what: Part,
        /// Where the part should end.
        end: u64,
        /// The file's length.
        len: u64,
    },
    /// The file is not a kernel.
    #[error("{name} is {what}, not a kernel: {hint}")]
    NotKernel {
        /// The file.
        name: String,
        /// What it is instead.
        what: &'static str,
        /// What to do.
        hint: &'static str,
    },
    /// The file contradicts its own format.
    #[error("{name} is damaged: {reason}")]
    Damaged {
        /// The file.
        name: String,
        /// The contradiction.
        reason: String,
    },
    /// The kernel cannot be started by a protocol that Bantam knows.
    #[error("{name} {lack}; {hint}")]
    Unsupported {
        /// The file.
        name: String,
        /// What it lacks.
        lack: String,
        /// What to do.
        hint: &'static str,
    },
    /// The machine has too little memory, or none at that place.
    #[error("{name}: {part} needs {} at {start:#x}, but {remedy}", Size(*size))]
    DoesNotFit {
        /// The file.
        name: String,
        /// What does not fit.
        part: Part,
        /// Where it has to be.
        start: u64,
        /// How much memory it needs there.
        size: u64,
        /// What to do.
        remedy: Remedy,
    },
    /// The kernel wants memory that holds boot data and firmware tables.
    #[error(
        "{name}: {part} loads at {start:#x}, but a kernel must load at {:#x} or above; link it there",
        crate::memory::layout::HIGH_MEMORY
    )]
    TooLow {
        /// The file.
        name: String,
        /// What is too low.
        part: Part,
        /// Where it wants to be.
        start: u64,
    },
    /// Two parts of the kernel want the same memory.
    #[error("{name} is damaged: segments {first} and {second} overlap at {address:#x}")]
    Overlap {
        /// The file.
        name: String,
        /// One segment.
        first: usize,
        /// The other.
        second: usize,
        /// The first address that both want.
        address: u64,
    },
    /// There is no place for the initial ramdisk.
    #[error(
        "{name}: the initial ramdisk needs {}, but only {} are free below {limit:#x}; raise --memory or make it smaller",
        Size(*size), Size(*free)
    )]
    InitrdDoesNotFit {
        /// The file.
        name: String,
        /// Its size.
        size: u64,
        /// The largest free piece.
        free: u64,
        /// The end of the memory that it may use.
        limit: u64,
    },
    /// The file given as initial ramdisk cannot be one.
    #[error("{name} is {what}, not an initial ramdisk: {hint}")]
    NotInitrd {
        /// The file.
        name: String,
        /// What it is instead.
        what: &'static str,
        /// What to do.
        hint: &'static str,
    },
    /// The command line has a character that kernels cannot be given.
    #[error("the kernel command line has the control character {character:?} at byte {at}; remove it")]
    CommandLineCharacter {
        /// The character.
        character: char,
        /// Its place.
        at: usize,
    },
    /// The command line is longer than the machine can hand over or the kernel takes.
    #[error("the kernel command line has {len} bytes, but {who} takes at most {max}; shorten it")]
    CommandLineLength {
        /// Its length.
        len: u64,
        /// Who sets the limit.
        who: String,
        /// The limit.
        max: u64,
    },
    /// The machine is too small for boot data.
    #[error("the machine has {} of memory, too little to boot any kernel; raise --memory", Size(*memory))]
    TooLittleMemory {
        /// Memory from address zero.
        memory: u64,
    },
    /// The memory has more pieces than the boot protocols can describe.
    #[error("guest memory has {pieces} pieces, but a kernel can be told of {max} at most")]
    MemoryMap {
        /// Entries that would be needed.
        pieces: usize,
        /// Entries that there is room for.
        max: usize,
    },
    /// The page tables for the 64-bit protocol would be too large.
    #[error("{name}: the kernel spans {start:#x} to {end:#x}, more than the boot page tables can map")]
    Unmappable {
        /// The file.
        name: String,
        /// The kernel's first address.
        start: u64,
        /// The end of the kernel.
        end: u64,
    },
}

/// A part of a kernel file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Kernel,
    /// Its header.
    Header,
    /// The ELF program header table.
    ProgramHeaders,
    /// An ELF note segment, by its index among the program headers.
    Notes(usize),
    /// An ELF segment, by its index among the program headers.
    Segment(usize),
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel => f.write_str("the kernel"),
            Self::Header => f.write_str("the header"),
            Self::ProgramHeaders => f.write_str("the program header table"),
            Self::Notes(index) => write!(f, "note segment {index}"),
            Self::Segment(index) => write!(f, "segment {index}"),
        }
    }
}

/// What helps when something does not fit into guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// A machine with more memory.
    MoreMemory {
        /// Bytes the machine has.
        has: u64,
        /// Bytes that suffice.
        needs: u64,
    },
    /// Nothing: devices are there.
    DeviceHole,
    /// Nothing: no machine is that large.
    NoSuchMemory,
}

/// More memory than x86-64 machines have (52 bits of physical address, Intel SDM 3A, 4.1.4).
const PHYSICAL_END: u64 = 1 << 52;

impl Remedy {
    /// What helps a range that is not memory in a machine with `has` bytes.
    pub(super) fn of(start: u64, size: u64, has: u64) -> Self {
        match start.checked_add(size) {
            Some(end) if end <= HOLE_START => Self::MoreMemory { has, needs: end },
            Some(end) if start >= HOLE_END && end <= PHYSICAL_END => {
                Self::MoreMemory { has, needs: end - (HOLE_END - HOLE_START) }
            }
            Some(end) if end <= PHYSICAL_END => Self::DeviceHole,
            _ => Self::NoSuchMemory,
        }
    }
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::MoreMemory { has, needs } => {
                let mib = needs.div_ceil(MIB);
                write!(f, "the machine has {} of memory; raise --memory to at least {mib} MiB", Size(has))
            }
            Self::DeviceHole => write!(
                f,
                "{HOLE_START:#x} to {HOLE_END:#x} is reserved for devices; link the kernel elsewhere"
            ),
            Self::NoSuchMemory => f.write_str("no machine has memory there; the file is probably damaged"),
        }
    }
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// A number of bytes in human form: the largest unit that leaves at most one decimal, rounded up.
pub(super) struct Size(pub(super) u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, name) = match self.0 {
            bytes @ ..KIB => return write!(f, "{bytes} bytes"),
            KIB..MIB => (KIB, "KiB"),
            MIB..GIB => (MIB, "MiB"),
            // A machine of 1.5 GiB is 1536 MiB to its user, who typed that.
            bytes if !bytes.is_multiple_of(GIB) && bytes < 64 * GIB => (MIB, "MiB"),
            _ => (GIB, "GiB"),
        };
        let tenths = (u128::from(self.0) * 10).div_ceil(u128::from(unit));
        match (tenths / 10, tenths % 10) {
            (whole, 0) => write!(f, "{whole} {name}"),
            (whole, tenth) => write!(f, "{whole}.{tenth} {name}"),
        }
    }
}

#[cfg(test)]
mod tests;
