//! What only the running kernel can tell, asked once.

use std::time::Duration;

use super::deadline;
use super::speed::{self, Mips};
use super::sys::{self, Errno, Limit, Resource};
use crate::hypervisor::{self, Hypervisor};

/// More than the smallest machine takes on any host that is not broken.
const HYPERCALL_LIMIT: Duration = Duration::from_secs(5);

/// The answers.
pub(super) struct Probes {
    pub(super) hypervisor_signature: Option<[u8; 12]>,
    pub(super) kvm: Result<Kvm, hypervisor::Error>,
    /// How fast a guest runs; none where there is no KVM to run it.
    pub(super) guest: Option<Result<Mips, speed::Error>>,
    /// The features of a userfaultfd by the system call, and by the device.
    pub(super) userfaultfd: Result<u64, Errno>,
    pub(super) userfaultfd_device: Result<u64, Errno>,
    pub(super) io_uring: Result<(), Errno>,
    pub(super) tun: Result<(), Errno>,
    pub(super) vhost_net: Result<(), Errno>,
    pub(super) vhost_vsock: Result<(), Errno>,
    pub(super) open_files: Option<Limit>,
    pub(super) locked_memory: Option<Limit>,
    pub(super) processes: Option<Limit>,
}

/// What an open `/dev/kvm` says.
pub(super) struct Kvm {
    /// `KVM_CHECK_EXTENSION` for each of [`super::kvm::ASKED`], in order.
    pub(super) extensions: Vec<(u32, i32)>,
    /// Whether hypercalls reach KVM; none if the attempt did not end.
    pub(super) hypercalls: Option<bool>,
    /// Whether a guest's time-stamp counter can be set; none if KVM did not say.
    pub(super) tsc: Option<bool>,
}

impl Probes {
    pub(super) fn ask() -> Self {
        let opened = Hypervisor::open();
        let guest = opened.as_ref().ok().map(|hypervisor| speed::measure(hypervisor.clone()));
        let kvm = opened.map(|hypervisor| Kvm {
            extensions: super::kvm::ASKED.map(|cap| (cap, hypervisor.extension(cap))).to_vec(),
            tsc: hypervisor.tsc_can_be_set().ok(),
            hypercalls: deadline::within(HYPERCALL_LIMIT, move || hypervisor.hypercalls_work()),
        });
        Self {
            hypervisor_signature: sys::hypervisor_signature(),
            kvm,
            guest,
            userfaultfd: sys::userfaultfd(),
            userfaultfd_device: sys::userfaultfd_device(),
            io_uring: sys::io_uring(),
            tun: sys::open("/dev/net/tun").map(drop),
            vhost_net: sys::open("/dev/vhost-net").map(drop),
            vhost_vsock: sys::open("/dev/vhost-vsock").map(drop),
            open_files: sys::limit(Resource::OpenFiles),
            locked_memory: sys::limit(Resource::LockedMemory),
            processes: sys::limit(Resource::Processes),
        }
    }
}
