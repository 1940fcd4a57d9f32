//! Dates and times in PostgreSQL's ISO text form, as the numbers of its binary form.
//!
//! A date is days since 2000-01-01, a timestamp microseconds since then; the infinities are the ends of the number
//! range. Only what the server itself writes under our session settings is read: `44-03-15 BC`, `infinity`, UTC.

const DAY_US: i64 = 86_400_000_000;

/// Days from 1970-01-01 to 2000-01-01.
pub(super) const EPOCH_DAYS: i32 = 10_957;

/// Microseconds from 1970-01-01 to 2000-01-01.
pub(super) const EPOCH_US: i64 = EPOCH_DAYS as i64 * DAY_US;

/// `2024-02-29`, `0044-03-15 BC`, `infinity`.
pub(super) fn date(text: &str) -> Option<i32> {
    match text {
        "infinity" => Some(i32::MAX),
        "-infinity" => Some(i32::MIN),
        _ => {
            let (text, before_christ) = era(text);
            civil(text, before_christ)
        }
    }
}

/// `15:04:05.123456`; `24:00:00` is a time too.
pub(super) fn time(text: &str) -> Option<i64> {
    let mut parts = text.split(':');
    let (hours, minutes, seconds) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let (seconds, fraction) = seconds.split_once('.').unwrap_or((seconds, ""));
    if fraction.len() > 6 || !fraction.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let micros: i64 = format!("{fraction:0<6}").parse().ok()?;
    let (hours, minutes, seconds) = (digits(hours)?, digits(minutes)?, digits(seconds)?);
    Some(((hours * 60 + minutes) * 60 + seconds) * 1_000_000 + micros)
}

/// `2024-02-29 15:04:05.1`, with `+00` after it for an instant.
pub(super) fn timestamp(text: &str) -> Option<i64> {
    match text {
        "infinity" => return Some(i64::MAX),
        "-infinity" => return Some(i64::MIN),
        _ => {}
    }
    let (text, before_christ) = era(text);
    let text = text.strip_suffix("+00").unwrap_or(text);
    let (day, clock) = text.split_once(' ')?;
    let days = i64::from(civil(day, before_christ)?);
    days.checked_mul(DAY_US)?.checked_add(time(clock)?)
}

fn era(text: &str) -> (&str, bool) {
    text.strip_suffix(" BC").map_or((text, false), |text| (text, true))
}

fn digits(text: &str) -> Option<i64> {
    if text.is_empty() || !text.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// Days since 2000-01-01 of a date in the proleptic Gregorian calendar (days from civil, by Howard Hinnant).
fn civil(text: &str, before_christ: bool) -> Option<i32> {
    let mut parts = text.split('-');
    let (year, month, day) = (digits(parts.next()?)?, digits(parts.next()?)?, digits(parts.next()?)?);
    if parts.next().is_some() || !(1..=12).contains(&month) || !(1..=31).contains(&day) || year > 10_000_000 {
        return None;
    }
    let year = if before_christ { 1 - year } else { year };
    let shifted = if month <= 2 { year - 1 } else { year };
    let era = shifted.div_euclid(400);
    let year_of_era = shifted - era * 400;
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    i32::try_from(era * 146_097 + day_of_era - 719_468 - i64::from(EPOCH_DAYS)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(date("2000-01-01"), Some(0));
        assert_eq!(date("1999-12-31"), Some(-1));
        assert_eq!(date("2024-02-29"), Some(8825));
        assert_eq!(date("1970-01-01"), Some(-EPOCH_DAYS));
        assert_eq!(date("4714-11-24 BC"), Some(-2_451_545));
        assert_eq!(date("5874897-12-31"), Some(2_145_031_948));
        assert_eq!(date("infinity"), Some(i32::MAX));
        assert_eq!(date("2024-13-01"), None);
        assert_eq!(date("2024-01"), None);
    }

    #[test]
    fn times_and_timestamps() {
        assert_eq!(time("24:00:00"), Some(DAY_US));
        assert_eq!(time("00:00:00.000001"), Some(1));
        assert_eq!(time("1:2"), None);
        assert_eq!(timestamp("2000-01-01 00:00:01.5+00"), Some(1_500_000));
        assert_eq!(timestamp("1999-12-31 23:59:59.999999"), Some(-1));
        assert_eq!(
            timestamp("0001-01-01 00:00:00 BC"),
            timestamp("0001-01-01 00:00:00").map(|t| t - 366 * DAY_US)
        );
        assert_eq!(timestamp("-infinity"), Some(i64::MIN));
        assert_eq!(timestamp("294276-12-31 23:59:59.999999+00"), Some(9_223_371_331_199_999_999));
    }
}
