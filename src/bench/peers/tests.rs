use std::fs;

use super::*;

/// What a VMM is told of a machine: its arguments, and its configuration file.
fn told(name: &str, guest: &Guest<'_>) -> Result<String, NotSupported> {
    let adapter = ADAPTERS.iter().find(|adapter| adapter.name() == name).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let arguments = adapter.arguments(guest, folder.path())?;
    let words: Vec<_> = arguments.iter().map(|word| word.to_str().unwrap()).collect();
    let file = fs::read_to_string(folder.path().join("machine.json")).unwrap_or_default();
    Ok(words.join(" ").replace(folder.path().to_str().unwrap(), "FOLDER") + &file)
}

#[test]
fn each_vmm_is_told_of_a_linux_in_its_own_words() {
    let guest = Guest {
        initrd: Some(Path::new("/i.cpio")),
        cpus: 2,
        ..Guest::new(Kernel::File(Path::new("/vmlinux")), 256, "quiet")
    };
    for (name, expected) in [
        ("bantam", "run --memory 256M --cpus 2 --cmdline quiet --kernel /vmlinux --initrd /i.cpio"),
        (
            "firecracker",
            "--no-api --config-file FOLDER/machine.json --log-path FOLDER/log{\"boot-source\":{\"boot_args\":\"quiet\",\"initrd_path\":\
             \"/i.cpio\",\"kernel_image_path\":\"/vmlinux\"},\"drives\":[],\"entropy\":null,\"machine-config\":{\"mem_size_mib\":256,\
             \"vcpu_count\":2},\"network-interfaces\":[],\"vsock\":null}",
        ),
        (
            "cloud-hypervisor",
            "--memory size=256M --cpus boot=2 --cmdline quiet --console off --serial tty --kernel /vmlinux \
             --initramfs /i.cpio",
        ),
        (
            "crosvm",
            "run --disable-sandbox --mem 256 --cpus 2 --serial type=stdout,hardware=serial,num=1 --params quiet \
             --initrd /i.cpio /vmlinux",
        ),
        (
            "lkvm",
            "run --mem 256 --cpus 2 --params quiet --console serial --network mode=none --kernel /vmlinux \
             --initrd /i.cpio",
        ),
        (
            "alioth",
            "boot --memory size=256M --cpu count=2 --cmdline quiet --pvh /vmlinux --initramfs /i.cpio",
        ),
    ] {
        assert_eq!(told(name, &guest).unwrap(), expected, "{name}");
    }
    let qemu = told("qemu", &guest).unwrap();
    assert!(qemu.ends_with("-append quiet -kernel /vmlinux -initrd /i.cpio"), "{qemu}");
    assert!(qemu.contains(" -m 256 -smp 2 ") && qemu.contains(" -serial stdio "), "{qemu}");
    told("floor", &guest).unwrap_err();
}

#[test]
fn devices_are_told_of_or_refused_with_a_reason() {
    let plain = Guest::new(Kernel::Embedded(Path::new("/guest")), 64, "");
    let disk = Disk { path: Path::new("/d.img"), direct: true, engine: None };
    let with_disk = Guest { disk: Some(disk), ..plain.clone() };
    let cached = Disk { direct: false, ..disk };
    let with_cached = Guest { disk: Some(cached), ..plain.clone() };
    let with_tap = Guest { tap: Some("tap0"), ..plain.clone() };
    let with_vsock = Guest { vsock: Some((3, Path::new("/v.sock"))), ..plain.clone() };

    assert!(told("bantam", &with_disk).unwrap().ends_with("--disk path=/d.img,format=raw,direct"));
    assert!(told("bantam", &with_tap).unwrap().ends_with("--net tap=tap0"));
    assert!(told("bantam", &with_vsock).unwrap().ends_with("--vsock cid=3,uds=/v.sock"));
    assert!(told("qemu", &with_disk).unwrap().contains("cache=none,file=/d.img"));
    assert!(told("qemu", &with_tap).unwrap().contains("ifname=tap0"));
    assert!(told("firecracker", &with_cached).unwrap().contains("\"path_on_host\":\"/d.img\""));
    assert!(told("firecracker", &with_tap).unwrap().contains("\"host_dev_name\":\"tap0\""));
    assert!(told("firecracker", &with_vsock).unwrap().contains("\"uds_path\":\"/v.sock\""));
    told("firecracker", &with_disk).unwrap_err();
    told("qemu", &with_vsock).unwrap_err();
    for name in ["floor", "cloud-hypervisor", "crosvm", "lkvm", "alioth"] {
        for guest in [&with_disk, &with_tap, &with_vsock] {
            let NotSupported(why) = told(name, guest).unwrap_err();
            assert!(why.contains("devices"), "{why}");
        }
    }
    told("lkvm", &plain).unwrap_err();
}

#[test]
fn a_vmm_is_found_by_its_adapters_name_and_more_behind_a_dash() {
    let program = std::env::current_exe().unwrap();
    assert_eq!(Vmm::named("qemu-9.2", &program).unwrap().adapter.name(), "qemu");
    assert_eq!(Vmm::named("cloud-hypervisor", &program).unwrap().adapter.name(), "cloud-hypervisor");
    let error = |name: &str, path: &Path| match Vmm::named(name, path) {
        Ok(_) => panic!("{name} is a VMM"),
        Err(error) => format!("{error:#}"),
    };
    assert!(error("qemux", &program).starts_with("no adapter for a VMM qemux"));
    assert!(error("qemu", Path::new("/nowhere")).contains("/nowhere"));
    let given = [("qemu".to_owned(), program.clone()), ("qemu".to_owned(), program.clone())];
    assert!(Vmm::all(&program, &given).is_err());
}

#[test]
fn an_adapter_is_small() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bench/peers");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let adapters: Vec<_> =
        files.filter(|path| !path.ends_with("mod.rs") && !path.ends_with("tests.rs")).collect();
    assert_eq!(adapters.len(), ADAPTERS.len());
    for path in adapters {
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines < 80, "{} has {lines} lines", path.display());
    }
}
