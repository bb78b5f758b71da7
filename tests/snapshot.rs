//! Machines that are saved and go on elsewhere.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::time::Duration;

use bantam::config::MachineConfig;
use bantam::hypervisor::Hypervisor;
use bantam::machine::{Builder, Kept, PausedMachine, RunningMachine};
use bantam::memory::{self, GuestMemory};
use bantam::virtio::Allow;
use common::{Screen, config, kvm, watched};
use vm_memory::{Bytes, GuestMemoryBackend, GuestMemoryRegion};

fn start(kvm: &Hypervisor, config: &MachineConfig) -> (RunningMachine, Screen) {
    let screen = Screen::default();
    let builder = Builder::new(config.clone()).hypervisor(kvm.clone()).console_output(screen.clone());
    (builder.build().unwrap().resume().unwrap(), screen)
}

fn pause(machine: RunningMachine) -> PausedMachine {
    watched("pause", move || machine.pause()).unwrap()
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
            .restore(Kept { memory, state, layers: None, allow: Allow::default(), track_since: None })
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
