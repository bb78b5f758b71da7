//! Virtio devices of real machines, driven by the embedded guest: what goes through them is what was sent,
//! and no driver, however hostile, does them harm. Disks have more in `disks.rs`.

// The helpers here are a test's too: they may fail as loudly.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::fs::{self, File};
use std::net::UdpSocket;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use bantam::config::{Console, Devices, MachineConfig, parse_options};
use bantam::hypervisor::Hypervisor;
use bantam::machine::{Builder, ExitReason, Outcome, RunningMachine};
use bantam::virtio::entropy::config::Entropy;
use common::netns::{in_network_of_its_own, on_a_tap, packets};
use common::process::{bantam, finish};
use common::{Ran, Screen, config, kvm, number, run_to_power_off, skip, watched};

/// The tap and the addresses at its two ends.
const NET: &str = "tap=tap0,ip=10.0.0.1/24";
const GUEST: &str = "10.0.0.2:9";

fn net(words: &str) -> MachineConfig {
    let devices = Devices { net: vec![parse_options(NET).unwrap()], ..Devices::default() };
    MachineConfig { devices, ..config(words) }
}

/// A machine that runs, in this thread's network, and what its console sends.
fn start(hypervisor: &Hypervisor, config: MachineConfig) -> (RunningMachine, Screen) {
    let screen = Screen::default();
    let builder = Builder::new(config).hypervisor(hypervisor.clone()).console_output(screen.clone());
    (builder.build().unwrap().resume().unwrap(), screen)
}

/// Pauses a machine and lets it go on until it has ended.
fn pause_until_it_ends(mut running: RunningMachine) -> Outcome {
    loop {
        thread::sleep(Duration::from_millis(3));
        match running.pause() {
            Ok(paused) => running = paused.resume().unwrap(),
            Err(outcome) => return *outcome,
        }
    }
}

/// The datagram of this number.
fn datagram(number: u32) -> Vec<u8> {
    (0..64 + number % 1400).map(|at| (at.wrapping_mul(7) ^ number).to_le_bytes()[0]).collect()
}

#[test]
fn datagrams_come_back_as_they_were_sent() {
    let Some(hypervisor) = kvm() else { return };
    in_network_of_its_own(|| {
        let (running, screen) = start(&hypervisor, net("net=echo"));
        screen.wait_for("net ready ");
        let socket = UdpSocket::bind("10.0.0.1:0").unwrap();
        socket.connect(GUEST).unwrap();
        socket.set_read_timeout(Some(common::PATIENCE)).unwrap();
        let mut answer = [0; 2048];
        for number in 0..500 {
            let sent = datagram(number);
            socket.send(&sent).unwrap();
            let bytes = socket.recv(&mut answer).unwrap();
            assert!(answer[..bytes] == sent, "datagram {number}");
        }
        match Command::new("ping").args(["-c", "3", "-i", "0.2", "-W", "60", "10.0.0.2"]).output() {
            Ok(ping) => assert!(ping.status.success(), "{}", String::from_utf8_lossy(&ping.stdout)),
            Err(_) => skip("ping is not installed, so the guest is not pinged").unwrap_or_default(),
        }
        assert_eq!(watched("a stop", || running.stop()).reason, ExitReason::Stopped);
    });
}

/// Waits for a machine's end, with pauses or without; its line that begins so.
fn end(running: RunningMachine, screen: &Screen, pauses: bool, line: &str) -> String {
    let end = move || if pauses { pause_until_it_ends(running) } else { running.wait() };
    let ran = Ran { outcome: watched("traffic", end), text: screen.text() };
    assert_eq!(ran.outcome.reason, ExitReason::PowerOff, "{}", ran.text);
    ran.line(line).to_owned()
}

#[test]
fn every_frame_that_the_guest_sends_arrives_once() {
    const COUNT: u64 = 5000;
    let Some(hypervisor) = kvm() else { return };
    on_a_tap(|| {
        for pauses in [false, true] {
            let [before, _] = packets();
            let (running, screen) = start(&hypervisor, net(&format!("net=send count={COUNT}")));
            let line = end(running, &screen, pauses, "net op=send ");
            assert_eq!((number(&line, "n"), number(&line, "errors")), (COUNT, 0), "{line}");
            assert_eq!(packets()[0] - before, COUNT, "pauses {pauses}");
        }
    });
}

