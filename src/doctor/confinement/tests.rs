use super::super::Status;
use super::super::testing::{Tree, assert_check, healthy};
use super::*;

#[test]
fn cgroups_are_of_version_two_one_both_or_none() {
    let check = |mounts, controllers| {
        let files = [("proc/mounts", mounts), ("sys/fs/cgroup/cgroup.controllers", controllers)];
        cgroups(&Tree::of(&files).root)
    };
    let second = "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0";
    assert_check(
        &check(second, "cpuset cpu io memory pids"),
        Status::Ok,
        "v2 (cpuset, cpu, io, memory, pids)",
        "",
    );
    assert_check(&check(second, "cpu pids"), Status::Warn, "v2, without memory, io", "subtree_control");
    assert_check(&check(second, ""), Status::Warn, "without cpu, memory, io, pids", "subtree_control");
    let first = "cgroup /sys/fs/cgroup/a cgroup rw,cpu,cpuacct 0 0\ncgroup /b cgroup rw,memory 0 0\nx";
    assert_check(&check(first, ""), Status::Warn, "v1 (cpu, cpuacct, memory)", "unified_cgroup_hierarchy");
    let both = format!("{first}\n{second}");
    assert_check(&check(&both, ""), Status::Warn, "memory), with v2 mounted beside it", "unified");
    // systemd's own hierarchy of version 1 has no controller.
    let named = format!("cgroup /s cgroup rw,name=systemd 0 0\n{second}");
    assert_check(&check(&named, "cpu io memory pids"), Status::Ok, "v2", "");
    assert_check(&check("tmpfs /tmp tmpfs rw 0 0", ""), Status::Missing, "none", "mount -t cgroup2");
    assert_check(&cgroups(&Tree::of(&[]).root), Status::Unknown, "cannot be read", "");
}

#[test]
fn few_open_files_are_mended_within_the_hard_limit_or_beyond() {
    let check = |soft, hard| open_files(Some(Limit { soft, hard }));
    assert_check(&check(1024, 1024), Status::Ok, "1024 a process", "");
    assert_check(&check(1024, u64::MAX), Status::Ok, "can be raised to unlimited", "");
    assert_check(&check(256, 4096), Status::Warn, "256 a process, can be raised to 4096", "ulimit -n 1024");
    assert_check(&check(256, 256), Status::Warn, "256 a process", "limits.conf");
    assert_check(&open_files(None), Status::Unknown, "does not tell", "");
}

#[test]
fn locked_memory_binds_those_without_the_capability() {
    let check = |capabilities, soft| {
        let status = format!("CapEff:\t{capabilities}");
        let tree = Tree::of(&[("proc/self/status", &status)]);
        locked_memory(&tree.root, Some(Limit { soft, hard: soft }))
    };
    assert_check(&check("0", 8 << 20), Status::Ok, "8192 KiB", "");
    assert_check(&check("0", u64::MAX), Status::Ok, "unlimited", "");
    assert_check(&check("0", 64 << 10), Status::Warn, "64 KiB", "limits.conf");
    assert_check(&check("4000", 64 << 10), Status::Ok, "does not bind", "");
    let untold = locked_memory(&Tree::of(&[]).root, Some(Limit { soft: 0, hard: 0 }));
    assert_check(&untold, Status::Warn, "0 KiB", "limits.conf");
    assert_check(&locked_memory(&healthy().root, None), Status::Unknown, "does not tell", "");
}

#[test]
fn threads_are_bounded_by_the_least_of_three() {
    let check = |all, pids, user| {
        let tree = Tree::of(&[("proc/sys/kernel/threads-max", all), ("proc/sys/kernel/pid_max", pids)]);
        threads(&tree.root, Some(Limit { soft: user, hard: user }))
    };
    assert_check(&check("190000", "32768", u64::MAX), Status::Ok, "32768, by kernel.pid_max", "");
    assert_check(&check("2000", "32768", 4096), Status::Ok, "2000, by kernel.threads-max", "");
    assert_check(&check("190000", "32768", 100), Status::Warn, "100, by this user's limit", "ulimit -u");
    assert_check(&check("?", "-1", u64::MAX), Status::Unknown, "does not tell", "");
}

#[test]
fn memory_maps_are_as_many_as_usual_or_fewer() {
    let check = |text| maps(&Tree::of(&[("proc/sys/vm/max_map_count", text)]).root);
    assert_check(&check("1048576"), Status::Ok, "1048576 a process", "");
    assert_check(&check("1000"), Status::Warn, "1000 a process", "max_map_count=65530");
    assert_check(&check(""), Status::Unknown, "cannot be read", "");
}
