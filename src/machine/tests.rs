use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use vm_memory::{GuestMemoryBackend, GuestMemoryRegion, GuestRegionMmap, MemoryRegionAddress};

use super::*;
use crate::config::{self, Devices, MachineConfig, Size};
use crate::devices::ioapic::{IoApicState, entry};
use crate::hypervisor::VcpuState;
use crate::memory::{GuestMemory, dirty};
use crate::state::State;
use crate::virtio::Allow;
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

/// A machine that has not run, its state, and where a builder takes it from.
fn saved() -> Option<(MachineConfig, State)> {
    let hypervisor = crate::testing::hypervisor()?;
    let config =
        MachineConfig { memory: Size::mib(16), console: config::Console::Off, ..MachineConfig::default() };
    let mut machine = Builder::new(config.clone()).hypervisor(hypervisor).build().unwrap();
    Some((config, machine.save().unwrap()))
}

fn restored(config: &MachineConfig, state: State, track_since: Option<u128>) -> PausedMachine {
    let kept = Kept {
        memory: crate::memory::allocate(config.memory).unwrap(),
        layers: None,
        state,
        allow: Allow::default(),
        track_since,
        prefetch: None,
        lifeline: None,
    };
    Builder::new(config.clone()).restore(kept).build().unwrap()
}

/// KVM tells of the end of a level-triggered interrupt with an exit, which is lost with a machine that is paused
/// just before.
#[test]
fn an_interrupt_whose_end_was_not_told_does_not_keep_its_pin() {
    const VECTOR: u8 = 0x51;
    const ENTRY: u64 = VECTOR as u64 | entry::LEVEL;
    let Some((config, state)) = saved() else { return };
    // In no local APIC; in service; waiting; and of a guest that tells the IOAPIC itself.
    for (register, bits, waits) in
        [(0, 0, false), (0x120, 1 << 17, true), (0x220, 1 << 17, true), (0x0f0, 0x11ff, true)]
    {
        let mut state = state.clone();
        let mut ioapic: IoApicState = state.take("ioapic").unwrap();
        ioapic.entries[9] = ENTRY | entry::REMOTE_IRR;
        state.put("ioapic", &ioapic).unwrap();
        let mut vcpu: VcpuState = state.take("vcpu0").unwrap();
        for (byte, value) in vcpu.lapic.regs[register..].iter_mut().zip(u32::to_le_bytes(bits)) {
            if register > 0 {
                *byte = i8::from_ne_bytes([value]);
            }
        }
        state.put("vcpu0", &vcpu).unwrap();
        let ioapic: IoApicState = restored(&config, state, None).save().unwrap().take("ioapic").unwrap();
        assert_eq!(ioapic.entries[9] & entry::REMOTE_IRR != 0, waits, "register {register:#x}");
    }
}

/// A vCPU that is given its registers has KVM write to memory.
#[test]
fn what_a_restore_writes_is_among_the_changes_since_then() {
    /// `MSR_KVM_WALL_CLOCK_NEW` (Linux, `virt/kvm/x86/msr.rst`).
    const WALL_CLOCK: u32 = 0x4b56_4d00;
    let Some((config, mut state)) = saved() else { return };
    let mut vcpu: VcpuState = state.take("vcpu0").unwrap();
    for msr in vcpu.msrs.iter_mut().filter(|msr| [0x11, WALL_CLOCK].contains(&msr.index)) {
        msr.data = 0x5000;
    }
    state.put("vcpu0", &vcpu).unwrap();
    let mut machine = restored(&config, state, Some(7));
    let written = differing(&vec![0; 16 << 20], &image(machine.memory()));
    assert!(!written.is_empty());
    let changed = machine.changed_since(7).unwrap();
    assert!(holds(changed, &written), "{written:?}, and known are {changed:?}");
}

#[test]
fn a_machine_that_goes_on_adds_to_its_console() {
    let Some((config, state)) = saved() else { return };
    let folder = tempfile::tempdir().unwrap();
    let paths = ["console.log", "virtio.log"].map(|name| folder.path().join(name));
    let said = || paths.each_ref().map(|path| std::fs::read_to_string(path).unwrap());
    let file = |path: &PathBuf| config::Console::File(path.clone());
    let with_consoles = |config: &MachineConfig| {
        let mut config = config.clone();
        config.console = file(&paths[0]);
        config
    };
    paths.iter().for_each(|path| std::fs::write(path, "before").unwrap());
    drop(restored(&with_consoles(&config), state, None));
    assert_eq!(said()[0], "before");
    let stream = file(&paths[1]);
    let console = crate::virtio::console::config::Console { stream, id: None };
    let devices = Devices { virtio_console: vec![console], ..Devices::default() };
    let config = MachineConfig { devices, console: config::Console::Off, ..config };
    let mut machine = Builder::new(config.clone()).build().unwrap();
    let state = machine.save().unwrap();
    drop(machine);
    // Another one begins anew.
    assert_eq!(said(), ["before", ""]);
    std::fs::write(&paths[1], "before").unwrap();
    drop(restored(&config, state, None));
    assert_eq!(said(), ["before", "before"]);
    drop(Builder::new(with_consoles(&config)).build().unwrap());
    assert_eq!(said(), ["", ""]);
}

#[test]
fn a_machine_that_takes_too_long_to_save_is_as_it_was() {
    let Some(hypervisor) = crate::testing::hypervisor() else { return };
    let folder = tempfile::tempdir().unwrap();
    let disks = ["a.img", "b.img"].map(|name| folder.path().join(name));
    disks.iter().for_each(|path| std::fs::write(path, [0; PAGE]).unwrap());
    let config = MachineConfig {
        memory: Size::mib(16),
        console: config::Console::Off,
        devices: Devices { disk: disks.map(Disk::new).to_vec(), ..Devices::default() },
        ..MachineConfig::default()
    };
    let mut machine = Builder::new(config).hypervisor(hypervisor).build().unwrap();
    let asked = std::cell::Cell::new(0);
    let late = || {
        asked.set(asked.get() + 1);
        Err(Error::Basis)
    };
    assert!(matches!(machine.save_in_time(late), Err(Error::Basis)));
    assert_eq!(asked.get(), 1);
    assert!(machine.save().unwrap().sections().iter().any(|part| part.id == "disk1"));
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
