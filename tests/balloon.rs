//! Balloons of real machines: the memory that the embedded guest gives away is the host's again.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::fs;

use bantam::config::{Devices, MachineConfig, Size};
use bantam::hypervisor::Hypervisor;
use bantam::machine::{Builder, ExitReason, RunningMachine};
use bantam::virtio::Command;
use bantam::virtio::balloon::config::Balloon;
use common::process::{Process, bantam, finish, start};
use common::{Ran, Screen, kvm, run_to_power_off, watched};

const MIB: u64 = 1 << 20;
/// Pages of the balloon's in a MiB.
const PAGES: u64 = 256;

fn config(balloon: Balloon, words: &str) -> MachineConfig {
    MachineConfig {
        memory: Size::mib(128),
        devices: Devices { balloon: vec![balloon], ..Devices::default() },
        ..common::config(words)
    }
}

/// The memory of the host's that a process has, in bytes.
fn resident(process: &Process) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", process.pid())).unwrap();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Rss:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
}

#[test]
fn the_host_has_what_is_in_the_balloon() {
    if kvm().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("control").to_str().unwrap().to_owned();
    // The guest stays when the balloon is empty again, and its memory with it.
    let words = "balloon touch=96 halt";
    let options = ["run", "--memory", "128M", "--balloon", "--cmdline", words, "--control", &socket];
    let machine = start(&mut bantam(options));
    let ask = |words: &[&str]| {
        let ended = finish(bantam(["ctl", &socket]).args(words));
        assert_eq!((ended.code(), ended.stderr.as_str()), (0, ""), "{words:?}");
    };
    let line = |text: &str| machine.stdout.wait_for(text);

    line("balloon ready pages=24576");
    let full = resident(&machine);
    ask(&["balloon", "64M"]);
    line("balloon target=16384 actual=16384 ");
    let less = resident(&machine);
    ask(&["balloon", "0"]);
    line("balloon target=0 actual=0 ");
    line("balloon taken=");
    line("\n");
    let again = resident(&machine);
    println!("resident, in KiB: {} touched, {} ballooned, {} back", full >> 10, less >> 10, again >> 10);
    let text = machine.stdout.text();
    assert!(text.contains("balloon taken=16384 given=16384 cleared=16384 wrong=0"), "{text}");
    assert!(full >= 96 * MIB, "{full}");
    assert!(less + 60 * MIB <= full, "{full}, then {less}");
    assert!(again >= less + 60 * MIB, "{less}, then {again}");
    ask(&["stop"]);
    assert_eq!(machine.finish().code(), 0);
}

/// A machine whose balloon is told what to take, step by step.
struct Ballooned {
    machine: RunningMachine,
    screen: Screen,
}

impl Ballooned {
    fn start(hypervisor: &Hypervisor, balloon: Balloon, words: &str) -> Self {
        let screen = Screen::default();
        let builder = Builder::new(config(balloon, words)).hypervisor(hypervisor.clone());
        let machine = builder.console_output(screen.clone()).build().unwrap().resume().unwrap();
        screen.wait_for("balloon ready ");
        Self { machine, screen }
    }

    fn ask(&self, mib: u32) {
        let balloon = self.machine.device("balloon0").unwrap();
        balloon.command(Command::BalloonTarget(Size::mib(mib))).unwrap();
    }

    /// Waits until the balloon has what it can have of its target.
    fn reaches(&self, target: u64, actual: u64) {
        self.screen.wait_for(&format!("balloon target={} actual={} ", target * PAGES, actual * PAGES));
    }

    fn metric(&self, name: &str) -> u64 {
        let metrics = self.machine.device("balloon0").unwrap().metrics().unwrap();
        metrics.iter().find(|metric| metric.0 == name).unwrap().1
    }

    fn end(self) -> Ran {
        let outcome = watched("a machine with a balloon", move || self.machine.wait());
        let ran = Ran { outcome, text: self.screen.text() };
        assert_eq!(ran.outcome.reason, ExitReason::PowerOff, "{}\n{}", ran.outcome.reason, ran.text);
        ran
    }
}

#[test]
fn every_target_is_reached_and_no_other_page_suffers() {
    let Some(hypervisor) = kvm() else { return };
    for rings in ["", " noevent", " noindirect", " noevent noindirect"] {
        let words = format!("balloon touch=32{rings}");
        let ballooned = Ballooned::start(&hypervisor, Balloon::default(), &words);
        let mut discarded = 0;
        let mut before = 0;
        for target in [3, 20, 7, 1, 32] {
            ballooned.ask(target);
            let target = u64::from(target);
            ballooned.reaches(target, target);
            discarded += target.saturating_sub(before) * MIB;
            before = target;
            assert_eq!(ballooned.metric("target_bytes"), target * MIB, "{words}");
            assert_eq!(ballooned.metric("actual_bytes"), target * MIB, "{words}");
            assert_eq!(ballooned.metric("discarded_bytes"), discarded, "{words}");
        }
        for name in ["foreign_pages", "refusals_total"] {
            assert_eq!(ballooned.metric(name), 0, "{name}, {words}");
        }
        ballooned.ask(0);
        let ran = ballooned.end();
        let pages = discarded / MIB * PAGES;
        ran.line(&format!("balloon taken={pages} given={pages} cleared={pages} wrong=0"));
    }
}

#[test]
fn a_balloon_takes_what_there_is() {
    let Some(hypervisor) = kvm() else { return };
    // From the start on; then more than the guest has for it.
    let balloon = Balloon { target: Some(Size::mib(8)), ..Balloon::default() };
    let ballooned = Ballooned::start(&hypervisor, balloon, "balloon touch=24");
    ballooned.reaches(8, 8);
    ballooned.ask(100);
    ballooned.reaches(100, 24);
    ballooned.ask(0);
    ballooned.end().line("balloon taken=6144 given=6144 cleared=6144 wrong=0");
}

#[test]
fn a_pause_in_the_middle_changes_nothing() {
    let Some(hypervisor) = kvm() else { return };
    let ballooned = Ballooned::start(&hypervisor, Balloon::default(), "balloon touch=64");
    ballooned.ask(64);
    let Ballooned { machine, screen } = ballooned;
    let machine = watched("a pause", move || machine.pause().unwrap().resume().unwrap());
    let ballooned = Ballooned { machine, screen };
    ballooned.reaches(64, 64);
    ballooned.ask(0);
    ballooned.end().line("balloon taken=16384 given=16384 cleared=16384 wrong=0");
}

#[test]
fn the_job_gives_all_back_when_its_time_is_up() {
    let Some(hypervisor) = kvm() else { return };
    let balloon = Balloon { target: Some(Size::mib(4)), ..Balloon::default() };
    let ran = run_to_power_off(&hypervisor, config(balloon.clone(), "balloon touch=8 secs=1"));
    ran.line("balloon taken=1024 given=1024 cleared=1024 wrong=0");
    let ran = run_to_power_off(&hypervisor, config(balloon, "balloon touch=1G"));
    ran.line("balloon error: too little memory");
    let ran = run_to_power_off(&hypervisor, common::config("balloon"));
    ran.line("balloon error: no such device");
}
