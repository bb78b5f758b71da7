use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use vm_memory::{GuestMemoryBackend, GuestMemoryRegion, GuestRegionMmap, MemoryRegionAddress};

use super::*;
use crate::config::{Devices, MachineConfig, Size};
use crate::memory::{GuestMemory, dirty};
use crate::virtio::block::config::Disk;

const PAGE: usize = 4096;

/// A console that a test listens to.
struct Wire(Sender<Vec<u8>>);

impl io::Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Nobody listens any more when the test has what it wants.
        let _ = self.0.send(bytes.to_vec());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn wait_for(console: &Receiver<Vec<u8>>, wanted: &str) {
    let mut text = String::new();
    while !text.contains(wanted) {
        text += &String::from_utf8_lossy(&console.recv().unwrap());
    }
}

/// All of guest memory, as an image of it has it.
fn image(memory: &GuestMemory) -> Vec<u8> {
    let bytes = |region: &GuestRegionMmap<_>| {
        let mut bytes = vec![0; region.size()];
        region.get_slice(MemoryRegionAddress(0), bytes.len()).unwrap().copy_to(&mut bytes);
        bytes
    };
    memory.iter().map(bytes).collect::<Vec<_>>().concat()
}

/// The pages in which two images differ.
fn differing(one: &[u8], other: &[u8]) -> DirtyPages {
    let pages = one.chunks(PAGE).zip(other.chunks(PAGE)).zip(0..);
    pages.filter(|((one, other), _)| one != other).map(|(_, page)| page).collect()
}

fn holds(all: &DirtyPages, some: &DirtyPages) -> bool {
    all.union(some) == *all
}

#[test]
fn every_page_that_differs_is_dirty() {
    let Some(hypervisor) = crate::testing::hypervisor() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.img");
    // No two pages of the disk look alike, and a turn around it is no whole number of rounds.
    let bytes: Vec<_> = (0..555_u64).map(|page| [page.to_le_bytes(); PAGE / 8].concat()).collect();
    std::fs::write(&path, bytes.concat()).unwrap();
    let config = MachineConfig {
        cmdline: "quiet rng=64 blk=seqread bs=64K depth=16 secs=3600".into(),
        memory: Size::mib(32),
        devices: Devices {
            disk: vec![Disk::new(path)],
            entropy: vec![Default::default()],
            ..Devices::default()
        },
        ..MachineConfig::default()
    };
    let (sender, console) = channel();
    let builder = Builder::new(config).hypervisor(hypervisor).console_output(Wire(sender));
    let mut paused = builder.build().unwrap();
    let vm = paused.parts.vm.clone();
    paused.track_dirty(true).unwrap();
    let mut before = image(vm.memory());
    let mut running = paused.resume().unwrap();
    wait_for(&console, "rng n=64");
    // At first there is what the guest prepares, later nothing but what the device reads.
    let (mut guest_wrote, mut device_alone) = (false, false);
    while !(guest_wrote && device_alone) {
        let mut paused = running.pause().unwrap();
        let after = image(vm.memory());
        let differing = differing(&before, &after);
        let of_vmm = dirty::take(vm.memory());
        let of_kvm = paused.take_dirty().unwrap();
        assert!(holds(&of_vmm.union(&of_kvm), &differing), "{differing:?}\n{of_vmm:?}\n{of_kvm:?}");
        assert!(paused.take_dirty().unwrap().is_empty());
        guest_wrote |= !holds(&of_vmm, &differing);
        device_alone |= !holds(&of_kvm, &differing);
        before = after;
        running = paused.resume().unwrap();
    }
    let _ = running.stop();
}

#[test]
fn a_counter_goes_on_is_ahead_or_has_gone_back() {
    use super::state::Counter;
    let seconds = |seconds: u64| seconds * 2_500_000_000;
    for (was, is, expected) in [
        (seconds(100), seconds(100), Counter::GoesOn),
        // What restoring takes, and a rounding error.
        (seconds(100), seconds(101), Counter::GoesOn),
        (seconds(100), seconds(100) - 3, Counter::GoesOn),
        (seconds(100), seconds(3700), Counter::Ahead(Duration::from_secs(3600))),
        (seconds(3700), seconds(100), Counter::Back(Duration::from_secs(3600))),
        (u64::MAX, 0, Counter::Back(Duration::from_millis(u64::MAX / 2_500_000))),
    ] {
        assert_eq!(Counter::of(was, is, 2_500_000), expected, "{was} {is}");
    }
    assert_eq!(Counter::of(0, 5_000_000_000, 0), Counter::Ahead(Duration::from_secs(5)));
}
