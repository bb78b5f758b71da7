//! Disks and snapshots of them.

use super::*;
use crate::memory::GuestMemory;
use crate::state::State;
use crate::virtio::block::config::Overlay;
use crate::virtio::testing::{self, reg, wait};
use crate::virtio::{Allow, SaveError};

/// A machine that has been saved and has ended: nobody has its disk.
struct Saved {
    /// Its driver, on another disk.
    driver: GuestDriver,
    state: State,
    memory: GuestMemory,
}

/// Saves a machine, which is paused then.
fn save(driver: &mut GuestDriver) -> Saved {
    driver.pause();
    let state = driver.save().unwrap();
    // Kernels before 6.13 know when a file was changed to a tick.
    std::thread::sleep(Duration::from_millis(20));
    let memory = testing::copy(&driver.memory);
    let other = image().1.open(&PLACE).unwrap();
    let allow = Allow { changed_disks: true, ..Allow::default() };
    let other = driver.heir(other, memory.clone(), state.clone(), allow).unwrap();
    Saved { driver: other, state, memory }
}

/// A machine whose guest has written to sector 7, and not flushed.
fn written(disk: &Disk) -> GuestDriver {
    let mut driver = driver(disk);
    driver.set_up(FLUSH);
    assert_eq!(write(&mut driver, 7, &[77; 512]), 0);
    driver
}

impl Saved {
    fn restore(&self, disk: &Disk, allow: Allow) -> Result<GuestDriver, SaveError> {
        let device = disk.open(&PLACE).unwrap();
        let memory = testing::copy(&self.memory);
        let mut heir = self.driver.heir(device, memory, self.state.clone(), allow)?;
        heir.resume();
        Ok(heir)
    }

    fn difference(&self, disk: &Disk) -> String {
        match self.restore(disk, Allow::default()).err() {
            Some(SaveError::DiskChanged { differs, .. }) => differs,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_disk_that_was_changed_since_is_refused_unless_that_is_allowed() {
    let allow = Allow { changed_disks: true, ..Allow::default() };
    for engine in ENGINES {
        let (folder, disk) = image();
        let disk = Disk { engine, ..disk };
        let before = save(&mut written(&disk));
        let copied = copy(&disk.path, &folder.path().join("copy.img"));
        // As it was left, and as a copy elsewhere.
        for path in [&disk.path, &copied] {
            let mut heir = before.restore(&Disk::new(path), Allow::default()).unwrap();
            assert_eq!(read(&mut heir, 7, 512), (vec![77; 512], 0));
            assert_eq!(write(&mut heir, 8, &[88; 512]), 0);
        }
        // Which have been written now.
        let text = before.restore(&disk, Allow::default()).err().unwrap().to_string();
        let path = disk.path.display();
        let expected =
            format!("test: the disk {path} is not as the snapshot left it: it was written at another");
        assert!(text.starts_with(&expected), "{text}");
        let mut heir = before.restore(&disk, allow).unwrap();
        assert_eq!(read(&mut heir, 8, 512), (vec![88; 512], 0));
        drop(heir);

        let before = save(&mut written(&disk));
        let readonly = Disk { readonly: true, ..disk.clone() };
        assert_eq!(before.difference(&readonly), "it cannot be written now");
        fs::File::options().write(true).open(&disk.path).unwrap().set_len(512 * 128).unwrap();
        assert_eq!(before.difference(&disk), "it had 32768 bytes, and has 65536");
        // The driver hears of the new size.
        let heir = before.restore(&disk, allow).unwrap();
        assert_eq!(u64::from_le_bytes(heir.config(0)), 128);
        wait("no interrupt", || heir.read(reg::INTERRUPT_STATUS) & 2 != 0 && heir.line.rises() > 0);
    }
}

#[test]
fn an_overlay_goes_on_as_a_copy_and_no_other_does() {
    let (folder, base) = image();
    let path = |name: &str| folder.path().join(name);
    let over = |name: &str| Disk { overlay: Some(Overlay::Path(path(name))), ..base.clone() };
    let mut first = written(&over("first.qcow2"));
    let before = save(&mut first);
    copy(&path("first.qcow2"), &path("second.qcow2"));
    // The machine goes on.
    first.resume();
    assert_eq!(write(&mut first, 7, &[99; 512]), 0);
    first.pause();
    let mut second = before.restore(&over("second.qcow2"), Allow::default()).unwrap();
    assert_eq!(read(&mut second, 6, 1536), ([[6; 512], [77; 512], [8; 512]].concat(), 0));
    assert_eq!(write(&mut second, 6, &[66; 512]), 0);
    let after = save(&mut second);
    drop(second);
    // One that lies over the copy, new: below it is what the guest had. And not when it is used.
    let above = Disk { overlay: Some(Overlay::Path(path("above.qcow2"))), ..Disk::new(path("second.qcow2")) };
    let mut third = after.restore(&above, Allow::default()).unwrap();
    assert_eq!(read(&mut third, 6, 1024), ([[66; 512], [77; 512]].concat(), 0));
    drop(third);
    assert_eq!(after.difference(&above), "it was in 2 files, one over the other, and is in 3 now");
    // Nor a new one in place of the old, nor one of another machine, nor the base alone.
    let temporary = Disk { overlay: Some(Overlay::Temp), ..base.clone() };
    assert!(after.difference(&temporary).starts_with("its overlay is a new one"));
    drop(first);
    assert!(!after.difference(&over("first.qcow2")).is_empty());
    assert_eq!(after.difference(&base), "it was in 2 files, one over the other, and is in 1 now");
}

#[test]
fn a_temporary_overlay_goes_on_as_a_copy_with_a_name() {
    let (folder, base) = image();
    let mut first = written(&Disk { overlay: Some(Overlay::Temp), ..base.clone() });
    let before = save(&mut first);
    let path = copy(&first.overlay().unwrap(), &folder.path().join("copy.qcow2"));
    // What is written from now on is not in it.
    first.resume();
    assert_eq!(write(&mut first, 7, &[99; 512]), 0);
    let copied = Disk { overlay: Some(Overlay::Path(path.clone())), ..base.clone() };
    let mut heir = before.restore(&copied, Allow::default()).unwrap();
    assert_eq!(read(&mut heir, 6, 1536), ([[6; 512], [77; 512], [8; 512]].concat(), 0));
    heir.pause();
    assert_eq!(heir.overlay(), Some(path));
    let (_other_folder, other) = image();
    let mut alone = driver(&other);
    alone.pause();
    assert_eq!(alone.overlay(), None);
}

#[test]
fn a_disk_without_an_overlay_goes_on_below_new_ones() {
    let (_folder, disk) = image();
    let before = save(&mut written(&disk));
    let temporary = Disk { overlay: Some(Overlay::Temp), ..disk };
    let mut heirs: Vec<_> = (0..3).map(|_| before.restore(&temporary, Allow::default()).unwrap()).collect();
    for (number, heir) in (1..).zip(&mut heirs) {
        assert_eq!(read(heir, 7, 512), (vec![77; 512], 0));
        assert_eq!(write(heir, 7, &[number; 512]), 0);
    }
    for (number, heir) in (1..).zip(&mut heirs) {
        assert_eq!(read(heir, 7, 512), (vec![number; 512], 0));
    }
}
