//! Machines that are saved and go on elsewhere.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use bantam::config::MachineConfig;
use bantam::hypervisor::Hypervisor;
use bantam::machine::{Builder, Kept, PausedMachine, RunningMachine};
use bantam::memory::{self, GuestMemory};
use bantam::snapshot::{MemorySource, Options, Restoring, Saved, Snapshot, Taken, save_running};
use bantam::virtio::Allow;
use common::{Screen, config, kvm, watched};
use vm_memory::{Bytes, GuestMemoryBackend, GuestMemoryRegion};

fn start(kvm: &Hypervisor, config: &MachineConfig) -> (RunningMachine, Screen) {
    let screen = Screen::default();
    let builder = Builder::new(config.clone()).hypervisor(kvm.clone()).console_output(screen.clone());
    (builder.build().unwrap().resume().unwrap(), screen)
}

/// Paused, with all that its guest has sent on the screen.
fn pause(machine: RunningMachine) -> PausedMachine {
    let machine = watched("pause", move || machine.pause()).unwrap();
    watched("flush", move || {
        machine.flush_console();
        machine
    })
}

/// The same bytes in other memory.
fn copy(from: &GuestMemory, config: &MachineConfig) -> GuestMemory {
    let to = memory::allocate(config.memory).unwrap();
    for region in from.iter() {
        let mut bytes = vec![0; usize::try_from(region.len()).unwrap()];
        from.read_slice(&mut bytes, region.start_addr()).unwrap();
        to.write_slice(&bytes, region.start_addr()).unwrap();
    }
    to
}

fn quiet(_: u64, _: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// The machine's snapshot at this path.
fn save(machine: &mut PausedMachine, path: &Path, options: &Options) -> Saved {
    Taken::take(machine, path, options, &mut quiet).unwrap().finish(&mut quiet).unwrap()
}

/// A machine that goes on from a snapshot.
fn restore(kvm: &Hypervisor, path: &Path, how: Restoring) -> (RunningMachine, Screen) {
    let snapshot = Snapshot::open(path).unwrap();
    let builder = snapshot.builder(snapshot.config(), how).unwrap();
    let screen = Screen::default();
    let builder = builder.hypervisor(kvm.clone()).console_output(screen.clone());
    (builder.build().unwrap().resume().unwrap(), screen)
}

/// Output that goes on in another machine goes on where it was, to the byte: the guest's registers, its
/// memory and the serial port are what they were.
#[test]
fn a_guest_does_not_notice_that_it_goes_on_elsewhere() {
    let Some(kvm) = kvm() else { return };
    let config = config("flood");
    let (machine, screen) = start(&kvm, &config);
    screen.wait_for("flood 10\r\n");
    let mut machine = pause(machine);
    let mut text = screen.text();
    for round in 0..20 {
        let state = machine.save().unwrap();
        let memory = copy(machine.memory(), &config);
        drop(machine);
        let screen = Screen::default();
        let builder = Builder::new(config.clone()).hypervisor(kvm.clone()).console_output(screen.clone());
        let running = builder
            .restore(Kept {
                memory,
                state,
                layers: None,
                allow: Allow::default(),
                track_since: None,
                prefetch: None,
                lifeline: None,
            })
            .build()
            .unwrap()
            .resume()
            .unwrap();
        screen.wait_for("flood");
        std::thread::sleep(Duration::from_millis(round % 7));
        machine = pause(running);
        text += &screen.text();
    }
    let expected: String = (0..100_000).map(|number| format!("flood {number}\r\n")).collect();
    let start = text.find("flood 0").unwrap();
    let said = &text[start..];
    assert!(said.lines().count() > 40, "{said}");
    assert!(expected.starts_with(said), "{said}");
}

/// The guest's output goes on to the byte from snapshot to snapshot: whole ones, diffs on diffs, and those
/// that are taken while the guest runs.
#[test]
fn a_guest_goes_on_from_files() {
    let Some(kvm) = kvm() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (mut machine, mut screen) = start(&kvm, &config("flood"));
    screen.wait_for("flood 10\r\n");
    let mut text = String::new();
    let mut base = None;
    for round in 0..12 {
        let path = folder.path().join(round.to_string());
        // Every fourth has all of the memory; the others are diffs to the one before.
        let options = Options { base: base.take().filter(|_| round % 4 != 0), track: true };
        if round % 3 == 2 {
            let live =
                save_running(machine, &path, &options, Some(Duration::from_secs(1)), &mut quiet).unwrap();
            live.taken.unwrap().finish(&mut quiet).unwrap();
            // What it says from here on is said again by the one that goes on from the snapshot.
            let said = screen.text();
            drop(live.machine);
            text += &said;
        } else {
            let mut paused = pause(machine);
            let saved = save(&mut paused, &path, &options);
            assert!(options.base.is_none() || saved.memory_bytes < 1 << 20, "{saved:?}");
            text += &screen.text();
        }
        base = Some(path.clone());
        (machine, screen) = restore(&kvm, &path, Restoring { track: true, ..Restoring::default() });
        screen.wait_for("flood");
    }
    drop(machine);
    let numbers: Vec<u64> =
        text.lines().filter_map(|line| line.strip_prefix("flood ")?.parse().ok()).collect();
    assert!(numbers.len() > 20);
}

/// Copies are machines of their own, whatever their memory comes from.
#[test]
fn many_go_on_from_one() {
    let Some(kvm) = kvm() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (machine, screen) = start(&kvm, &config("flood"));
    screen.wait_for("flood 10\r\n");
    let path = folder.path().join("snapshot");
    save(&mut pause(machine), &path, &Options::default());
    let snapshot = Snapshot::open(&path).unwrap();
    for memory in [MemorySource::Map, MemorySource::Fault] {
        let screens: Vec<Screen> = (0..10).map(|_| Screen::default()).collect();
        let how = Restoring { memory, ..Restoring::default() };
        let machines =
            snapshot.fork(10, how, |index, builder| builder.console_output(screens[index].clone()));
        let running: Vec<_> =
            machines.unwrap().into_iter().map(|machine| machine.resume().unwrap()).collect();
        screens.iter().for_each(|screen| screen.wait_for("flood"));
        drop(running);
    }
}
