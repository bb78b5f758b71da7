use super::*;

#[test]
fn sizes_are_human_and_never_too_small() {
    for (bytes, text) in [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1 KiB"),
        (1025, "1.1 KiB"),
        (58 * MIB, "58 MiB"),
        (58 * MIB + 1, "58.1 MiB"),
        (GIB, "1 GiB"),
        (GIB + GIB / 2, "1536 MiB"),
        (100 * GIB + 1, "100.1 GiB"),
        (u64::MAX, "17179869184 GiB"),
    ] {
        assert_eq!(Size(bytes).to_string(), text, "{bytes}");
    }
}

#[test]
fn the_remedy_names_enough_memory() {
    for (start, size, text) in [
        (16 * MIB, 58 * MIB - 1, "the machine has 32 MiB of memory; raise --memory to at least 74 MiB"),
        (HOLE_END, MIB, "the machine has 32 MiB of memory; raise --memory to at least 3073 MiB"),
        (
            HOLE_START - MIB,
            2 * MIB,
            "0xc0000000 to 0x100000000 is reserved for devices; link the kernel elsewhere",
        ),
        (u64::MAX, 2, "no machine has memory there; the file is probably damaged"),
        (1 << 60, 1, "no machine has memory there; the file is probably damaged"),
    ] {
        assert_eq!(Remedy::of(start, size, 32 * MIB).to_string(), text);
    }
}
