//! Which pages of a machine's memory have changed: by the guest, and by the devices it set to work.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::os::fd::AsRawFd;

use bantam::config::{Devices, MachineConfig, Size};
use bantam::hypervisor::{Error, Hypervisor};
use bantam::machine::{Builder, PausedMachine, RunningMachine};
use bantam::memory::DirtyPages;
use bantam::virtio::block::config::Disk;
use common::{Screen, config, kvm, number, watched};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

const PAGES_A_MIB: u64 = 256;

fn build(kvm: &Hypervisor, config: MachineConfig) -> (PausedMachine, Screen) {
    let screen = Screen::default();
    let builder = Builder::new(config).hypervisor(kvm.clone()).console_output(screen.clone());
    (builder.build().unwrap(), screen)
}

fn pause(machine: RunningMachine) -> PausedMachine {
    watched("pause", move || machine.pause()).unwrap_or_else(|end| panic!("{}", end.reason))
}

/// The longest run of pages.
fn longest(pages: &DirtyPages) -> (u64, u64) {
    pages.runs().max_by_key(|(_, count)| *count).unwrap()
}

/// The first page after all of these.
fn end(pages: &DirtyPages) -> u64 {
    pages.runs().last().map_or(0, |(first, count)| first + count)
}

#[test]
fn what_the_guest_touches_is_dirty_once() {
    let Some(kvm) = kvm() else { return };
    for mib in [32, 64] {
        let memory = Size::mib(mib);
        let (mut machine, screen) =
            build(&kvm, MachineConfig { memory, ..config("quiet memory=touch:8 halt") });
        machine.track_dirty(true).unwrap();
        assert!(machine.take_dirty().unwrap().is_empty(), "what is loaded is not a change");
        let machine = machine.resume().unwrap();
        screen.wait_for("memory touched_mib=8");
        let mut machine = pause(machine);
        let dirty = machine.take_dirty().unwrap();
        // The guest writes to so many pages in a row, above 1 MiB and what is its own.
        let (first, count) = longest(&dirty);
        assert!(first >= PAGES_A_MIB && count >= 8 * PAGES_A_MIB, "{dirty:?}");
        // Besides these there are its stacks, tables and the like.
        assert!(dirty.len() < 9 * PAGES_A_MIB, "{dirty:?}");
        assert!(end(&dirty) < 12 * PAGES_A_MIB, "{dirty:?}");
        assert!(machine.take_dirty().unwrap().is_empty());
        // A guest that does nothing changes nothing it has touched before.
        let mut machine = pause(machine.resume().unwrap());
        assert!(machine.take_dirty().unwrap().len() < PAGES_A_MIB);
        machine.track_dirty(false).unwrap();
        assert!(matches!(machine.take_dirty(), Err(Error::NotTracked)));
    }
}

#[test]
fn what_a_device_writes_is_dirty() {
    let Some(kvm) = kvm() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.img");
    std::fs::write(&path, vec![0x5a; 8 << 20]).unwrap();
    let devices = Devices { disk: vec![Disk::new(path)], ..Devices::default() };
    let words = "quiet blk=seqread bs=1M depth=16 secs=3600";
    let (mut machine, _screen) =
        build(&kvm, MachineConfig { devices, memory: Size::mib(64), ..config(words) });
    machine.track_dirty(true).unwrap();
    // The guest clears 16 MiB of buffers, once, and never looks at what comes to them: if they are dirty a
    // second time, the device has done it.
    watched("reads", move || {
        for _ in 0..2 {
            let mut all = DirtyPages::default();
            while all.runs().all(|(_, count)| count < 16 * PAGES_A_MIB) {
                machine = machine.resume().unwrap().pause().unwrap();
                all = all.union(&machine.take_dirty().unwrap());
                assert!(machine.take_dirty().unwrap().is_empty());
            }
        }
    });
}

#[test]
fn pages_are_taken_while_the_machine_runs_and_after_its_end() {
    let Some(kvm) = kvm() else { return };
    let (mut machine, screen) = build(&kvm, config("quiet boot memory=touch:8"));
    machine.track_dirty(true).unwrap();
    let mut machine = machine.resume().unwrap();
    let mut all = DirtyPages::default();
    let ended = Epoll::new().unwrap();
    let event = EpollEvent::new(EventSet::IN, 0);
    ended.ctl(ControlOperation::Add, machine.as_raw_fd(), event).unwrap();
    let machine = watched("end", move || {
        while ended.wait(0, &mut [event]).unwrap() == 0 {
            all = all.union(&machine.take_dirty().unwrap());
        }
        all = all.union(&machine.take_dirty().unwrap());
        // No page is lost between two takes, however many there are.
        assert!(longest(&all).1 >= 8 * PAGES_A_MIB, "{all:?}");
        machine
    });
    let _ = watched("wait", move || machine.wait());
    assert_eq!(number(&screen.text(), "wrong"), 0);
}
