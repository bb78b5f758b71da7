//! Taps: found, made, or handed over as descriptors (Linux, `Documentation/networking/tuntap.rst`).

// The calls are ioctls.
#![allow(unsafe_code)]

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use thiserror::Error;

use super::config::Net;
use super::interface::{self, Interface};
use super::port::{Port, check};
use super::{HEADER, features};

const TUN: &str = "/dev/net/tun";
/// Names for taps that need none in particular; the kernel puts a number in.
const NAMES: &str = "bantam%d";
const FLAGS: libc::c_int = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;

/// Why there is no tap.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The host has no taps.
    #[error("there is no {TUN}: load its module with `modprobe tun`")]
    NoTun(#[source] io::Error),
    /// The user may not even ask for one.
    #[error("no permission to open {TUN}: use sudo, or have root run `chmod 666 {TUN}` once")]
    DeniedTun(#[source] io::Error),
    /// The device cannot be opened.
    #[error("cannot open {TUN}")]
    OpenTun(#[source] io::Error),
    /// Somebody has it.
    #[error("the tap '{0}' is in use by another program")]
    Busy(String),
    /// The user may not make a tap, or not use this one.
    #[error(
        "no permission to {verb} the tap '{name}': use sudo (CAP_NET_ADMIN), or have root run `ip tuntap add {name} mode tap user {user}{multi_queue}` and `ip link set {name} up` once"
    )]
    Denied {
        /// "make" or "use".
        verb: &'static str,
        /// The tap.
        name: String,
        /// The user's number.
        user: u32,
        /// What else the tap has to be made with.
        multi_queue: &'static str,
    },
    /// An interface that is not what was asked for.
    #[error("the interface '{name}' is no tap{wanted}")]
    NotATap {
        /// The interface.
        name: String,
        /// How it has to be.
        wanted: &'static str,
    },
    /// Something else.
    #[error("cannot {verb} the tap '{name}'")]
    Use {
        /// What was tried.
        verb: &'static str,
        /// The tap.
        name: String,
        /// What the host said.
        source: io::Error,
    },
    /// The descriptor is not there.
    #[error("descriptor {0} is not open: who starts this program has to leave it open")]
    NoDescriptor(u32, #[source] io::Error),
    /// The descriptor is not what is needed.
    #[error("descriptor {fd} is no tap's that was opened with {needed}")]
    Descriptor {
        /// The descriptor.
        fd: RawFd,
        /// The flags.
        needed: &'static str,
    },
}

/// A tap with one port for each queue pair.
pub(super) struct Tap {
    pub(super) name: String,
    pub(super) ports: Vec<Port>,
    /// What of [`features::TAP`] it can leave to us.
    pub(super) offload: u32,
}

impl Tap {
    /// The tap that a configuration names. One that is not there is made, and is gone when its last
    /// descriptor is closed.
    pub(super) fn open(config: &Net) -> Result<Self, Error> {
        if let Some(fd) = config.fd {
            return Self::adopt(vec![duplicate(fd)?]);
        }
        let wanted = config.tap_name();
        let made = wanted.is_none_or(|name| !interface::exists(name));
        let (name, first) = attach_first(wanted.unwrap_or(NAMES), made, config.queues)?;
        let mut ports = vec![first];
        for _ in 1..config.queues {
            ports.push(
                attach(&name, FLAGS | libc::IFF_MULTI_QUEUE).map_err(|error| error.of(&name, made, true))?.1,
            );
        }
        set_up(&name, made, config)?;
        Self::of_ports(name, ports)
    }

    /// Open descriptors of one tap.
    pub(super) fn adopt(fds: Vec<OwnedFd>) -> Result<Self, Error> {
        let mut name = String::new();
        for fd in &fds {
            let raw = fd.as_raw_fd();
            let not = |needed| Error::Descriptor { fd: raw, needed };
            let mut request = interface::request("");
            // SAFETY: TUNGETIFF writes an ifreq, and this one is live.
            check(unsafe { libc::ioctl(raw, libc::TUNGETIFF, &raw mut request) })
                .map_err(|_| not("IFF_TAP"))?;
            // SAFETY: the call has set the flags.
            let flags = libc::c_int::from(unsafe { request.ifr_ifru.ifru_flags });
            let needed = [
                (libc::IFF_TAP, "IFF_TAP"),
                (libc::IFF_NO_PI, "IFF_NO_PI"),
                (libc::IFF_VNET_HDR, "IFF_VNET_HDR"),
            ];
            if let Some((_, missing)) = needed.into_iter().find(|(flag, _)| flags & flag == 0) {
                return Err(not(missing));
            }
            name = interface::name(&request);
            make_non_blocking(raw).map_err(|source| Error::Use {
                verb: "use",
                name: name.clone(),
                source,
            })?;
        }
        Self::of_ports(name, fds.into_iter().map(Port::new).collect())
    }

    fn of_ports(name: String, ports: Vec<Port>) -> Result<Self, Error> {
        let mut offload = 0;
        for port in &ports {
            let size = libc::c_int::try_from(HEADER).unwrap_or_default();
            // SAFETY: TUNSETVNETHDRSZ reads a number at a live address.
            check(unsafe { libc::ioctl(port.fd(), libc::TUNSETVNETHDRSZ, &raw const size) }).map_err(
                |source| Error::Use { verb: "set the size of headers of", name: name.clone(), source },
            )?;
            // Kernels before 6.2 have no segmentation of UDP.
            let sets = [features::TAP, features::TAP & !features::TAP_USO];
            offload = sets.into_iter().find(|set| port.set_offload(*set).is_ok()).unwrap_or(0);
            if let Err(error) = port.set_offload(0) {
                log::debug!("the tap '{name}' has no offloads: {error}");
            }
        }
        Ok(Self { name, ports, offload })
    }
}

/// What TUNSETIFF says.
enum AttachError {
    Open(io::Error),
    Attach(io::Error),
}

impl AttachError {
    fn is_invalid(&self) -> bool {
        matches!(self, Self::Attach(error) if error.raw_os_error() == Some(libc::EINVAL))
    }

    fn of(self, name: &str, made: bool, multi_queue: bool) -> Error {
        let source = match self {
            Self::Open(error) if error.kind() == io::ErrorKind::NotFound => return Error::NoTun(error),
            Self::Open(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Error::DeniedTun(error);
            }
            Self::Open(error) => return Error::OpenTun(error),
            Self::Attach(error) => error,
        };
        let verb = if made { "make" } else { "use" };
        let name = if name == NAMES { "tap0".to_owned() } else { name.to_owned() };
        match source.raw_os_error() {
            Some(libc::EBUSY) => Error::Busy(name),
            Some(libc::EPERM) => {
                let multi_queue = if multi_queue { " multi_queue" } else { "" };
                // SAFETY: the call cannot fail and touches no memory.
                Error::Denied { verb, name, user: unsafe { libc::getuid() }, multi_queue }
            }
            Some(libc::EINVAL) if !made => {
                let wanted = if multi_queue { ", or was not made with multi_queue" } else { "" };
                Error::NotATap { name, wanted }
            }
            _ => Error::Use { verb, name, source },
        }
    }
}

/// The first queue of a tap, and its name.
fn attach_first(name: &str, made: bool, queues: u16) -> Result<(String, Port), Error> {
    let multi_queue = FLAGS | libc::IFF_MULTI_QUEUE;
    let attached = match queues {
        // One that was made for several queues has to be told that it gets one.
        1 => attach(name, FLAGS).or_else(|error| match error.is_invalid() {
            true => attach(name, multi_queue).map_err(|_| error),
            false => Err(error),
        }),
        _ => attach(name, multi_queue),
    };
    attached.map_err(|error| error.of(name, made, queues > 1))
}

fn attach(name: &str, flags: libc::c_int) -> Result<(String, Port), AttachError> {
    let tun = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(TUN)
        .map_err(AttachError::Open)?;
    let mut request = interface::request(name);
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).unwrap_or_default();
    // SAFETY: TUNSETIFF reads and writes an ifreq, and this one is live.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })
        .map_err(AttachError::Attach)?;
    Ok((interface::name(&request), Port::new(tun.into())))
}

