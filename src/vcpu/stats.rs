//! Exits counted by kind and by port or address, with the time in KVM and in the VMM.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::ser::{SerializeStruct, Serializer};

use crate::bus::lock;
use crate::hypervisor::Exit;
use crate::timeline::milliseconds;

/// Most places told apart: a guest that touches every port must not grow the table for ever.
const PLACES_MAX: usize = 4096;

/// What an exit was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum ExitKind {
    /// `IN` from a port.
    PortRead {
        /// The port.
        port: u16,
    },
    /// `OUT` to a port.
    PortWrite {
        /// The port.
        port: u16,
    },
    /// A load from an address without memory.
    MmioRead {
        /// Guest-physical address.
        address: u64,
    },
    /// A store to an address without memory.
    MmioWrite {
        /// Guest-physical address.
        address: u64,
    },
    /// The end of a level-triggered interrupt.
    IoapicEoi,
    /// A kick from another thread, or a signal.
    Interrupted,
    /// A triple fault.
    TripleFault,
    /// KVM gave up.
    Failed,
    /// All places past the first 4096.
    Other,
}

impl ExitKind {
    pub(super) fn of(exit: &Exit<'_>) -> Self {
        match *exit {
            Exit::PortRead { port, .. } => Self::PortRead { port },
            Exit::PortWrite { port, .. } => Self::PortWrite { port },
            Exit::MmioRead { address, .. } => Self::MmioRead { address },
            Exit::MmioWrite { address, .. } => Self::MmioWrite { address },
            Exit::IoapicEoi { .. } => Self::IoapicEoi,
            Exit::Interrupted => Self::Interrupted,
            Exit::TripleFault => Self::TripleFault,
            Exit::Failed(_) => Self::Failed,
        }
    }
}

/// Exits of one kind at one place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExitCount {
    /// How many.
    pub count: u64,
    /// Time from the entry into KVM to the exit, the guest's own running included.
    pub in_kvm: Duration,
    /// Time from the exit to its end in the VMM.
    pub in_vmm: Duration,
}

impl ExitCount {
    fn add(&mut self, other: &Self) {
        self.count += other.count;
        self.in_kvm += other.in_kvm;
        self.in_vmm += other.in_vmm;
    }
}

/// The exits of one vCPU, or of several together.
#[derive(Clone, Debug, Default)]
pub struct ExitStats {
    total: u64,
    /// None when only the total is counted.
    places: Option<HashMap<ExitKind, ExitCount>>,
}

/// An exit that is being dispatched: what it is and when it left KVM.
pub(super) struct Dispatching(Option<(ExitKind, Instant)>);

impl ExitStats {
    /// All exits.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The exits by kind and place, most frequent first; empty when only the total was counted.
    #[must_use]
    pub fn by_place(&self) -> Vec<(ExitKind, ExitCount)> {
        let mut places: Vec<_> = self.places.iter().flatten().map(|(kind, count)| (*kind, *count)).collect();
        places.sort_by_key(|(kind, count)| (std::cmp::Reverse(count.count), *kind));
        places
    }

    /// Takes another vCPU's exits in.
    pub fn merge(&mut self, other: &Self) {
        self.total += other.total;
        if other.places.is_some() {
            self.places.get_or_insert_default();
        }
        for (kind, count) in other.places.iter().flatten() {
            if let Some(mine) = self.place(*kind) {
                mine.add(count);
            }
        }
    }

    fn place(&mut self, kind: ExitKind) -> Option<&mut ExitCount> {
        let places = self.places.as_mut()?;
        let full = places.len() >= PLACES_MAX;
        let kind = if full && !places.contains_key(&kind) { ExitKind::Other } else { kind };
        Some(match places.entry(kind) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(ExitCount::default()),
        })
    }
}

/// As `exits` and `exits_by_place`.
impl Serialize for ExitStats {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Place {
            #[serde(flatten)]
            kind: ExitKind,
            count: u64,
            in_kvm_ms: f64,
            in_vmm_ms: f64,
        }
        let places = self.by_place().into_iter().map(|(kind, count)| Place {
            kind,
            count: count.count,
            in_kvm_ms: milliseconds(count.in_kvm),
            in_vmm_ms: milliseconds(count.in_vmm),
        });
        let mut fields = serializer.serialize_struct("ExitStats", 2)?;
        fields.serialize_field("exits", &self.total)?;
        fields.serialize_field("exits_by_place", &places.collect::<Vec<_>>())?;
        fields.end()
    }
}

/// The exits of one vCPU, counted by its thread and read by others. Of two that count, one is wrong.
#[derive(Debug)]
pub struct ExitCounter {
    total: AtomicU64,
    /// None when only the total is counted.
    detailed: Option<Mutex<ExitStats>>,
}

impl ExitCounter {
    /// Counts by kind and place, with times, when `detailed`; otherwise just the total, which
    /// costs next to nothing.
    #[must_use]
    pub fn new(detailed: bool) -> Self {
        let detailed = detailed.then(|| Mutex::new(ExitStats { total: 0, places: Some(HashMap::new()) }));
        Self { total: AtomicU64::new(0), detailed }
    }

    /// What has been counted by now.
    #[must_use]
    pub fn read(&self) -> ExitStats {
        let places = self.detailed.as_ref().and_then(|detailed| lock(detailed).places.clone());
        ExitStats { total: self.total.load(Ordering::Relaxed), places }
    }

    pub(super) fn before_run(&self) -> Option<Instant> {
        self.detailed.as_ref().map(|_| Instant::now())
    }

    pub(super) fn after_run(&self, before: Option<Instant>, kind: ExitKind) -> Dispatching {
        // Nobody else adds to it.
        self.total.store(self.total.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        let Some((before, detailed)) = before.zip(self.detailed.as_ref()) else { return Dispatching(None) };
        let now = Instant::now();
        if let Some(place) = lock(detailed).place(kind) {
            place.count += 1;
            place.in_kvm += now - before;
        }
        Dispatching(Some((kind, now)))
    }

    pub(super) fn after_dispatch(&self, dispatching: Dispatching) {
        let Some(((kind, since), detailed)) = dispatching.0.zip(self.detailed.as_ref()) else { return };
        if let Some(place) = lock(detailed).place(kind) {
            place.in_vmm += since.elapsed();
        }
    }
}
