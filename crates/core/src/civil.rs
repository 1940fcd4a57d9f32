//! Dates, times and identifiers in the text forms that systems without such types hold: read and written.
//!
//! `YYYY-MM-DD`, `HH:MM:SS[.ffffff]`, both with a space between them; an instant ends in its offset from UTC. Years count
//! as in ISO 8601: the year before 0001 is 0000.

const DAY_US: i64 = 86_400_000_000;

/// Days since 1970 of `[-]YYYY-MM-DD`.
#[must_use]
pub fn date(text: &str) -> Option<i64> {
    let (sign, text) = text.strip_prefix('-').map_or((1, text), |rest| (-1, rest));
    let mut parts = text.split('-');
    let year = digits(parts.next()?, 4..=7)? * sign;
    let (month, day) = (digits(parts.next()?, 2..=2)?, digits(parts.next()?, 2..=2)?);
    let is_date =
        parts.next().is_none() && (1..=12).contains(&month) && (1..=days_in(year, month)).contains(&day);
    is_date.then(|| days(year, month, day))
}

/// Microseconds since midnight of `HH:MM[:SS[.ffffff]]`; more digits than six only if they are zeros.
#[must_use]
pub fn time(text: &str) -> Option<i64> {
    let (clock, part) = text.split_once('.').unwrap_or((text, "0"));
    let mut parts = clock.split(':');
    let (hours, minutes) = (digits(parts.next()?, 2..=2)?, digits(parts.next()?, 2..=2)?);
    let seconds = match parts.next() {
        Some(seconds) => digits(seconds, 2..=2)?,
        None if text.contains('.') => return None,
        None => 0,
    };
    let in_day = hours < 24 && minutes < 60 && seconds < 60 || (hours, minutes, seconds) == (24, 0, 0);
    if parts.next().is_some() || !in_day {
        return None;
    }
    let (micros, beyond) = part.split_at_checked(6).unwrap_or((part, ""));
    if !beyond.bytes().all(|byte| byte == b'0') {
        return None;
    }
    let scale = 10_i64.checked_pow(u32::try_from(6 - micros.len()).ok()?)?;
    Some(((hours * 60 + minutes) * 60 + seconds) * 1_000_000 + digits(micros, 1..=6)? * scale)
}

/// Microseconds since 1970 of a date and a time, with a space or a `T` between them; the time may be missing.
#[must_use]
pub fn timestamp(text: &str) -> Option<i64> {
    let (day, clock) = match text.find([' ', 'T']) {
        Some(at) => (&text[..at], time(&text[at + 1..])?),
        None => (text, 0),
    };
    date(day)?.checked_mul(DAY_US)?.checked_add(clock)
}

/// Microseconds since 1970 UTC of a timestamp with its offset: `Z`, `+HH`, `+HH:MM` or `+HH:MM:SS`. Without one it is no
/// instant.
#[must_use]
pub fn instant(text: &str) -> Option<i64> {
    if let Some(civil) = text.strip_suffix('Z') {
        return timestamp(civil.trim_end());
    }
    let clock = text.find([' ', 'T'])?;
    let at = clock + text[clock..].rfind(['+', '-'])?;
    let sign = if text[at..].starts_with('-') { -1 } else { 1 };
    let mut parts = text[at + 1..].split(':');
    let mut offset = digits(parts.next()?, 2..=2)? * 3600;
    offset += parts.next().map_or(Some(0), |minutes| digits(minutes, 2..=2))? * 60;
    offset += parts.next().map_or(Some(0), |seconds| digits(seconds, 2..=2))?;
    if parts.next().is_some() {
        return None;
    }
    timestamp(text[..at].trim_end())?.checked_sub(sign * offset * 1_000_000)
}

/// The text of a date, in days since 1970 (Howard Hinnant, `civil_from_days`).
#[must_use]
pub fn date_text(days: i64) -> String {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    let sign = if year < 0 { "-" } else { "" };
    format!("{sign}{:04}-{month:02}-{day:02}", year.abs())
}

