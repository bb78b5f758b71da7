use vmm_sys_util::errno;

use super::super::Status;
use super::super::testing::{Tree, assert_check, healthy, probes};
use super::*;

const USER: (&str, &str) = ("proc/self/status", "Uid:\t1000\t1000\t1000\t1000");

/// A `/dev/kvm` of this mode, of a group with this name.
fn node(mode: u32, group: &str) -> Tree {
    let tree = Tree::of(&[(DEVICE, ""), USER]).mode(DEVICE, mode);
    let owner = tree.root.owner(DEVICE).unwrap();
    tree.with("etc/group", &format!("daemon:x:77777:\nodd line\n{group}:x:{}:someone", owner.group))
        .with("etc/passwd", &format!("owner:x:{}:0::/:/bin/sh", owner.user))
}

#[test]
fn a_device_that_opens_is_shown_with_its_permissions() {
    let check = device(&node(0o660, "kvm").root, None);
    assert_check(&check, Status::Ok, "opens (mode 0660, owner:kvm)", "");
    assert!(check.required);
    assert_check(&device(&Tree::of(&[]).root, None), Status::Ok, "opens", "");
}

#[test]
fn a_device_that_is_not_there_is_told_from_one_without_a_driver() {
    let check = device(&healthy().root, Some(&Error::Missing));
    assert_check(&check, Status::Missing, "does not exist", "modprobe kvm_intel");
    assert!(check.required);
    let check = device(&node(0o660, "kvm").root, Some(&Error::Missing));
    assert_check(&check, Status::Missing, "no driver behind it", "modprobe");
}

#[test]
fn a_refusal_is_mended_by_what_would_help() {
    let check = |tree: &Tree| device(&tree.root, Some(&Error::Permission));
    let group = check(&node(0o660, "virtual"));
    assert_check(
        &group,
        Status::Missing,
        "permission denied (mode 0660, owner:virtual)",
        "usermod -aG virtual $USER",
    );
    assert_check(&check(&node(0o600, "kvm")), Status::Missing, "mode 0600", "setfacl");
    assert_check(&check(&node(0o660, "root")), Status::Missing, "owner:root", "setfacl");
    let superuser = node(0o660, "kvm").with("proc/self/status", "Uid:\t0\t0\t0\t0");
    assert_check(&check(&superuser), Status::Missing, "denied", "--device /dev/kvm");
}

#[test]
fn another_error_is_told_in_full() {
    let error = Error::Open(errno::Error::new(libc::EMFILE));
    assert_check(
        &device(&healthy().root, Some(&error)),
        Status::Missing,
        "cannot open /dev/kvm: Too many",
        "dmesg",
    );
}

#[test]
fn capabilities_are_there_lacking_or_unasked() {
    assert_check(&capabilities(None), Status::Ok, "all", "");
    let lacking = Error::Capabilities("KVM_CAP_IRQFD, KVM_CAP_XSAVE".to_owned());
    assert_check(
        &capabilities(Some(&lacking)),
        Status::Missing,
        "lacks KVM_CAP_IRQFD, KVM_CAP_XSAVE",
        "newer",
    );
    assert_check(&device(&healthy().root, Some(&lacking)), Status::Ok, "opens", "");
    assert_check(&capabilities(Some(&Error::ApiVersion(11))), Status::Missing, "version 11", "newer");
    assert_check(&capabilities(Some(&Error::ApiVersion(-1))), Status::Missing, "is not KVM", "mknod");
    assert_check(&capabilities(Some(&Error::Permission)), Status::Unknown, "not asked", "");
}

/// A KVM that lacks these.
fn without(caps: &[u32]) -> Kvm {
    let mut kvm = probes().kvm.unwrap();
    for (cap, value) in &mut kvm.extensions {
        // KVM answers 0 for no; a failed call is -1.
        if caps.contains(cap) {
            *value = -i32::from(*cap == KVM_CAP_XSAVE2);
        }
    }
    kvm
}

#[test]
fn extras_are_listed_with_what_each_costs() {
    assert_check(&extras(Some(&without(&[]))), Status::Ok, "dirty ring", "");
    let one = without(&[KVM_CAP_TSC_CONTROL, KVM_CAP_DIRTY_LOG_RING]);
    assert_check(&extras(Some(&one)), Status::Warn, "7 of 8; no TSC scaling", "processor");
    let both_rings = without(&[KVM_CAP_DIRTY_LOG_RING, KVM_CAP_DIRTY_LOG_RING_ACQ_REL, KVM_CAP_XSAVE2]);
    let check = extras(Some(&both_rings));
    assert_check(&check, Status::Warn, "6 of 8; no XSAVE2, dirty ring", "newer");
    assert_eq!(check.cost.unwrap().matches("; ").count(), 1, "a cost for each");
    assert_check(&extras(None), Status::Unknown, "not asked", "");
}

#[test]
fn every_extra_is_asked_for() {
    for (caps, name, _) in USEFUL {
        assert!(caps.iter().all(|cap| ASKED.contains(cap)), "{name}");
    }
}

#[test]
fn vcpus_are_bounded_by_kvm_and_by_the_configuration() {
    let of = |advised, most| Kvm {
        extensions: vec![(KVM_CAP_NR_VCPUS, advised), (KVM_CAP_MAX_VCPUS, most)],
        hypercalls: None,
        tsc: None,
    };
    assert_check(
        &vcpus(Some(&of(8, 1024))),
        Status::Ok,
        "up to 255 a machine (KVM allows 1024, advises 8)",
        "",
    );
    assert_check(&vcpus(Some(&of(8, 64))), Status::Ok, "up to 64 a machine", "");
    assert_check(&vcpus(Some(&of(0, -1))), Status::Ok, "up to 4 a machine (KVM allows 4, advises 4)", "");
    assert_check(&vcpus(None), Status::Unknown, "not asked", "");
}

#[test]
fn hypercalls_work_or_fail_or_hang() {
    let of = |hypercalls| super::hypercalls(Some(&Kvm { extensions: Vec::new(), hypercalls, tsc: None }));
    assert_check(&of(Some(true)), Status::Ok, "reach KVM", "");
    assert_check(&of(Some(false)), Status::Warn, "do not reach", "VT-x");
    assert_check(&of(None), Status::Warn, "did not come back", "VT-x");
    assert_check(&super::hypercalls(None), Status::Unknown, "not asked", "");
}

#[test]
fn a_guests_counter_is_its_own_or_the_hosts() {
    let of = |tsc| counter(Some(&Kvm { extensions: Vec::new(), hypercalls: None, tsc }));
    assert_check(&of(Some(true)), Status::Ok, "can be set", "");
    assert_check(&of(Some(false)), Status::Warn, "the host's", "VT-x");
    assert_check(&of(None), Status::Unknown, "does not tell", "");
    assert_check(&counter(None), Status::Unknown, "not asked", "");
}
