use super::super::Status;
use super::super::testing::{Tree, assert_check, healthy};
use super::*;

fn thp(file: &str, text: &str) -> Tree {
    Tree::of(&[(&format!("{THP}/{file}"), text)])
}

#[test]
fn transparent_huge_pages_are_on_off_or_absent() {
    let check = |text| transparent(&thp("enabled", text).root);
    assert_check(&check("[always] madvise never"), Status::Ok, "always", "");
    assert_check(&check("always [madvise] never"), Status::Ok, "madvise", "");
    assert_check(&check("always madvise [never]"), Status::Warn, "off", "echo madvise");
    assert_check(&check("always [of\x1bten] never"), Status::Unknown, r"of\u{1b}ten", "");
    let absent = Tree::of(&[("sys/kernel/mm/numa/demotion_enabled", "0")]);
    assert_check(&transparent(&absent.root), Status::Missing, "no transparent", "CONFIG_");
    assert_check(&transparent(&Tree::of(&[]).root), Status::Unknown, "cannot be read", "");
}

#[test]
fn shared_memory_has_a_setting_of_its_own() {
    let check = |text| transparent_shared(&thp("shmem_enabled", text).root);
    assert_check(&check("always within_size [advise] never deny force"), Status::Ok, "advise", "");
    assert_check(&check("always [within_size] advise never deny force"), Status::Ok, "within_size", "");
    assert_check(
        &check("always within_size advise [never] deny force"),
        Status::Warn,
        "never",
        "echo advise",
    );
    assert_check(&check("always within_size advise never [deny] force"), Status::Warn, "deny", "echo advise");
    assert_check(&check("[what]"), Status::Unknown, "what", "");
    assert_check(&check("never"), Status::Unknown, "does not tell", "");
}

#[test]
fn pools_of_huge_pages_have_free_pages_used_ones_or_none() {
    let check = |files: &[(&str, &str)]| {
        let tree = files
            .iter()
            .fold(Tree::of(&[]), |tree, (path, text)| tree.with(&format!("{POOLS}/hugepages-{path}"), text));
        reserved(&tree.root)
    };
    let pools = |small: [&'static str; 2], large: [&'static str; 2]| {
        [
            ("1048576kB/nr_hugepages", large[0]),
            ("1048576kB/free_hugepages", large[1]),
            ("2048kB/nr_hugepages", small[0]),
            ("2048kB/free_hugepages", small[1]),
        ]
    };
    let some = check(&pools(["512", "100"], ["0", "0"]));
    assert_check(&some, Status::Ok, "100 of 512 free, 2M each", "");
    let both = check(&pools(["512", "0"], ["4", "1"]));
    assert_check(&both, Status::Ok, "0 of 512 free, 2M each; 1 of 4 free, 1G each", "");
    assert_check(&check(&pools(["512", "0"], ["0", "0"])), Status::Warn, "0 of 512", "raise");
    let none = check(&pools(["0", "0"], ["0", "0"]));
    assert_check(&none, Status::Missing, "none reserved, of 2M or 1G", "nr_hugepages=512` reserves 1 GiB");
    assert_check(&check(&[]), Status::Missing, "no hugetlbfs", "CONFIG_HUGETLBFS");
    // What is no pool is passed over, whatever it is called.
    let odd = [("99999999999999999999kB/nr_hugepages", "1"), ("2048kB/nr_hugepages", "many"), ("x/y", "")];
    assert_check(&check(&odd), Status::Missing, "no hugetlbfs", "");
    assert_check(&reserved(&healthy().root), Status::Ok, "500 of 512 free", "");
}

#[test]
fn a_gibibyte_is_counted_in_pages_of_the_default_size() {
    let of = |text| pages_of_a_gibibyte(&Tree::of(&[("proc/meminfo", text)]).root);
    assert_eq!(of("MemTotal: 1 kB\nHugepagesize:       2048 kB"), 512);
    assert_eq!(of("Hugepagesize:    1048576 kB"), 1);
    assert_eq!(of("Hugepagesize:    0 kB"), 512);
    assert_eq!(of("Hugepagesize:    18446744073709551615 kB"), 1);
    assert_eq!(of("nothing"), 512);
}

#[test]
fn overcommit_is_a_number() {
    let check = |text| overcommit(&Tree::of(&[("proc/sys/vm/overcommit_memory", text)]).root);
    assert_check(&check("0"), Status::Ok, "judgement", "");
    assert_check(&check("1"), Status::Ok, "always", "");
    assert_check(&check("2"), Status::Warn, "never", "overcommit_memory=0");
    assert_check(&check("3"), Status::Unknown, "cannot be read", "");
}

#[test]
fn userfaultfd_comes_by_either_way_or_is_refused() {
    let check = |tree: &Tree, call, device| userfaultfd(&tree.root, call, device);
    let strict = || Tree::of(&[("proc/sys/vm/unprivileged_userfaultfd", "0")]);
    let (no, full) = (Err(libc::EPERM), Ok(0xffff));
    assert_check(&check(&strict(), full, no), Status::Ok, "by the system call, with write protection", "");
    assert_check(&check(&strict(), no, full), Status::Ok, "by /dev/userfaultfd, with write protection", "");
    assert_check(&check(&strict(), Ok(0), no), Status::Warn, "without write protection", "5.7");
    assert_check(
        &check(&strict(), Err(libc::ENOSYS), Err(libc::ENOENT)),
        Status::Missing,
        "has none",
        "CONFIG_",
    );
    let refused = check(&strict(), no, Err(libc::ENOENT));
    assert_check(&refused, Status::Missing, "refused: operation not permitted", "unprivileged_userfaultfd=1");
    assert!(!refused.fix.unwrap().contains("/dev/userfaultfd"), "there is no such device");
    let device = strict().with("dev/userfaultfd", "");
    assert_check(&check(&device, no, Err(libc::EACCES)), Status::Missing, "refused", "setfacl");
    let lax = Tree::of(&[("proc/sys/vm/unprivileged_userfaultfd", "1")]);
    assert_check(&check(&lax, no, Err(libc::ENOENT)), Status::Missing, "refused", "seccomp");
}
