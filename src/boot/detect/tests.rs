use super::super::testing::{NAME, image, small_bzimage, small_elf};
use super::*;

fn detected(bytes: &[u8]) -> Result<Format, Error> {
    let image = image(bytes);
    detect(&image, &Head::read(&image).unwrap())
}

#[test]
fn kernels_are_told_by_content() {
    assert_eq!(detected(&small_elf()).unwrap(), Format::Elf);
    assert_eq!(detected(&small_bzimage()).unwrap(), Format::BzImage);
    // A bzImage with an EFI stub is also an EFI program and a boot sector.
    let mut efi = small_bzimage();
    efi[..2].copy_from_slice(b"MZ");
    assert_eq!(detected(&efi).unwrap(), Format::BzImage);
}

#[test]
fn every_mistake_has_its_name() {
    for (offset, magic, what, hint) in MISTAKES {
        let mut bytes = vec![0; 0x800];
        bytes[*offset..*offset + magic.len()].copy_from_slice(magic);
        let error = detected(&bytes).unwrap_err();
        assert_eq!(error.to_string(), format!("{NAME} is {what}, not a kernel: {hint}"));
    }
}

#[test]
fn the_common_mistakes_in_full() {
    for (bytes, message) in [
        (&b""[..], "/k is empty, not a kernel: a kernel is an ELF vmlinux or a bzImage"),
        (b"x", "/k is of no known format, not a kernel: a kernel is an ELF vmlinux or a bzImage"),
        (b"#!/bin/sh\n", "/k is a script, not a kernel: a kernel is an ELF vmlinux or a bzImage"),
        (
            b"\x1f\x8b\x08\x00",
            "/k is a gzip-compressed file, not a kernel: unpack it first, or build the uncompressed \
             vmlinux (an initial ramdisk belongs to --initrd)",
        ),
        (
            b"070701000",
            "/k is an initial ramdisk (cpio archive), not a kernel: pass it with --initrd and give a kernel too",
        ),
    ] {
        assert_eq!(detected(bytes).unwrap_err().to_string(), message);
    }
}
