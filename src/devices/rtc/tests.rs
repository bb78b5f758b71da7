use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use proptest::prelude::*;

use super::*;

/// 2024-02-29 23:59:58, a Thursday.
const LEAP_DAY: i64 = 1_709_251_198;

fn read(core: &mut Core, index: u8, now: i64) -> u8 {
    core.write(0, index, now);
    core.read(1, now)
}

fn write(core: &mut Core, index: u8, value: u8, now: i64) {
    core.write(0, index, now);
    core.write(1, value, now);
}

/// Century, year, month, day, weekday, hours, minutes, seconds.
fn time(core: &mut Core, now: i64) -> [u8; 8] {
    use register::*;
    [CENTURY, YEAR, MONTH, DAY, WEEKDAY, HOURS, MINUTES, SECONDS].map(|index| read(core, index, now))
}

#[test]
fn calendar_of_known_times() {
    for (seconds, century, year, month, day, weekday, hour, minute, second) in [
        (0, 19, 70, 1, 1, 5, 0, 0, 0),
        (-1, 19, 69, 12, 31, 4, 23, 59, 59),
        (951_782_399, 20, 0, 2, 28, 2, 23, 59, 59),
        (951_782_400, 20, 0, 2, 29, 3, 0, 0, 0),
        (951_868_800, 20, 0, 3, 1, 4, 0, 0, 0),
        (978_307_199, 20, 0, 12, 31, 1, 23, 59, 59),
        (LEAP_DAY, 20, 24, 2, 29, 5, 23, 59, 58),
        (1_772_323_199, 20, 26, 2, 28, 7, 23, 59, 59),
        (1_772_323_200, 20, 26, 3, 1, 1, 0, 0, 0),
        (i32::MAX as i64, 20, 38, 1, 19, 3, 3, 14, 7),
        (i32::MAX as i64 + 1, 20, 38, 1, 19, 3, 3, 14, 8),
        (4_107_542_399, 21, 0, 2, 28, 1, 23, 59, 59),
        (4_107_542_400, 21, 0, 3, 1, 2, 0, 0, 0),
        (253_402_300_799, 99, 99, 12, 31, 6, 23, 59, 59),
    ] {
        let calendar = Calendar { second, minute, hour, weekday, day, month, year, century };
        assert_eq!(Calendar::at(seconds), calendar, "{seconds}");
        assert_eq!(calendar.seconds(), seconds);
    }
    assert_eq!(Calendar::at(i64::MAX), Calendar::at(253_402_300_799));
    assert_eq!(Calendar::at(i64::MIN).century, 0);
}

