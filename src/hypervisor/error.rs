use thiserror::Error;
use vmm_sys_util::errno;

/// Why KVM cannot do what a machine needs.
#[derive(Debug, Error)]
pub enum Error {
    /// There is no `/dev/kvm`.
    #[error(
        "/dev/kvm does not exist: load kvm_intel or kvm_amd, and enable virtualization in the firmware \
         (or nested virtualization, where this host is itself a guest)"
    )]
    Missing,
    /// `/dev/kvm` is there, but not for this user.
    #[error(
        "/dev/kvm: permission denied; add yourself to its group: sudo usermod -aG kvm $USER, then log in anew"
    )]
    Permission,
    /// `/dev/kvm` cannot be opened for another reason.
    #[error("cannot open /dev/kvm")]
    Open(#[source] errno::Error),
    /// A KVM from before 2007 or from after a break.
    #[error("/dev/kvm speaks API version {0}, this program speaks 12")]
    ApiVersion(i32),
    /// Capabilities that a machine needs.
    #[error("this host's KVM lacks {0}: a newer host kernel is needed")]
    Capabilities(String),
    /// More vCPUs than KVM allows.
    #[error("{asked} vCPUs: this host's KVM allows {most}")]
    TooManyVcpus {
        /// How many were asked for.
        asked: u32,
        /// How many there can be.
        most: usize,
    },
    /// A KVM call that should have worked.
    #[error("{call} failed")]
    Call {
        /// The call's name in the KVM API.
        call: &'static str,
        /// What the host said.
        source: errno::Error,
    },
    /// Which pages change is not noted.
    #[error("dirty pages are not tracked: turn the tracking on first")]
    NotTracked,
    /// The handler of the signal that takes vCPUs out of the guest cannot be installed.
    #[error("cannot install the handler of the vCPU signal")]
    Signal(#[source] errno::Error),
    /// Fewer model-specific registers were set than given.
    #[error("KVM does not take the value for model-specific register {0:#x}")]
    Msr(u32),
    /// A vCPU's extended state is of a host with another processor.
    #[error("the vCPU's extended state has {saved} bytes; on this host it has {host}")]
    XsaveSize {
        /// How large it is.
        saved: usize,
        /// How large it would have to be.
        host: usize,
    },
}

impl Error {
    pub(super) fn open(source: errno::Error) -> Self {
        match source.errno() {
            libc::ENOENT | libc::ENODEV | libc::ENXIO => Self::Missing,
            libc::EACCES | libc::EPERM => Self::Permission,
            _ => Self::Open(source),
        }
    }

    /// The call is given more than it takes.
    pub(super) fn too_many(call: &'static str) -> Self {
        Self::Call { call, source: errno::Error::new(libc::E2BIG) }
    }

    /// For `map_err`: an error that names the call.
    pub(super) fn call(call: &'static str) -> impl Fn(errno::Error) -> Self {
        move |source| Self::Call { call, source }
    }
}
