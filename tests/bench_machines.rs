//! `bantam bench restore`, `fork`, `memory` and `scale`: every figure is there, and what does not depend on speed holds.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use bantam::bench::results::{Case, Results};
use common::kvm;
use common::process::{bantam, finish};

const FLOOR: &str = "floor";
const BANTAM: &str = "bantam";
const LIBRARY: &str = "bantam-library";

/// Results of a group, measured as quickly as can be; none without KVM.
fn bench(group: &str) -> Option<Results> {
    kvm()?;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let arguments = ["bench", group, "--quick", "--rounds", "2", "--json", "--folder", path];
    let ended = finish(&mut bantam(arguments));
    assert_eq!(ended.code(), 0, "{}", ended.stderr);
    assert!(folder.path().read_dir().unwrap().next().is_none(), "files are left behind");
    let results: Results = serde_json::from_str(&ended.stdout).unwrap();
    for case in &results.cases {
        for vmm in &results.vmms {
            assert!(case.of(&vmm.name).is_some(), "{}: no word of {}", case.figure.id, vmm.name);
        }
        for sample in case.series.iter().filter_map(|series| series.measured()).flat_map(|of| &of.samples) {
            assert!(sample.is_none_or(|sample| sample > 0.0 && sample.is_finite()), "{case:?}");
        }
    }
    Some(results)
}

fn case<'a>(results: &'a Results, id: &str) -> &'a Case {
    let case = results.cases.iter().find(|case| case.figure.id == id);
    case.unwrap_or_else(|| {
        let ids: Vec<_> = results.cases.iter().map(|case| &case.figure.id).collect();
        panic!("no {id} among {ids:?}")
    })
}

/// The median of what someone has measured.
fn of(results: &Results, id: &str, vmm: &str) -> f64 {
    let case = case(results, id);
    let series = case.of(vmm).unwrap_or_else(|| panic!("{id}: no {vmm}"));
    series.measured().unwrap_or_else(|| panic!("{id}: {series:?}")).summary.p50
}

/// All of these have measured it.
fn assert_measured(results: &Results, id: &str, vmms: &[&str]) {
    for vmm in vmms {
        of(results, id, vmm);
    }
}

#[test]
fn restore() {
    let Some(results) = bench("restore") else { return };
    for size in ["16MiB", "256MiB", "1GiB"] {
        let id = format!("restore/first-instruction@{size}");
        assert_measured(&results, &id, &[FLOOR, BANTAM]);
        assert_eq!(case(&results, &id).figure.point.as_ref().unwrap().curve, "restore/first-instruction");
    }
    assert_measured(&results, "restore/process-first-byte", &[BANTAM]);
    assert_measured(&results, "restore/diff-pause", &[BANTAM]);
    let mib = of(&results, "restore/diff-written", BANTAM) / f64::from(1 << 20);
    assert!((16.0..18.0).contains(&mib), "a guest that changes 16 MiB has a diff of {mib} MiB");
    for spread in ["spread2", "spread8"] {
        let id = format!("restore/working-set@{spread}");
        assert_measured(&results, &id, &[BANTAM, "bantam-lazy"]);
        let lazy = case(&results, &id).of("bantam-lazy").unwrap().measured().unwrap();
        assert!(lazy.ratio_to(BANTAM).is_some(), "{lazy:?}");
    }
}

#[test]
fn fork() {
    let Some(results) = bench("fork") else { return };
    assert_measured(&results, "fork/running@100", &[FLOOR, BANTAM]);
    assert_measured(&results, "fork/told@100", &[BANTAM]);
    let each = of(&results, "fork/pss-each@100", BANTAM);
    let limit = f64::from(16 << 20);
    assert!(each < limit, "copies of 256 MiB share what they do not change, and take {each} bytes each");
}

#[test]
fn memory() {
    let Some(results) = bench("memory") else { return };
    let figure = |name: &str| of(&results, &format!("memory/{name}"), BANTAM);
    for name in ["pss", "anonymous", "threads"] {
        assert_measured(&results, &format!("memory/{name}"), &[FLOOR, BANTAM]);
    }
    assert!(figure("anonymous") <= figure("pss"));
    assert!(figure("threads") >= 1.0);
    assert!(figure("program") <= figure("program-and-libraries"));
    let own = std::fs::metadata(env!("CARGO_BIN_EXE_bantam")).unwrap().len();
    assert_eq!(format!("{own}"), format!("{}", figure("program")));
    for count in [1, 10, 100] {
        assert_measured(&results, &format!("memory/each@{count}"), &[FLOOR, BANTAM, LIBRARY]);
    }
    let each = |count| of(&results, &format!("memory/each@{count}"), BANTAM);
    assert!(each(100) < each(1), "machines share their program");
}

#[test]
fn scale() {
    let Some(results) = bench("scale") else { return };
    assert_measured(&results, "scale/boots", &[FLOOR, BANTAM, LIBRARY]);
    assert_measured(&results, "scale/per-gib", &[FLOOR, BANTAM, LIBRARY]);
    for count in [1, 10, 50, 100] {
        assert_measured(&results, &format!("scale/start@{count}"), &[FLOOR, BANTAM, LIBRARY]);
        assert_measured(&results, &format!("scale/pss@{count}"), &[FLOOR, BANTAM, LIBRARY]);
    }
}
