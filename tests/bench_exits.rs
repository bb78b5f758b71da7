//! `bantam bench exits`: all its figures are there, they make up a whole, and who counts counts the same.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::time::Duration;

use bantam::bench::results::{Case, Outcome, Results};
use common::process::{bantam, start};
use common::{kvm, skip};

/// How long a run may take before it counts as hanging.
const PATIENCE: Duration = Duration::from_secs(900);
/// How much of the round trip may be missing, or be there twice.
const TOLERANCE: f64 = 0.1;

fn samples(case: &Case) -> Vec<f64> {
    let measured = case.of("bantam").and_then(|series| series.measured());
    measured.map_or_else(Vec::new, |measured| measured.samples.iter().flatten().copied().collect())
}

/// Why Bantam has no figure.
fn lack(case: &Case) -> &str {
    match case.of("bantam").map(|series| &series.outcome) {
        Some(Outcome::NotSupported(why)) => why,
        _ => "",
    }
}

#[test]
fn every_exit_is_measured_accounted_for_and_counted() {
    if kvm().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut command = bantam(["bench", "exits", "--quick", "--rounds", "2", "--json", "--folder"]);
    let ended = start(command.arg(folder.path())).patient(PATIENCE).finish();
    assert_eq!(ended.code(), 0, "{}", ended.stderr);
    let results: Results = serde_json::from_str(&ended.stdout).unwrap();
    let case = |id: &str| {
        let found = results.cases.iter().find(|case| case.figure.id == id);
        found.unwrap_or_else(|| panic!("no {id} in {:?}", results.cases))
    };

    let both = ["pio-out", "pio-in", "mmio-read", "mmio-write", "serial-out", "cpuid", "page-fault", "kick"];
    let names = both.iter().flat_map(|name| [format!("{name}-cpl3"), format!("{name}-cpl0")]);
    for name in names.chain(["hlt-wake-cpl0".to_owned()]) {
        let of = |part: &str| samples(case(&format!("exits/{name}{part}")));
        let (round_trip, whole, accounted) = (of(""), of("/whole"), of("/accounted"));
        assert_eq!((round_trip.len(), whole.len(), accounted.len()), (2, 2, 2), "{name}");
        assert!(round_trip.iter().chain(&whole).all(|sample| *sample > 0.0), "{name}");
        // What KVM does alone has no part of the VMM's, and says so.
        let vmm = of("/vmm");
        let alone = ["cpuid", "page-fault", "kick", "hlt"].iter().any(|kind| name.starts_with(kind));
        assert_eq!(vmm.is_empty(), alone, "{name}");
        for (round, (whole, accounted)) in whole.iter().zip(&accounted).enumerate() {
            let part = |part| of(part).get(round).copied().unwrap_or_default();
            let sum = part("/guest") + part("/kvm") + part("/vmm");
            assert!((sum / whole - 1.0).abs() < TOLERANCE, "{name}: {sum} of {whole}");
            assert!((sum / whole - accounted).abs() < 1e-9, "{name}: {accounted}");
        }
    }
    assert_eq!(samples(case("exits/interrupt-cpl3")).len(), 2);
    let hypercalls = case("exits/hypercall-cpl3");
    assert!(!samples(hypercalls).is_empty() || lack(hypercalls).contains("do not reach"), "{hypercalls:?}");
    assert_eq!(results.cases.iter().filter(|case| case.figure.id.starts_with("exits/dispatch-")).count(), 10);

    for (counter, most) in
        [("io-exits", 1.01), ("mmio-exits", 1.01), ("halt-exits", 1.5), ("exits", f64::MAX)]
    {
        let case = case(&format!("exits/kvm-{counter}-cpl0"));
        match samples(case).as_slice() {
            [] => skip(&format!("{counter}: {}", lack(case))).unwrap_or_default(),
            ratios => {
                assert!(ratios.iter().all(|ratio| (0.99..=most).contains(ratio)), "{counter}: {ratios:?}")
            }
        }
    }
}
