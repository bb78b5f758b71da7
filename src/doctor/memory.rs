//! What guest memory can be made of.

use super::Check;
use super::probes::Probes;
use super::root::Root;
use super::sys::{Errno, describe};

const THP: &str = "sys/kernel/mm/transparent_hugepage";
const POOLS: &str = "sys/kernel/mm/hugepages";

/// `UFFD_FEATURE_PAGEFAULT_FLAG_WP` of `linux/userfaultfd.h`.
const WRITE_PROTECTION: u64 = 1;

pub(super) fn checks(root: &Root, probes: &Probes) -> Vec<Check> {
    vec![
        transparent(root),
        transparent_shared(root),
        reserved(root),
        overcommit(root),
        userfaultfd(root, probes.userfaultfd, probes.userfaultfd_device),
    ]
}

fn transparent(root: &Root) -> Check {
    const NAME: &str = "huge pages";
    const COST: &str = "guest memory comes in 4 KiB pages: more faults and TLB misses";
    match root.chosen(&format!("{THP}/enabled")).as_deref() {
        Some(mode @ ("always" | "madvise")) => Check::ok(NAME, format!("transparent ({mode})")),
        Some("never") => Check::warn(NAME, "transparent ones are off (never)")
            .cost(COST)
            .fix(format!("`echo madvise >/{THP}/enabled`, as root")),
        Some(other) => Check::unknown(NAME, format!("transparent ones: \"{}\"", other.escape_default())),
        None if root.exists("sys/kernel/mm") => Check::missing(NAME, "the kernel has no transparent ones")
            .cost(COST)
            .fix("use a kernel with CONFIG_TRANSPARENT_HUGEPAGE"),
        None => Check::unknown(NAME, "/sys/kernel/mm cannot be read"),
    }
}

fn transparent_shared(root: &Root) -> Check {
    const NAME: &str = "shmem huge pages";
    match root.chosen(&format!("{THP}/shmem_enabled")).as_deref() {
        Some(mode @ ("always" | "within_size" | "advise" | "force")) => {
            Check::ok(NAME, format!("transparent in memfd and tmpfs ({mode})"))
        }
        Some(mode @ ("never" | "deny")) => Check::warn(NAME, format!("memfd and tmpfs have none ({mode})"))
            .cost("guest memory that another process can map comes in 4 KiB pages")
            .fix(format!("`echo advise >/{THP}/shmem_enabled`, as root")),
        Some(other) => Check::unknown(NAME, format!("in memfd and tmpfs: \"{}\"", other.escape_default())),
        None => Check::unknown(NAME, "the kernel does not tell of memfd and tmpfs"),
    }
}

/// A pool of hugetlbfs: bytes a page, pages, and those of them that are free.
struct Pool {
    size: u64,
    all: u64,
    free: u64,
}

fn pools(root: &Root) -> Vec<Pool> {
    let mut pools: Vec<_> = root
        .list(POOLS)
        .into_iter()
        .filter_map(|name| {
            let kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            Some(Pool {
                size: kib.checked_mul(1024)?,
                all: root.parse(&format!("{POOLS}/{name}/nr_hugepages"))?,
                free: root.parse(&format!("{POOLS}/{name}/free_hugepages"))?,
            })
        })
        .collect();
    pools.sort_by_key(|pool| pool.size);
    pools
}

fn reserved(root: &Root) -> Check {
    const NAME: &str = "hugetlb pages";
    const COST: &str = "no guest memory that is sure to be huge pages";
    let pools = pools(root);
    let sizes: Vec<_> = pools.iter().map(|pool| size(pool.size)).collect();
    let used: Vec<_> = pools
        .iter()
        .filter(|pool| pool.all > 0)
        .map(|pool| format!("{} of {} free, {} each", pool.free, pool.all, size(pool.size)))
        .collect();
    if pools.is_empty() {
        return Check::missing(NAME, "the kernel has no hugetlbfs")
            .cost(COST)
            .fix("use a kernel with CONFIG_HUGETLBFS");
    }
    if used.is_empty() {
        return Check::missing(NAME, format!("none reserved, of {}", sizes.join(" or ")))
            .cost(COST)
            .fix(format!("`sudo sysctl vm.nr_hugepages={}` reserves 1 GiB", pages_of_a_gibibyte(root)));
    }
    let finding = used.join("; ");
    if pools.iter().all(|pool| pool.free == 0) {
        return Check::warn(NAME, finding).cost(COST).fix("end what uses them, or raise vm.nr_hugepages");
    }
    Check::ok(NAME, finding)
}

fn overcommit(root: &Root) -> Check {
    const NAME: &str = "memory overcommit";
    match root.parse::<u32>("proc/sys/vm/overcommit_memory") {
        Some(0) => Check::ok(NAME, "by the kernel's judgement (0)"),
        Some(1) => Check::ok(NAME, "always (1)"),
        Some(2) => Check::warn(NAME, "never (2)")
            .cost("guest memory counts in full before it is touched: fewer machines fit")
            .fix("`sudo sysctl vm.overcommit_memory=0`"),
        _ => Check::unknown(NAME, "vm.overcommit_memory cannot be read"),
    }
}

fn userfaultfd(root: &Root, call: Result<u64, Errno>, device: Result<u64, Errno>) -> Check {
    const NAME: &str = "userfaultfd";
    const COST: &str = "a snapshot's memory cannot be fetched page by page as the guest touches it";
    let (by, features) = match (call, device) {
        (Ok(features), _) => ("by the system call", features),
        (_, Ok(features)) => ("by /dev/userfaultfd", features),
        (Err(libc::ENOSYS), _) => {
            return Check::missing(NAME, "the kernel has none")
                .cost(COST)
                .fix("use a kernel with CONFIG_USERFAULTFD");
        }
        (Err(errno), _) => {
            let fix = match root.parse::<u32>("proc/sys/vm/unprivileged_userfaultfd") {
                Some(0) if root.exists("dev/userfaultfd") => {
                    "`sudo setfacl -m u:$USER:rw /dev/userfaultfd`, or `sudo sysctl vm.unprivileged_userfaultfd=1`"
                }
                Some(0) => "`sudo sysctl vm.unprivileged_userfaultfd=1`",
                _ => "a seccomp filter forbids it, such as a container's: allow userfaultfd there",
            };
            return Check::missing(NAME, format!("refused: {}", describe(errno))).cost(COST).fix(fix);
        }
    };
    if features & WRITE_PROTECTION == 0 {
        return Check::warn(NAME, format!("{by}, without write protection"))
            .cost("writes cannot be caught: no snapshot of a guest that runs on")
            .fix("use a host kernel from 5.7 on");
    }
    Check::ok(NAME, format!("{by}, with write protection"))
}

/// How many pages of the size that `vm.nr_hugepages` counts.
fn pages_of_a_gibibyte(root: &Root) -> u64 {
    let kib = root.field("proc/meminfo", "Hugepagesize");
    let kib = kib.and_then(|text| text.strip_suffix(" kB")?.parse().ok()).unwrap_or(2048_u64);
    (1_u64 << 20).checked_div(kib).unwrap_or(512).max(1)
}

/// A page size with its unit.
fn size(bytes: u64) -> String {
    crate::config::Size::new(bytes).to_string()
}

#[cfg(test)]
mod tests;
