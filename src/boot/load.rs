//! Loading a guest: from files to an entry point.

use std::fmt;
use std::ops::Range;

use super::BootMode;
use super::bzimage::BzImage;
use super::cmdline::CommandLine;
use super::detect::{Format, detect};
use super::elf::Elf;
use super::error::{Error, Size};
use super::handover::Handover;
use super::image::{Head, Image};
use super::memory_map::Ram;
use super::paging::PageTables;
use super::registers::{Entry, Protocol};
use super::{handover, initrd, linux64, pvh};
use crate::memory::GuestMemory;

/// Longest command line, without the NUL, that Linux keeps (`COMMAND_LINE_SIZE` on x86). An ELF
/// kernel does not say its own limit.
const LINUX_CMDLINE_MAX: u64 = 2047;

/// What to load.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The kernel: an ELF `vmlinux` or a bzImage.
    pub kernel: &'a Image,
    /// The initial ramdisk.
    pub initrd: Option<&'a Image>,
    /// The kernel's command line.
    pub cmdline: &'a CommandLine,
    /// How to enter the kernel.
    pub mode: BootMode,
    /// Where the ACPI tables' root pointer is, if there are any.
    pub rsdp: Option<u64>,
}

/// What was loaded, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// How the boot processor starts.
    pub entry: Entry,
    /// The kernel, with all the memory that it needs to start.
    pub kernel: Range<u64>,
    /// The initial ramdisk.
    pub initrd: Option<Range<u64>>,
}

impl fmt::Display for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = |range: &Range<u64>| Size(range.end - range.start);
        let protocol = match self.entry.protocol {
            Protocol::Pvh => "PVH",
            Protocol::Linux64 => "64-bit Linux protocol",
        };
        let (kernel, address) = (&self.kernel, self.entry.address);
        write!(f, "kernel at {:#x} ({}), entered at {address:#x} ({protocol})", kernel.start, size(kernel))?;
        if let Some(initrd) = &self.initrd {
            write!(f, ", initial ramdisk at {:#x} ({})", initrd.start, size(initrd))?;
        }
        Ok(())
    }
}

/// Puts a kernel and all that it is handed into guest memory.
///
/// The memory above 1 MiB must be zero, as new memory is: a kernel's uninitialised data is not
/// written, so that pages which it never touches never exist. All checks come before the first
/// write; only a host that fails to read a file leaves a part behind.
///
/// # Errors
/// A file is not what it should be, or does not fit the machine.
pub fn load(memory: &GuestMemory, request: Request<'_>) -> Result<Loaded, Error> {
    let ram = Ram::of(memory)?;
    let head = Head::read(request.kernel)?;
    match detect(request.kernel, &head)? {
        Format::Elf => load_elf(memory, &request, &ram, &head),
        Format::BzImage => load_bzimage(memory, &request, &ram, &head),
    }
}

fn load_elf(memory: &GuestMemory, request: &Request<'_>, ram: &Ram, head: &Head) -> Result<Loaded, Error> {
    let image = request.kernel;
    let mut elf = Elf::parse(image, head)?;
    let kernel = elf.place(image, ram)?;
    let entry = elf_entry(&elf, image, request.mode)?;
    if request.cmdline.len() > LINUX_CMDLINE_MAX {
        let len = request.cmdline.len();
        log::warn!("the kernel command line has {len} bytes; Linux keeps only {LINUX_CMDLINE_MAX}");
    }
    let handover = request.hand_over(ram, u64::MAX, &kernel)?;
    match entry.protocol {
        Protocol::Pvh => pvh::write(memory, &handover)?,
        Protocol::Linux64 => {
            let tables = PageTables::covering(image, &kernel)?;
            linux64::write(memory, &handover, None, &tables)?;
        }
    }
    elf.copy(image, memory)?;
    handover.finish(memory, request.initrd)?;
    Ok(Loaded { entry, kernel, initrd: handover.initrd })
}

fn elf_entry(elf: &Elf, image: &Image, mode: BootMode) -> Result<Entry, Error> {
    let pvh = if mode == BootMode::Linux64 { None } else { elf.pvh_entry(image)? };
    match (pvh, mode) {
        (Some(address), _) => Ok(Entry { protocol: Protocol::Pvh, address }),
        (None, BootMode::Pvh) => Err(Error::Unsupported {
            name: image.name().to_owned(),
            lack: "has no PVH entry point (no Xen note of type 18)".to_owned(),
            hint: "build Linux with CONFIG_PVH=y, or choose --boot linux64",
        }),
        (None, BootMode::Auto | BootMode::Linux64) => {
            Ok(Entry { protocol: Protocol::Linux64, address: elf.linux64_entry(image)? })
        }
    }
}

fn load_bzimage(
    memory: &GuestMemory,
    request: &Request<'_>,
    ram: &Ram,
    head: &Head,
) -> Result<Loaded, Error> {
    let image = request.kernel;
    if request.mode == BootMode::Pvh {
        return Err(Error::Unsupported {
            name: image.name().to_owned(),
            lack: "is a bzImage, which has no PVH entry point".to_owned(),
            hint: "give the ELF vmlinux, or choose --boot linux64",
        });
    }
    let bzimage = BzImage::parse(image, head)?;
    request.cmdline.check(bzimage.cmdline_max(), image.name())?;
    let kernel = bzimage.place(image, ram)?;
    let handover = request.hand_over(ram, bzimage.initrd_limit(), &kernel)?;
    let tables = PageTables::covering(image, &kernel)?;
    linux64::write(memory, &handover, Some(bzimage.header()), &tables)?;
    bzimage.copy(image, memory, &kernel)?;
    handover.finish(memory, request.initrd)?;
    let entry = Entry { protocol: Protocol::Linux64, address: BzImage::entry(&kernel) };
    Ok(Loaded { entry, kernel, initrd: handover.initrd })
}

impl<'a> Request<'a> {
    /// Places the initial ramdisk around the kernel and collects what either protocol says.
    fn hand_over(&self, ram: &Ram, initrd_limit: u64, kernel: &Range<u64>) -> Result<Handover<'a>, Error> {
        let map = ram.map(handover::MEMORY_MAP_MAX)?;
        let initrd = match self.initrd {
            Some(image) => Some(initrd::place(image, ram, initrd_limit, kernel)?),
            None => None,
        };
        Ok(Handover { cmdline: self.cmdline, initrd, map, rsdp: self.rsdp })
    }
}

#[cfg(test)]
mod tests;
