use super::*;

#[test]
fn a_disk_is_a_path_and_what_differs() {
    let disk: Disk = toml::from_str("path = 'a.img'").unwrap();
    assert_eq!(disk, Disk::new("a.img"));
    let text = "path = 'a.qcow2'\nreadonly = false\nid = 'root'\nserial = 'S1'\nformat = 'qcow2'\n\
        engine = 'io_uring'\ndirect = true\ncache = 'unsafe'\nrate = '10M/100'\niothread = 'io0'\n\
        overlay = 'temp'\n";
    let disk: Disk = toml::from_str(text).unwrap();
    assert_eq!((disk.format, disk.engine, disk.cache), (Format::Qcow2, EngineKind::IoUring, Cache::Unsafe));
    assert_eq!(disk.overlay, Some(Overlay::Temp));
    let again = toml::to_string(&disk).unwrap();
    assert_eq!(toml::from_str::<Disk>(&again).unwrap(), disk, "{again}");
    for wrong in ["", "path = 'a'\nread_only = true", "path = 'a'\nengine = 'aio'", "path = 'a'\nrate = 'x'"]
    {
        assert!(toml::from_str::<Disk>(wrong).is_err(), "{wrong}");
    }
    assert_eq!("./temp".parse(), Ok(Overlay::Path("./temp".into())));
}

#[test]
fn contradictions_are_told() {
    let with = |change: fn(&mut Disk)| {
        let mut disk = Disk::new("d.img");
        change(&mut disk);
        disk.validate().unwrap_err()
    };
    Disk::new("d.img").validate().unwrap();
    let d = || PathBuf::from("d.img");
    assert_eq!(with(|d| d.path = "".into()), Error::Path);
    assert_eq!(with(|d| d.overlay = Some(Overlay::Path("".into()))), Error::OverlayPath(d()));
    assert_eq!(with(|d| d.overlay = Some(Overlay::Path("d.img".into()))), Error::OverlayIsImage(d()));
    let both = |d: &mut Disk| (d.readonly, d.overlay) = (true, Some(Overlay::Temp));
    assert_eq!(with(both), Error::ReadonlyOverlay(d()));
    assert_eq!(with(|d| d.id = Some(String::new())), Error::Id(d()));
    for serial in ["", "123456789012345678901", "a\nb", "é"] {
        let mut disk = Disk::new("d.img");
        disk.serial = Some(serial.to_owned());
        assert!(matches!(disk.validate(), Err(Error::Serial { .. })), "{serial}");
    }
}
