//! Copies of one machine: each is its own from its first instruction, and either all of them are made or none.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{PipeWriter, Write, pipe};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bantam::config::{Devices, MachineConfig, Size, parse_options};
use bantam::hypervisor::Hypervisor;
use bantam::machine::{Builder, PausedMachine};
use bantam::snapshot::{Options, Restoring, Snapshot};
use bantam::virtio::block::config::{Disk, Overlay};
use common::alone::{Counted, alone};
use common::live::word;
use common::netns::in_network_of_its_own;
use common::saving::{Machine, clocks, pause, save};
use common::{Screen, config, kvm, number, skip};
use vm_memory::{Bytes, GuestAddress};

/// A machine with everything by which it can be told from others.
fn original(folder: &Path, words: &str, net: bool) -> MachineConfig {
    let image = folder.join("disk.img");
    File::create(&image).unwrap().set_len(32 << 20).unwrap();
    let vsock = format!("cid=77,uds={}", folder.join("vsock").display());
    let devices = Devices {
        disk: vec![Disk { overlay: Some(Overlay::Temp), ..Disk::new(image) }],
        net: if net { vec![parse_options("tap=t,mac=02:00:00:00:00:01").unwrap()] } else { Vec::new() },
        vsock: vec![parse_options(&vsock).unwrap()],
        entropy: vec![parse_options("").unwrap()],
        ..Devices::default()
    };
    MachineConfig { memory: Size::mib(16), devices, ..config(words) }
}

/// Copies that wait, each with its screen and its keyboard.
fn fork(snapshot: &Snapshot, count: usize) -> Vec<(PausedMachine, Screen, PipeWriter)> {
    let mut ends = Vec::new();
    let attach = |_, builder: Builder| {
        let (keyboard, keys) = pipe().unwrap();
        let screen = Screen::default();
        ends.push((screen.clone(), keys));
        builder.console_input(keyboard).console_output(screen)
    };
    let machines = snapshot.fork(count, &Restoring::default(), attach).unwrap();
    machines.into_iter().zip(ends).map(|(machine, (screen, keys))| (machine, screen, keys)).collect()
}

fn resume((machine, screen, keys): (PausedMachine, Screen, PipeWriter)) -> Machine {
    Machine { running: machine.resume().unwrap(), screen, keys }
}

/// The places in a machine's memory that hold these bytes.
fn places(machine: &PausedMachine, bytes: &[u8]) -> Vec<u64> {
    let mut memory = vec![0; 16 << 20];
    machine.memory().read_slice(&mut memory, GuestAddress(0)).unwrap();
    // A generation id is where the ACPI device says, at a multiple of its own length.
    let found = memory.chunks(16).enumerate().filter(|(_, chunk)| *chunk == bytes);
    found.map(|(index, _)| index as u64 * 16).collect()
}

/// None of these is there twice.
fn assert_distinct(what: &str, words: impl IntoIterator<Item = String>) {
    let words: Vec<_> = words.into_iter().collect();
    let distinct: BTreeSet<_> = words.iter().collect();
    assert_eq!(distinct.len(), words.len(), "{what}: {words:?}");
    assert!(!distinct.contains(&"none".to_owned()), "{what}: {words:?}");
}

/// The identities of copies and of what they are copies of.
fn identities(kvm: &Hypervisor, net: bool) {
    let folder = tempfile::tempdir().unwrap();
    let machine = Machine::start(kvm, original(folder.path(), "quiet identity", net));
    let own = machine.line("identity ");
    let path = folder.path().join("snapshot");
    let generation = u128::from_str_radix(word(&own, "generation"), 16).unwrap().to_be_bytes();
    let mut paused = pause(machine.running);
    let known = places(&paused, &generation);
    save(&mut paused, &path, &Options::default());
    drop(paused);
    let snapshot = Snapshot::open(&path).unwrap();
    for count in [2, 8] {
        let forked = fork(&snapshot, count);
        // No instruction of theirs has run, and the id is another one already; the guest's own note of it is not.
        assert!(forked.iter().all(|(machine, ..)| places(machine, &generation).len() < known.len()));
        let overlays = forked.iter().flat_map(|(machine, ..)| machine.overlays().map(|(_, path)| path));
        let inodes: Vec<_> =
            overlays.map(|path| fs::metadata(path).unwrap()).map(|file| (file.dev(), file.ino())).collect();
        assert_eq!(inodes.len(), count);
        assert_distinct("overlay", inodes.iter().map(|inode| format!("{inode:?}")));
        for index in 0..count {
            assert!(folder.path().join(format!("vsock.{index}")).exists());
        }
        let mut clones: Vec<_> = forked.into_iter().map(resume).collect();
        let mut lines = vec![own.clone()];
        for clone in &mut clones {
            // Told without being asked.
            lines.push(clone.line("identity "));
            assert_eq!(word(lines.last().unwrap(), "told"), "1");
        }
        for name in ["generation", "random", "cid"].into_iter().chain(net.then_some("mac")) {
            assert_distinct(name, lines.iter().map(|line| word(line, name).to_owned()));
        }
        for (clone, first) in clones.iter_mut().zip(&lines[1..]) {
            clone.keys.write_all(b"\n").unwrap();
            let again = clone.line("identity ");
            for name in ["generation", "told", "mac", "cid"] {
                assert_eq!(word(&again, name), word(first, name));
            }
            assert_ne!(word(&again, "random"), word(first, "random"));
        }
        clones.into_iter().for_each(|clone| drop(clone.quit()));
        assert!(!folder.path().join("vsock.0").exists());
    }
}

