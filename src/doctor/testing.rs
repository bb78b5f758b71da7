//! Made-up hosts.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use super::probes::{Kvm, Probes};
use super::root::Root;
use super::speed::Mips;
use super::sys::Limit;
use super::{Check, Status};

/// A root folder with made-up files.
pub(super) struct Tree {
    folder: TempDir,
    pub(super) root: Root,
}

impl Tree {
    /// A host with these files, each a path and its text.
    pub(super) fn of(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tree = Self { root: Root::new(folder.path()), folder };
        files.iter().fold(tree, |tree, (path, text)| tree.with(path, text))
    }

    pub(super) fn with(self, path: &str, text: &str) -> Self {
        let path = self.folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // As in /proc and /sys.
        fs::write(path, format!("{text}\n")).unwrap();
        self
    }

    pub(super) fn mode(self, path: &str, mode: u32) -> Self {
        fs::set_permissions(self.folder.path().join(path), fs::Permissions::from_mode(mode)).unwrap();
        self
    }
}

/// What the kernel answers on a host where all is well.
pub(super) fn probes() -> Probes {
    let limit = Some(Limit { soft: 1 << 20, hard: 1 << 20 });
    let unlimited = Some(Limit { soft: u64::MAX, hard: u64::MAX });
    Probes {
        hypervisor_signature: None,
        kvm: Ok(Kvm {
            extensions: super::kvm::ASKED.map(|cap| (cap, 1024)).to_vec(),
            hypercalls: Some(true),
            tsc: Some(true),
        }),
        guest: Some(Ok(Mips { cpl0: 2400.0, cpl3: 2500.0 })),
        userfaultfd: Ok(u64::MAX),
        userfaultfd_device: Ok(u64::MAX),
        io_uring: Ok(()),
        tun: Ok(()),
        vhost_net: Ok(()),
        vhost_vsock: Ok(()),
        open_files: limit,
        locked_memory: unlimited,
        processes: unlimited,
    }
}

/// The files of such a host.
pub(super) fn healthy() -> Tree {
    Tree::of(&[
        ("proc/sys/kernel/osrelease", "6.12.0"),
        (
            "proc/cpuinfo",
            "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: A Processor\nflags\t\t: fpu vmx sse2",
        ),
        ("proc/mounts", "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0"),
        ("proc/self/status", "Name:\tbantam\nUid:\t1000\t1000\t1000\t1000\nCapEff:\t0000000000001000"),
        ("proc/sys/kernel/threads-max", "190000"),
        ("proc/sys/kernel/pid_max", "4194304"),
        ("proc/sys/vm/max_map_count", "65530"),
        ("proc/sys/vm/overcommit_memory", "0"),
        ("sys/class/dmi/id/sys_vendor", "Bantam Computers"),
        ("sys/class/dmi/id/product_name", "Cockerel 1"),
        ("sys/devices/system/cpu/vulnerabilities/meltdown", "Mitigation: PTI"),
        ("sys/devices/system/cpu/vulnerabilities/mds", "Not affected"),
        ("sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory hugetlb pids"),
        ("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never"),
        ("sys/kernel/mm/transparent_hugepage/shmem_enabled", "always within_size [advise] never deny force"),
        ("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "512"),
        ("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "500"),
        ("sys/module/kvm/parameters/halt_poll_ns", "200000"),
        ("sys/module/kvm_intel/parameters/ept", "Y"),
        ("sys/module/kvm_intel/parameters/unrestricted_guest", "Y"),
        ("sys/module/kvm_intel/parameters/nested", "Y"),
    ])
}

/// Asserts a verdict; all texts are given in part.
#[track_caller]
pub(super) fn assert_check(check: &Check, status: Status, finding: &str, fix: &str) {
    assert_eq!(check.status, status, "{check:?}");
    assert!(check.finding.contains(finding), "{check:?} says not {finding:?}");
    assert!(check.fix.as_deref().unwrap_or_default().contains(fix), "{check:?} advises not {fix:?}");
    let explained = matches!(status, Status::Ok | Status::Unknown) || check.cost.is_some();
    assert!(explained, "{check:?} does not say what it costs");
}
