use super::super::testing::*;
use super::super::{BootMode, CommandLine, Image, Request, load};
use super::*;
use crate::memory::layout::{CONVENTIONAL_END, HIGH_MEMORY, HOLE_END};

fn start_info(initrd: Option<&Image>, rsdp: Option<u64>) -> (GuestMemory, hvm_start_info) {
    let memory = memory(&[(0, 8 * MIB), (HOLE_END, MIB)]);
    fill(&memory);
    let cmdline = CommandLine::new("quiet").unwrap();
    let request =
        Request { kernel: &image(&small_elf()), initrd, cmdline: &cmdline, mode: BootMode::Pvh, rsdp };
    load(&memory, request).unwrap();
    let info = memory.read_obj(GuestAddress(PVH_START_INFO)).unwrap();
    (memory, info)
}

#[test]
fn the_start_info_points_to_all_there_is() {
    let initrd = Image::from_bytes(vec![7; 0x1801], "/i");
    let (memory, info) = start_info(Some(&initrd), Some(0xe_0000));
    assert_eq!((info.magic, info.version, info.flags), (0x336e_c578, 1, 0));
    assert_eq!((info.rsdp_paddr, info.reserved), (0xe_0000, 0));
    assert_eq!(bytes_at(&memory, info.cmdline_paddr, 7), *b"quiet\0\xa5");

    assert_eq!(info.nr_modules, 1);
    let module: hvm_modlist_entry = memory.read_obj(GuestAddress(info.modlist_paddr)).unwrap();
    let paddr = 8 * MIB - 0x2000;
    assert_eq!(module, hvm_modlist_entry { paddr, size: 0x1801, cmdline_paddr: 0, reserved: 0 });
    assert_eq!(bytes_at(&memory, paddr, 0x1801), [7; 0x1801]);

    let entries: Vec<_> = (0..u64::from(info.memmap_entries))
        .map(|index| {
            let address = GuestAddress(info.memmap_paddr + 24 * index);
            let entry: hvm_memmap_table_entry = memory.read_obj(address).unwrap();
            assert_eq!(entry.reserved, 0);
            (entry.addr, entry.addr + entry.size, entry.type_)
        })
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
fn what_is_not_there_is_zero() {
    let (_, info) = start_info(None, None);
    assert_eq!((info.nr_modules, info.modlist_paddr, info.rsdp_paddr), (0, 0, 0));
}
