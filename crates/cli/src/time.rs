// SPDX-License-Identifier: MIT OR Apache-2.0
//! Points in time as text, in UTC: the same on every machine.

/// Year, month, day, hour, minute, second of a point in time.
fn civil(seconds: i64) -> (i64, u8, u8, u8, u8, u8) {
    const ERA_DAYS: i64 = 146_097; // of 400 years
    let days = seconds.div_euclid(86_400);
    let second = seconds.rem_euclid(86_400);
    // Days from 0000-03-01, so that a leap day is the last of its year.
    let days = days + 719_468;
    let era = days.div_euclid(ERA_DAYS);
    let day_of_era = days.rem_euclid(ERA_DAYS);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153; // from March
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (
        year,
        month as u8,
        day as u8,
        (second / 3600) as u8,
        (second / 60 % 60) as u8,
        (second % 60) as u8,
    )
}

/// `2026-11-21 03:06:25`.
pub(crate) fn show(seconds: i64) -> String {
    let (year, month, day, hour, minute, second) = civil(seconds);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

/// `2026-11-21T03:06:25Z`, as RFC 3339 has it.
pub(crate) fn rfc3339(seconds: i64) -> String {
    show(seconds).replace(' ', "T") + "Z"
}

/// `2026-11-21 03:06:25.000000000 UTC`.
pub(crate) fn show_precise(seconds: i64, nanoseconds: u32) -> String {
    format!("{}.{nanoseconds:09} UTC", show(seconds))
}

/// `Sat Nov 21 03:06:25 2026`, as ctime(3) has it.
pub(crate) fn show_ctime(seconds: i64) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (year, month, day, hour, minute, second) = civil(seconds);
    let weekday = DAYS[seconds.div_euclid(86_400).rem_euclid(7) as usize];
    let month = MONTHS[usize::from(month) - 1];
    format!("{weekday} {month} {day:2} {hour:02}:{minute:02}:{second:02} {year}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_days() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00"),
            (-1, "1969-12-31 23:59:59"),
            (951_782_400, "2000-02-29 00:00:00"),
            (1_795_230_385, "2026-11-21 03:06:25"),
            (4_102_444_799, "2099-12-31 23:59:59"),
            (253_402_300_800, "10000-01-01 00:00:00"),
        ] {
            assert_eq!(show(seconds), text);
        }
        assert_eq!(show_ctime(1_795_230_385), "Sat Nov 21 03:06:25 2026");
        assert_eq!(show_precise(0, 5), "1970-01-01 00:00:00.000000005 UTC");
        // Any number of seconds an image can hold.
        for seconds in [i64::MIN / 2, i64::MAX / 2] {
            assert!(!show(seconds).is_empty());
        }
    }
}
