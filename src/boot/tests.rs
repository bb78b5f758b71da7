//! Hostile files: whatever they say, loading ends in a value, and writes go where they should.

use std::collections::BTreeMap;
use std::ops::Range;

use linux_loader::bootparam::setup_header;
use linux_loader::elf::{ET_DYN, ET_EXEC, Elf64_Phdr, PT_INTERP, PT_LOAD, PT_NOTE};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::testing::*;
use super::*;
use crate::memory::GuestMemory;
use crate::memory::layout::{
    CMDLINE, GDT, HIGH_MEMORY, HOLE_END, PAGE_SIZE, PAGE_TABLES, PVH_START_INFO, ZERO_PAGE,
};

/// Loads into memory full of canaries and checks what became of them.
fn check(kernel: &[u8], initrd: Option<&[u8]>, mode: BootMode) -> Result<Loaded, Error> {
    let memory = memory(&[(0, 3 * MIB), (3 * MIB, MIB), (HOLE_END, MIB / 4)]);
    fill(&memory);
    let cmdline = CommandLine::new("console=ttyS0").unwrap();
    let initrd = initrd.map(|bytes| Image::from_bytes(bytes.to_vec(), "/i"));
    let kernel = image(kernel);
    let request = Request { kernel: &kernel, initrd: initrd.as_ref(), cmdline: &cmdline, mode, rsdp: None };
    let result = load(&memory, request);
    match &result {
        Ok(loaded) => check_loaded(&memory, loaded, cmdline.len()),
        // The checks come before the first write.
        Err(_) => assert_untouched_but(&memory, &[]),
    }
    result
}

fn check_loaded(memory: &GuestMemory, loaded: &Loaded, cmdline_len: u64) {
    let ram = memory_map::Ram::of(memory).unwrap();
    let kernel = &loaded.kernel;
    assert!(kernel.start >= HIGH_MEMORY && kernel.start < kernel.end, "{kernel:#x?}");
    assert!(ram.contains(kernel.start, 1) && ram.contains(kernel.end - 1, 1), "{kernel:#x?}");
    assert!(kernel.contains(&loaded.entry.address), "{loaded:#x?}");

    let mut allowed = in_ram(kernel);
    allowed.push(CMDLINE..CMDLINE + cmdline_len + 1);
    if let Some(initrd) = &loaded.initrd {
        assert!(initrd.start >= HIGH_MEMORY && initrd.start.is_multiple_of(PAGE_SIZE), "{initrd:#x?}");
        assert!(ram.contains(initrd.start, initrd.end - initrd.start), "{initrd:#x?}");
        assert!(initrd.end <= kernel.start || initrd.start >= kernel.end, "{loaded:#x?}");
        allowed.push(initrd.clone());
    }
    match loaded.entry.protocol {
        Protocol::Pvh => allowed.push(PVH_START_INFO..PVH_START_INFO + 0x60 + 4 * 24),
        Protocol::Linux64 => {
            let tables = if kernel.end > HOLE_END { 2 + 5 } else { 2 + 1 };
            allowed.push(ZERO_PAGE..ZERO_PAGE + PAGE_SIZE);
            allowed.push(PAGE_TABLES..PAGE_TABLES + tables * PAGE_SIZE);
            allowed.push(GDT..GDT + 48);
        }
    }
    assert_untouched_but(memory, &allowed);
}

/// Segments may lie on both sides of the hole.
fn in_ram(kernel: &Range<u64>) -> Vec<Range<u64>> {
    [0..4 * MIB, HOLE_END..HOLE_END + MIB / 4]
        .map(|ram| ram.start.max(kernel.start)..ram.end.min(kernel.end))
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect()
}

fn mode() -> impl Strategy<Value = BootMode> {
    select(vec![BootMode::Auto, BootMode::Pvh, BootMode::Linux64])
}

