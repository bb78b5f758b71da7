//! One base, many machines.

use super::*;
use crate::virtio::block::config::Overlay;
use crate::virtio::block::image::Error;

#[test]
fn an_overlay_leaves_its_base_alone() {
    let folder = folder();
    let base = folder.path().join("base.img");
    let bytes: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
    std::fs::write(&base, &bytes).unwrap();
    for engine in ENGINES {
        let over = |overlay| Disk { overlay: Some(overlay), ..disk(&base, Format::Auto, engine) };
        let named = folder.path().join("over.qcow2");
        let disks = [over(Overlay::Temp), over(Overlay::Temp), over(Overlay::Path(named.clone()))];
        let images = disks.clone().map(|disk| Image::open(&disk).unwrap());
        for (image, fill) in images.iter().zip(1_u8..) {
            let mut guest = Guest::new(image);
            assert_eq!(guest.read(8192, 4096).unwrap(), bytes[8192..12_288]);
            guest.write(8192, &[fill; 1024]).unwrap();
            guest.run(Operation::WriteZeroes { offset: 0, len: 512, unmap: true }).unwrap();
            guest.run(Operation::Flush).unwrap();
            assert_eq!(guest.read(0, 512).unwrap(), [0; 512]);
            assert_eq!(guest.read(512, 512).unwrap(), bytes[512..1024]);
            assert_eq!(guest.read(8192, 1024).unwrap(), [fill; 1024]);
            assert_eq!(guest.read(9216, 1024).unwrap(), bytes[9216..10_240]);
        }
        drop(images);
        assert_eq!(std::fs::read(&base).unwrap(), bytes);
        // A named one is there again, a temporary one is not.
        let [temporary, _, again] = disks.map(|disk| Guest::new(&Image::open(&disk).unwrap()));
        let [mut temporary, mut again] = [temporary, again];
        assert_eq!(temporary.read(8192, 1024).unwrap(), bytes[8192..9216]);
        assert_eq!(again.read(8192, 1024).unwrap(), [3; 1024]);
        drop(again);
        check(&named);
        if let Some(info) = qemu_img(&["info", named.to_str().unwrap()]) {
            assert!(info.contains("backing file format: raw"), "{info}");
        }
        std::fs::remove_file(named).unwrap();
    }
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn an_overlay_belongs_to_its_base() {
    let folder = folder();
    let [a, b] = ["a.img", "b.img"].map(|name| raw(folder.path(), name, 1 << 20));
    let named = folder.path().join("over.qcow2");
    let over = |base: &Path| Disk { overlay: Some(Overlay::Path(named.clone())), ..Disk::new(base) };
    let image = Image::open(&over(&a)).unwrap();
    assert!(matches!(Image::open(&over(&a)).err().unwrap(), Error::Written(path) if path == named));
    drop(image);
    Image::open(&over(&a)).unwrap();
    assert!(matches!(Image::open(&over(&b)).err().unwrap(), Error::OtherBase { .. }));
    std::fs::write(&named, "what the user would miss").unwrap();
    assert!(matches!(Image::open(&over(&a)).err().unwrap(), Error::NotQcow2(_)));
    assert_eq!(std::fs::read(&named).unwrap(), b"what the user would miss");
    std::fs::remove_file(&named).unwrap();
    let nowhere = Disk { overlay: Some(Overlay::Path(folder.path().join("no/o.qcow2"))), ..Disk::new(&a) };
    assert!(matches!(Image::open(&nowhere).err().unwrap(), Error::Create { .. }));
}

#[test]
fn overlays_lie_over_qcow2_too() {
    let folder = folder();
    let raw = raw(folder.path(), "a.img", 1 << 20);
    let [first, second] = ["first.qcow2", "second.qcow2"].map(|name| folder.path().join(name));
    let below = Disk { overlay: Some(Overlay::Path(first.clone())), ..Disk::new(&raw) };
    let mut guest = Guest::new(&Image::open(&below).unwrap());
    guest.write(0, &[1; 512]).unwrap();
    drop(guest);
    let over = Disk { overlay: Some(Overlay::Path(second.clone())), ..Disk::new(&first) };
    let mut guest = Guest::new(&Image::open(&over).unwrap());
    guest.write(512, &[2; 512]).unwrap();
    assert_eq!(guest.read(0, 1024).unwrap(), [[1; 512], [2; 512]].concat());
    drop(guest);
    // By its own name it finds those below.
    let mut guest = Guest::new(&Image::open(&Disk { readonly: true, ..Disk::new(&second) }).unwrap());
    assert_eq!(guest.read(0, 1024).unwrap(), [[1; 512], [2; 512]].concat());
    check(&second);
}
