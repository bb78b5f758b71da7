//! Small kernels by code, and memory to load them into.

use std::ops::Range;

use linux_loader::bootparam::setup_header;
use linux_loader::elf::{
    ELFCLASS64, ELFDATA2LSB, EM_X86_64, ET_EXEC, Elf64_Ehdr, Elf64_Phdr, PT_LOAD, PT_NOTE,
};
use vm_memory::{ByteValued, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use super::bzimage::HEADER;
use super::{BootMode, CommandLine, Error, Image, Loaded, Request, load};
use crate::memory::GuestMemory;

pub(super) const MIB: u64 = 1 << 20;
pub(super) const NAME: &str = "/k";

/// What memory is full of before a load, to see what a load touches.
pub(super) const CANARY: u8 = 0xa5;

/// Memory of these ranges.
pub(super) fn memory(ranges: &[(u64, u64)]) -> GuestMemory {
    let ranges: Vec<_> =
        ranges.iter().map(|&(start, size)| (GuestAddress(start), usize::try_from(size).unwrap())).collect();
    GuestMemory::from_ranges(&ranges).unwrap()
}

/// Fills all memory with [`CANARY`].
pub(super) fn fill(memory: &GuestMemory) {
    for (start, size) in chunks(memory) {
        memory.write_slice(&[CANARY; CHUNK][..size], start).unwrap();
    }
}

/// Panics if memory that was [`fill`]ed has changed outside `allowed`.
pub(super) fn assert_untouched_but(memory: &GuestMemory, allowed: &[Range<u64>]) {
    for range in allowed {
        let size = usize::try_from(range.end - range.start).unwrap();
        memory.write_slice(&vec![CANARY; size], GuestAddress(range.start)).unwrap();
    }
    let mut bytes = [0; CHUNK];
    for (start, size) in chunks(memory) {
        let bytes = &mut bytes[..size];
        memory.read_slice(bytes, start).unwrap();
        if bytes != &[CANARY; CHUNK][..size] {
            let at = bytes.iter().position(|byte| *byte != CANARY).unwrap();
            panic!("memory changed at {:#x}; allowed was {allowed:#x?}", start.0 + at as u64);
        }
    }
}

const CHUNK: usize = 0x8000;

/// All memory in pieces that fit a processor's cache: the hostile tests look at it often.
fn chunks(memory: &GuestMemory) -> Vec<(GuestAddress, usize)> {
    let regions = memory.iter().map(|region| (region.start_addr().0, region.len()));
    regions
        .flat_map(|(start, len)| {
            (start..start + len).step_by(CHUNK).map(move |at| {
                let size = (start + len - at).min(CHUNK as u64);
                (GuestAddress(at), usize::try_from(size).unwrap())
            })
        })
        .collect()
}

pub(super) fn bytes_at(memory: &GuestMemory, address: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
    bytes
}

pub(super) fn image(bytes: &[u8]) -> Image {
    Image::from_bytes(bytes.to_vec(), NAME)
}

/// Loads a kernel that is all there is.
pub(super) fn load_kernel(memory: &GuestMemory, kernel: &[u8], mode: BootMode) -> Result<Loaded, Error> {
    let cmdline = CommandLine::new("console=ttyS0").unwrap();
    let request = Request { kernel: &image(kernel), initrd: None, cmdline: &cmdline, mode, rsdp: None };
    load(memory, request)
}

/// A program header and what the file has for it.
#[derive(Clone, Debug)]
pub(super) struct FileSegment {
    pub(super) header: Elf64_Phdr,
    pub(super) content: Vec<u8>,
}

impl FileSegment {
    pub(super) fn load(address: u64, content: &[u8], size: u64) -> Self {
        let header = Elf64_Phdr { p_type: PT_LOAD, p_paddr: address, p_memsz: size, ..Elf64_Phdr::default() };
        Self { header, content: content.to_vec() }
    }

    pub(super) fn notes(content: &[u8], align: u64) -> Self {
        let header = Elf64_Phdr { p_type: PT_NOTE, p_align: align, ..Elf64_Phdr::default() };
        Self { header, content: content.to_vec() }
    }
}

/// One ELF note with its padding.
pub(super) fn note(name: &[u8], type_: u32, desc: &[u8], align: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [u32::try_from(name.len()).unwrap(), u32::try_from(desc.len()).unwrap(), type_] {
        bytes.extend(word.to_le_bytes());
    }
    for part in [name, desc] {
        bytes.extend(part);
        bytes.resize(bytes.len().next_multiple_of(align), 0);
    }
    bytes
}

/// The note that gives a PVH entry point.
pub(super) fn pvh_note(entry: u32) -> FileSegment {
    FileSegment::notes(&note(b"Xen\0", 18, &entry.to_le_bytes(), 4), 4)
}

/// An ELF header; its program headers are counted and placed by [`elf_file`].
pub(super) fn elf_header(entry: u64) -> Elf64_Ehdr {
    let mut header = Elf64_Ehdr { e_type: ET_EXEC, e_machine: EM_X86_64, ..Elf64_Ehdr::default() };
    header.e_ident[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', ELFCLASS64, ELFDATA2LSB]);
    header.e_entry = entry;
    header.e_phentsize = 56;
    header.e_phoff = 64;
    header
}

/// Puts header, program headers and contents one after the other. A header's offset and file size
/// are filled in where they are zero.
pub(super) fn elf_file(mut header: Elf64_Ehdr, segments: &[FileSegment]) -> Vec<u8> {
    if header.e_phnum == 0 {
        header.e_phnum = u16::try_from(segments.len()).unwrap();
    }
    let mut file = header.as_slice().to_vec();
    let mut offset = file.len() + 56 * segments.len();
    for segment in segments {
        let mut header = segment.header;
        if header.p_offset == 0 {
            header.p_offset = offset as u64;
        }
        if header.p_filesz == 0 {
            header.p_filesz = segment.content.len() as u64;
        }
        offset += segment.content.len();
        file.extend(header.as_slice());
    }
    for segment in segments {
        file.extend(&segment.content);
    }
    file
}

/// A kernel with code at 1 MiB, data and zeroed data at 2 MiB, and both entry points.
pub(super) fn small_elf() -> Vec<u8> {
    elf_file(elf_header(MIB + 0x10), &small_segments())
}

pub(super) fn small_segments() -> Vec<FileSegment> {
    vec![
        FileSegment::load(MIB, &[0x90; 0x800], 0x1000),
        FileSegment::load(2 * MIB, b"data", 0x3000),
        pvh_note(0x10_0020),
    ]
}

/// A bzImage header with sane values: a kernel that prefers 2 MiB, can move, and needs 64 KiB.
pub(super) fn bz_header() -> setup_header {
    setup_header {
        setup_sects: 1,
        syssize: 0x400 / 16,
        boot_flag: 0xaa55,
        jump: 0x6aeb,
        header: u32::from_le_bytes(*b"HdrS"),
        version: 0x020f,
        loadflags: 1,
        initrd_addr_max: 0x7fff_ffff,
        kernel_alignment: 0x20_0000,
        relocatable_kernel: 1,
        xloadflags: 1,
        cmdline_size: 2047,
        pref_address: 2 * MIB,
        init_size: 0x1_0000,
        ..setup_header::default()
    }
}

/// Real-mode sectors with the header in them, and `code` after them.
pub(super) fn bz_file(header: setup_header, code: &[u8]) -> Vec<u8> {
    // boot.rst: 0 means 4.
    let sectors = if header.setup_sects == 0 { 4 } else { usize::from(header.setup_sects) };
    let mut file = vec![0; 512 * (sectors + 1)];
    file.extend(code);
    put_header(&mut file, header);
    file
}

pub(super) fn put_header(file: &mut [u8], header: setup_header) {
    file[HEADER..HEADER + size_of::<setup_header>()].copy_from_slice(header.as_slice());
}

pub(super) fn small_bzimage() -> Vec<u8> {
    bz_file(bz_header(), &[0xcc; 0x400])
}
