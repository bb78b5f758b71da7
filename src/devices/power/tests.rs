use proptest::prelude::*;

use super::*;

fn write(offset: u64, data: &[u8]) -> Effect {
    AcpiPower.write(offset, data)
}

#[test]
fn soft_off_needs_type_and_enable() {
    for value in 0..=u8::MAX {
        let off = value & 0x20 != 0 && value & 0x1c == 0x14;
        let expected = if off { Effect::PowerOff } else { Effect::None };
        assert_eq!(write(SLEEP_CONTROL, &[value]), expected, "{value:#x}");
    }
    // What Linux writes (`acpi_hw_extended_sleep`).
    assert_eq!(write(SLEEP_CONTROL, &[ACPI_SLEEP_TYPE_S5 << 2 | 0x20]), Effect::PowerOff);
}

#[test]
fn only_its_value_resets() {
    for value in 0..=u8::MAX {
        let expected = if value == ACPI_RESET_VALUE { Effect::Reset } else { Effect::None };
        assert_eq!(write(RESET, &[value]), expected);
        assert_eq!(write(SLEEP_STATUS, &[value]), Effect::None);
    }
}

#[test]
fn wide_accesses_are_bytes_in_order() {
    assert_eq!(write(SLEEP_CONTROL, &[0, 0x34, 1]), Effect::Reset);
    assert_eq!(write(SLEEP_CONTROL, &[0x34, 0, 1]), Effect::PowerOff);
    assert_eq!(write(RESET, &[0, 1, 1, 1]), Effect::None);
    let mut data = [9; 4];
    AcpiPower.read(SLEEP_CONTROL, &mut data);
    assert_eq!(data, [0, 0, 0, 0xff]);
}

proptest! {
    #[test]
    fn nothing_else_has_an_effect(offset in any::<u64>(), mut data in prop::collection::vec(any::<u8>(), 0..9)) {
        let effect = write(offset, &data);
        prop_assert!(effect == Effect::None || offset < PORTS || offset.checked_add(8).is_none());
        AcpiPower.read(offset, &mut data);
    }
}
