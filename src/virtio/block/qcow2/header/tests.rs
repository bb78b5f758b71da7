use std::fs;
use std::sync::Arc;

use super::super::{Format, create};
use super::*;
use crate::virtio::block::host::{Access, HostFile};

/// An image over another one, by the name that its header has.
fn image(path: &Path, below: Option<(&str, Format)>) -> File {
    let access = Access { write: true, ..Access::default() };
    create(&Arc::new(HostFile::create(path, access).unwrap()), 1 << 20, below).unwrap();
    File::options().read(true).write(true).open(path).unwrap()
}

#[test]
fn all_that_an_image_stands_on_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().canonicalize().unwrap().join(name);
    fs::create_dir(at("deep")).unwrap();
    // A raw image may look like anything.
    image(&at("raw"), Some(("/etc/passwd", Format::Raw)));
    image(&at("deep/first.qcow2"), Some(("../raw", Format::Raw)));
    let second = image(&at("second.qcow2"), Some(("deep/first.qcow2", Format::Qcow2)));
    assert_eq!(backing_files(&second, &at("")).unwrap(), [at("deep/first.qcow2"), at("raw")]);
    fs::remove_file(at("raw")).unwrap();
    assert_eq!(backing_files(&second, &at("")).unwrap().len(), 2);
    fs::remove_file(at("deep/first.qcow2")).unwrap();
    assert_eq!(backing_files(&second, &at("")).unwrap(), [at("deep/first.qcow2")]);
    assert!(backing_files(&image(&at("alone"), None), &at("")).unwrap().is_empty());
    fs::write(at("text"), "no image").unwrap();
    assert!(backing_files(&File::open(at("text")).unwrap(), &at("")).unwrap().is_empty());
    // One that stands on itself has an end, too.
    let circle = image(&at("circle"), Some(("circle", Format::Qcow2)));
    assert_eq!(backing_files(&circle, &at("")).unwrap().len(), MAX_CHAIN);
}

#[test]
fn a_copy_elsewhere_finds_what_the_image_stood_on() {
    let folder = tempfile::tempdir().unwrap();
    let real = folder.path().canonicalize().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    fs::write(real.join("base.img"), [7; 512]).unwrap();
    let copy = image(&elsewhere.path().join("copy.qcow2"), Some(("./base.img", Format::Raw)));
    let before = copy.metadata().unwrap().modified().unwrap();
    keep_backing(&copy, folder.path()).unwrap();
    assert_eq!(backing_files(&copy, elsewhere.path()).unwrap(), [real.join("base.img")]);
    assert_eq!(copy.metadata().unwrap().modified().unwrap(), before);
    let host = Arc::new(HostFile::open(&elsewhere.path().join("copy.qcow2"), Access::default()).unwrap());
    assert_eq!(super::super::backing(&host).unwrap(), Some((real.join("base.img"), Format::Raw)));
    // An absolute name stays, whether there is such a file or not.
    let absolute = image(&elsewhere.path().join("other.qcow2"), Some(("/nowhere/base.img", Format::Raw)));
    keep_backing(&absolute, folder.path()).unwrap();
    assert_eq!(backing_files(&absolute, folder.path()).unwrap(), [Path::new("/nowhere/base.img")]);
    let lost = image(&elsewhere.path().join("lost.qcow2"), Some(("gone.img", Format::Raw)));
    assert_eq!(keep_backing(&lost, folder.path()).unwrap_err().kind(), io::ErrorKind::NotFound);
}
