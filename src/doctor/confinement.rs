//! How machines are held within bounds, and the bounds of this process.

use super::Check;
use super::probes::Probes;
use super::root::Root;
use super::sys::Limit;

/// The controllers that bound a machine.
const WANTED: [&str; 4] = ["cpu", "memory", "io", "pids"];
/// Controllers of version 1, among the options of its mounts.
const VERSION_1: [&str; 8] = ["cpu", "cpuacct", "cpuset", "memory", "blkio", "pids", "devices", "freezer"];

/// Shells start with so many; a machine takes some ten and one a vCPU.
const OPEN_FILES: u64 = 1024;
/// What kernels from 5.16 on start with.
const LOCKED_MEMORY: u64 = 8 << 20;
/// Threads below which a machine of 255 vCPUs and a few neighbours do not start.
const THREADS: u64 = 1024;
/// The kernel's default.
const MAPS: u64 = 65530;

pub(super) fn checks(root: &Root, probes: &Probes) -> Vec<Check> {
    vec![
        cgroups(root),
        open_files(probes.open_files),
        locked_memory(root, probes.locked_memory),
        threads(root, probes.processes),
        maps(root),
    ]
}

fn cgroups(root: &Root) -> Check {
    const NAME: &str = "cgroups";
    const UNIFIED: &str = "boot the host with systemd.unified_cgroup_hierarchy=1";
    let Some(mounts) = root.read("proc/mounts") else {
        return Check::unknown(NAME, "/proc/mounts cannot be read");
    };
    let mut second = None;
    let mut first: Vec<&str> = Vec::new();
    for line in mounts.lines() {
        let mut fields = line.split(' ').skip(1);
        let (Some(point), Some(kind), Some(options)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        match kind {
            "cgroup2" => second = second.or(Some(point)),
            "cgroup" => first.extend(options.split(',').filter(|option| VERSION_1.contains(option))),
            _ => {}
        }
    }
    first.sort_unstable();
    first.dedup();
    let offered =
        second.and_then(|point| root.read(&format!("{point}/cgroup.controllers"))).unwrap_or_default();
    let offered: Vec<_> = offered.split_whitespace().collect();
    if !first.is_empty() {
        let beside = if second.is_some() { ", with v2 mounted beside it" } else { "" };
        return Check::warn(NAME, format!("v1 ({}){beside}", first.join(", ")))
            .cost("limits need root and a folder a controller; buffered writes escape")
            .fix(UNIFIED);
    }
    if second.is_none() {
        return Check::missing(NAME, "none are mounted")
            .cost("a machine cannot be held to a share of processor, memory and disk")
            .fix("`sudo mount -t cgroup2 none /sys/fs/cgroup`");
    }
    let lacks: Vec<_> = WANTED.into_iter().filter(|name| !offered.contains(name)).collect();
    if lacks.is_empty() {
        return Check::ok(NAME, format!("v2 ({})", offered.join(", ")));
    }
    Check::warn(NAME, format!("v2, without {}", lacks.join(", ")))
        .cost(format!("a machine cannot be held to a share of {}", lacks.join(", ")))
        .fix("enable them in cgroup.subtree_control of the parent group, or in the kernel")
}

/// A limit as `ulimit` shows it.
fn shown(limit: u64) -> String {
    if limit == u64::MAX { "unlimited".to_owned() } else { limit.to_string() }
}

fn open_files(limit: Option<Limit>) -> Check {
    const NAME: &str = "open files";
    let Some(limit) = limit else { return Check::unknown(NAME, "the kernel does not tell") };
    let finding = if limit.soft == limit.hard {
        format!("{} a process", shown(limit.soft))
    } else {
        format!("{} a process, can be raised to {}", shown(limit.soft), shown(limit.hard))
    };
    if limit.soft >= OPEN_FILES {
        return Check::ok(NAME, finding);
    }
    let fix = if limit.hard >= OPEN_FILES {
        format!("`ulimit -n {OPEN_FILES}`")
    } else {
        format!("nofile in /etc/security/limits.conf, or LimitNOFILE={OPEN_FILES} in the systemd unit")
    };
    Check::warn(NAME, finding).cost("machines with many vCPUs or devices do not start").fix(fix)
}

fn locked_memory(root: &Root, limit: Option<Limit>) -> Check {
    const NAME: &str = "locked memory";
    /// `CAP_IPC_LOCK` of `linux/capability.h`.
    const IPC_LOCK: u32 = 14;
    let Some(limit) = limit else { return Check::unknown(NAME, "the kernel does not tell") };
    let finding = match limit.soft {
        u64::MAX => "unlimited".to_owned(),
        bytes => format!("{} KiB", bytes >> 10),
    };
    // For a process without a readable status the limit is taken at its word.
    if root.exists("proc/self/status") && root.has_capability(IPC_LOCK) {
        return Check::ok(NAME, format!("{finding}, which does not bind this user"));
    }
    if limit.soft >= LOCKED_MEMORY {
        return Check::ok(NAME, finding);
    }
    Check::warn(NAME, finding)
        .cost("io_uring may be refused, and guest memory cannot be locked")
        .fix("memlock in /etc/security/limits.conf, or LimitMEMLOCK=infinity in the systemd unit")
}

fn threads(root: &Root, limit: Option<Limit>) -> Check {
    const NAME: &str = "threads";
    let of_user = limit.map(|limit| limit.soft).filter(|soft| *soft != u64::MAX);
    let least = [
        (root.parse("proc/sys/kernel/threads-max"), "kernel.threads-max"),
        (root.parse("proc/sys/kernel/pid_max"), "kernel.pid_max"),
        (of_user, "this user's limit, `ulimit -u`"),
    ]
    .into_iter()
    .filter_map(|(count, name)| Some((count?, name)))
    .min_by_key(|(count, _): &(u64, _)| *count);
    let Some((count, name)) = least else { return Check::unknown(NAME, "the kernel does not tell") };
    let finding = format!("{count}, by {name}");
    if count >= THREADS {
        return Check::ok(NAME, finding);
    }
    Check::warn(NAME, finding)
        .cost("a machine takes a thread a vCPU and two more: few fit")
        .fix(format!("raise {name}"))
}

fn maps(root: &Root) -> Check {
    const NAME: &str = "memory maps";
    match root.parse::<u64>("proc/sys/vm/max_map_count") {
        None => Check::unknown(NAME, "vm.max_map_count cannot be read"),
        Some(count) if count >= MAPS => Check::ok(NAME, format!("{count} a process")),
        Some(count) => Check::warn(NAME, format!("{count} a process"))
            .cost("a process with many machines runs out of mappings")
            .fix(format!("`sudo sysctl vm.max_map_count={MAPS}`")),
    }
}

#[cfg(test)]
mod tests;