#[test]
fn every_frame_that_the_host_sends_arrives_once() {
    const COUNT: u32 = 5000;
    /// Fewer than a tap keeps for its reader.
    const BURST: u32 = 100;
    let Some(hypervisor) = kvm() else { return };
    on_a_tap(|| {
        for pauses in [false, true] {
            let (running, screen) = start(&hypervisor, net(&format!("net=recv count={COUNT}")));
            screen.wait_for("net ready ");
            let [_, before] = packets();
            let sender = thread::spawn(move || {
                let socket = UdpSocket::bind("10.0.0.1:0").unwrap();
                let mut bytes = 0;
                for number in 0..COUNT {
                    if number % BURST == 0 {
                        // No more than the tap takes.
                        while packets()[1] - before < u64::from(number.saturating_sub(BURST)) {
                            thread::sleep(Duration::from_millis(1));
                        }
                    }
                    bytes += 42 + socket.send_to(&datagram(number), GUEST).unwrap() as u64;
                }
                bytes
            });
            let line = end(running, &screen, pauses, "net op=recv ");
            let bytes = sender.join().unwrap();
            assert_eq!(number(&line, "n"), u64::from(COUNT), "{line}");
            assert_eq!(number(&line, "bytes"), bytes, "{line}");
        }
    });
}

#[test]
fn random_numbers_are_as_many_as_are_asked_for() {
    let Some(hypervisor) = kvm() else { return };
    let devices = Devices { entropy: vec![Entropy::default()], ..Devices::default() };
    let firsts = [(); 2].map(|()| {
        let config = MachineConfig { devices: devices.clone(), ..config("rng=4K") };
        let ran = run_to_power_off(&hypervisor, config);
        let line = ran.line("rng n=");
        assert_eq!(number(line, "n"), 4096);
        line.split_once(" first=").unwrap().1.to_owned()
    });
    assert_ne!(firsts[0], firsts[1]);
}

/// One of each device, disks with each engine.
fn all_devices(folder: &Path) -> Devices {
    let disk = |engine: &str| {
        let path = folder.join(format!("{engine}.img"));
        File::create(&path).unwrap().set_len(8 << 20).unwrap();
        parse_options(&format!("path={},engine={engine}", path.display())).unwrap()
    };
    Devices {
        disk: ["sync", "threads", "io_uring"].map(disk).into(),
        net: vec![parse_options(NET).unwrap()],
        vsock: vec![parse_options(&format!("cid=3,uds={}", folder.join("v").display())).unwrap()],
        entropy: vec![Entropy::default()],
        balloon: vec![parse_options("stats=1,reporting,hinting").unwrap()],
        virtio_console: vec![parse_options("where=off").unwrap()],
    }
}

/// Every device at once, as the command has it: nothing is said, the machine lives and powers off.
#[test]
fn no_driver_does_harm() {
    const ROUNDS: u32 = 25;
    if kvm().is_none() {
        return;
    }
    in_network_of_its_own(|| {
        let folder = tempfile::tempdir().unwrap();
        for seed in 1..=20 {
            let words = format!("virtio=hostile seed={seed} rounds={ROUNDS}");
            let machine = MachineConfig {
                devices: all_devices(folder.path()),
                console: Console::Stdio,
                stats: false,
                ..config(&words)
            };
            let file = folder.path().join("machine.json");
            fs::write(&file, serde_json::to_vec(&machine).unwrap()).unwrap();
            let ended = finish(bantam(["run", "--config"]).arg(&file));
            assert_eq!(ended.code(), 0, "seed {seed}: {ended:?}");
            assert!(ended.stdout.contains(&format!("hostile rounds={ROUNDS} ok")), "seed {seed}: {ended:?}");
            assert!(
                ended.stderr.lines().all(|line| line.starts_with("bantam: warn: ")),
                "seed {seed}: {}",
                ended.stderr
            );
            assert!(ended.stderr.lines().count() < 10, "seed {seed}: {}", ended.stderr);
        }
    });
}

#[test]
fn pauses_do_not_help_a_hostile_driver() {
    let Some(hypervisor) = kvm() else { return };
    in_network_of_its_own(|| {
        for seed in 1..=5 {
            let folder = tempfile::tempdir().unwrap();
            let config = config(&format!("virtio=hostile seed={seed} rounds=25"));
            let config = MachineConfig { devices: all_devices(folder.path()), ..config };
            let (running, screen) = start(&hypervisor, config);
            end(running, &screen, true, "hostile rounds=25 ok");
        }
    });
}
