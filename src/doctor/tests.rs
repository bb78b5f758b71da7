use super::testing::{Tree, healthy, probes};
use super::*;
use crate::hypervisor::Error;

#[test]
fn a_host_with_everything_has_no_remarks() {
    let report = Report::of(&healthy().root, &probes());
    let remarks: Vec<_> = report.checks.iter().filter(|check| check.status.is_remark()).collect();
    assert!(remarks.is_empty(), "{remarks:#?}");
    assert!(report.can_run());
    assert_eq!(report.verdict(), "This host runs Bantam.");
    assert_eq!(report.guest_mips, Some(Mips { cpl0: 2400.0, cpl3: 2500.0 }));
}

#[test]
fn a_host_that_tells_nothing_is_examined_to_the_end() {
    let all = Report::of(&healthy().root, &probes()).checks.len();
    let report = Report::of(&Tree::of(&[]).root, &probes());
    assert_eq!(report.checks.len(), all);
    assert!(report.can_run(), "files are not what machines run on");
}

#[test]
fn without_kvm_all_else_is_still_checked_and_the_verdict_names_what_to_mend() {
    let answers = || Probes { kvm: Err(Error::Missing), guest: None, ..probes() };
    let report = Report::of(&healthy().root, &answers());
    assert_eq!(report.checks.len(), Report::of(&healthy().root, &probes()).checks.len());
    assert!(!report.can_run());
    assert_eq!(report.verdict(), "Bantam cannot run here: /dev/kvm: does not exist.");
    assert_eq!(report.guest_mips, None);
    let obstacles = report.checks.iter().filter(|check| check.status == Status::Missing).count();
    assert_eq!(obstacles, 1, "one cause, one obstacle");
}

#[test]
fn a_guest_that_does_not_run_is_an_obstacle_and_a_slow_one_a_remark() {
    let answers = Probes { guest: Some(Err(speed::Error::Late)), ..probes() };
    let report = Report::of(&healthy().root, &answers);
    assert!(!report.can_run() && report.guest_mips.is_none());

    let slow = Mips { cpl0: 0.5, cpl3: 2500.0 };
    let report = Report::of(&healthy().root, &Probes { guest: Some(Ok(slow)), ..probes() });
    assert!(report.can_run());
    assert_eq!(report.verdict(), "This host runs Bantam, with 1 remark.");
    assert_eq!(report.guest_mips, Some(slow));
}

#[test]
fn names_are_unique() {
    let checks = Report::of(&healthy().root, &probes()).checks;
    let names: std::collections::HashSet<_> = checks.iter().map(|check| check.name).collect();
    assert_eq!(names.len(), checks.len());
}

#[test]
fn this_host_is_said_to_run_machines_if_it_does() {
    if crate::testing::hypervisor().is_none() {
        return;
    }
    let report = examine();
    assert!(report.can_run(), "{}", report.verdict());
    let mips = report.guest_mips.unwrap();
    assert!(mips.cpl3 > 0.0, "{mips:?}");
}
