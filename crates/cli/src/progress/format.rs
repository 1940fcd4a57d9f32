//! Numbers as people read them.

use std::time::Duration;

pub(crate) use syncline_core::number::grouped as count;

/// `0 B`, `512 B`, `12.3 MB`: decimal units, three digits.
pub(crate) fn bytes(number: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if number < 1000 {
        return format!("{number} B");
    }
    let mut unit = 0;
    // Tenths of the unit, so that no float is needed.
    let mut tenths = number / 100;
    while tenths >= 10_000 && unit + 1 < UNITS.len() {
        tenths /= 1000;
        unit += 1;
    }
    if tenths >= 1000 {
        format!("{} {}", tenths / 10, UNITS[unit])
    } else {
        format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
    }
}

/// `40 ms`, `1.2 s`, `1m05s`, `2h07m`, `3d04h`.
pub(crate) fn duration(time: Duration) -> String {
    let (ms, seconds) = (time.as_millis(), time.as_secs());
    match seconds {
        0 => format!("{ms} ms"),
        1..=9 => format!("{}.{} s", seconds, ms % 1000 / 100),
        10..=59 => format!("{seconds} s"),
        60..=3599 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..=86_399 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// `duration` of milliseconds.
pub(crate) fn milliseconds(ms: u64) -> String {
    duration(Duration::from_millis(ms))
}

/// How much per second that is, rounded; 0 if no time passed.
pub(crate) fn per_second(number: u64, time: Duration) -> u64 {
    let ms = time.as_millis().max(1);
    u64::try_from(u128::from(number) * 1000 / ms).unwrap_or(u64::MAX)
}

/// `1 change`, `2 changes`.
pub(crate) fn counted(number: u64, one: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{} {one}s", count(number)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_can_read_it() {
        assert_eq!(
            [bytes(0), bytes(999), bytes(1500), bytes(123_456), bytes(12_345_678), bytes(u64::MAX)],
            ["0 B", "999 B", "1.5 kB", "123 kB", "12.3 MB", "18.4 EB"]
        );
        let of = |ms| milliseconds(ms);
        assert_eq!([of(40), of(1234), of(65_000), of(7_620_000)], ["40 ms", "1.2 s", "1m05s", "2h07m"]);
        assert_eq!(per_second(500, Duration::from_millis(250)), 2000);
        assert_eq!([counted(1, "row"), counted(2000, "row")], ["1 row", "2,000 rows"]);
    }
}
