use super::*;

const SMAPS: &str = "\
555500000000-555500100000 r-xp 00001000 fe:00 12                         /usr/bin/vmm
Size:               1024 kB
Pss:                 700 kB
Anonymous:             0 kB
VmFlags: rd ex
7f0000000000-7f0000800000 rw-p 00000000 00:00 0
Pss:                  40 kB
Anonymous:            40 kB
7f0000800000-7f0001000000 rw-p 00000000 00:00 0
Pss:                   8 kB
Anonymous:             8 kB
7f0001001000-7f0001002000 rw-p 00000000 00:00 0                          [heap]
Pss:                   4 kB
Anonymous:             4 kB
";

#[test]
fn guest_memory_is_left_out_though_its_mapping_is_split() {
    let mappings = parse(SMAPS);
    assert_eq!(mappings.len(), 4);
    assert_eq!(guest_memory(&mappings, 16 << 20), Some(0x7f00_0000_0000..0x7f00_0100_0000));
    let overhead = without_guest(&mappings, 16 << 20).unwrap();
    assert_eq!(overhead, Overhead { pss: 704 << 10, anonymous: 4 << 10 });
    assert_eq!(without_guest(&mappings, 32 << 20), None);
}

#[test]
fn code_is_of_the_program_and_its_libraries_once_each() {
    let maps = "\
555500000000-555500001000 r--p 00000000 fe:00 12                         /usr/bin/vmm
555500001000-555500100000 r-xp 00001000 fe:00 12                         /usr/bin/vmm
7f0000000000-7f0000001000 rw-s 00000000 fe:00 13                         /var/disk.img
7f0000002000-7f0000003000 r-xp 00000000 fe:00 14                         /usr/lib/a b.so
7f0000003000-7f0000004000 r-xp 00001000 fe:00 14                         /usr/lib/a b.so
7ffe00000000-7ffe00001000 r-xp 00000000 00:00 0                          [vdso]
";
    let expected: BTreeSet<PathBuf> = ["/usr/bin/vmm".into(), "/usr/lib/a b.so".into()].into();
    assert_eq!(code(maps), expected);
}

#[test]
fn a_process_has_a_share_of_the_hosts_memory() {
    let own = std::process::id();
    assert!(pss(own).unwrap() > 0.0);
    assert!(threads(own).unwrap() >= 1);
    let program = fs::metadata(std::env::current_exe().unwrap()).unwrap().len();
    assert!(files(own).unwrap() >= program);
}
