use std::cell::Cell;
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::config::{Console, Devices, Size};
use crate::hypervisor::Hypervisor;
use crate::machine::Builder;
use crate::snapshot::{Restoring, Snapshot};
use crate::virtio::block::config::{Disk, Overlay};

fn quiet(_: u64, _: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// A folder, and a machine in it whose disk has an overlay with a name; none without KVM.
fn machine() -> Option<(TempDir, Hypervisor, MachineConfig)> {
    let hypervisor = crate::testing::hypervisor()?;
    let folder = tempfile::tempdir().unwrap();
    let [image, overlay] = ["base.img", "over.qcow2"].map(|name| folder.path().join(name));
    fs::write(&image, [7; 4096]).unwrap();
    let config = MachineConfig {
        memory: Size::mib(16),
        console: Console::Off,
        devices: Devices {
            disk: vec![Disk { overlay: Some(Overlay::Path(overlay)), ..Disk::new(image) }],
            ..Devices::default()
        },
        ..MachineConfig::default()
    };
    Some((folder, hypervisor, config))
}

#[test]
fn the_copy_of_an_overlay_finds_an_image_that_was_beside_the_overlay() {
    let Some((folder, hypervisor, config)) = machine() else { return };
    let build = |config: &MachineConfig| Builder::new(config.clone()).hypervisor(hypervisor.clone()).build();
    drop(build(&config).unwrap());
    // As of `qemu-img create -b base.img`: the offset of the name stays.
    let overlay = File::options().read(true).write(true).open(folder.path().join("over.qcow2")).unwrap();
    let mut at = [0; 8];
    overlay.read_exact_at(&mut at, 8).unwrap();
    overlay.write_all_at(b"base.img", u64::from_be_bytes(at)).unwrap();
    overlay.write_all_at(&8_u32.to_be_bytes(), 16).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let path = elsewhere.path().join("snap");
    let taken = Taken::take(&mut build(&config).unwrap(), &path, &Options::default(), &mut quiet).unwrap();
    taken.finish(&mut quiet).unwrap();
    let snapshot = Snapshot::open(&path).unwrap();
    let below = snapshot.folder().stands_on().unwrap();
    assert_eq!(below, [("disk0".to_owned(), folder.path().canonicalize().unwrap().join("base.img"))]);
    let builder = snapshot.builder(snapshot.config(), Restoring::default()).unwrap();
    builder.hypervisor(hypervisor.clone()).build().unwrap();
}

#[test]
fn what_comes_too_late_is_not_taken() {
    let Some((folder, hypervisor, config)) = machine() else { return };
    let mut machine = Builder::new(config).hypervisor(hypervisor).build().unwrap();
    let path = folder.path().join("snap");
    // It is asked once for the disk, once for all of the state, and once for the overlay at least.
    for (most, is_taken) in [(0, false), (1, false), (2, false), (u32::MAX, true)] {
        let asked = Cell::new(0);
        let in_time = || {
            asked.set(asked.get() + 1);
            let late = Error::Pause { needed: Duration::ZERO, allowed: Duration::ZERO };
            if asked.get() > most { Err(late) } else { Ok(()) }
        };
        let mut begun = Begun::new(machine.tracked_since(), &path, &Options::default()).unwrap();
        begun.write_all(machine.memory(), None, &mut quiet).unwrap();
        let taken = begun.take(&mut machine, in_time);
        assert_eq!(taken.is_ok(), is_taken, "{taken:?}");
        assert!(taken.is_ok() || matches!(taken, Err(Error::Pause { .. })), "{taken:?}");
    }
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}