/// The text of a time of day, in microseconds.
#[must_use]
pub fn time_text(micros: i64) -> String {
    let (seconds, part) = (micros.div_euclid(1_000_000), micros.rem_euclid(1_000_000));
    let clock = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    if part == 0 { clock } else { format!("{clock}.{part:06}") }
}

/// The text of a civil time, in microseconds since 1970.
#[must_use]
pub fn timestamp_text(micros: i64) -> String {
    format!("{} {}", date_text(micros.div_euclid(DAY_US)), time_text(micros.rem_euclid(DAY_US)))
}

/// The text of an instant, in microseconds since 1970 UTC.
#[must_use]
pub fn instant_text(micros: i64) -> String {
    timestamp_text(micros) + "+00:00"
}

/// The text of a UUID, with hyphens.
#[must_use]
pub fn uuid_text(bytes: &[u8; 16]) -> String {
    let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    [&hex[..4], &hex[4..6], &hex[6..8], &hex[8..10], &hex[10..]].map(<[String]>::concat).join("-")
}

/// The 16 bytes of a UUID: 32 hexadecimal digits with hyphens anywhere between them, in braces or not.
#[must_use]
pub fn uuid(text: &str) -> Option<[u8; 16]> {
    let text = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or(text);
    let digits = text.chars().filter(|digit| *digit != '-').map(|digit| digit.to_digit(16));
    let digits: Vec<u32> = digits.collect::<Option<_>>()?;
    let bytes = digits.chunks(2).map(|pair| u8::try_from(pair[0] << 4 | pair.get(1)?).ok());
    bytes.collect::<Option<Vec<u8>>>()?.try_into().ok()
}

/// A number of so many digits.
fn digits(text: &str, lengths: std::ops::RangeInclusive<usize>) -> Option<i64> {
    let is_number = lengths.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { text.parse().ok() } else { None }
}

/// Days since 1970 in the proleptic Gregorian calendar (Howard Hinnant, `days_from_civil`).
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

fn days_in(year: i64, month: i64) -> i64 {
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 if is_leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_forms_are_read() {
        assert_eq!(date("1970-01-02"), Some(1));
        assert_eq!(date("2000-02-29"), Some(11_016));
        assert_eq!(date("-0001-01-01"), Some(-719_893));
        assert_eq!(time("23:59:59.000001"), Some(86_399_000_001));
        assert_eq!(time("00:01"), Some(60_000_000));
        assert_eq!(timestamp("1970-01-02 00:00:01.5"), Some(DAY_US + 1_500_000));
        assert_eq!(timestamp("1970-01-02"), Some(DAY_US));
        assert_eq!(instant("1970-01-01 02:00:00+02:00"), Some(0));
        assert_eq!(instant("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(instant("1969-12-31 23:30:00.25-00:30"), Some(250_000));
    }

    #[test]
    fn what_is_written_is_read_back() {
        for micros in [0, 1, -1, 253_402_300_799_999_999, -62_167_219_200_000_000, -99_999_999_999_999_999] {
            assert_eq!(timestamp(&timestamp_text(micros)), Some(micros));
            assert_eq!(instant(&instant_text(micros)), Some(micros));
        }
        assert_eq!(uuid_text(&[0xab; 16]), "abababab-abab-abab-abab-abababababab");
        assert_eq!(uuid("{ABABABAB-abab-abab-abab-abababababab}"), Some([0xab; 16]));
        assert_eq!(uuid("ab"), None);
        assert_eq!(uuid("abc"), None);
    }

    #[test]
    fn anything_else_is_none() {
        for text in ["", "1970-1-1", "1970-02-30", "1900-02-29", "infinity", "1970-01-01x", "+970-01-01"] {
            assert_eq!(date(text), None, "{text}");
        }
        for text in ["24:00:01", "1:00", "00:00:00.", "00:00:00.0000001", "00:00.5", "é0:00"] {
            assert_eq!(time(text), None, "{text}");
        }
        for text in ["1970-01-01 00:00:00", "1970-01-01", "1970-01-01 00:00:00+", "1970-01-01 00:00:00+1"] {
            assert_eq!(instant(text), None, "{text}");
        }
    }
}
