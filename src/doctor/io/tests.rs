use super::super::Status;
use super::super::testing::{Tree, assert_check, healthy};
use super::*;

#[test]
fn io_uring_is_there_disabled_or_filtered() {
    let check =
        |disabled, probe| io_uring(&Tree::of(&[("proc/sys/kernel/io_uring_disabled", disabled)]).root, probe);
    assert_check(&check("0", Ok(())), Status::Ok, "can be set up", "");
    // A process with the capability may, whatever the setting says.
    assert_check(&check("1", Ok(())), Status::Ok, "can be set up", "");
    assert_check(&check("1", Err(libc::EPERM)), Status::Missing, "few users", "io_uring_group");
    assert_check(&check("2", Err(libc::EPERM)), Status::Missing, "disabled", "io_uring_disabled=0");
    assert_check(&check("0", Err(libc::EPERM)), Status::Missing, "not permitted", "seccomp");
    assert_check(&check("0", Err(libc::ENOMEM)), Status::Missing, "locked memory", "ulimit -l");
    assert_check(
        &check("0", Err(libc::EMFILE)),
        Status::Missing,
        "too many open files",
        "man io_uring_setup",
    );
    assert_check(
        &io_uring(&Tree::of(&[]).root, Err(libc::ENOSYS)),
        Status::Missing,
        "none",
        "CONFIG_IO_URING",
    );
}

#[test]
fn tun_opens_for_those_who_may_make_devices_and_for_others() {
    let check = |tree: &Tree, probe| tun(&tree.root, probe);
    let nobody = Tree::of(&[("proc/self/status", "CapEff:\t0000000000000fff")]);
    assert_check(&check(&healthy(), Ok(())), Status::Ok, "can be made", "");
    assert_check(&check(&nobody, Ok(())), Status::Warn, "cannot make", "ip tuntap");
    assert_check(&check(&nobody, Err(libc::ENOENT)), Status::Missing, "does not exist", "modprobe tun");
    assert_check(&check(&nobody, Err(libc::EACCES)), Status::Missing, "denied", "chmod");
    assert_check(&check(&nobody, Err(libc::EBUSY)), Status::Missing, "busy", "modprobe tun");
}

#[test]
fn vhost_devices_want_their_modules() {
    let none = Tree::of(&[]);
    assert_check(&vhost(&none.root, VHOST_NET, Ok(())), Status::Ok, "opens", "");
    let absent = Err(libc::ENOENT);
    assert_check(&vhost(&none.root, VHOST_NET, absent), Status::Missing, "not exist", "modprobe vhost_net");
    assert_check(
        &vhost(&none.root, VHOST_VSOCK, absent),
        Status::Missing,
        "not exist",
        "modprobe vhost_vsock",
    );
    let loaded = Tree::of(&[("sys/module/vhost_net/refcnt", "0")]);
    assert_check(
        &vhost(&loaded.root, VHOST_NET, absent),
        Status::Missing,
        "not exist",
        "--device /dev/vhost-net",
    );
    let denied = vhost(&none.root, VHOST_VSOCK, Err(libc::EACCES));
    assert_check(&denied, Status::Missing, "denied", "setfacl -m u:$USER:rw /dev/vhost-vsock");
    assert_check(&vhost(&none.root, VHOST_NET, Err(libc::EMFILE)), Status::Missing, "too many", "modprobe");
}
