use super::super::testing::{Tree, assert_check, healthy};
use super::*;

const INTEL: &str = "vendor_id : GenuineIntel\nmodel name : Xeon\nflags : fpu vmx";
const AMD: &str = "vendor_id : AuthenticAMD\nmodel name : EPYC\nflags : fpu svm";
const PLAIN: &str = "vendor_id : GenuineIntel\nmodel name : Xeon\nflags : fpu";
const PLAIN_GUEST: &str = "vendor_id : GenuineIntel\nmodel name : Xeon\nflags : fpu hypervisor";

fn cpu(text: &str) -> Tree {
    Tree::of(&[(CPUINFO, text)])
}

#[test]
fn the_kernel_is_named() {
    assert_check(&kernel(&healthy().root), Status::Ok, "Linux 6.12.0", "");
    assert_check(&kernel(&Tree::of(&[]).root), Status::Unknown, "cannot be read", "");
}

#[test]
fn processors_are_told_apart() {
    let check = |text| {
        let tree = cpu(text);
        virtualization(&tree.root, &Processor::of(&tree.root))
    };
    assert_check(&check(INTEL), Status::Ok, "VT-x, Xeon", "");
    assert_check(&check(AMD), Status::Ok, "AMD-V, EPYC", "");
    assert_check(&check(PLAIN), Status::Missing, "none on Xeon", "firmware");
    assert_check(&check(PLAIN_GUEST), Status::Missing, "none on Xeon", "nested virtualization");
    // A word that holds a flag's name is another flag.
    assert_check(&check("flags : vmx_like"), Status::Missing, "none on unnamed", "firmware");
    assert_check(&check("no colon here"), Status::Unknown, "no processor flags", "");
}

#[test]
fn a_host_that_is_a_guest_says_whose() {
    let check = |tree: &Tree, signature: Option<&[u8; 12]>| {
        host(&tree.root, &Processor::of(&tree.root), signature.copied())
    };
    assert_check(&check(&healthy(), None), Status::Ok, "real hardware (Bantam Computers, Cockerel 1)", "");
    assert_check(&check(&cpu(INTEL), None), Status::Ok, "real hardware", "");
    let guest = cpu(PLAIN_GUEST)
        .with("sys/class/dmi/id/product_name", "Standard PC")
        .with("sys/class/dmi/id/sys_vendor", "");
    assert_check(
        &check(&guest, Some(b"KVMKVMKVM\0\0\0")),
        Status::Warn,
        "guest of KVM (Standard PC)",
        "hardware",
    );
    assert_check(&check(&guest, Some(b"Microsoft Hv")), Status::Warn, "guest of Hyper-V", "hardware");
    assert_check(
        &check(&guest, Some(b"odd \x1b[2J\n\xff\0x")),
        Status::Warn,
        r#"signs "odd \x1b[2J\n\xff\x00x""#,
        "",
    );
    assert_check(&check(&guest, None), Status::Warn, "an unnamed hypervisor", "hardware");
    assert_check(&check(&Tree::of(&[]), None), Status::Unknown, "no processor flags", "");
}

#[test]
fn modules_are_named() {
    let check = |tree: &Tree, opens| module(&tree.root, &Processor::of(&tree.root), opens);
    assert_check(&check(&healthy(), true), Status::Ok, "kvm_intel", "");
    assert_check(&check(&cpu(AMD).with("sys/module/kvm_amd/refcnt", "0"), true), Status::Ok, "kvm_amd", "");
    let other = |text| cpu(text).with("sys/module/kvm_other/refcnt", "0").with("sys/module/kvm/refcnt", "1");
    assert_check(&check(&other(PLAIN), true), Status::Warn, "kvm_other: neither", "");
    assert_eq!(check(&other(PLAIN), true).fix, None, "there is none");
    assert_check(&check(&other(AMD), true), Status::Warn, "kvm_other: neither", "modprobe kvm_amd");
    assert_check(&check(&cpu(INTEL), true), Status::Unknown, "built into", "");
    assert_check(&check(&cpu(INTEL), false), Status::Missing, "none loaded", "modprobe kvm_intel");
}