/// Numbers near every edge that the loader knows.
fn number() -> impl Strategy<Value = u64> {
    let edges = vec![
        0,
        0x200,
        0x1000,
        MIB,
        2 * MIB,
        3 * MIB,
        4 * MIB,
        1 << 30,
        3 << 30,
        HOLE_END,
        1 << 39,
        1 << 52,
        u64::MAX,
    ];
    prop_oneof![
        4 => (select(edges), -0x1000_i64..0x1000).prop_map(|(edge, off)| edge.wrapping_add_signed(off)),
        2 => select(vec![MIB, MIB + 0x1000, 2 * MIB, HOLE_END]),
        2 => 0..0x1000_u64,
        1 => any::<u64>(),
    ]
}

fn segment() -> impl Strategy<Value = FileSegment> {
    let types = prop_oneof![16 => Just(PT_LOAD), 4 => Just(PT_NOTE), 1 => select(vec![PT_INTERP, 0])];
    let place = prop_oneof![3 => (0x200..0x300_u64).prop_map(|page| page << 12), 1 => number()];
    // Mostly what a linker would write, so that the other mutations are reached.
    let offset = prop_oneof![8 => Just(0), 1 => number()];
    let file_size = prop_oneof![8 => Just(0), 1 => number()];
    let size = prop_oneof![8 => 0x100..0x3000_u64, 1 => number()];
    let content = prop::collection::vec(any::<u8>(), 0..0x100);
    let align = select(vec![0, 4, 8, 3, u64::MAX]);
    (types, offset, place, file_size, size, align, content).prop_map(
        |(p_type, p_offset, p_paddr, p_filesz, p_memsz, p_align, content)| {
            let base = Elf64_Phdr::default();
            let header = Elf64_Phdr { p_type, p_offset, p_paddr, p_filesz, p_memsz, p_align, ..base };
            FileSegment { header, content }
        },
    )
}

/// A note segment whose sizes may lie.
fn notes() -> impl Strategy<Value = FileSegment> {
    let one = (0..8_u32, 0..12_u32, select(vec![18_u32, 1]), prop::option::weighted(0.2, any::<u32>()));
    (prop::collection::vec(one, 1..4), select(vec![4_u64, 8])).prop_map(|(notes, align)| {
        let mut bytes = Vec::new();
        for (name, desc, type_, lie) in notes {
            let name = &b"Xen\0Xen\0"[..usize::try_from(name).unwrap()];
            let desc = vec![0x10; usize::try_from(desc).unwrap()];
            let mut one = note(name, type_, &desc, 4);
            if let Some(lie) = lie {
                let at = if lie % 2 == 0 { 0 } else { 4 };
                one[at..at + 4].copy_from_slice(&lie.to_le_bytes());
            }
            bytes.extend(one);
        }
        FileSegment::notes(&bytes, align)
    })
}

/// A bzImage whose header lies.
fn any_bzimage() -> impl Strategy<Value = Vec<u8>> {
    let narrow = || number().prop_map(|value| u32::try_from(value & 0xffff_ffff).unwrap());
    let sizes = (prop_oneof![4 => Just(1_u8), 1 => any::<u8>()], prop_oneof![4 => Just(0x40), 1 => narrow()]);
    let places = (
        prop_oneof![3 => select(vec![MIB, 2 * MIB, 3 * MIB]), 1 => number()],
        prop_oneof![3 => 0x400..0x4000_u32, 1 => narrow()],
        prop_oneof![3 => select(vec![1_u32, 0x1000, 0x20_0000]), 1 => narrow()],
        0..2_u8,
    );
    let rest = (narrow(), narrow(), prop_oneof![3 => Just((0, 0)), 1 => (narrow(), narrow())]);
    let protocol = (
        select(vec![0x020f_u16, 0x020c, 0x020b]),
        select(vec![1_u16, 3, 2]),
        select(vec![0x6a_u8, 0x62, 0x61, 0xff]),
    );
    (sizes, places, rest, protocol).prop_map(|(sizes, places, rest, protocol)| {
        let header = setup_header {
            setup_sects: sizes.0,
            syssize: sizes.1,
            pref_address: places.0,
            init_size: places.1,
            kernel_alignment: places.2,
            relocatable_kernel: places.3,
            initrd_addr_max: rest.0,
            cmdline_size: rest.1 | 0x10,
            payload_offset: rest.2.0,
            payload_length: rest.2.1,
            version: protocol.0,
            xloadflags: protocol.1,
            jump: 0x00eb | u16::from(protocol.2) << 8,
            ..bz_header()
        };
        let mut file = small_bzimage();
        put_header(&mut file, header);
        file
    })
}

