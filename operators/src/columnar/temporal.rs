//! Times and dates as text: RFC 3339, both ways. (A [`Timestamp`](crate::Timestamp) writes itself.)

use std::fmt;

/// Microseconds since the epoch of an RFC 3339 time such as `2026-01-01T12:00:00.5+01:00`.
///
/// The zone must be there: a time without one could be any of 24. Digits beyond the microsecond are cut off; second
/// 60 is a leap second, and the same as second 0 of the minute that follows.
pub(super) fn parse_timestamp(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let days = i64::from(parse_date(text.get(..10)?)?);
    let (b'T' | b't' | b' ', b':', b':') = (*bytes.get(10)?, *bytes.get(13)?, *bytes.get(16)?) else { return None };
    let (hour, minute, second) = (digits(bytes, 11, 2)?, digits(bytes, 14, 2)?, digits(bytes, 17, 2)?);
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut at = 19;
    let mut micros = 0;
    if bytes.get(at) == Some(&b'.') {
        let fraction = bytes.get(at + 1..)?;
        let count = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if count == 0 {
            return None;
        }
        micros = (0..6).fold(0, |micros, place| {
            micros * 10 + fraction.get(place).filter(|_| place < count).map_or(0, |digit| i64::from(digit - b'0'))
        });
        at += 1 + count;
    }
    let offset = match bytes.get(at..)? {
        b"Z" | b"z" => 0,
        [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
            let (hours, minutes) = (digits(bytes, at + 1, 2)?, digits(bytes, at + 4, 2)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let minutes = hours * 60 + minutes;
            if *sign == b'+' { minutes } else { -minutes }
        }
        _ => return None,
    };
    Some(((days * 24 + hour) * 60 + minute - offset) * 60_000_000 + second * 1_000_000 + micros)
}

/// Days since the epoch of a date such as `2026-01-01`; the days by Howard Hinnant's `days_from_civil`
/// (<https://howardhinnant.github.io/date_algorithms.html>).
pub(super) fn parse_date(text: &str) -> Option<i32> {
    let bytes = text.as_bytes();
    if bytes.len() != 10 || bytes.get(4) != Some(&b'-') || bytes.get(7) != Some(&b'-') {
        return None;
    }
    let (year, month, day) = (digits(bytes, 0, 4)?, digits(bytes, 5, 2)?, digits(bytes, 8, 2)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let longest = match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=longest).contains(&day) {
        return None;
    }
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    i32::try_from(era * 146_097 + day_of_era - 719_468).ok()
}

fn digits(bytes: &[u8], from: usize, count: usize) -> Option<i64> {
    bytes.get(from..from + count)?.iter().try_fold(0, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| i64::from(byte - b'0'))?;
        Some(number * 10 + digit)
    })
}

/// Days since the epoch that print as `2026-01-01`.
pub(super) struct Date(pub(super) i32);

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = crate::time::civil_from_days(i64::from(self.0));
        write!(f, "{year:04}-{month:02}-{day:02}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Timestamp;

    #[test]
    fn reads_what_timestamps_write() {
        let micros =
            [0, -1, 951_827_696_789_000, 253_402_300_799_999_999, -62_135_596_800_000_000, 1_767_268_800_000_001];
        for micros in micros {
            let text = Timestamp::from_micros(micros).to_string();
            assert_eq!(parse_timestamp(&text), Some(micros), "{text}");
        }
    }

    #[test]
    fn every_day_of_eight_centuries_comes_back() {
        for days in -146_097..146_097 {
            let text = Date(days).to_string();
            assert_eq!(parse_date(&text), Some(days), "{text}");
        }
    }

    #[test]
    fn zones_fractions_and_leap_seconds_are_understood() {
        let noon = Some(1_767_268_800_000_000);
        for text in
            ["2026-01-01T12:00:00Z", "2026-01-01t13:30:00+01:30", "2026-01-01 02:00:00-10:00", "2026-01-01T11:59:60z"]
        {
            assert_eq!(parse_timestamp(text), noon, "{text}");
        }
        assert_eq!(parse_timestamp("2026-01-01T12:00:00.1234567899Z"), noon.map(|at| at + 123_456));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        let bad = [
            "",
            "2026",
            "2026-01-01",
            "2026-01-01T12:00:00",
            "2026-01-01T24:00:00Z",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-01-01T12:00:00.Z",
            "2026-01-01T12:00:00+1:00",
            "2026-01-01T12:00:00+24:00",
            "2026-01-01T12:00:61Z",
            "2026-01-01T12:00Z",
            "+026-01-01T12:00:00Z",
            "2026-01-01T12:00:00Zx",
            "2026-01-01T12:0é:00Z",
            "20é6-01-01T12:00:00Z",
            "1900-02-29T00:00:00Z",
        ];
        for text in bad {
            assert_eq!(parse_timestamp(text), None, "{text}");
        }
    }
}
