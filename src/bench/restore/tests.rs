use super::*;

#[test]
fn sizes_are_told_in_the_largest_unit_that_fits() {
    assert_eq!(SIZES.map(size), ["16 MiB", "256 MiB", "1 GiB", "8 GiB"]);
    assert_eq!(size(1536), "1536 MiB");
}
