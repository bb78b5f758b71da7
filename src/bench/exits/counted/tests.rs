use super::*;

fn tally(ports: u64, mmio: u64, in_kvm: u64, in_vmm: u64, counters: &[(&str, u64)]) -> Tally {
    let counters = counters.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
    let (in_kvm, in_vmm) = (Duration::from_nanos(in_kvm), Duration::from_nanos(in_vmm));
    Tally { ports, mmio, in_kvm, in_vmm, counters }
}

/// A run of 100 exits each.
fn counted(kinds: Vec<(&str, f64, Tally)>) -> Counted {
    let line = |mean: f64| Line { n: 100, p50: mean, mean };
    Counted {
        guest: kinds.iter().map(|(kind, mean, _)| ((*kind).to_owned(), line(*mean))).collect(),
        kinds: kinds.into_iter().map(|(kind, _, tally)| (kind.to_owned(), tally)).collect(),
    }
}

#[test]
fn parts_make_up_the_whole_or_it_shows() {
    let counted = counted(vec![
        ("none", 7.0, tally(0, 0, 1000, 0, &[])),
        ("pio", 1000.0, tally(100, 0, 80_000, 20_000, &[])),
        ("mmio", 1000.0, tally(0, 100, 40_000, 10_000, &[])),
        ("cpuid", 500.0, tally(0, 0, 50_000, 0, &[])),
    ]);
    let pio = counted.parts("pio").unwrap();
    let expected = Parts { whole: 1000.0, guest: 7.0, kvm: 793.0, vmm: Some(200.0), made: 100, exits: 100 };
    assert_eq!(pio, expected);
    assert!((pio.accounted() - 1.0).abs() < 1e-9);
    assert!((counted.parts("mmio").unwrap().accounted() - 0.5).abs() < 1e-9, "half was forgotten");
    let cpuid = counted.parts("cpuid").unwrap();
    assert_eq!((cpuid.kvm, cpuid.vmm, cpuid.exits), (493.0, None, 0));
    assert!(counted.parts("hlt").is_err());
}

#[test]
fn the_guests_own_time_is_no_more_than_there_is() {
    let counted = counted(vec![
        ("none", 700.0, tally(0, 0, 70_000, 0, &[])),
        ("cpuid", 500.0, tally(0, 0, 50_000, 0, &[])),
    ]);
    let parts = counted.parts("cpuid").unwrap();
    assert_eq!((parts.guest, parts.kvm), (500.0, 0.0));
}

#[test]
fn kvms_counts_are_held_against_what_they_count() {
    let kvm = [("io_exits", 101), ("mmio_exits", 0), ("halt_exits", 3), ("exits", 150)];
    let counted = counted(vec![
        ("pio", 1.0, tally(100, 0, 0, 0, &kvm)),
        ("mmio", 1.0, tally(0, 100, 0, 0, &[("io_exits", 1), ("mmio_exits", 90), ("exits", 153)])),
        ("hlt", 1.0, tally(0, 0, 0, 0, &[("halt_exits", 100)])),
    ]);
    assert_eq!(counted.agreement("io_exits"), Some(1.0));
    assert_eq!(counted.agreement("mmio_exits"), Some(0.9));
    assert_eq!(counted.agreement("halt_exits"), Some(1.0));
    assert_eq!(counted.agreement("exits"), Some(1.5));
    assert_eq!(counted.agreement("nmi_injections"), None);
}
