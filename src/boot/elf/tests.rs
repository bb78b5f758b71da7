use linux_loader::elf::{EM_S390, PT_NULL};

use super::super::testing::*;
use super::super::{BootMode, Entry, Protocol};
use super::*;

fn refused(file: &[u8], mode: BootMode) -> String {
    let memory = memory(&[(0, 8 * MIB)]);
    load_kernel(&memory, file, mode).unwrap_err().to_string()
}

fn with_segments(segments: &[FileSegment]) -> Vec<u8> {
    elf_file(elf_header(MIB), segments)
}

fn patched(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = small_elf();
    file[at..at + bytes.len()].copy_from_slice(bytes);
    file
}

#[test]
fn headers_of_other_files_are_named() {
    let cases: [(_, &[u8], &str); 9] = [
        (18, &EM_386.to_le_bytes(), "/k is a 32-bit x86 program, not a kernel: give an x86-64 kernel"),
        (18, &EM_AARCH64.to_le_bytes(), "/k is an arm64 program, not a kernel: give an x86-64 kernel"),
        (18, &EM_RISCV.to_le_bytes(), "/k is a RISC-V program, not a kernel: give an x86-64 kernel"),
        (
            18,
            &EM_S390.to_le_bytes(),
            "/k is an ELF file for another machine, not a kernel: give an x86-64 kernel",
        ),
        (EI_DATA, &[2], "/k is an ELF file for another machine, not a kernel: give an x86-64 kernel"),
        (EI_CLASS, &[1], "/k is an ELF file for another machine, not a kernel: give an x86-64 kernel"),
        (16, &[1, 0], "/k is an object file or kernel module, not a kernel: give the linked vmlinux"),
        (16, &[4, 0], "/k is a core dump, not a kernel: a kernel is an ELF vmlinux or a bzImage"),
        (16, &[0, 0], "/k is damaged: its ELF type 0 is not that of a program"),
    ];
    for (at, bytes, message) in cases {
        assert_eq!(refused(&patched(at, bytes), BootMode::Auto), message);
    }
    let program =
        FileSegment { header: Elf64_Phdr { p_type: PT_INTERP, ..Elf64_Phdr::default() }, content: vec![0] };
    assert_eq!(
        refused(&with_segments(&[program]), BootMode::Auto),
        "/k is a program for an operating system, not a kernel: a kernel is an ELF vmlinux or a bzImage"
    );
}

#[test]
fn damaged_tables_are_named() {
    let cases: [(_, &[u8], &str); 6] = [
        (56, &0xffff_u16.to_le_bytes(), "/k is damaged: it has 65535 program headers, more than 128"),
        (54, &32_u16.to_le_bytes(), "/k is damaged: its program headers have 32 bytes, not 56"),
        (56, &0_u16.to_le_bytes(), "/k is damaged: it has no segment to load"),
        (
            32,
            &u64::MAX.to_le_bytes(),
            "/k is cut off: the program header table should end at byte 18446744073709551615, but the file \
             has 2304 bytes; copy or build it again",
        ),
        (
            64 + 8,
            &2000_u64.to_le_bytes(),
            "/k is cut off: segment 0 should end at byte 4048, but the file has 2304 bytes; copy or build it again",
        ),
        (64 + 40, &1_u64.to_le_bytes(), "/k is damaged: segment 0 has 2048 bytes for 1 bytes of memory"),
    ];
    let len = small_elf().len();
    for (at, bytes, message) in cases {
        let message = message.replace("2304", &len.to_string());
        assert_eq!(refused(&patched(at, bytes), BootMode::Auto), message);
    }
    assert_eq!(
        refused(&small_elf()[..40], BootMode::Auto),
        "/k is cut off: the header should end at byte 64, but the file has 40 bytes; copy or build it again"
    );
}

#[test]
fn a_distant_program_header_table_is_read() {
    let mut file = small_elf();
    let table = file[64..64 + 3 * 56].to_vec();
    file.resize(10_000, 0);
    file.extend(table);
    file[32..40].copy_from_slice(&10_000_u64.to_le_bytes());
    file[64..64 + 3 * 56].fill(0xff);
    let memory = memory(&[(0, 8 * MIB)]);
    assert_eq!(load_kernel(&memory, &file, BootMode::Auto).unwrap().kernel, MIB..2 * MIB + 0x3000);
}

#[test]
fn places_are_checked() {
    let code = || FileSegment::load(MIB, &[0x90; 16], 0x1000);
    for (segment, message) in [
        (
            FileSegment::load(0x8000, b"x", 1),
            "/k: segment 1 loads at 0x8000, but a kernel must load at 0x100000 or above; link it there",
        ),
        (
            FileSegment::load(16 * MIB, b"x", 58 * MIB),
            "/k: the kernel needs 73 MiB at 0x100000, but the machine has 8 MiB of memory; raise --memory to \
             at least 74 MiB",
        ),
        (
            FileSegment::load(HIGH_MEMORY + 0x800, b"x", 1),
            "/k is damaged: segments 0 and 1 overlap at 0x100800",
        ),
        (
            FileSegment::load(2 * MIB, b"x", u64::MAX),
            "/k: segment 1 needs 17179869184 GiB at 0x200000, but no machine has memory there; the file is \
             probably damaged",
        ),
    ] {
        assert_eq!(refused(&with_segments(&[code(), segment]), BootMode::Auto), message);
    }
}