#[test]
fn the_way_to_kvm_depends_on_what_is_in_it() {
    let way = |tree: &Tree| Processor::of(&tree.root).way_to_kvm(&tree.root);
    assert!(way(&cpu(INTEL)).contains("modprobe kvm_intel"));
    assert!(way(&cpu(AMD)).contains("modprobe kvm_amd"));
    assert!(way(&cpu(PLAIN)).contains("firmware"));
    assert!(way(&cpu(PLAIN_GUEST)).contains("nested"));
    let drivers = "232 kvm\n235 autofs\n";
    assert!(way(&cpu(PLAIN).with("proc/misc", drivers)).contains("--device /dev/kvm"));
    assert!(way(&cpu(PLAIN).with("proc/misc", "235 kvm_like\nkvm")).contains("firmware"));
}

#[test]
fn nested_paging_is_on_off_or_untold() {
    let check = |text, files: &[(&str, &str)]| {
        let tree =
            files.iter().fold(cpu(text), |tree, (path, text)| tree.with(&format!("sys/module/{path}"), text));
        nested_paging(&tree.root, &Processor::of(&tree.root))
    };
    let ept = "kvm_intel/parameters/ept";
    let unrestricted = "kvm_intel/parameters/unrestricted_guest";
    let npt = "kvm_amd/parameters/npt";
    assert_check(&check(INTEL, &[(ept, "Y"), (unrestricted, "Y")]), Status::Ok, "EPT", "");
    assert_check(&check(INTEL, &[(ept, "Y")]), Status::Ok, "EPT", "");
    assert_check(
        &check(INTEL, &[(ept, "Y"), (unrestricted, "N")]),
        Status::Warn,
        "no unrestricted",
        "reload",
    );
    assert_check(&check(INTEL, &[(ept, "N"), (unrestricted, "N")]), Status::Warn, "EPT is off", "kvm_intel");
    assert_check(&check(AMD, &[(npt, "1")]), Status::Ok, "NPT", "");
    assert_check(&check(AMD, &[(npt, "0")]), Status::Warn, "NPT is off", "kvm_amd");
    assert_check(&check(AMD, &[(npt, "perhaps")]), Status::Unknown, "no KVM module", "");
    assert_check(&check(PLAIN_GUEST, &[]), Status::Missing, "part of VT-x", "nested");
    assert_check(&check("", &[]), Status::Unknown, "no KVM module", "");
}

#[test]
fn machines_in_machines_are_no_need() {
    let check = |files: &[(&str, &str)]| nested_machines(&Tree::of(files).root);
    assert_check(
        &check(&[("sys/module/kvm_intel/parameters/nested", "1")]),
        Status::Ok,
        "possible: nested is on",
        "",
    );
    assert_check(
        &check(&[("sys/module/kvm_amd/parameters/nested", "0")]),
        Status::Ok,
        "off in kvm_amd",
        "nested=1",
    );
    assert_check(&check(&[("sys/module/kvm_other/refcnt", "0")]), Status::Ok, "not possible", "");
    assert_check(&check(&[]), Status::Unknown, "no KVM module", "");
}

#[test]
fn flaws_count_when_any_part_of_them_is_open() {
    let check = |files: &[(&str, &str)]| {
        let folder = "sys/devices/system/cpu/vulnerabilities";
        mitigations(
            &files
                .iter()
                .fold(Tree::of(&[]), |tree, (name, text)| tree.with(&format!("{folder}/{name}"), text))
                .root,
        )
    };
    assert_check(
        &check(&[("mds", "Not affected"), ("l1tf", "Mitigation: PTE Inversion")]),
        Status::Ok,
        "none",
        "",
    );
    let open = [
        ("mds", "Mitigation: Clear CPU buffers; SMT vulnerable"),
        ("l1tf", "Not affected"),
        ("spectre_v2", "Mitigation: Retpolines; BHI: Vulnerable"),
        ("tsx", "Vulnerable: No microcode"),
    ];
    assert_check(&check(&open), Status::Warn, "mitigated: mds, spectre_v2, tsx", "microcode");
    assert_check(&check(&[]), Status::Unknown, "cannot be read", "");
}
