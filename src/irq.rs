//! Interrupt lines: what a device is handed instead of the hypervisor.

/// One interrupt input of the machine.
///
/// A device that signals events calls [`IrqLine::pulse`]; one whose line stays up while a
/// condition holds calls [`IrqLine::set_level`]. Whether the guest sees an edge or a level is its
/// own choice, made in the interrupt controller.
pub trait IrqLine: Send + Sync {
    /// Drives the line high (`true`) or low. Setting the level it already has does nothing.
    fn set_level(&self, high: bool);

    /// Drives the line high and low again.
    fn pulse(&self) {
        self.set_level(true);
        self.set_level(false);
    }
}

#[cfg(any(test, fuzzing))]
pub(crate) mod fake {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::IrqLine;

    /// A line that records its level and how often it rose.
    #[derive(Debug, Default)]
    pub(crate) struct FakeLine {
        high: AtomicBool,
        rises: AtomicUsize,
    }

    impl FakeLine {
        pub(crate) fn is_high(&self) -> bool {
            self.high.load(Ordering::Relaxed)
        }

        pub(crate) fn rises(&self) -> usize {
            self.rises.load(Ordering::Relaxed)
        }
    }

    impl IrqLine for FakeLine {
        fn set_level(&self, high: bool) {
            if !self.high.swap(high, Ordering::Relaxed) && high {
                self.rises.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}
