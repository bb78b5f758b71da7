use kvm_bindings::KVM_CPUID_FLAG_SIGNIFCANT_INDEX as INDEXED;
use kvm_ioctls::Kvm;

use super::*;

const ALL: u32 = u32::MAX;

fn leaf(function: u32, [eax, ebx, ecx, edx]: [u32; 4]) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 { function, eax, ebx, ecx, edx, ..Default::default() }
}

fn subleaf(function: u32, index: u32, registers: [u32; 4]) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 { index, flags: INDEXED, ..leaf(function, registers) }
}

fn words(text: [&[u8; 4]; 3]) -> [u32; 3] {
    text.map(|word| u32::from_le_bytes(*word))
}

/// What KVM on an Intel host might support, with all features set so that missing ones show.
fn intel() -> Vec<kvm_cpuid_entry2> {
    let [ebx, edx, ecx] = words([b"Genu", b"ineI", b"ntel"]);
    vec![
        leaf(0, [0x1f, ebx, ecx, edx]),
        leaf(1, [0x50657, 0x7710_0800, ALL, ALL]),
        subleaf(4, 0, [0xfc1f_c121, 0x01c0_003f, 63, 0]),
        subleaf(4, 1, [0xfc1f_c143, 0x03c0_003f, 1023, 0]),
        subleaf(4, 2, [0xfc1f_c163, 0x0280_003f, 0xcfff, 5]),
        subleaf(4, 3, [0, 0, 0, 0]),
        leaf(6, [0, 0, 0, 0]),
        subleaf(7, 0, [1, ALL, ALL, ALL]),
        subleaf(7, 1, [0x10, 0, 0, 0]),
        leaf(0xa, [0x0730_0404, 0, 0, 0x603]),
        subleaf(0xb, 0, [1, 2, 0x100, 0x77]),
        subleaf(0xb, 1, [7, 64, 0x201, 0x77]),
        subleaf(0xd, 0, [0x2ff, 0xa88, 0xa88, 0]),
        subleaf(0xd, 1, [0xf, 0, 0, 0]),
        subleaf(0x12, 0, [3, 0, 0, 0x2424]),
        subleaf(0x1f, 0, [1, 2, 0x100, 0x77]),
        leaf(0x8000_0000, [0x8000_0008, 0, 0, 0]),
        leaf(0x8000_0001, [0, 0, 0x121, 0x2c10_0800]),
        leaf(0x8000_0007, [0, 0, 0, 0x100]),
        leaf(0x8000_0008, [0x302e, 0x0100_d000, 0, 0]),
        leaf(0x4000_0000, [0x4000_0001, 0, 0, 0]),
        leaf(0x4000_0001, [0x0101_7efb, 0, 0, 0]),
    ]
}

fn amd() -> Vec<kvm_cpuid_entry2> {
    let [ebx, edx, ecx] = words([b"Auth", b"enti", b"cAMD"]);
    vec![
        leaf(0, [0xd, ebx, ecx, edx]),
        leaf(1, [0x0083_0f10, 0x7710_0800, ALL, ALL]),
        subleaf(7, 0, [0, ALL, ALL, ALL]),
        leaf(0x8000_0000, [0x8000_001f, 0, 0, 0]),
        leaf(0x8000_0001, [0, 0, ALL, ALL]),
        leaf(0x8000_0008, [0x3030, 0x0100_d000, 0x0001_707f, 0]),
        leaf(0x8000_000a, [1, 8, 0, ALL]),
        subleaf(0x8000_001d, 0, [0x0000_4121, 0x01c0_003f, 63, 0]),
        subleaf(0x8000_001d, 1, [0x0001_c163, 0x03c0_003f, 0x3fff, 1]),
        subleaf(0x8000_001d, 2, [0, 0, 0, 0]),
        leaf(0x8000_001e, [0x77, 0x0177, 0x0300, 0]),
        leaf(0x4000_0000, [0x4000_0001, 0, 0, 0]),
        leaf(0x4000_0001, [0x0101_7efb, 0, 0, 0]),
    ]
}

