use super::*;

#[test]
fn msrs_are_distinct_and_say_what_they_should() {
    let [misc, mtrr] = &BOOT_MSRS;
    assert_eq!((misc.index, misc.data), (0x1a0, 0x1801));
    assert_eq!((mtrr.index, mtrr.data), (0x2ff, 0x806));
}