#[test]
fn clones_are_others_from_their_first_instruction() {
    let Some(kvm) = kvm() else { return };
    identities(&kvm, false);
}

#[test]
fn clones_have_networks_of_their_own() {
    let Some(kvm) = kvm() else { return };
    in_network_of_its_own(|| identities(&kvm, true));
}

/// Each of them writes to its disk, reads it again, and never finds what another has written.
#[test]
fn disks_of_clones_are_apart() {
    let Some(kvm) = kvm() else { return };
    let folder = tempfile::tempdir().unwrap();
    let words = &format!("quiet churn every=1 touch=1 span=256K{}", clocks());
    let machine = Machine::start(&kvm, original(folder.path(), words, false));
    while number(&machine.line("churn round="), "verified") < 20 {}
    let path = folder.path().join("snapshot");
    machine.save(&path, &Options::default());
    let copy = fs::read(path.join("disk0.qcow2")).unwrap();
    let clones: Vec<_> = fork(&Snapshot::open(&path).unwrap(), 4).into_iter().map(resume).collect();
    for clone in &clones {
        let first = number(&clone.line("churn round="), "verified");
        while number(&clone.line("churn round="), "verified") < first + 60 {}
    }
    for clone in clones {
        let text = clone.quit();
        let end = text.lines().find(|line| line.starts_with("churn end=")).unwrap();
        assert_eq!(number(end, "wrong"), 0, "{text}");
    }
    assert_eq!(fs::read(path.join("disk0.qcow2")).unwrap(), copy);
}

/// Which of eight copies cannot be made.
const FAILING: usize = 4;

/// Eight copies of which one cannot be made: the error, and nothing else.
fn assert_nothing_left(
    folder: &Path,
    what: &str,
    snapshot: &Snapshot,
    each: impl Fn(usize, Builder) -> Builder,
    expected: &str,
) {
    let names = || {
        let mut names: Vec<PathBuf> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.extend(fs::read_dir("/sys/class/net").unwrap().map(|entry| entry.unwrap().path()));
        names.sort();
        names
    };
    let (before, counted) = (names(), Counted::now());
    let error = snapshot.fork(8, &Restoring::default(), each).unwrap_err();
    assert_eq!(error.to_string(), format!("copy {FAILING} of 8, counted from 0, cannot be made"), "{what}");
    let causes = std::iter::successors(std::error::Error::source(&error), |error| error.source());
    let line = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
    assert!(line.contains(expected), "{what}: {line}\nand not\n{expected}");
    assert_eq!(names(), before, "{what}");
    counted.assert_same(what);
}

#[test]
fn all_clones_or_none() {
    alone("all_clones_or_none", |kvm| {
        let body = |net: bool| {
            let folder = tempfile::tempdir().unwrap();
            let machine = Machine::start(kvm, original(folder.path(), "quiet identity", net));
            machine.line("identity ");
            let path = folder.path().join("snapshot");
            machine.save(&path, &Options::default());
            let snapshot = Snapshot::open(&path).unwrap();
            // What the first fork makes once for all.
            drop(fork(&snapshot, 8));
            let failing = |change: fn(&Path, &mut MachineConfig)| {
                let folder = folder.path().to_owned();
                move |index, builder: Builder| {
                    builder.configure(|config| {
                        let overlay = folder.join(format!("overlay{index}.qcow2"));
                        config.devices.disk[0].overlay = Some(Overlay::Path(overlay));
                        if index == FAILING {
                            change(&folder, config);
                        }
                    })
                }
            };
            let nothing = |what: &str, change, expected: &str| {
                assert_nothing_left(folder.path(), what, &snapshot, failing(change), expected);
            };
            let taken = folder.path().join("vsock.4");
            fs::write(&taken, "").unwrap();
            nothing("a socket's path is taken", |_, _| {}, "vsock.4");
            assert!(taken.exists());
            fs::remove_file(taken).unwrap();
            nothing(
                "an overlay in no folder",
                |folder, config| {
                    let overlay = folder.join("nowhere/overlay.qcow2");
                    config.devices.disk[0].overlay = Some(Overlay::Path(overlay));
                },
                "nowhere/overlay.qcow2",
            );
            nothing(
                "an overlay of another",
                |folder, config| {
                    config.devices.disk[0].overlay = Some(Overlay::Path(folder.join("overlay0.qcow2")));
                },
                "overlay0.qcow2",
            );
            nothing("no device", |_, config| config.devices.entropy.clear(), "'entropy0'");
            nothing(
                "no image",
                |_, config| config.devices.disk[0].path = "/nowhere.img".into(),
                "/nowhere.img",
            );
            if net {
                nothing(
                    "a tap in use",
                    |_, config| config.devices.net[0].tap = Some("t-0".to_owned()),
                    "t-0",
                );
            }
        };
        if Path::new("/dev/net/tun").exists() {
            in_network_of_its_own(|| body(true));
        } else {
            skip::<()>("no /dev/net/tun: without a network").unwrap_or_default();
            body(false);
        }
    });
}
