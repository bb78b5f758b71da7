//! What a file is, by its content: the two kernel formats, and the files that people pass by mistake.

use super::error::Error;
use super::image::{Head, Image};

/// A kernel format that can be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Elf,
    BzImage,
}

const UNPACK: &str =
    "unpack it first, or build the uncompressed vmlinux (an initial ramdisk belongs to --initrd)";
const ARCHITECTURE: &str = "give an x86-64 kernel";
const DOWNLOAD: &str = "the download went wrong; get the file itself";
const DISK: &str = "a kernel is an ELF vmlinux or a bzImage (a disk image belongs to --disk)";
const INITRD: &str = "pass it with --initrd and give a kernel too";
const OTHER: &str = "a kernel is an ELF vmlinux or a bzImage";

/// Offset, content, name, and what to do. The first that matches wins.
const MISTAKES: &[(usize, &[u8], &str, &str)] = &[
    (0, b"\x1f\x8b", "a gzip-compressed file", UNPACK),
    (0, b"\xfd7zXZ\0", "an xz-compressed file", UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "a zstd-compressed file", UNPACK),
    (0, b"BZh", "a bzip2-compressed file", UNPACK),
    (0, b"\x5d\0\0", "an lzma-compressed file", UNPACK),
    (0, b"\x02\x21\x4c\x18", "an lz4-compressed file", UNPACK),
    (0, b"\x04\x22\x4d\x18", "an lz4-compressed file", UNPACK),
    (0, b"\x89LZO", "an lzop-compressed file", UNPACK),
    (0, b"PK\x03\x04", "a zip archive", UNPACK),
    (0x101, b"ustar", "a tar archive", UNPACK),
    (0, b"!<arch>\n", "an archive (a Debian package or a static library)", UNPACK),
    (0, b"070701", "an initial ramdisk (cpio archive)", INITRD),
    (0, b"070702", "an initial ramdisk (cpio archive)", INITRD),
    (0x38, b"ARM\x64", "an arm64 kernel Image", ARCHITECTURE),
    (0x38, b"RSC\x05", "a RISC-V kernel Image", ARCHITECTURE),
    (0, b"\x27\x05\x19\x56", "a U-Boot image", OTHER),
    (0, b"\xd0\x0d\xfe\xed", "a device tree or FIT image", OTHER),
    (0, b"MZ", "an EFI program without a Linux boot header", OTHER),
    (0, b"#!", "a script", OTHER),
    (0, b"<!DOCTYPE", "a web page", DOWNLOAD),
    (0, b"<!doctype", "a web page", DOWNLOAD),
    (0, b"<html", "a web page", DOWNLOAD),
    (0, b"version https://git-lfs", "a Git LFS pointer", "fetch the file itself with git lfs pull"),
    (0, b"QFI\xfb", "a qcow2 disk image", DISK),
    (0, b"hsqs", "a squashfs image", DISK),
    (0x438, b"\x53\xef", "an ext2/3/4 file system", DISK),
    (0x1fe, b"\x55\xaa", "a boot sector or disk image", DISK),
];

/// Tells the format of a kernel, or the mistake.
pub(super) fn detect(image: &Image, head: &Head) -> Result<Format, Error> {
    let mistake = |what, hint| Error::NotKernel { name: image.name().to_owned(), what, hint };
    if image.is_empty() {
        return Err(mistake("empty", OTHER));
    }
    if head.has(0, b"\x7fELF") {
        return Ok(Format::Elf);
    }
    // boot.rst, "The Real-Mode Kernel Header": the magic of protocol 2.00 and later.
    if head.has(0x202, b"HdrS") {
        return Ok(Format::BzImage);
    }
    let known = MISTAKES.iter().find(|(offset, magic, ..)| head.has(*offset, magic));
    Err(known.map_or_else(|| mistake("of no known format", OTHER), |(_, _, what, hint)| mistake(what, hint)))
}

#[cfg(test)]
mod tests;
