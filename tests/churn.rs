//! The embedded guest's jobs by which a snapshot is proved right: that they find nothing wrong where nothing
//! is, and what is.

// The helpers here are a test's too: they may fail as loudly.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::thread;
use std::time::Duration;

use bantam::config::{BootMode, Devices, MachineConfig, parse_options};
use common::live::{Live, word};
use common::netns::in_network_of_its_own;
use common::{config, kvm, number, run_to_power_off};

fn disk(words: &str, path: &Path) -> MachineConfig {
    File::create(path).unwrap().set_len(32 << 20).unwrap();
    let devices = Devices {
        disk: vec![parse_options(&format!("path={}", path.display())).unwrap()],
        ..Devices::default()
    };
    MachineConfig { devices, ..config(words) }
}

#[test]
fn churn_finds_nothing_wrong_on_any_number_of_cpus() {
    let Some(kvm) = kvm() else { return };
    for (cpus, boot) in [(1, BootMode::Pvh), (2, BootMode::Linux64), (3, BootMode::Pvh)] {
        let words = "quiet churn count=40 every=8 touch=3";
        let ran = run_to_power_off(&kvm, MachineConfig { cpus, boot, ..config(words) });
        assert_eq!(ran.number("churn ready ", "cpus"), u64::from(cpus));
        assert!(ran.number("churn ready ", "special") > 0, "{}", ran.text);
        let rounds = ran.text.lines().filter(|line| line.starts_with("churn round="));
        assert_eq!(rounds.clone().count(), 4, "{}", ran.text);
        for (line, round) in rounds.zip((8..).step_by(8)) {
            assert_eq!((number(line, "round"), number(line, "wrong")), (round, 0), "{}", ran.text);
        }
        let end = ran.line("churn end=");
        assert_eq!((number(end, "end"), number(end, "wrong")), (40, 0), "{}", ran.text);
    }
}

/// Of the CPU that had least, too: none is left behind.
fn assert_moving(live: &Live, moving: &[&str]) {
    let first = live.line("churn round=");
    let mut last = live.line("churn round=");
    while moving.iter().any(|name| number(&last, name) <= number(&first, name)) {
        last = live.line("churn round=");
    }
}

#[test]
fn churn_keeps_every_cpu_at_work() {
    let Some(kvm) = kvm() else { return };
    for cpus in [1, 2, 4] {
        let live = Live::start(&kvm, MachineConfig { cpus, ..config("quiet churn every=1 touch=1") });
        assert_eq!(number(&live.line("churn ready "), "cpus"), u64::from(cpus));
        for _ in 0..3 {
            assert_moving(&live, &["round", "slowest", "ticks", "peers", "serial"]);
        }
        live.quit();
    }
}

#[test]
fn churn_says_what_is_wrong() {
    let Some(kvm) = kvm() else { return };
    for what in ["memory", "checksum", "special"] {
        let words = format!("quiet churn count=40 every=8 touch=1 spoil={what}");
        let ran = run_to_power_off(&kvm, config(&words));
        assert_eq!(ran.number("churn round=8 ", "wrong"), 0, "{}", ran.text);
        assert!(ran.number("churn end=", "wrong") > 0, "{}", ran.text);
        ran.line(&format!("churn wrong what={what} cpu=0 "));
    }
}

#[test]
fn churn_goes_on_after_any_pause() {
    let Some(kvm) = kvm() else { return };
    let folder = tempfile::tempdir().unwrap();
    let config =
        MachineConfig { cpus: 2, ..disk("quiet churn every=4 touch=2", &folder.path().join("disk")) };
    let mut live = Live::start(&kvm, config);
    live.line("churn ready ");
    for pause in 0..50 {
        live.paused(|_| {});
        // A second pause, now and then, catches the CPUs where the first one has put them.
        if pause % 5 == 0 {
            live.paused(|_| {});
        }
        thread::sleep(Duration::from_millis(pause));
    }
    assert_moving(&live, &["round", "slowest", "ticks", "peers", "serial", "written", "verified"]);
    let text = live.quit();
    let wrong = text.lines().filter(|line| line.contains("wrong=")).map(|line| number(line, "wrong"));
    assert_eq!(wrong.sum::<u64>(), 0, "{text}");
    assert!(text.lines().last().unwrap().starts_with("churn end="), "{text}");
}

