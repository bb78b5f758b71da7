use linux_loader::bootparam::XLF_EFI_KEXEC;

use super::super::testing::*;
use super::super::{BootMode, Loaded};
use super::*;

fn loaded(header: setup_header, ranges: &[(u64, u64)]) -> Result<Loaded, Error> {
    load_kernel(&memory(ranges), &bz_file(header, &[0xcc; 0x400]), BootMode::Auto)
}

fn refused(header: setup_header) -> String {
    loaded(header, &[(0, 8 * MIB)]).unwrap_err().to_string()
}

#[test]
fn the_code_goes_to_its_place_without_the_sectors_before_it() {
    for setup_sects in [0, 1, 4, 39] {
        let header = setup_header { setup_sects, ..bz_header() };
        let mut file = bz_file(header, &[]);
        file.extend([0xcc; 0x3ff]);
        file.extend(b"!a signature");
        let memory = memory(&[(0, 8 * MIB)]);
        let loaded = load_kernel(&memory, &file, BootMode::Auto).unwrap();
        assert_eq!(loaded.kernel, 2 * MIB..2 * MIB + 0x1_0000);
        assert_eq!(loaded.entry.address, 2 * MIB + 0x200);
        assert_eq!(bytes_at(&memory, 2 * MIB + 0x3fe, 4), *b"\xcc!\0\0");
    }
}

#[test]
fn the_last_paragraph_may_be_partly_filled() {
    let memory = memory(&[(0, 8 * MIB)]);
    load_kernel(&memory, &bz_file(bz_header(), &[0xcc; 0x3f1]), BootMode::Auto).unwrap();
    let error = load_kernel(&memory, &bz_file(bz_header(), &[0xcc; 0x3f0]), BootMode::Auto).unwrap_err();
    assert_eq!(
        error.to_string(),
        "/k is cut off: the kernel should end at byte 2048, but the file has 2032 bytes; copy or build it again"
    );
}

#[test]
fn unsupported_protocols_are_named() {
    for (header, message) in [
        (
            setup_header { version: 0x0206, ..bz_header() },
            "/k has boot protocol 2.06, but 2.12 is needed; use Linux 3.8 or later",
        ),
        (
            setup_header { xloadflags: XLF_EFI_KEXEC, ..bz_header() },
            "/k has no 64-bit entry point; build Linux with CONFIG_64BIT=y",
        ),
        (
            setup_header { loadflags: 0, ..bz_header() },
            "/k has no 64-bit entry point; build Linux with CONFIG_64BIT=y",
        ),
        (
            setup_header { jump: 0x61eb, ..bz_header() },
            "/k is damaged: its header ends at 0x263, before 0x264",
        ),
    ] {
        assert_eq!(refused(header), message);
    }
    let pvh = load_kernel(&memory(&[(0, 8 * MIB)]), &small_bzimage(), BootMode::Pvh).unwrap_err();
    assert_eq!(
        pvh.to_string(),
        "/k is a bzImage, which has no PVH entry point; give the ELF vmlinux, or choose --boot linux64"
    );
}

#[test]
fn sizes_that_lie_are_refused() {
    for (header, reason) in [
        (
            setup_header { syssize: 0, ..bz_header() },
            "its header says that there is no kernel in it (syssize 0)",
        ),
        (setup_header { init_size: 0, ..bz_header() }, "it has 1024 bytes for init_size 0"),
        (setup_header { init_size: 0x3ff, ..bz_header() }, "it has 1024 bytes for init_size 1023"),
        (setup_header { syssize: 0x20, ..bz_header() }, "it ends before its entry point"),
        (setup_header { kernel_alignment: 0, ..bz_header() }, "its alignment 0x0 is not a power of two"),
        (setup_header { kernel_alignment: 3, ..bz_header() }, "its alignment 0x3 is not a power of two"),
        (
            setup_header { payload_offset: 0x300, payload_length: 0x101, ..bz_header() },
            "its payload ends at 1025, but it has 1024 bytes",
        ),
        (
            setup_header { payload_offset: u32::MAX, payload_length: u32::MAX, ..bz_header() },
            "its payload ends at 8589934590, but it has 1024 bytes",
        ),
    ] {
        assert_eq!(refused(header), format!("/k is damaged: {reason}"));
    }
}

#[test]
fn a_kernel_moves_up_only() {
    const GIB: u64 = 1 << 30;
    let low = (0, 8 * MIB);
    let anywhere = XLF_KERNEL_64 | XLF_CAN_BE_LOADED_ABOVE_4G;
    let cases: [(_, &[(u64, u64)], _); 8] = [
        // Where it prefers to be, aligned or not at all.
        (setup_header { pref_address: 4 * MIB, ..bz_header() }, &[low], Some(4 * MIB)),
        (setup_header { pref_address: 3 * MIB, ..bz_header() }, &[low], Some(4 * MIB)),
        (setup_header { pref_address: 3 * MIB, relocatable_kernel: 0, ..bz_header() }, &[low], Some(3 * MIB)),
        // Never in the first mebibyte.
        (setup_header { pref_address: 0, kernel_alignment: 0x1000, ..bz_header() }, &[low], Some(MIB)),
        // To the next piece of memory, if it can be there.
        (bz_header(), &[(0, 2 * MIB), (5 * MIB, 4 * MIB)], Some(6 * MIB)),
        (
            setup_header { xloadflags: anywhere, ..bz_header() },
            &[(0, 2 * MIB), (4 * GIB, MIB)],
            Some(4 * GIB),
        ),
        (bz_header(), &[(0, 2 * MIB), (4 * GIB, MIB)], None),
        (setup_header { relocatable_kernel: 0, ..bz_header() }, &[(0, 2 * MIB), (5 * MIB, 4 * MIB)], None),
    ];
    for (index, (header, ranges, start)) in cases.into_iter().enumerate() {
        match (loaded(header, ranges), start) {
            (Ok(loaded), Some(start)) => assert_eq!(loaded.kernel.start, start, "case {index}"),
            (Err(Error::DoesNotFit { .. }), None) => {}
            (other, _) => panic!("case {index}: {other:?}"),
        }
    }
}

#[test]
fn what_does_not_fit_is_named() {
    for (header, message) in [
        (
            setup_header { pref_address: 16 * MIB, init_size: 58 << 20, ..bz_header() },
            "/k: the kernel needs 58 MiB at 0x1000000, but the machine has 8 MiB of memory; raise --memory to \
             at least 74 MiB",
        ),
        (
            setup_header { init_size: u32::MAX, ..bz_header() },
            "/k: the kernel needs 4096 MiB at 0x200000, but 0xc0000000 to 0x100000000 is reserved for devices; \
             link the kernel elsewhere",
        ),
        (
            setup_header { pref_address: u64::MAX - 5, ..bz_header() },
            "/k: the kernel needs 64 KiB at 0xfffffffffffffffa, but no machine has memory there; the file is \
             probably damaged",
        ),
        (
            setup_header { pref_address: 0x1_0000, relocatable_kernel: 0, ..bz_header() },
            "/k: the kernel loads at 0x10000, but a kernel must load at 0x100000 or above; link it there",
        ),
    ] {
        assert_eq!(refused(header), message);
    }
}

#[test]
fn the_kernels_own_command_line_limit_holds() {
    assert_eq!(
        refused(setup_header { cmdline_size: 12, ..bz_header() }),
        "the kernel command line has 13 bytes, but /k takes at most 12; shorten it"
    );
    loaded(setup_header { cmdline_size: 13, ..bz_header() }, &[(0, 8 * MIB)]).unwrap();
}
