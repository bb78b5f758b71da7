//! What devices use of the host.

use super::Check;
use super::probes::Probes;
use super::root::Root;
use super::sys::{Errno, describe};

/// `CAP_NET_ADMIN` of `linux/capability.h`.
const NET_ADMIN: u32 = 12;

pub(super) fn checks(root: &Root, probes: &Probes) -> Vec<Check> {
    vec![
        io_uring(root, probes.io_uring),
        tun(root, probes.tun),
        vhost(root, VHOST_NET, probes.vhost_net),
        vhost(root, VHOST_VSOCK, probes.vhost_vsock),
    ]
}

fn io_uring(root: &Root, probe: Result<(), Errno>) -> Check {
    const NAME: &str = "io_uring";
    let Err(errno) = probe else { return Check::ok(NAME, "can be set up") };
    let (finding, fix) = match (errno, root.parse::<u32>("proc/sys/kernel/io_uring_disabled")) {
        (libc::ENOSYS, _) => ("the kernel has none".to_owned(), "use a kernel with CONFIG_IO_URING"),
        (_, Some(2)) => (
            "disabled (kernel.io_uring_disabled is 2)".to_owned(),
            "`sudo sysctl kernel.io_uring_disabled=0`",
        ),
        (libc::EPERM, Some(1)) => (
            "for few users (kernel.io_uring_disabled is 1)".to_owned(),
            "join the group whose number is kernel.io_uring_group, or `sudo sysctl kernel.io_uring_disabled=0`",
        ),
        (libc::ENOMEM, _) => (
            "refused: out of locked memory".to_owned(),
            "raise the limit of locked memory: `ulimit -l unlimited`",
        ),
        (libc::EPERM, _) => (
            "refused: operation not permitted".to_owned(),
            "a seccomp filter forbids it, such as a container's: allow io_uring_setup there",
        ),
        (errno, _) => (format!("refused: {}", describe(errno)), "`man io_uring_setup` lists the errors"),
    };
    Check::missing(NAME, finding).cost("disk requests take a system call each, one after the other").fix(fix)
}

fn tun(root: &Root, probe: Result<(), Errno>) -> Check {
    const NAME: &str = "/dev/net/tun";
    const COST: &str = "no network for guests through TAP devices";
    match probe {
        Ok(()) if root.has_capability(NET_ADMIN) => Check::ok(NAME, "opens; TAP devices can be made"),
        Ok(()) => Check::warn(NAME, "opens, but this user cannot make TAP devices")
            .cost("guests get only TAP devices that were made for this user")
            .fix("`sudo ip tuntap add tap0 mode tap user $USER`"),
        Err(libc::ENOENT | libc::ENODEV | libc::ENXIO) => Check::missing(NAME, "does not exist")
            .cost(COST)
            .fix("`sudo modprobe tun`; in a container: `--device /dev/net/tun`"),
        Err(libc::EACCES | libc::EPERM) => Check::missing(NAME, "permission denied")
            .cost(COST)
            .fix("`sudo chmod 0666 /dev/net/tun`, as most systems have it"),
        Err(errno) => Check::missing(NAME, describe(errno)).cost(COST).fix("`sudo modprobe tun`"),
    }
}

/// A device of the host kernel that drives virtio queues.
struct Vhost {
    name: &'static str,
    module: &'static str,
    cost: &'static str,
}

const VHOST_NET: Vhost = Vhost {
    name: "/dev/vhost-net",
    module: "vhost_net",
    cost: "slower networks: packets go through the monitor's process",
};

const VHOST_VSOCK: Vhost = Vhost {
    name: "/dev/vhost-vsock",
    module: "vhost_vsock",
    cost: "guests' vsock ends in Unix sockets only, not in AF_VSOCK",
};

fn vhost(root: &Root, device: Vhost, probe: Result<(), Errno>) -> Check {
    let Vhost { name, module, cost } = device;
    match probe {
        Ok(()) => Check::ok(name, "opens"),
        Err(libc::ENOENT | libc::ENODEV | libc::ENXIO) => {
            let fix = if root.exists(&format!("sys/module/{module}")) {
                format!("the module is loaded: give the container the device: `--device {name}`")
            } else {
                format!("`sudo modprobe {module}`")
            };
            Check::missing(name, "does not exist").cost(cost).fix(fix)
        }
        Err(libc::EACCES | libc::EPERM) => Check::missing(name, "permission denied")
            .cost(cost)
            .fix(format!("`sudo setfacl -m u:$USER:rw {name}`")),
        Err(errno) => {
            Check::missing(name, describe(errno)).cost(cost).fix(format!("`sudo modprobe {module}`"))
        }
    }
}

#[cfg(test)]
mod tests;
