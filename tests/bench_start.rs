//! `bantam bench start`, beside every VMM that is installed.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail")]

mod common;

use std::process::Command;

use bantam::bench::results::{Outcome, Results};
use bantam::bench::{BANTAM, FLOOR};
use common::process::bantam;
use common::{kvm, skip};

#[test]
fn every_vmm_that_is_here_is_measured_from_exec_to_exit() {
    if kvm().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("results.json");
    let mut command = bantam(["bench", "start", "--rounds", "3", "--json"]);
    let output = command.arg("--output").arg(&file).arg("--folder").arg(folder.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed: Results = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(printed, serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap());

    let case = |id: &str| printed.cases.iter().find(|case| case.figure.id == id).unwrap();
    let samples = |id: &str, vmm: &str| {
        let measured = case(id).of(vmm).unwrap().measured().unwrap_or_else(|| panic!("{vmm} {id}"));
        measured.samples.iter().map(|sample| sample.unwrap()).collect::<Vec<_>>()
    };
    for vmm in [FLOOR, BANTAM] {
        let (exit, first, down) =
            (samples("start/exit", vmm), samples("start/first-byte", vmm), samples("start/tear-down", vmm));
        assert_eq!(exit.len(), 3);
        for ((exit, first), down) in exit.iter().zip(&first).zip(&down) {
            assert!(
                *first > 0.0 && *down > 0.0 && (exit - first - down).abs() < 1.0,
                "{first} {down} {exit}"
            );
        }
    }
    let phases =
        printed.cases.iter().filter(|case| case.figure.part_of.as_deref() == Some("start/first-byte"));
    let phases: f64 = phases.map(|case| case.of(BANTAM).unwrap().measured().unwrap().summary.p50).sum();
    assert!(phases > 0.0);
    let ratio = case("start/exit").of(BANTAM).unwrap().measured().unwrap().ratio_to(FLOOR).unwrap().clone();
    assert!(ratio.low <= ratio.p50 && ratio.p50 <= ratio.high);

    if Command::new("qemu-system-x86_64").arg("--version").output().is_err() {
        skip::<()>("the part with QEMU: qemu-system-x86_64 is not installed");
        return;
    }
    match &case("start/exit").of("qemu").unwrap().outcome {
        Outcome::Measured(measured) => assert!(measured.summary.min > 0.0),
        Outcome::NotSupported(why) => panic!("QEMU: {why}"),
    }
}

#[test]
fn mistakes_are_told_before_anything_is_measured() {
    let said = |arguments: &[&str]| {
        let output = bantam(arguments.iter().copied()).output().unwrap();
        assert!(!output.status.success(), "{arguments:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(said(&["bench", "start", "--vmm", "vbox=/bin/true"]).contains("no adapter for a VMM vbox"));
    assert!(said(&["bench", "start", "--vmm", "qemu=/nowhere"]).contains("/nowhere"));
    assert!(said(&["bench", "start", "--vmm", "qemu"]).contains("NAME=PATH"));
    assert!(said(&["bench", "start", "--rounds", "1"]).contains("--rounds"));
    assert!(said(&["bench", "start", "--output", "/nowhere/r.json"]).contains("/nowhere/r.json"));
    assert!(said(&["bench", "linux"]).contains("--kernel"));
    assert!(said(&["bench", "compare", "/nowhere", "/nowhere"]).contains("/nowhere"));
    let folder = tempfile::tempdir().unwrap();
    let old = folder.path().join("old.json");
    std::fs::write(&old, "{\"schema\": 77}").unwrap();
    let old = old.to_str().unwrap();
    assert!(said(&["bench", "compare", old, old]).contains("schema 77"));
}
