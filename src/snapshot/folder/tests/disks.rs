//! Snapshots whose disks lie over those of others.

use super::*;
use crate::snapshot::testing::save_over;

#[test]
fn what_lies_over_a_snapshot_is_known() {
    let dir = tempdir().unwrap();
    let at = |name: &str| dir.path().canonicalize().unwrap().join(name);
    fs::write(at("base.img"), b"a disk").unwrap();
    save_over(&at("first"), &manifest(1), &at("base.img")).unwrap();
    save_over(&at("second"), &manifest(2), &at("first/disk0.qcow2")).unwrap();
    let id = Folder::open(&at("second")).unwrap().manifest().id;
    save(&at("diff"), 3, &diff(3, Path::new("../second"), id)).unwrap();
    fs::create_dir(at("no-snapshot")).unwrap();
    let over = |name: &str| Folder::open(&at(name)).unwrap().stands_on().unwrap();
    assert_eq!(over("first"), [("disk0".to_owned(), at("base.img"))]);
    assert_eq!(over("second"), [("disk0".to_owned(), at("first/disk0.qcow2"))]);
    assert_eq!(over("diff"), []);

    symlink(at("first"), at("link")).unwrap();
    for (path, expected) in [
        ("first", vec![at("second")]),
        ("link", vec![at("second")]),
        ("second", vec![at("diff")]),
        ("diff", vec![]),
    ] {
        assert_eq!(dependants(&at(path)).unwrap(), expected, "{path}");
    }
}

/// In the place of what it lies over, the copy would lie over itself.
#[test]
fn a_snapshot_does_not_take_the_place_of_what_its_disks_lie_over() {
    let dir = tempdir().unwrap();
    let at = |name: &str| dir.path().canonicalize().unwrap().join(name);
    fs::write(at("base.img"), b"a disk").unwrap();
    save_over(&at("snap"), &manifest(1), &at("base.img")).unwrap();
    let before = Folder::open(&at("snap")).unwrap().manifest().id;
    let replaced = save_over(&at("snap"), &manifest(2), &at("snap/disk0.qcow2"));
    assert!(matches!(replaced, Err(Error::ReplacesDisks(_))), "{replaced:?}");
    assert_eq!(Folder::open(&at("snap")).unwrap().manifest().id, before);
    save_over(&at("snap"), &manifest(2), &at("base.img")).unwrap();
}
