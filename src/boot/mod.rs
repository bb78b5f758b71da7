//! Everything between an empty machine and its guest's first instruction.
//!
//! [`load()`] puts a kernel, an initial ramdisk and a command line into guest memory and says how to
//! enter the kernel: by the PVH protocol (Xen, `docs/misc/pvh.pandoc`) or the 64-bit Linux boot
//! protocol (Linux, `Documentation/arch/x86/boot.rst`).
//!
//! The structures of both protocols are `linux-loader`'s. Its load functions are not used: they check
//! neither memory sizes nor overlaps nor relocation, and cannot say what a user should do.
//!
//! Kernels are hostile input: every number in them is checked before the first byte of guest memory
//! changes, and nothing is allocated by a size that a file claims.

pub mod acpi;
pub mod cmdline;
pub mod cpuid;
pub mod error;
pub mod image;
pub mod load;
pub mod memory_map;
pub mod mptable;
pub mod msr;
pub mod platform;
pub mod registers;

mod bzimage;
mod detect;
mod elf;
mod handover;
mod initrd;
mod linux64;
mod paging;
mod pvh;

pub use cmdline::CommandLine;
pub use error::Error;
pub use image::Image;
pub use load::{Loaded, Request, load};
pub use registers::{Entry, Protocol};

use crate::config::BootMode;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