#[test]
fn every_day_follows_the_one_before() {
    let mut before = Calendar::at(-86_400);
    for day in 0..100_000 {
        let calendar = Calendar::at(day * 86_400);
        assert_eq!(calendar.seconds(), day * 86_400);
        assert_eq!(calendar.weekday, before.weekday % 7 + 1);
        let year = u32::from(before.century) * 100 + u32::from(before.year);
        let leap = year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
        let length = match before.month {
            2 if leap => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        if before.day < length {
            assert_eq!((calendar.month, calendar.day), (before.month, before.day + 1));
        } else {
            assert_eq!((calendar.month, calendar.day), (before.month % 12 + 1, 1));
        }
        before = calendar;
    }
}

#[test]
fn out_of_range_fields_count_as_the_nearest() {
    let worst = Calendar {
        second: 255,
        minute: 255,
        hour: 255,
        weekday: 255,
        day: 255,
        month: 255,
        year: 255,
        century: 255,
    };
    assert_eq!(worst.seconds(), 253_402_300_799);
    let thirty_first_of_february = Calendar { day: 31, ..Calendar::at(LEAP_DAY) };
    assert_eq!(thirty_first_of_february.seconds(), LEAP_DAY);
    assert_eq!(Calendar { day: 0, month: 0, ..Calendar::at(0) }.seconds(), 0);
}

#[test]
fn registers_after_reset() {
    let mut core = Core::default();
    assert_eq!(read(&mut core, register::A, 0), 0x26);
    assert_eq!(read(&mut core, register::B, 0), 0x02);
    assert_eq!(read(&mut core, register::C, 0), 0);
    // Linux takes the clock for missing if bit 6 is set (`mc146818_does_rtc_work`).
    assert_eq!(read(&mut core, register::D, 0), 0x80);
    assert_eq!(core.read(0, 0), 0xff);
    assert_eq!(core.read(2, 0), 0xff);
}

#[test]
fn status_registers_keep_what_may_be_written() {
    let mut core = Core::default();
    for (index, expected) in [(register::A, 0x7f), (register::B, 0xef), (register::C, 0), (register::D, 0x80)]
    {
        write(&mut core, index, 0xff, 0);
        assert_eq!(read(&mut core, index, 0), expected);
    }
}

#[test]
fn ram_is_kept_and_the_nmi_bit_masked() {
    let mut core = Core::default();
    let ram = (1..=0x7f).filter(|index| !(2..=0xd).contains(index) && *index != register::CENTURY);
    for index in ram.clone().chain([3, 5]) {
        write(&mut core, index | 0x80, !index, 0);
    }
    for index in ram.chain([3, 5]) {
        assert_eq!(read(&mut core, index, 0), !index);
    }
}

#[test]
fn time_in_each_format() {
    let mut core = Core::default();
    assert_eq!(time(&mut core, LEAP_DAY), [0x20, 0x24, 0x02, 0x29, 5, 0x23, 0x59, 0x58]);
    assert_eq!(time(&mut core, LEAP_DAY + 2), [0x20, 0x24, 0x03, 0x01, 6, 0, 0, 0]);
    write(&mut core, register::B, B_24_HOURS | B_BINARY, 0);
    assert_eq!(time(&mut core, LEAP_DAY), [20, 24, 2, 29, 5, 23, 59, 58]);
    let hours = |core: &mut Core| {
        [0, 1, 11, 12, 13, 23].map(|hour| read(core, register::HOURS, LEAP_DAY + 2 + hour * 3600))
    };
    write(&mut core, register::B, B_BINARY, 0);
    assert_eq!(hours(&mut core), [12, 1, 11, 0x8c, 0x81, 0x8b]);
    write(&mut core, register::B, 0, 0);
    assert_eq!(hours(&mut core), [0x12, 0x01, 0x11, 0x92, 0x81, 0x91]);
}

#[test]
fn a_guest_that_sets_the_clock_reads_its_own_time() {
    // In each format, with SET as the data sheet asks.
    for (formats, hour) in
        [(B_24_HOURS, 0x22), (B_24_HOURS | B_BINARY, 22), (0, PM | 0x10), (B_BINARY, PM | 10)]
    {
        let mut core = Core::default();
        let number =
            |value: u8| if formats & B_BINARY != 0 { value } else { ((value / 10) << 4) | (value % 10) };
        write(&mut core, register::B, B_SET | B_UIE | formats, 0);
        assert_eq!(read(&mut core, register::B, 0), B_SET | formats, "SET clears UIE");
        for (index, value) in [
            (register::SECONDS, number(59)),
            (register::MINUTES, number(59)),
            (register::HOURS, hour),
            (register::DAY, number(31)),
            (register::MONTH, number(12)),
            (register::YEAR, number(99)),
            (register::CENTURY, number(19)),
        ] {
            write(&mut core, index, value, 7);
            assert_eq!(read(&mut core, index, 1000), value, "the time stands still");
        }
        write(&mut core, register::B, formats, 100);
        assert_eq!(read(&mut core, register::SECONDS, 100), number(59));
        let later = time(&mut core, 101 + 3600);
        assert_eq!(later[..4], [number(20), 0, number(1), number(1)]);
        assert_eq!(later[4], 7, "1 January 2000 was a Saturday");
        assert_eq!(later[6..], [0, 0]);
    }
}

#[test]
fn fields_can_be_set_while_the_clock_runs() {
    let mut core = Core::default();
    write(&mut core, register::B, B_24_HOURS | B_BINARY, 0);
    write(&mut core, register::MINUTES, 30, 0);
    write(&mut core, register::YEAR, 71, 10);
    assert_eq!(time(&mut core, 20), [19, 71, 1, 1, 6, 0, 30, 20]);
}

#[test]
fn the_adapter_reads_its_clock() {
    let now = Arc::new(AtomicI64::new(LEAP_DAY));
    let clock = Arc::clone(&now);
    let mut rtc = Rtc::new(Box::new(move || clock.load(Ordering::Relaxed)));
    // One access to both ports: the index, then the data.
    assert_eq!(rtc.write(0, &[register::B, B_24_HOURS | B_BINARY, 9, 9]), Effect::None);
    assert_eq!(rtc.write(0, &[register::SECONDS]), Effect::None);
    let mut data = [0; 4];
    rtc.read(0, &mut data);
    assert_eq!(data, [0xff, 58, 0xff, 0xff]);
    now.fetch_add(1, Ordering::Relaxed);
    rtc.read(1, &mut data[..1]);
    assert_eq!(data[0], 59);

    let mut host = Rtc::new(host_clock());
    assert_eq!(host.write(0, &[register::CENTURY]), Effect::None);
    host.read(1, &mut data[..1]);
    assert_eq!(data[0], 0x20);
}

#[test]
fn restore_of_nonsense_is_bounded() {
    let mut core = Core::default();
    core.restore(&RtcState { index: 0xff, ram: vec![0xff; 1000], offset: i64::MAX });
    assert_eq!(core.save().ram.len(), RAM);
    write(&mut core, register::B, 0, i64::MIN);
    for offset in [i64::MIN, i64::MAX] {
        core.restore(&RtcState { index: 0, ram: Vec::new(), offset });
        for now in [i64::MIN, 0, i64::MAX] {
            time(&mut core, now);
            write(&mut core, register::SECONDS, 1, now);
        }
    }
}

proptest! {
    #[test]
    fn calendar_round_trip(seconds in -62_167_219_200..253_402_300_800_i64) {
        prop_assert_eq!(Calendar::at(seconds).seconds(), seconds);
    }

    #[test]
    fn any_sequence_keeps_the_invariants(
        steps in prop::collection::vec((0..4_u64, any::<bool>(), prop::collection::vec(any::<u8>(), 0..9), any::<i64>()), 0..100),
    ) {
        let now = Arc::new(AtomicI64::new(0));
        let clock = || {
            let now = Arc::clone(&now);
            Rtc::new(Box::new(move || now.load(Ordering::Relaxed)))
        };
        let mut rtc = clock();
        for (port, reads, mut data, time) in steps {
            now.store(time, Ordering::Relaxed);
            if reads {
                rtc.read(port, &mut data);
            } else {
                prop_assert_eq!(rtc.write(port, &data), Effect::None);
            }
            prop_assert!(rtc.core.index < 0x80);
            prop_assert_eq!(rtc.core.held.is_some(), rtc.core.load(register::B) & B_SET != 0);

            let state = rtc.save();
            let mut copy = clock();
            copy.restore(&state);
            prop_assert_eq!(copy.save(), state);
            for index in 0..128 {
                prop_assert_eq!(read(&mut copy.core, index, time), read(&mut rtc.core, index, time));
            }
            rtc.core.index = rtc.core.index.min(0x7f);
        }
    }
}
