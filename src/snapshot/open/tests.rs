use tempfile::tempdir;

use super::*;
use crate::snapshot::manifest::DiskCopy;
use crate::snapshot::testing::{manifest, save};

#[test]
fn a_copy_of_a_disk_that_there_is_not_is_refused() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("snap");
    // The last one is a part of the machine, as an embedder's own device is.
    for (device, is_there) in [("disk0", true), ("disk1", false), ("", false), ("vcpu0", true)] {
        let mut saved = manifest(1);
        saved.config.devices.disk.push(Disk::new("disk.img"));
        saved.disks.push(DiskCopy { device: device.into(), file: "disk0.qcow2".into(), len: 0, crc: 0 });
        save(&path, 1, &saved).unwrap();
        match Snapshot::open(&path) {
            Err(Error::StrayCopy { device: found, .. }) => assert!(!is_there && found == device, "{device}"),
            opened => assert!(opened.is_ok() && is_there, "{device}: {opened:?}"),
        }
    }
}
