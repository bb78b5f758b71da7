//! ELF kernels (`vmlinux`): System V gABI, chapters 4 and 5, for x86-64.
//!
//! Segments go to their physical addresses; there is no relocation. What a segment has beyond its
//! file contents is zero, because guest memory starts as zeros: those pages are not touched.

use std::ops::Range;

use linux_loader::elf::{
    EI_CLASS, EI_DATA, ELFCLASS64, ELFDATA2LSB, EM_386, EM_AARCH64, EM_RISCV, EM_X86_64, ET_CORE, ET_DYN,
    ET_EXEC, ET_REL, Elf64_Ehdr, Elf64_Nhdr, Elf64_Phdr, PT_INTERP, PT_LOAD, PT_NOTE,
};

use super::error::{Error, Part, Remedy};
use super::image::{Head, Image, structure};
use super::memory_map::Ram;
use crate::memory::GuestMemory;
use crate::memory::layout::HIGH_MEMORY;

/// Most program headers that are read. Linux has about five.
const SEGMENTS_MAX: usize = 128;
/// Largest note segment that is read. Linux's has less than 1 KiB.
const NOTES_MAX: u64 = 0x1_0000;
/// `XEN_ELFNOTE_PHYS32_ENTRY` (Xen, `public/elfnote.h`): the PVH entry point.
const PHYS32_ENTRY: u32 = 18;

/// An ELF kernel whose headers make sense. Where it goes is checked by [`Elf::place`].
pub(super) struct Elf {
    segments: Vec<Segment>,
    notes: Vec<Notes>,
    /// Physical address at which the 64-bit Linux protocol enters.
    entry: u64,
}

/// A `PT_LOAD` segment that takes memory.
struct Segment {
    index: usize,
    offset: u64,
    file_size: u64,
    start: u64,
    size: u64,
}

struct Notes {
    index: usize,
    offset: u64,
    size: u64,
    align: usize,
}

impl Elf {
    /// Reads the headers.
    pub(super) fn parse(image: &Image, head: &Head) -> Result<Self, Error> {
        let len = head.bytes().len() as u64;
        let header: Elf64_Ehdr = structure(head.bytes(), 0).ok_or_else(|| Error::Truncated {
            name: image.name().to_owned(),
            what: Part::Header,
            end: size_of::<Elf64_Ehdr>() as u64,
            len,
        })?;
        check_header(image, &header)?;
        let mut elf = Self { segments: Vec::new(), notes: Vec::new(), entry: header.e_entry };
        for (index, program) in program_headers(image, head, &header)?.enumerate() {
            elf.add(image, index, &program)?;
        }
        if elf.segments.is_empty() {
            return Err(damaged(image, "it has no segment to load"));
        }
        Ok(elf)
    }

