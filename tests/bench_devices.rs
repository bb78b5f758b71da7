//! `bantam bench block`, `net` and `vsock`: every figure is there, of everyone or with a reason.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::fs;

use bantam::bench::results::{Measured, Outcome, Results};
use common::process::{bantam, finish};
use common::{kvm, skip};

const FLOOR: &str = "floor";
const BANTAM: &str = "bantam";
const FIO: &str = "fio";

/// Results of a group, measured as quickly as can be; none without KVM.
fn bench(group: &str) -> Option<Results> {
    kvm()?;
    let folder = tempfile::tempdir().unwrap();
    let mut command = bantam(["bench", group, "--quick", "--rounds", "2", "--json", "--folder"]);
    let ended = finish(command.arg(folder.path()));
    assert_eq!(ended.code(), 0, "{}", ended.stderr);
    assert!(fs::read_dir(folder.path()).unwrap().next().is_none(), "files are left behind");
    let results: Results = serde_json::from_str(&ended.stdout).unwrap();
    for case in &results.cases {
        for vmm in &results.vmms {
            assert!(case.of(&vmm.name).is_some(), "{}: no word of {}", case.figure.id, vmm.name);
        }
        let samples = case.series.iter().filter_map(|series| series.measured()).flat_map(|of| &of.samples);
        for sample in samples.flatten() {
            assert!(*sample > 0.0 && sample.is_finite(), "{case:?}");
        }
    }
    Some(results)
}

/// What someone has measured, or why not.
fn of<'a>(results: &'a Results, id: &str, vmm: &str) -> Result<&'a Measured, &'a str> {
    let case = results.cases.iter().find(|case| case.figure.id == id);
    let series =
        case.and_then(|case| case.of(vmm)).unwrap_or_else(|| panic!("no {vmm} in {id}: {results:?}"));
    match &series.outcome {
        Outcome::Measured(measured) => Ok(measured),
        Outcome::NotSupported(why) => Err(why),
    }
}

/// All figures, and how they compare with a reference's of the same rounds.
fn assert_beside(results: &Results, ids: &[&str], reference: &str) {
    let found: Vec<_> = results.cases.iter().map(|case| case.figure.id.as_str()).collect();
    assert_eq!(found, ids);
    for id in ids {
        let ours = of(results, id, BANTAM).unwrap();
        let theirs = of(results, id, reference).unwrap();
        assert_eq!((ours.summary.n, theirs.samples.len()), (2, 2), "{id}");
        let pairs = ours.samples.iter().zip(&theirs.samples);
        let ratios: Vec<_> = pairs.filter_map(|(ours, theirs)| Some((*ours)? / (*theirs)?)).collect();
        let mean = ratios.iter().sum::<f64>() / ratios.len() as f64;
        let told = ours.ratio_to(reference).unwrap().p50;
        assert!((told / mean - 1.0).abs() < 1e-9, "{id}: {told}, {ratios:?}");
    }
}

#[test]
fn block_is_measured_beside_fio_on_the_same_file() {
    let Some(results) = bench("block") else { return };
    let ids = ["cached", "direct"].map(|cache| {
        ["randread", "latency", "seqread", "seqwrite"].map(|work| format!("block/{work}-{cache}"))
    });
    let ids: Vec<_> = ids.as_flattened().iter().map(String::as_str).collect();
    assert!(of(&results, ids[0], FLOOR).is_err(), "the bare calls have no disk");
    if let Err(why) = of(&results, ids[0], FIO) {
        let _ = skip::<()>(&format!("beside fio: {why}"));
        return;
    }
    if let Err(why) = of(&results, "block/randread-direct", BANTAM) {
        let _ = skip::<()>(&format!("past the page cache: {why}"));
        return;
    }
    assert_beside(&results, &ids, FIO);
}

#[test]
fn net_is_measured_beside_bare_reads_and_writes_of_the_tap() {
    let Some(results) = bench("net") else { return };
    let ids = ["net/send-64", "net/send-1514", "net/send-gso", "net/receive-64", "net/receive-1514"];
    match of(&results, ids[0], BANTAM) {
        Ok(_) => assert_beside(&results, &ids, FLOOR),
        // Then nobody else has it either.
        Err(why) => {
            assert_eq!(of(&results, ids[0], FLOOR), Err(why));
            let _ = skip::<()>(why);
        }
    }
}

#[test]
fn vsock_is_measured_beside_two_threads_of_the_host() {
    let Some(results) = bench("vsock") else { return };
    assert_beside(&results, &["vsock/to-host", "vsock/to-guest", "vsock/round-trip"], FLOOR);
}
