use proptest::prelude::*;

use super::*;

#[test]
fn the_value_is_what_was_written() {
    assert_eq!(DebugExit.write(0, &[0x10]), Effect::DebugExit(0x10));
    assert_eq!(DebugExit.write(0, &[0x34, 0x12]), Effect::DebugExit(0x1234));
    assert_eq!(DebugExit.write(0, &[0xff; 4]), Effect::DebugExit(u32::MAX));
}

proptest! {
    #[test]
    fn nothing_else_has_an_effect(offset in 0..6_u64, mut data in prop::collection::vec(any::<u8>(), 0..9)) {
        let ends = offset == 0 && matches!(data.len(), 1 | 2 | 4);
        prop_assert_eq!(DebugExit.write(offset, &data) != Effect::None, ends);
        DebugExit.read(offset, &mut data);
        prop_assert!(data.iter().all(|byte| *byte == 0xff));
    }
}