/// An ELF file whose program headers lie.
fn any_elf() -> impl Strategy<Value = Vec<u8>> {
    let entry = prop_oneof![3 => select(vec![MIB, MIB + 0x10]), 1 => number()];
    let types = select(vec![ET_EXEC, ET_DYN]);
    let table = prop_oneof![8 => Just(64), 1 => number()];
    let segments = prop::collection::vec(segment(), 0..4);
    let notes = prop_oneof![Just(pvh_note(0x10_0010)), notes()];
    (entry, types, table, prop::option::weighted(0.1, any::<u16>()), segments, notes).prop_map(
        |(entry, type_, table, count, mut segments, notes)| {
            let mut header = elf_header(entry);
            (header.e_type, header.e_phoff, header.e_phnum) = (type_, table, count.unwrap_or(0));
            segments.push(notes);
            segments.insert(0, FileSegment::load(MIB, &[0x90; 0x80], 0x1000));
            elf_file(header, &segments)
        },
    )
}

fn initrd() -> impl Strategy<Value = Option<Vec<u8>>> {
    prop::option::of((0..0x20_0000_usize).prop_map(|len| vec![7; len]))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes(mut bytes in prop::collection::vec(any::<u8>(), 0..0x800), magic in 0..3_usize, mode in mode()) {
        let (at, magic): (_, &[u8]) = [(0, b"\x7fELF\x02\x01".as_slice()), (0x202, b"HdrS"), (0, b"")][magic];
        if let Some(place) = bytes.get_mut(at..at + magic.len()) {
            place.copy_from_slice(magic);
        }
        let _ = check(&bytes, None, mode);
    }

    #[test]
    fn patched_kernels(
        elf in any::<bool>(),
        patches in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        mode in mode(),
    ) {
        let mut file = if elf { small_elf() } else { small_bzimage() };
        // The headers, where it hurts.
        let range = if elf { 0..0x100 } else { 0x1f1..0x270 };
        for (index, value) in patches {
            file[range.start + index.index(range.len())] = value;
        }
        let _ = check(&file, None, mode);
    }

    #[test]
    fn elf_files_that_lie(file in any_elf(), initrd in initrd(), mode in mode()) {
        let _ = check(&file, initrd.as_deref(), mode);
    }

    #[test]
    fn bzimages_that_lie(file in any_bzimage(), initrd in initrd(), mode in mode()) {
        let _ = check(&file, initrd.as_deref(), mode);
    }
}

#[test]
fn no_shorter_file_is_a_kernel() {
    for file in [small_elf(), small_bzimage()] {
        for len in (0..file.len()).step_by(13).chain([file.len() - 1]) {
            // The end of the ELF file is its note, which only Auto and Pvh read.
            let result = check(&file[..len], None, BootMode::Auto);
            // boot.rst counts the kernel's length in 16 bytes, so the last few are not missed.
            if file.len() - len >= 16 || file.starts_with(b"\x7fELF") {
                assert!(result.is_err(), "{len} of {} bytes: {result:?}", file.len());
            }
        }
        check(&file, Some(b"initrd"), BootMode::Auto).unwrap();
    }
}

/// The strategies above are no use if everything they make is refused early.
#[test]
fn lies_reach_both_outcomes() {
    let outcomes = |files: BoxedStrategy<Vec<u8>>| {
        let mut runner = TestRunner::deterministic();
        let mut outcomes = BTreeMap::new();
        for _ in 0..300 {
            let file = files.new_tree(&mut runner).unwrap().current();
            let outcome = match check(&file, None, BootMode::Auto) {
                Ok(_) => "loaded".to_owned(),
                Err(error) => format!("{error:?}").split(' ').next().unwrap().to_owned(),
            };
            *outcomes.entry(outcome).or_insert(0) += 1;
        }
        outcomes
    };
    for files in [any_elf().boxed(), any_bzimage().boxed()] {
        let outcomes = outcomes(files);
        assert!(outcomes["loaded"] > 10 && outcomes.len() > 4, "{outcomes:?}");
    }
}
