use super::*;

#[test]
fn numbers_have_three_digits_and_a_unit() {
    let cases = [
        (0.5, Unit::Nanoseconds, "0.50 ns"),
        (999.0, Unit::Nanoseconds, "999 ns"),
        (12_345.0, Unit::Nanoseconds, "12.3 us"),
        (2.5e9, Unit::Nanoseconds, "2.50 s"),
        (7.2e12, Unit::Nanoseconds, "7200 s"),
        (1536.0, Unit::Bytes, "1.50 KiB"),
        (1048576.0, Unit::BytesPerSecond, "1.00 MiB/s"),
        (257_557.0, Unit::PerSecond, "258 k/s"),
        (3.0, Unit::Count, "3"),
        (1.256, Unit::Count, "1.26"),
    ];
    for (value, unit, text) in cases {
        assert_eq!(show(value, unit), text);
    }
}

#[test]
fn bars_are_as_long_as_what_they_show() {
    let width = |part| bar(part).chars().count();
    assert_eq!((width(1.0), width(0.5), width(0.0)), (24, 12, 1));
    assert_eq!(bar(f64::NAN), "");
    assert_eq!(bar(0.5 + 1.0 / 24.0 / 8.0), "█".repeat(12) + "▏");
}
