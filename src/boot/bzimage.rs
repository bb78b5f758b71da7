//! bzImage kernels: the 64-bit boot protocol of `Documentation/arch/x86/boot.rst` (2.12 and later).
//!
//! The file is a boot sector and real-mode code, which we skip, and the protected-mode code, which
//! unpacks the kernel proper into the `init_size` bytes from its runtime start address on.

use std::ops::Range;

use linux_loader::bootparam::{LOADED_HIGH, XLF_CAN_BE_LOADED_ABOVE_4G, XLF_KERNEL_64, setup_header};

use super::error::{Error, Part, Remedy};
use super::image::{Head, Image, structure};
use super::memory_map::Ram;
use crate::memory::GuestMemory;
use crate::memory::layout::{HIGH_MEMORY, HOLE_END};

/// Where the header starts, in the file and in the zero page.
pub(super) const HEADER: usize = 0x1f1;
/// Where the zero page's next field begins, so a header can be no longer.
const HEADER_END_MAX: usize = 0x290;
/// Holds the distance from [`HEADER_LEN_BASE`] to the header's end: the offset of the jump over it.
const HEADER_LEN: usize = 0x201;
const HEADER_LEN_BASE: usize = 0x202;
/// The end of `init_size`, the last field that is needed.
const HEADER_END_MIN: usize = 0x264;
/// The protocol that introduced `xloadflags`, and with it a stable 64-bit entry point.
const VERSION_MIN: u16 = 0x020c;
const SECTOR: u64 = 512;
/// The unit of `syssize`.
const PARAGRAPH: u64 = 16;
/// The 64-bit entry point, from the start of the protected-mode code.
const ENTRY_64: u64 = 0x200;

/// A bzImage whose header makes sense. Where it goes is decided by [`BzImage::place`].
pub(super) struct BzImage {
    header: setup_header,
    raw: [u8; HEADER_END_MAX - HEADER],
    raw_len: usize,
    /// The protected-mode code in the file.
    offset: u64,
    size: u64,
}

impl BzImage {
    /// Reads the header.
    pub(super) fn parse(image: &Image, head: &Head) -> Result<Self, Error> {
        let (raw, raw_len) = raw_header(image, head)?;
        let header: setup_header = structure(&raw, 0).ok_or_else(|| damaged(image, "it has no header"))?;
        check_protocol(image, &header)?;
        if HEADER + raw_len < HEADER_END_MIN {
            let end = HEADER + raw_len;
            return Err(damaged(image, format!("its header ends at {end:#x}, before {HEADER_END_MIN:#x}")));
        }
        // boot.rst: "if setup_sects is 0, the real value is 4".
        let sectors = if header.setup_sects == 0 { 4 } else { u64::from(header.setup_sects) };
        let offset = (sectors + 1) * SECTOR;
        let size = match u64::from(header.syssize) * PARAGRAPH {
            0 => return Err(damaged(image, "its header says that there is no kernel in it (syssize 0)")),
            size => size,
        };
        // The last paragraph may be partly filled. What follows it, such as a signature for secure
        // boot, is not for memory.
        let there = image.len().saturating_sub(offset);
        let size = if size - size.min(there) < PARAGRAPH { size.min(there) } else { size };
        image.check_extent(offset, size, Part::Kernel)?;
        let kernel = Self { header, raw, raw_len, offset, size };
        kernel.check_sizes(image)?;
        Ok(kernel)
    }

    fn check_sizes(&self, image: &Image) -> Result<(), Error> {
        let (init_size, alignment) = ({ self.header.init_size }, { self.header.kernel_alignment });
        if u64::from(init_size) < self.size {
            let size = self.size;
            return Err(damaged(image, format!("it has {size} bytes for init_size {init_size}")));
        }
        if self.size <= ENTRY_64 {
            return Err(damaged(image, "it ends before its entry point"));
        }
        if self.relocatable() && !alignment.is_power_of_two() {
            return Err(damaged(image, format!("its alignment {alignment:#x} is not a power of two")));
        }
        let payload_end = u64::from(self.header.payload_offset) + u64::from(self.header.payload_length);
        if payload_end > self.size {
            let size = self.size;
            return Err(damaged(
                image,
                format!("its payload ends at {payload_end}, but it has {size} bytes"),
            ));
        }
        Ok(())
    }

    fn relocatable(&self) -> bool {
        self.header.relocatable_kernel != 0
    }

