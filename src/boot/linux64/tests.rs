use super::super::testing::*;
use super::super::{BootMode, CommandLine, Image, Request, load};
use super::*;
use crate::memory::layout::{CONVENTIONAL_END, HIGH_MEMORY, HOLE_END, PAGE_SIZE};

const RSDP: u64 = 0xe_0000;

fn zero_page_of(kernel: &[u8]) -> (GuestMemory, boot_params) {
    let memory = memory(&[(0, 8 * MIB), (HOLE_END, MIB)]);
    fill(&memory);
    let cmdline = CommandLine::new("console=ttyS0 quiet").unwrap();
    let initrd = Image::from_bytes(vec![7; 0x1801], "/i");
    let request = Request {
        kernel: &image(kernel),
        initrd: Some(&initrd),
        cmdline: &cmdline,
        mode: BootMode::Linux64,
        rsdp: Some(RSDP),
    };
    load(&memory, request).unwrap();
    let params = memory.read_obj(GuestAddress(ZERO_PAGE)).unwrap();
    (memory, params)
}

#[test]
fn both_formats_get_the_same_words() {
    for kernel in [small_elf(), small_bzimage()] {
        let (memory, params) = zero_page_of(&kernel);
        assert_eq!({ params.hdr.boot_flag }, 0xaa55);
        assert_eq!({ params.hdr.header }, 0x5372_6448);
        assert_eq!({ params.hdr.version }, 0x020f);
        assert_eq!(params.hdr.type_of_loader, 0xff);
        assert_eq!(params.hdr.loadflags, 1);
        assert_eq!({ params.acpi_rsdp_addr }, RSDP);
        assert_eq!(params.sentinel, 0);

        assert_eq!(({ params.hdr.cmd_line_ptr }, { params.ext_cmd_line_ptr }), (0x2_0000, 0));
        assert_eq!(bytes_at(&memory, CMDLINE, 21), *b"console=ttyS0 quiet\0\xa5");

        let initrd = u64::from(params.hdr.ramdisk_image) | u64::from(params.ext_ramdisk_image) << 32;
        assert_eq!(initrd, 8 * MIB - 0x2000);
        assert_eq!(({ params.hdr.ramdisk_size }, { params.ext_ramdisk_size }), (0x1801, 0));
        assert_eq!(bytes_at(&memory, initrd, 0x1801), [7; 0x1801]);
        assert_eq!(bytes_at(&memory, initrd + 0x1801, 1), [CANARY]);
    }
}

#[test]
fn the_memory_map_is_the_machines() {
    let (_, params) = zero_page_of(&small_elf());
    let table = params.e820_table;
    let entries: Vec<_> = table[..usize::from(params.e820_entries)]
        .iter()
        .map(|entry| (entry.addr, entry.addr + entry.size, entry.r#type))
        .collect();
    assert_eq!(
        entries,
        [
            (0, CONVENTIONAL_END, 1),
            (CONVENTIONAL_END, HIGH_MEMORY, 2),
            (HIGH_MEMORY, 8 * MIB, 1),
            (HOLE_END, HOLE_END + MIB, 1),
        ]
    );
}

#[test]
fn a_bzimages_header_is_copied_to_its_own_end() {
    let mut header = bz_header();
    header.kernel_info_offset = 0x1122_3344;
    for (len, kernel_info, newer) in
        [(0x62_u8, 0, 0), (0x6a, 0x1122_3344, 0), (0x8e, 0x1122_3344, 0x5a), (0xff, 0x1122_3344, 0x5a)]
    {
        header.jump = 0xeb | u16::from(len) << 8;
        let mut file = bz_file(header, &[0xcc; 0x400]);
        // What follows the fields that are known, and the header altogether.
        file[0x26c..0x2a0].fill(0x5a);
        let (memory, params) = zero_page_of(&file);
        assert_eq!({ params.hdr.kernel_info_offset }, kernel_info, "{len:#x}");
        assert_eq!(bytes_at(&memory, ZERO_PAGE + 0x26c, 0x24), [newer; 0x24], "{len:#x}");
        assert_eq!(bytes_at(&memory, ZERO_PAGE + 0x290, 0x40), [0; 0x40], "{len:#x}");
        assert_eq!({ params.hdr.pref_address }, 2 * MIB);
        assert_eq!({ params.hdr.vid_mode }, 0xffff);
    }
}

#[test]
fn the_gdt_holds_flat_boot_segments() {
    let (memory, _) = zero_page_of(&small_elf());
    let gdt: Vec<_> = bytes_at(&memory, GDT, 48)
        .chunks(8)
        .map(|entry| u64::from_le_bytes(entry.try_into().unwrap()))
        .collect();
    // Intel SDM 3A, figure 3-8, by hand: limit f:ffff in pages, code with L, data with D/B.
    assert_eq!(gdt, [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x0000_8b00_0000_0067, 0]);
    assert_eq!(bytes_at(&memory, GDT + 48, 1), [CANARY]);
    assert_eq!(size_of::<boot_params>() as u64, PAGE_SIZE);
}
