use proptest::prelude::*;

use super::*;

#[test]
fn the_magic_marks_once() {
    let timeline = Arc::new(Timeline::default());
    let mut port = BootTimer::new(Arc::clone(&timeline));
    assert_eq!(port.write(0, &[BOOT_TIME_MAGIC + 1]), Effect::None);
    assert_eq!(timeline.get(Phase::BootTimePort), None);
    assert_eq!(port.write(0, &[BOOT_TIME_MAGIC]), Effect::None);
    let marked = timeline.get(Phase::BootTimePort);
    assert!(marked.is_some());
    assert_eq!(port.write(0, &[BOOT_TIME_MAGIC, 0]), Effect::None);
    assert_eq!(timeline.get(Phase::BootTimePort), marked);
}

proptest! {
    #[test]
    fn nothing_else_marks(offset in 0..3_u64, mut data in prop::collection::vec(0x41..0x44_u8, 0..9)) {
        let timeline = Arc::new(Timeline::default());
        let mut port = BootTimer::new(Arc::clone(&timeline));
        prop_assert_eq!(port.write(offset, &data), Effect::None);
        let expected = offset == 0 && data.first() == Some(&BOOT_TIME_MAGIC);
        prop_assert_eq!(timeline.get(Phase::BootTimePort).is_some(), expected);
        port.read(offset, &mut data);
        prop_assert!(data.iter().all(|byte| *byte == 0xff));
    }
}
