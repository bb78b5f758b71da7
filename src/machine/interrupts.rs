//! The IOAPIC's way to the local APICs in KVM.

use crate::devices::ioapic::{Message, MsiSink};
use crate::hypervisor::Vm;

/// Delivers the IOAPIC's messages through KVM.
///
/// A message goes by `KVM_SIGNAL_MSI`, so no file descriptor and no route has to be made for a
/// pin before the guest uses it, and none taken down at the end. Only level-triggered pins need
/// routes, by which KVM knows whose end of interrupt to report.
pub(super) struct KvmMessages(pub(super) Vm);

impl MsiSink for KvmMessages {
    fn deliver(&self, message: Message) {
        // The guest chose address and data; one that no local APIC takes is its own affair.
        if let Err(error) = self.0.signal_msi(message.address, message.data) {
            log::debug!("interrupt message {message:x?}: {error}");
        }
    }

    fn set_level_routes(&self, routes: &[(u8, Message)]) {
        let routes: Vec<_> =
            routes.iter().map(|(pin, message)| (u32::from(*pin), message.address, message.data)).collect();
        if let Err(error) = self.0.set_routes(&routes) {
            log::debug!("level-triggered routes {routes:x?}: {error}");
        }
    }
}