/// A tap that we make is ready for use. One that is there belongs to somebody, who has to do the same;
/// what may be done for him is.
fn set_up(name: &str, made: bool, config: &Net) -> Result<(), Error> {
    let failed = |verb: &'static str| move |source| Error::Use { verb, name: name.to_owned(), source };
    let tap = Interface::new(name).map_err(failed("look at"))?;
    if let Some(mtu) = config.mtu.filter(|_| made) {
        tap.set_mtu(mtu).map_err(failed("set the MTU of"))?;
    }
    if let Some(address) = &config.ip {
        tap.set_address(address).map_err(failed("give an address to"))?;
    }
    if !tap.is_up().map_err(failed("look at"))? {
        match tap.set_up().map_err(failed("put up")) {
            Err(error) if made => return Err(error),
            Err(_) => log::warn!("the tap '{name}' is down: have root run `ip link set {name} up`"),
            Ok(()) => {}
        }
    }
    if made {
        log::info!("the tap '{name}' is made");
    }
    Ok(())
}

fn duplicate(fd: u32) -> Result<OwnedFd, Error> {
    let raw = RawFd::try_from(fd).unwrap_or(-1);
    // SAFETY: fcntl checks the number, and touches no memory.
    let new = unsafe { libc::fcntl(raw, libc::F_DUPFD_CLOEXEC, 3) };
    check(new).map_err(|source| Error::NoDescriptor(fd, source))?;
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(new) })
}

fn make_non_blocking(fd: RawFd) -> io::Result<()> {
    // SAFETY: F_GETFL and F_SETFL touch no memory.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    check(flags)?;
    // SAFETY: as above.
    check(unsafe { libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK) })
}

#[cfg(test)]
mod tests;
