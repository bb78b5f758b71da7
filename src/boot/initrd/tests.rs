use super::super::testing::{MIB, memory, small_bzimage, small_elf};
use super::*;

fn placed(size: u64, limit: u64, kernel: Range<u64>) -> Result<Range<u64>, Error> {
    let ram = Ram::of(&memory(&[(0, 8 * MIB), (1 << 32, 8 * MIB)])).unwrap();
    let bytes = vec![7; usize::try_from(size).unwrap()];
    place(&Image::from_bytes(bytes, "/i"), &ram, limit, &kernel)
}

#[test]
fn it_goes_as_high_as_it_may() {
    let kernel = MIB..2 * MIB;
    for (size, limit, expected) in [
        (0x1000, u64::MAX, 8 * MIB - 0x1000),
        (1, u64::MAX, 8 * MIB - 0x1000),
        (0x1001, 0x40_0000, 0x40_0000 - 0x2000),
        (0x1001, 0x40_0fff, 0x40_0000 - 0x2000),
        (6 * MIB, u64::MAX, 2 * MIB),
    ] {
        assert_eq!(placed(size, limit, kernel.clone()).unwrap(), expected..expected + size);
    }
}

#[test]
fn it_goes_around_the_kernel() {
    // Below a kernel at the top of memory, and of one beyond the limit.
    assert_eq!(placed(MIB, u64::MAX, 7 * MIB + 5..8 * MIB).unwrap(), 6 * MIB..7 * MIB);
    assert_eq!(placed(MIB, 4 * MIB, 6 * MIB..7 * MIB).unwrap(), 3 * MIB..4 * MIB);
    // A kernel elsewhere is not in the way.
    assert_eq!(placed(MIB, u64::MAX, 1 << 32..1 << 33).unwrap(), 7 * MIB..8 * MIB);
}

#[test]
fn no_room_is_named() {
    for (limit, kernel, message) in [
        (
            u64::MAX,
            3 * MIB..7 * MIB,
            "/i: the initial ramdisk needs 3 MiB, but only 2 MiB are free below 0x800000; raise --memory or make it smaller",
        ),
        (
            0,
            3 * MIB..7 * MIB,
            "/i: the initial ramdisk needs 3 MiB, but only 0 bytes are free below 0x0; raise --memory or make it smaller",
        ),
        (
            u64::MAX,
            MIB..9 * MIB,
            "/i: the initial ramdisk needs 3 MiB, but only 0 bytes are free below 0x800000; raise --memory or make it smaller",
        ),
    ] {
        assert_eq!(placed(3 * MIB, limit, kernel).unwrap_err().to_string(), message);
    }
}

#[test]
fn what_cannot_be_one_is_named() {
    let ram = Ram::of(&memory(&[(0, 8 * MIB)])).unwrap();
    for (bytes, message) in [
        (vec![], "/i is empty, not an initial ramdisk: leave --initrd out to boot without one"),
        (small_elf(), "/i is a kernel or program, not an initial ramdisk: pass a kernel with --kernel"),
        (small_bzimage(), "/i is a kernel or program, not an initial ramdisk: pass a kernel with --kernel"),
    ] {
        let error = place(&Image::from_bytes(bytes, "/i"), &ram, u64::MAX, &(MIB..2 * MIB)).unwrap_err();
        assert_eq!(error.to_string(), message);
    }
}