#[test]
fn a_segment_may_be_all_zeros_or_nothing() {
    let segments = [
        FileSegment::load(4 * MIB, &[], 0x1000),
        FileSegment::load(0, &[], 0),
        FileSegment::load(MIB, b"code", 4),
        FileSegment { header: Elf64_Phdr { p_type: PT_NULL, ..Elf64_Phdr::default() }, content: vec![] },
    ];
    let memory = memory(&[(0, 8 * MIB)]);
    let loaded = load_kernel(&memory, &with_segments(&segments), BootMode::Auto).unwrap();
    assert_eq!(loaded.kernel, MIB..4 * MIB + 0x1000);
    assert_eq!(loaded.entry, Entry { protocol: Protocol::Linux64, address: MIB });
}

#[test]
fn entry_points_must_be_in_the_file() {
    let code = FileSegment::load(MIB, &[0x90; 16], 0x1000);
    let elf = |entry, notes: &[FileSegment]| {
        elf_file(elf_header(entry), &[std::slice::from_ref(&code), notes].concat())
    };
    let outside = "is outside its segments";
    for entry in [0, MIB - 1, MIB + 16, 0xffff_ffff_8100_0000] {
        let message = refused(&elf(entry, &[]), BootMode::Auto);
        assert_eq!(message, format!("/k is damaged: the entry point {entry:#x} {outside}"));
    }
    let message = refused(&elf(MIB, &[pvh_note(0x10_0010)]), BootMode::Auto);
    assert_eq!(message, format!("/k is damaged: the PVH entry point 0x100010 {outside}"));
    // What the other protocol would use does not matter.
    let memory = memory(&[(0, 8 * MIB)]);
    load_kernel(&memory, &elf(0, &[pvh_note(0x10_0000)]), BootMode::Auto).unwrap();
    load_kernel(&memory, &elf(MIB, &[pvh_note(0)]), BootMode::Linux64).unwrap();
}

#[test]
fn the_pvh_note_is_found_among_others() {
    let entry = MIB + 4;
    let (four, eight) = (u32::try_from(entry).unwrap().to_le_bytes(), entry.to_le_bytes());
    for (desc, align) in [(&four[..], 4), (&eight[..], 4), (&four[..], 8), (&eight[..], 8)] {
        let padding = usize::try_from(align).unwrap();
        let notes = [
            note(b"Linux\0", 18, b"abc", padding),
            note(b"", 18, b"", padding),
            note(b"Xen\0", 6, b"linux\0", padding),
            note(b"Xen\0", 18, desc, padding),
        ];
        let segments = [
            FileSegment::notes(&note(b"GNU\0", 3, &[7; 20], 4), 4),
            FileSegment::load(MIB, &[0x90; 16], 16),
            FileSegment::notes(&notes.concat(), align),
        ];
        let memory = memory(&[(0, 8 * MIB)]);
        let loaded = load_kernel(&memory, &with_segments(&segments), BootMode::Pvh).unwrap();
        assert_eq!(loaded.entry, Entry { protocol: Protocol::Pvh, address: entry });
    }
}

#[test]
fn notes_that_lie_are_refused() {
    let lie = |at: usize, value: u32| {
        let mut bytes = note(b"Xen\0", 18, &[0; 4], 4);
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        bytes
    };
    for (bytes, reason) in [
        (lie(0, 0xffff_fffc), "the note at byte 0 of note segment 1 is longer than the segment"),
        (lie(4, 5), "the note at byte 0 of note segment 1 is longer than the segment"),
        (note(b"Xen\0", 18, &[0; 2], 4), "its PVH note has 2 bytes, not 4 or 8"),
        (vec![0; 0x1_0001], "note segment 1 has 65537 bytes, more than 65536"),
        (
            note(b"Xen\0", 18, &(MIB << 20).to_le_bytes(), 4),
            "the PVH entry point 0x10000000000 is outside its segments",
        ),
    ] {
        let file = with_segments(&[FileSegment::load(MIB, &[0x90; 16], 16), FileSegment::notes(&bytes, 4)]);
        assert_eq!(refused(&file, BootMode::Auto), format!("/k is damaged: {reason}"));
        // The other protocol has no use for the notes.
        load_kernel(&memory(&[(0, 8 * MIB)]), &file, BootMode::Linux64).unwrap();
    }
}

#[test]
fn a_pvh_entry_point_is_below_4_gib() {
    let high = 1_u64 << 32;
    let segments = [
        FileSegment::load(high, &[0x90; 16], 16),
        FileSegment::notes(&note(b"Xen\0", 18, &high.to_le_bytes(), 4), 4),
    ];
    let memory = memory(&[(0, 2 * MIB), (high, MIB)]);
    let error = load_kernel(&memory, &elf_file(elf_header(high), &segments), BootMode::Pvh).unwrap_err();
    assert_eq!(error.to_string(), "/k is damaged: the PVH entry point 0x100000000 is above 4 GiB");
}