const FEATURES: CpuFeatures<'_> = CpuFeatures {
    tsc_khz: Some(2_500_000),
    tsc_deadline: true,
    pv_hypercalls: true,
    nested: false,
    brand: None,
};

fn table(supported: &[kvm_cpuid_entry2], cpus: u8, features: &CpuFeatures<'_>) -> GuestCpuid {
    let supported = CpuId::from_entries(supported).unwrap();
    GuestCpuid::new(&supported, Topology { cpus: NonZeroU8::new(cpus).unwrap() }, features).unwrap()
}

fn guest(supported: &[kvm_cpuid_entry2], cpus: u8, features: &CpuFeatures<'_>) -> CpuId {
    table(supported, cpus, features).for_cpu(cpus - 1).unwrap()
}

fn at(cpuid: &CpuId, function: u32, index: u32) -> [u32; 4] {
    let found = |entry: &&kvm_cpuid_entry2| (entry.function, entry.index) == (function, index);
    let entry = cpuid.as_slice().iter().find(found).unwrap_or_else(|| panic!("no {function:#x}.{index}"));
    [entry.eax, entry.ebx, entry.ecx, entry.edx]
}

fn has(cpuid: &CpuId, function: u32) -> bool {
    cpuid.as_slice().iter().any(|entry| entry.function == function)
}

fn bit(value: u32, bit: u32) -> bool {
    value >> bit & 1 == 1
}

#[test]
fn leaf_1_identifies_the_processor_and_counts_the_package() {
    for (cpus, intel_count, amd_count) in [(1, 1, 1), (3, 4, 3), (64, 64, 64), (255, 255, 255)] {
        for (supported, count) in [(intel(), intel_count), (amd(), amd_count)] {
            let [eax, ebx, ecx, edx] = at(&guest(&supported, cpus, &FEATURES), 1, 0);
            assert_eq!(eax, supported[1].eax);
            assert_eq!(ebx, u32::from(cpus - 1) << 24 | count << 16 | 0x0800, "CLFLUSH is kept");
            assert!(bit(ecx, 31), "hypervisor");
            assert!(bit(ecx, 21), "x2APIC");
            assert_eq!(bit(edx, 28), cpus > 1, "several processors");
        }
    }
}

#[test]
fn the_deadline_timer_is_offered_only_where_kvm_has_it() {
    for (supported, tsc_deadline) in [(0, true), (ALL, false)] {
        let supported = [leaf(1, [0, 0, supported, 0])];
        let features = CpuFeatures { tsc_deadline, ..FEATURES };
        assert_eq!(bit(at(&guest(&supported, 1, &features), 1, 0)[2], 24), tsc_deadline);
    }
}

#[test]
fn virtualization_is_hidden_unless_asked_for() {
    for nested in [false, true] {
        let features = CpuFeatures { nested, ..FEATURES };
        assert_eq!(bit(at(&guest(&intel(), 1, &features), 1, 0)[2], 5), nested, "VMX");
        let amd = guest(&amd(), 1, &features);
        assert_eq!(bit(at(&amd, 0x8000_0001, 0)[2], 2), nested, "SVM");
        assert_eq!(at(&amd, 0x8000_000a, 0) != [0; 4], nested);
    }
}

#[test]
fn performance_counters_and_enclaves_are_hidden() {
    let intel = guest(&intel(), 2, &FEATURES);
    assert_eq!(at(&intel, 0xa, 0), [0; 4]);
    assert_eq!(at(&intel, 0x12, 0), [0; 4]);
    let [_, _, ecx, edx] = at(&intel, 1, 0);
    assert!(!bit(ecx, 2) && !bit(ecx, 4) && !bit(ecx, 15) && !bit(edx, 21));
    assert_eq!(at(&intel, 7, 0), [1, ALL & !(1 << 2), ALL & !(1 << 30), ALL & !(1 << 19)]);
    assert_eq!(at(&intel, 7, 1), [0x10, 0, 0, 0]);
    let ecx = at(&guest(&amd(), 2, &FEATURES), 0x8000_0001, 0)[2];
    assert!(!bit(ecx, 23) && !bit(ecx, 24) && !bit(ecx, 28));
    assert!(bit(ecx, 22), "the topology extensions stay");
}