    fn add(&mut self, image: &Image, index: usize, program: &Elf64_Phdr) -> Result<(), Error> {
        let (offset, file_size, size) = (program.p_offset, program.p_filesz, program.p_memsz);
        match program.p_type {
            PT_INTERP => Err(Error::NotKernel {
                name: image.name().to_owned(),
                what: "a program for an operating system",
                hint: "a kernel is an ELF vmlinux or a bzImage",
            }),
            PT_LOAD if file_size > size => Err(damaged(
                image,
                format!("segment {index} has {file_size} bytes for {size} bytes of memory"),
            )),
            PT_LOAD if size > 0 => {
                image.check_extent(offset, file_size, Part::Segment(index))?;
                self.segments.push(Segment { index, offset, file_size, start: program.p_paddr, size });
                Ok(())
            }
            PT_NOTE => {
                // gABI: entries are padded to 4 bytes; 64-bit files in practice to 8 where the
                // segment says so.
                let align = if program.p_align == 8 { 8 } else { 4 };
                self.notes.push(Notes { index, offset, size: file_size, align });
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Checks that all segments are in memory above the boot data and apart from each other, and
    /// returns the range from the first to the last.
    pub(super) fn place(&mut self, image: &Image, ram: &Ram) -> Result<Range<u64>, Error> {
        let name = || image.name().to_owned();
        for &Segment { index, start, size, .. } in &self.segments {
            let part = Part::Segment(index);
            if start < HIGH_MEMORY {
                return Err(Error::TooLow { name: name(), part, start });
            }
            if !ram.contains(start, size) {
                return Err(self.does_not_fit(image, ram, part, start, size));
            }
        }
        // All sums are in range from here on: every segment is in memory.
        self.segments.sort_by_key(|segment| segment.start);
        for pair in self.segments.windows(2) {
            if let [low, high] = pair
                && low.start + low.size > high.start
            {
                let (first, second, address) = (low.index, high.index, high.start);
                return Err(Error::Overlap { name: name(), first, second, address });
            }
        }
        let start = self.segments.first().map_or(HIGH_MEMORY, |first| first.start);
        let end = self.segments.last().map_or(start, |last| last.start + last.size);
        Ok(start..end)
    }

    /// Says of all segments together what memory they need, so that the user learns it once; unless
    /// more memory does not help, which is this segment's own fault.
    fn does_not_fit(&self, image: &Image, ram: &Ram, part: Part, start: u64, size: u64) -> Error {
        let name = image.name().to_owned();
        let remedy = Remedy::of(start, size, ram.total());
        let first = self.segments.iter().map(|segment| segment.start).min().unwrap_or(start);
        let end = self.segments.iter().map(|segment| segment.start.saturating_add(segment.size)).max();
        let all = end.unwrap_or(first).saturating_sub(first);
        match (remedy, Remedy::of(first, all, ram.total())) {
            (Remedy::MoreMemory { .. }, remedy @ Remedy::MoreMemory { .. }) => {
                Error::DoesNotFit { name, part: Part::Kernel, start: first, size: all, remedy }
            }
            _ => Error::DoesNotFit { name, part, start, size, remedy },
        }
    }

    /// The entry point of the 64-bit Linux protocol.
    pub(super) fn linux64_entry(&self, image: &Image) -> Result<u64, Error> {
        self.inside(image, self.entry, "the entry point")
    }

    /// The entry point of the PVH protocol, if the kernel has one.
    pub(super) fn pvh_entry(&self, image: &Image) -> Result<Option<u64>, Error> {
        for notes in &self.notes {
            if let Some(entry) = notes.pvh_entry(image)? {
                // The protocol enters in 32-bit mode, so an 8-byte note must not use its upper half.
                let entry = self.inside(image, entry, "the PVH entry point")?;
                if u32::try_from(entry).is_err() {
                    return Err(damaged(image, format!("the PVH entry point {entry:#x} is above 4 GiB")));
                }
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    /// An entry point must be in what the file brings: anywhere else there are only zeros.
    fn inside(&self, image: &Image, entry: u64, what: &str) -> Result<u64, Error> {
        let holds = |segment: &Segment| {
            entry.checked_sub(segment.start).is_some_and(|offset| offset < segment.file_size)
        };
        if self.segments.iter().any(holds) {
            return Ok(entry);
        }
        Err(damaged(image, format!("{what} {entry:#x} is outside its segments")))
    }

    /// Copies the segments. Call after [`Elf::place`].
    pub(super) fn copy(&self, image: &Image, memory: &GuestMemory) -> Result<(), Error> {
        for segment in self.segments.iter().filter(|segment| segment.file_size > 0) {
            image.copy_to(memory, segment.offset, segment.start, segment.file_size)?;
        }
        Ok(())
    }
}

impl Notes {
    /// Looks for the PVH entry point among these notes.
    fn pvh_entry(&self, image: &Image) -> Result<Option<u64>, Error> {
        let part = Part::Notes(self.index);
        if self.size > NOTES_MAX {
            let reason = format!("{part} has {} bytes, more than {NOTES_MAX}", self.size);
            return Err(damaged(image, reason));
        }
        image.check_extent(self.offset, self.size, part)?;
        let mut bytes = vec![0; usize::try_from(self.size).unwrap_or_default()];
        image.read_exact_at(self.offset, &mut bytes, part)?;

        let mut at = 0;
        while let Some(note) = structure::<Elf64_Nhdr>(&bytes, at) {
            let lies =
                || damaged(image, format!("the note at byte {at} of {part} is longer than the segment"));
            let (name, desc, next) = self.fields(&bytes, at, &note).ok_or_else(lies)?;
            if note.n_type == PHYS32_ENTRY && name == b"Xen\0" {
                return match *desc {
                    [a, b, c, d] => Ok(Some(u64::from(u32::from_le_bytes([a, b, c, d])))),
                    [a, b, c, d, e, f, g, h] => Ok(Some(u64::from_le_bytes([a, b, c, d, e, f, g, h]))),
                    _ => Err(damaged(image, format!("its PVH note has {} bytes, not 4 or 8", desc.len()))),
                };
            }
            at = next;
        }
        Ok(None)
    }

    /// Name and descriptor of the note at `at`, and where the next one is.
    fn fields<'a>(
        &self,
        bytes: &'a [u8],
        at: usize,
        note: &Elf64_Nhdr,
    ) -> Option<(&'a [u8], &'a [u8], usize)> {
        let name = at.checked_add(size_of::<Elf64_Nhdr>())?;
        let name_end = name.checked_add(usize::try_from(note.n_namesz).ok()?)?;
        let desc = name_end.checked_next_multiple_of(self.align)?;
        let desc_end = desc.checked_add(usize::try_from(note.n_descsz).ok()?)?;
        let next = desc_end.checked_next_multiple_of(self.align)?;
        // The last note's padding may be missing, and with an empty descriptor so may its name's.
        let desc = if note.n_descsz == 0 { &[] } else { bytes.get(desc..desc_end)? };
        Some((bytes.get(name..name_end)?, desc, next))
    }
}

fn check_header(image: &Image, header: &Elf64_Ehdr) -> Result<(), Error> {
    let wrong = |what, hint| Err(Error::NotKernel { name: image.name().to_owned(), what, hint });
    let ident = |index: usize| header.e_ident.get(index).copied().unwrap_or_default();
    let give = "give an x86-64 kernel";
    match header.e_machine {
        EM_386 => return wrong("a 32-bit x86 program", give),
        EM_AARCH64 => return wrong("an arm64 program", give),
        EM_RISCV => return wrong("a RISC-V program", give),
        _ => {}
    }
    if ident(EI_DATA) != ELFDATA2LSB || ident(EI_CLASS) != ELFCLASS64 || header.e_machine != EM_X86_64 {
        return wrong("an ELF file for another machine", give);
    }
    match header.e_type {
        ET_EXEC | ET_DYN => Ok(()),
        ET_REL => wrong("an object file or kernel module", "give the linked vmlinux"),
        ET_CORE => wrong("a core dump", "a kernel is an ELF vmlinux or a bzImage"),
        other => Err(damaged(image, format!("its ELF type {other} is not that of a program"))),
    }
}

/// The program headers, from what has been read already if they are in it, as linkers put them.
fn program_headers(
    image: &Image,
    head: &Head,
    header: &Elf64_Ehdr,
) -> Result<impl Iterator<Item = Elf64_Phdr>, Error> {
    const SIZE: usize = size_of::<Elf64_Phdr>();
    let count = usize::from(header.e_phnum);
    if count > SEGMENTS_MAX {
        return Err(damaged(image, format!("it has {count} program headers, more than {SEGMENTS_MAX}")));
    }
    if count > 0 && usize::from(header.e_phentsize) != SIZE {
        let reason = format!("its program headers have {} bytes, not {SIZE}", header.e_phentsize);
        return Err(damaged(image, reason));
    }
    let size = count * SIZE;
    let here = usize::try_from(header.e_phoff)
        .ok()
        .and_then(|start| head.bytes().get(start..start.checked_add(size)?));
    let table = match here {
        Some(table) => table.to_vec(),
        None => {
            let mut table = vec![0; size];
            image.read_exact_at(header.e_phoff, &mut table, Part::ProgramHeaders)?;
            table
        }
    };
    Ok((0..count).filter_map(move |index| structure(&table, index * SIZE)))
}

fn damaged(image: &Image, reason: impl Into<String>) -> Error {
    Error::Damaged { name: image.name().to_owned(), reason: reason.into() }
}

#[cfg(test)]
mod tests;
