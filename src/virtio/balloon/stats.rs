//! What the guest says of its memory (VIRTIO 1.2, section 5.5.6.4).

use crate::virtio::{Cursor, Metric};

/// The statistics by their tags.
const NAMES: [&str; 16] = [
    "guest_swap_in_bytes",
    "guest_swap_out_bytes",
    "guest_major_faults_total",
    "guest_minor_faults_total",
    "guest_free_bytes",
    "guest_memory_bytes",
    "guest_available_bytes",
    "guest_caches_bytes",
    "guest_hugetlb_allocations_total",
    "guest_hugetlb_failures_total",
    // Later than the specification: include/uapi/linux/virtio_balloon.h.
    "guest_oom_kills_total",
    "guest_allocation_stalls_total",
    "guest_kswapd_scanned_pages",
    "guest_direct_scanned_pages",
    "guest_kswapd_reclaimed_pages",
    "guest_direct_reclaimed_pages",
];

/// Most entries that are read: a few times what there are tags.
const MOST_ENTRIES: usize = 64;
/// A tag of 16 bits and a value of 64, little-endian.
const ENTRY: usize = 10;

/// The last value of each statistic that the guest has told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stats {
    values: [Option<u64>; NAMES.len()],
}

impl Stats {
    /// Takes what the guest says; tags that nobody knows are left out.
    pub(super) fn read(&mut self, from: &mut Cursor<'_, '_>) {
        for _ in 0..MOST_ENTRIES {
            let mut entry = [0; ENTRY];
            if from.read(&mut entry) < ENTRY {
                break;
            }
            let [tag @ .., _, _, _, _, _, _, _, _] = entry;
            let [_, _, value @ ..] = entry;
            if let Some(place) = self.values.get_mut(usize::from(u16::from_le_bytes(tag))) {
                *place = Some(u64::from_le_bytes(value));
            }
        }
    }

    /// The values that the guest has told.
    pub(super) fn metrics(&self) -> impl Iterator<Item = Metric> {
        NAMES.into_iter().zip(self.values).filter_map(|(name, value)| Some((name, value?)))
    }
}