    /// Decides where the kernel goes: at its preferred address, or if it must and can move, at the
    /// first place after that. Never before: a kernel that is loaded below its preferred address
    /// moves up to it (boot.rst, `init_size`), over whatever is there.
    pub(super) fn place(&self, image: &Image, ram: &Ram) -> Result<Range<u64>, Error> {
        let (preferred, size) = (self.header.pref_address, u64::from(self.header.init_size));
        let name = || image.name().to_owned();
        let limit = if self.has(XLF_CAN_BE_LOADED_ABOVE_4G) { u64::MAX } else { HOLE_END };
        let fits = |start: u64| start.checked_add(size).is_some_and(|end| end <= limit);
        let part = Part::Kernel;
        if !self.relocatable() && preferred < HIGH_MEMORY {
            return Err(Error::TooLow { name: name(), part, start: preferred });
        }
        let lowest = preferred.max(HIGH_MEMORY);
        let alignment = if self.relocatable() { u64::from(self.header.kernel_alignment) } else { 1 };
        let aligned = |start: u64| start.checked_next_multiple_of(alignment);
        let start = ram
            .ranges()
            .filter_map(|range| aligned(range.start.max(lowest)))
            .find(|start| ram.contains(*start, size) && fits(*start))
            .filter(|start| self.relocatable() || *start == preferred);
        match start {
            Some(start) => Ok(start..start + size),
            None => {
                let start = aligned(lowest).unwrap_or(lowest);
                let remedy = Remedy::of(start, size, ram.total());
                Err(Error::DoesNotFit { name: name(), part, start, size, remedy })
            }
        }
    }

    fn has(&self, flag: u16) -> bool {
        self.header.xloadflags & flag != 0
    }

    /// The entry point of a kernel that was placed at `range`.
    pub(super) fn entry(range: &Range<u64>) -> u64 {
        range.start + ENTRY_64
    }

    /// The bytes of the header, as the zero page wants them.
    pub(super) fn header(&self) -> &[u8] {
        self.raw.get(..self.raw_len).unwrap_or_default()
    }

    /// Longest command line that the kernel takes, without the NUL.
    pub(super) fn cmdline_max(&self) -> u64 {
        u64::from(self.header.cmdline_size)
    }

    /// The end of the addresses that an initial ramdisk may use.
    pub(super) fn initrd_limit(&self) -> u64 {
        u64::from(self.header.initrd_addr_max) + 1
    }

    /// Copies the protected-mode code to `range`, which [`BzImage::place`] chose.
    pub(super) fn copy(&self, image: &Image, memory: &GuestMemory, range: &Range<u64>) -> Result<(), Error> {
        image.copy_to(memory, self.offset, range.start, self.size)
    }
}

/// The header's bytes, to the end that the file gives it and no further than the zero page has room.
fn raw_header(image: &Image, head: &Head) -> Result<([u8; HEADER_END_MAX - HEADER], usize), Error> {
    let mut raw = [0; HEADER_END_MAX - HEADER];
    let len = head.bytes().get(HEADER_LEN).copied().unwrap_or_default();
    let end = (HEADER_LEN_BASE + usize::from(len)).min(HEADER_END_MAX);
    let truncated = || Error::Truncated {
        name: image.name().to_owned(),
        what: Part::Header,
        end: end as u64,
        len: image.len(),
    };
    let bytes = head.bytes().get(HEADER..end).ok_or_else(truncated)?;
    raw.get_mut(..bytes.len()).ok_or_else(truncated)?.copy_from_slice(bytes);
    Ok((raw, bytes.len()))
}

fn check_protocol(image: &Image, header: &setup_header) -> Result<(), Error> {
    let unsupported = |lack, hint| Err(Error::Unsupported { name: image.name().to_owned(), lack, hint });
    let version = header.version;
    if version < VERSION_MIN {
        let lack = format!("has boot protocol {}.{:02}, but 2.12 is needed", version >> 8, version & 0xff);
        return unsupported(lack, "use Linux 3.8 or later");
    }
    if header.xloadflags & XLF_KERNEL_64 == 0 || header.loadflags & LOADED_HIGH == 0 {
        return unsupported("has no 64-bit entry point".to_owned(), "build Linux with CONFIG_64BIT=y");
    }
    Ok(())
}

fn damaged(image: &Image, reason: impl Into<String>) -> Error {
    Error::Damaged { name: image.name().to_owned(), reason: reason.into() }
}

#[cfg(test)]
mod tests;