#[test]
fn no_feature_is_offered_beyond_the_supported_ones() {
    let none: Vec<_> = intel()
        .into_iter()
        .map(|entry| match entry.function {
            1 | 7 | 0x8000_0001 => kvm_cpuid_entry2 { ecx: 0, edx: 0, ebx: 0, ..entry },
            _ => entry,
        })
        .collect();
    let cpuid = guest(&none, 1, &FEATURES);
    let [_, _, ecx, edx] = at(&cpuid, 1, 0);
    assert_eq!((ecx, edx), (1 << 31 | 1 << 24, 0), "hypervisor and deadline timer are KVM's own");
    assert_eq!(at(&cpuid, 7, 0), [1, 0, 0, 0]);
    assert_eq!(at(&cpuid, 0x8000_0001, 0), [0; 4]);
}

#[test]
fn intel_caches_are_shared_by_level() {
    for (cpus, ids, cores) in [(1, 1, 1), (2, 2, 2), (3, 4, 4), (255, 256, 64)] {
        let cpuid = guest(&intel(), cpus, &FEATURES);
        for (index, (kind, sharers)) in (0..).zip([(0x121, 1), (0x143, 1), (0x163, ids)]) {
            let [eax, ..] = at(&cpuid, 4, index);
            assert_eq!(eax, (cores - 1) << 26 | (sharers - 1) << 14 | kind, "{cpus} {index}");
        }
        assert_eq!(at(&cpuid, 4, 3), [0; 4], "the end stays one");
    }
}

#[test]
fn amd_topology_counts_cores() {
    for (cpus, bits) in [(1, 0), (2, 1), (3, 2), (255, 8)] {
        let cpuid = guest(&amd(), cpus, &FEATURES);
        let (id, count) = (u32::from(cpus) - 1, u32::from(cpus));
        assert_eq!(at(&cpuid, 0x8000_0008, 0)[2], 0x0001_0000 | bits << 12 | (count - 1));
        assert_eq!(bit(at(&cpuid, 0x8000_0001, 0)[2], 1), cpus > 1, "cores, not threads");
        assert_eq!(at(&cpuid, 0x8000_001d, 0)[0], 0x0000_0121);
        assert_eq!(at(&cpuid, 0x8000_001d, 1)[0], (count - 1) << 14 | 0x163);
        assert_eq!(at(&cpuid, 0x8000_001d, 2), [0; 4]);
        assert_eq!(at(&cpuid, 0x8000_001e, 0), [id, id, 0, 0]);
    }
}

#[test]
fn extended_topology_lists_threads_and_cores_and_ends() {
    for (cpus, bits) in [(1, 0), (2, 1), (3, 2), (255, 8)] {
        let table = table(&intel(), cpus, &FEATURES);
        for id in [0, cpus - 1] {
            let cpuid = table.for_cpu(id).unwrap();
            for leaf in [0xb, 0x1f] {
                let id = u32::from(id);
                assert_eq!(at(&cpuid, leaf, 0), [0, 1, 0x100, id]);
                assert_eq!(at(&cpuid, leaf, 1), [bits, cpus.into(), 0x201, id]);
                assert_eq!(at(&cpuid, leaf, 2), [0, 0, 2, id]);
            }
        }
    }
    // The second version only where there was one; the first always.
    let amd = guest(&amd(), 2, &FEATURES);
    assert!(has(&amd, 0xb) && !has(&amd, 0x1f));
}

