//! Seconds since 1970 and the proleptic Gregorian calendar in UTC.

/// Seconds of a day.
const DAY: i64 = 86_400;
/// Days of 400 years, after which the calendar repeats.
const ERA: i64 = 146_097;
/// Days from 1 March of the year 0 to 1 January 1970.
const EPOCH: i64 = 719_468;

/// A date and time as a clock chip counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Calendar {
    /// 0 to 59.
    pub second: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 23.
    pub hour: u8,
    /// 1 (Sunday) to 7.
    pub weekday: u8,
    /// 1 to 31.
    pub day: u8,
    /// 1 to 12.
    pub month: u8,
    /// 0 to 99.
    pub year: u8,
    /// 0 to 99.
    pub century: u8,
}

impl Calendar {
    /// The calendar at a number of seconds since 1970. What lies outside of the years 0 to 9999
    /// is shown as their first or last second.
    #[must_use]
    pub fn at(seconds: i64) -> Self {
        let first = days_before(0, 1, 1) * DAY;
        let last = days_before(10_000, 1, 1) * DAY - 1;
        let seconds = seconds.clamp(first, last);
        let (days, time) = (seconds.div_euclid(DAY), seconds.rem_euclid(DAY));
        let (year, month, day) = date(days);
        Self {
            second: byte(time % 60),
            minute: byte(time / 60 % 60),
            hour: byte(time / 3600),
            // 1 January 1970 was a Thursday.
            weekday: byte((days + 4).rem_euclid(7) + 1),
            day: byte(day),
            month: byte(month),
            year: byte(year % 100),
            century: byte(year / 100),
        }
    }

    /// Seconds since 1970; the weekday does not matter. A field beyond its range, which a guest
    /// can leave behind, counts as the nearest value within.
    #[must_use]
    pub fn seconds(&self) -> i64 {
        let Self { second, minute, hour, weekday: _, day, month, year, century } = *self;
        let year = i64::from(century.min(99)) * 100 + i64::from(year.min(99));
        let month = i64::from(month).clamp(1, 12);
        let first = days_before(year, month, 1);
        let next = if month == 12 { days_before(year + 1, 1, 1) } else { days_before(year, month + 1, 1) };
        let day = i64::from(day).clamp(1, next - first);
        let time =
            i64::from(hour.min(23)) * 3600 + i64::from(minute.min(59)) * 60 + i64::from(second.min(59));
        (first + day - 1) * DAY + time
    }
}

/// Days from 1970 to a date. A year is taken to start in March, so that a leap day ends it and
/// the months' lengths follow one line: 153 days in five of them.
fn days_before(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let from_march = (month + 9) % 12;
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    year * 365 + leap_days + (from_march * 153 + 2) / 5 + day - 1 - EPOCH
}

/// The year, month and day of a number of days since 1970.
fn date(days: i64) -> (i64, i64, i64) {
    let days = days + EPOCH;
    let (era, of_era) = (days.div_euclid(ERA), days.rem_euclid(ERA));
    // Take out the leap days that have passed: one in 4 years (1461 days), but not in the last
    // of a century (36524 days), but in the last of the era.
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / (ERA - 1)) / 365;
    let of_year = of_era - (year_of_era * 365 + year_of_era / 4 - year_of_era / 100);
    let from_march = (of_year * 5 + 2) / 153;
    let day = of_year - (from_march * 153 + 2) / 5 + 1;
    let month = (from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day)
}

/// A field's value, which its computation keeps far below 256.
fn byte(value: i64) -> u8 {
    u8::try_from(value).unwrap_or(u8::MAX)
}