#[test]
fn churn_notices_a_disk_that_is_not_what_it_was() {
    let Some(kvm) = kvm() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    let mut live = Live::start(&kvm, disk("quiet churn every=1 touch=1 span=256K", &path));
    while number(&live.line("churn round="), "verified") < 100 {}
    live.paused(|_| {
        assert!(fs::read(&path).unwrap().iter().any(|byte| *byte != 0));
        File::options().write(true).open(&path).unwrap().write_all(&vec![0xee; 256 << 10]).unwrap();
    });
    live.line("churn wrong what=disk ");
    let text = live.quit();
    assert!(number(text.lines().last().unwrap(), "wrong") > 0, "{text}");
}

#[test]
fn a_new_generation_is_told_at_once() {
    let Some(kvm) = kvm() else { return };
    let folder = tempfile::tempdir().unwrap();
    let vsock = format!("cid=77,uds={}", folder.path().join("vsock").display());
    let devices = Devices {
        entropy: vec![parse_options("").unwrap()],
        vsock: vec![parse_options(&vsock).unwrap()],
        ..Devices::default()
    };
    let mut live = Live::start(&kvm, MachineConfig { devices, ..config("quiet identity") });
    let first = live.line("identity ");
    assert_eq!(
        (word(&first, "told"), word(&first, "mac"), word(&first, "cid")),
        ("0", "none", "77"),
        "{first}"
    );
    assert!(word(&first, "generation").len() == 32 && word(&first, "random").len() == 16, "{first}");
    live.type_in("\n");
    let typed = live.line("identity ");
    assert_eq!(word(&typed, "generation"), word(&first, "generation"));
    assert_ne!(word(&typed, "random"), word(&first, "random"));

    let mut before = typed;
    for told in ["1", "2"] {
        live.paused(|machine| machine.renew_generation().unwrap());
        let new = live.line("identity ");
        assert_eq!(word(&new, "told"), told, "{new}");
        assert_ne!(word(&new, "generation"), word(&before, "generation"));
        assert_ne!(word(&new, "random"), word(&before, "random"));
        before = new;
    }
    live.quit();
}

#[test]
fn every_machine_has_a_generation_of_its_own() {
    let Some(kvm) = kvm() else { return };
    let of_one = |boot| {
        let live = Live::start(&kvm, MachineConfig { boot, ..config("quiet identity") });
        let line = live.line("identity ");
        live.quit();
        assert_eq!((word(&line, "random"), word(&line, "cid")), ("none", "none"));
        word(&line, "generation").to_owned()
    };
    assert_ne!(of_one(BootMode::Pvh), of_one(BootMode::Linux64));
}

#[test]
fn identity_has_the_networks_address() {
    let Some(kvm) = kvm() else { return };
    in_network_of_its_own(|| {
        let net = parse_options("tap=tap0,mac=02:00:00:00:00:2a").unwrap();
        let devices = Devices { net: vec![net], ..Devices::default() };
        let live = Live::start(&kvm, MachineConfig { devices, ..config("quiet identity") });
        assert_eq!(word(&live.line("identity "), "mac"), "02:00:00:00:00:2a");
        live.quit();
    });
}

/// As churn tells of it, too, between its lines.
#[test]
fn churn_tells_of_a_new_generation() {
    let Some(kvm) = kvm() else { return };
    let mut live = Live::start(&kvm, config("quiet churn touch=1"));
    live.line("churn round=");
    live.paused(|machine| machine.renew_generation().unwrap());
    assert_eq!(word(&live.line("identity "), "told"), "1");
    live.quit();
}

#[test]
fn pages_are_touched_at_each_byte() {
    let Some(kvm) = kvm() else { return };
    for (words, name, of) in [
        ("quiet working-set=8M", "working-set", 4096),
        ("quiet working-set=4M spread=4", "working-set", 4096),
        ("quiet dirty=8M", "dirty", 2048),
    ] {
        let mut live = Live::start(&kvm, config(words));
        let ready = live.line(&format!("{name} ready "));
        let pages = number(&ready, "pages");
        assert_eq!(number(&ready, "of"), of);
        for round in 1..=3 {
            live.type_in("x");
            let line = live.line(&format!("{name} pages="));
            assert_eq!(
                ["pages", "round", "wrong"].map(|name| number(&line, name)),
                [pages, round, 0],
                "{line}"
            );
            assert!(number(&line, "ns") > 0, "{line}");
        }
        live.quit();
    }
    let ran = run_to_power_off(&kvm, config("quiet dirty=1G working-set=0"));
    ran.line("pages error: too little memory");
    ran.line("guest: a number of bytes");
}