#[test]
fn frequencies_are_told_in_the_vendors_way() {
    let intel_cpuid = guest(&intel(), 1, &FEATURES);
    assert_eq!(at(&intel_cpuid, 0x15, 0), [2, 5, 1_000_000_000, 0]);
    assert_eq!(at(&intel_cpuid, 0x16, 0), [2500, 2500, 100, 0]);
    let amd_cpuid = guest(&amd(), 1, &FEATURES);
    assert!(!has(&amd_cpuid, 0x15) && !has(&amd_cpuid, 0x16));
    for cpuid in [intel_cpuid, amd_cpuid] {
        assert_eq!(at(&cpuid, 0x4000_0010, 0), [2_500_000, 1_000_000, 0, 0]);
    }

    let unknown = CpuFeatures { tsc_khz: None, ..FEATURES };
    let cpuid = guest(&intel(), 1, &unknown);
    assert!(!has(&cpuid, 0x15) && !has(&cpuid, 0x4000_0010));
    assert_eq!(at(&cpuid, 0x4000_0000, 0)[0], 0x4000_0001);
    let odd = CpuFeatures { tsc_khz: Some(2_499_998), ..FEATURES };
    assert_eq!(at(&guest(&intel(), 1, &odd), 0x16, 0)[0], 2500);
}

#[test]
fn the_timer_never_stops() {
    for supported in [intel(), amd()] {
        assert_eq!(at(&guest(&supported, 1, &FEATURES), 6, 0), [1 << 2, 0, 0, 0]);
    }
}

#[test]
fn kvm_features_that_need_hypercalls_can_be_withheld() {
    for (pv_hypercalls, expected) in [(true, 0x0101_7efb), (false, 0x0100_567b)] {
        let features = CpuFeatures { pv_hypercalls, ..FEATURES };
        let cpuid = guest(&intel(), 2, &features);
        let [last, ebx, ecx, edx] = at(&cpuid, 0x4000_0000, 0);
        assert_eq!(last, 0x4000_0010);
        assert_eq!([ebx, ecx, edx].map(u32::to_le_bytes).concat(), b"KVMKVMKVM\0\0\0");
        let [offered, ..] = at(&cpuid, 0x4000_0001, 0);
        assert_eq!(offered, expected);
        assert!(bit(offered, 3) && bit(offered, 24), "the clock and its stability");
    }
}

fn name(features: &CpuFeatures<'_>) -> Vec<u8> {
    let cpuid = guest(&intel(), 1, features);
    let registers = [2, 3, 4].map(|leaf| at(&cpuid, 0x8000_0000 + leaf, 0));
    registers.as_flattened().iter().flat_map(|register| register.to_le_bytes()).collect()
}

#[test]
fn the_name_fills_48_bytes() {
    let expect = |features: &CpuFeatures<'_>, expected: &str| {
        let name = name(features);
        assert_eq!(name.len(), 48);
        let (text, padding) = name.split_at(expected.len());
        assert_eq!(text, expected.as_bytes());
        assert!(padding.iter().all(|byte| *byte == 0) && !padding.is_empty());
    };
    expect(&FEATURES, "Bantam virtual CPU @ 2.50GHz");
    expect(&CpuFeatures { tsc_khz: Some(2_499_998), ..FEATURES }, "Bantam virtual CPU @ 2.50GHz");
    expect(&CpuFeatures { tsc_khz: Some(999_000), ..FEATURES }, "Bantam virtual CPU @ 1.00GHz");
    expect(&CpuFeatures { tsc_khz: None, ..FEATURES }, "Bantam virtual CPU");
    for given in ["", "A", &"x".repeat(47)] {
        expect(&CpuFeatures { brand: Some(given), ..FEATURES }, given);
    }
}

#[test]
fn a_name_that_does_not_fit_is_refused() {
    let supported = CpuId::from_entries(&intel()).unwrap();
    for brand in ["x".repeat(48), "tab\t".to_owned(), "nul\0".to_owned(), "é".to_owned()] {
        let features = CpuFeatures { brand: Some(&brand), ..FEATURES };
        let error = GuestCpuid::new(&supported, Topology { cpus: NonZeroU8::MIN }, &features).unwrap_err();
        assert_eq!(error, Error::Brand { brand: brand.clone() });
    }
}

