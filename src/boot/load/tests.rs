use super::super::testing::*;
use super::*;

#[test]
fn an_elf_kernel_is_loaded_where_it_says() {
    for (mode, protocol, address) in [
        (BootMode::Auto, Protocol::Pvh, MIB + 0x20),
        (BootMode::Pvh, Protocol::Pvh, MIB + 0x20),
        (BootMode::Linux64, Protocol::Linux64, MIB + 0x10),
    ] {
        let memory = memory(&[(0, 8 * MIB)]);
        let loaded = load_kernel(&memory, &small_elf(), mode).unwrap();
        assert_eq!(loaded.entry, Entry { protocol, address });
        assert_eq!(loaded.kernel, MIB..2 * MIB + 0x3000);
        assert_eq!(bytes_at(&memory, MIB, 0x800), [0x90; 0x800]);
        assert_eq!(bytes_at(&memory, MIB + 0x800, 0x800), [0; 0x800]);
        assert_eq!(bytes_at(&memory, 2 * MIB, 6), *b"data\0\0");
    }
}

#[test]
fn pvh_needs_its_note() {
    let elf = elf_file(elf_header(MIB), &[FileSegment::load(MIB, &[0x90; 16], 16)]);
    let memory = memory(&[(0, 8 * MIB)]);
    assert_eq!(
        load_kernel(&memory, &elf, BootMode::Pvh).unwrap_err().to_string(),
        "/k has no PVH entry point (no Xen note of type 18); build Linux with CONFIG_PVH=y, or choose --boot \
         linux64"
    );
    let loaded = load_kernel(&memory, &elf, BootMode::Auto).unwrap();
    assert_eq!(loaded.entry, Entry { protocol: Protocol::Linux64, address: MIB });
}

#[test]
fn a_machine_may_be_too_small_for_anything() {
    assert_eq!(
        load_kernel(&memory(&[(0, MIB / 2)]), &small_elf(), BootMode::Auto).unwrap_err().to_string(),
        "the machine has 512 KiB of memory, too little to boot any kernel; raise --memory"
    );
}

#[test]
fn files_load_as_bytes_do() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), small_elf()).unwrap();
    let kernel = Image::open(file.path()).unwrap();
    let cmdline = CommandLine::new("console=ttyS0").unwrap();
    let request =
        Request { kernel: &kernel, initrd: None, cmdline: &cmdline, mode: BootMode::Auto, rsdp: None };
    let (from_file, from_bytes) = (memory(&[(0, 4 * MIB)]), memory(&[(0, 4 * MIB)]));
    let loaded = load(&from_file, request).unwrap();
    assert_eq!(loaded, load_kernel(&from_bytes, &small_elf(), BootMode::Auto).unwrap());
    let len = usize::try_from(4 * MIB).unwrap();
    assert!(bytes_at(&from_file, 0, len) == bytes_at(&from_bytes, 0, len));
}

#[test]
fn the_log_line_says_where_things_are() {
    let loaded = Loaded {
        entry: Entry { protocol: Protocol::Linux64, address: 0x100_0200 },
        kernel: 16 * MIB..74 * MIB,
        initrd: Some(100 * MIB..101 * MIB),
    };
    assert_eq!(
        loaded.to_string(),
        "kernel at 0x1000000 (58 MiB), entered at 0x1000200 (64-bit Linux protocol), initial ramdisk at \
         0x6400000 (1 MiB)"
    );
}
