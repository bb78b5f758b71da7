//! A device's configuration space (VIRTIO 1.2, section 2.5).

use std::ops::Range;
use std::sync::{Arc, Mutex};

use crate::bus::lock;

/// Little-endian bytes that the driver reads, and of which it may write a part. Clones are the same
/// space: one is in the transport, where the guest reaches it, one with the device.
#[derive(Clone, Debug, Default)]
pub struct ConfigSpace {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    bytes: Vec<u8>,
    writable: Range<usize>,
    generation: u32,
}

impl ConfigSpace {
    /// These bytes, of which the driver may write those in `writable`.
    #[must_use]
    pub fn new(bytes: Vec<u8>, writable: Range<usize>) -> Self {
        Self { inner: Arc::new(Mutex::new(Inner { bytes, writable, generation: 0 })) }
    }

    /// Changes bytes from `offset` on; those that lie outside are left out. The driver sees all of the
    /// change or none.
    pub fn update(&self, offset: usize, new: &[u8]) {
        let mut inner = lock(&self.inner);
        inner.generation = inner.generation.wrapping_add(1);
        for (to, from) in inner.bytes.iter_mut().skip(offset).zip(new) {
            *to = *from;
        }
    }

    /// `N` bytes from `offset` on; those that lie outside are 0.
    #[must_use]
    pub fn get<const N: usize>(&self, offset: usize) -> [u8; N] {
        let mut bytes = [0; N];
        self.read(offset, &mut bytes);
        bytes
    }

    /// The driver's read; what lies outside is 0.
    pub fn read(&self, offset: usize, data: &mut [u8]) {
        let inner = lock(&self.inner);
        let mut bytes = inner.bytes.iter().skip(offset);
        data.fill_with(|| bytes.next().copied().unwrap_or(0));
    }

    /// The driver's write; what it may not write stays. Whether anything changed.
    pub fn write(&self, offset: usize, data: &[u8]) -> bool {
        let mut inner = lock(&self.inner);
        let Inner { bytes, writable, .. } = &mut *inner;
        let mut changed = false;
        for ((at, to), from) in bytes.iter_mut().enumerate().skip(offset).zip(data) {
            if writable.contains(&at) {
                changed |= *to != *from;
                *to = *from;
            }
        }
        changed
    }

    /// All of it.
    #[must_use]
    pub(super) fn bytes(&self) -> Vec<u8> {
        lock(&self.inner).bytes.clone()
    }

    /// What the driver has written comes back, and the number that it has seen. Whether the rest is not
    /// what it was: that is a change by the device.
    pub(super) fn restore(&self, saved: &[u8], generation: u32) -> bool {
        let mut inner = lock(&self.inner);
        let Inner { bytes, writable, .. } = &mut *inner;
        for ((_, to), from) in
            bytes.iter_mut().enumerate().zip(saved).filter(|((at, _), _)| writable.contains(at))
        {
            *to = *from;
        }
        let differs = *bytes != saved;
        inner.generation = generation.wrapping_add(u32::from(differs));
        differs
    }

    /// A number that changes with every change by the device (VIRTIO 1.2, section 2.5.1).
    #[must_use]
    pub fn generation(&self) -> u32 {
        lock(&self.inner).generation
    }
}