#[test]
fn entries_are_in_order_with_their_flags_and_the_last_leaves() {
    for supported in [intel(), amd(), Vec::new()] {
        let cpuid = guest(&supported, 3, &FEATURES);
        let keys: Vec<_> = cpuid.as_slice().iter().map(|entry| (entry.function, entry.index)).collect();
        assert!(keys.is_sorted_by(|a, b| a < b), "{keys:x?}");
        for entry in cpuid.as_slice() {
            let indexed = matches!(entry.function, 4 | 7 | 0xb | 0xd | 0x12 | 0x1f | 0x8000_001d);
            assert_eq!(entry.flags, if indexed { INDEXED } else { 0 }, "{:#x}", entry.function);
            let last = at(&cpuid, entry.function & 0xf000_0000, 0)[0];
            assert!(entry.function <= last, "{:#x}", entry.function);
        }
    }
    assert_eq!(at(&guest(&intel(), 1, &FEATURES), 0, 0)[0], 0x1f, "not lowered");
    assert_eq!(at(&guest(&amd(), 1, &FEATURES), 0, 0)[0], 0xd, "not raised without need");
}

#[test]
fn a_table_too_long_for_kvm_is_refused() {
    let supported: Vec<_> = (0..256).map(|index| subleaf(0x14, index, [0; 4])).collect();
    let supported = CpuId::from_entries(&supported).unwrap();
    let error = GuestCpuid::new(&supported, Topology { cpus: NonZeroU8::MIN }, &FEATURES).unwrap_err();
    assert!(matches!(error, Error::Entries { count } if count > 256), "{error}");
}

#[test]
fn a_processor_that_is_not_there_has_no_table() {
    let cpus = NonZeroU8::new(2).unwrap();
    let error = table(&intel(), 2, &FEATURES).for_cpu(2).unwrap_err();
    assert_eq!(error, Error::Index { index: 2, cpus });
}

#[test]
fn kvm_takes_the_table_and_the_boot_msrs() {
    let kvm = match Kvm::new() {
        Ok(kvm) => kvm,
        Err(error) => {
            crate::testing::skip(&format!("/dev/kvm: {error}"));
            return;
        }
    };
    let supported = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).unwrap();
    let vm = kvm.create_vm().unwrap();
    let vcpu = vm.create_vcpu(0).unwrap();
    for features in [FEATURES, CpuFeatures { tsc_khz: vcpu.get_tsc_khz().ok(), ..Default::default() }] {
        for cpus in [1, 2, 255] {
            let cpus = NonZeroU8::new(cpus).unwrap();
            let table = GuestCpuid::new(&supported, Topology { cpus }, &features).unwrap();
            vcpu.set_cpuid2(&table.for_cpu(cpus.get() - 1).unwrap()).unwrap();
        }
    }
    let msrs = kvm_bindings::Msrs::from_entries(&crate::boot::msr::BOOT_MSRS).unwrap();
    assert_eq!(vcpu.set_msrs(&msrs).unwrap(), crate::boot::msr::BOOT_MSRS.len());
}

/// A host's list need not have what a guest is told of the machine: several processors, a hypervisor, the
/// deadline timer.
#[test]
fn a_guest_finds_what_it_was_promised_on_its_own_host() {
    for mut supported in [intel(), amd()] {
        for leaf in &mut supported {
            match leaf.function {
                1 => (leaf.ecx, leaf.edx) = (leaf.ecx & !(1 << 31 | 1 << 24), leaf.edx & !(1 << 28)),
                0x8000_0001 => leaf.ecx &= !(1 << 1),
                _ => {}
            }
        }
        for cpus in [1, 2, 255] {
            let guest = guest(&supported, cpus, &FEATURES);
            assert_eq!(missing(guest.as_slice(), &supported), [""; 0], "{cpus} processors");
            let mut less = supported.clone();
            less[1].edx &= !(1 << 15);
            assert_eq!(missing(guest.as_slice(), &less), ["CPUID.1:EDX[15]"]);
        }
    }
}
