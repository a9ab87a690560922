//! Durations and sizes as people write them.

use std::time::Duration;

/// `500ms`, `30s`, `5m`, `2h`; a bare number is seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let scale = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("`{unit}` is no unit of time: use ms, s, m or h")),
    };
    let value: f64 =
        number.parse().map_err(|_| format!("`{text}` is no duration: write for instance 500ms, 30s or 5m"))?;
    Duration::try_from_secs_f64(value * scale).map_err(|error| error.to_string())
}

/// `512M`, `1G`, `64K`, bytes without a unit; powers of 1024.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match text[digits.len()..].to_ascii_uppercase().trim_end_matches('B').trim_end_matches('I') {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        unit => return Err(format!("`{unit}` is no unit of size: use K, M, G or T")),
    };
    let number: u64 = digits.parse().map_err(|_| format!("`{text}` is no size: write for instance 512M"))?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("`{text}` is more than a machine can have"))
}

/// A size for people.
pub(crate) fn show_size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["K", "M", "G", "T"];
    let (mut value, mut unit) = (bytes as f64 / 1024.0, 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if value < 10.0 && unit > 0 { format!("{value:.1}{}", UNITS[unit]) } else { format!("{value:.0}{}", UNITS[unit]) }
}

/// A count for people: four digits at most.
pub(crate) fn show_count(count: f64) -> String {
    const UNITS: [&str; 5] = ["", "k", "M", "G", "T"];
    let (mut value, mut unit) = (count, 0);
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit > 0 && value < 9.95 { format!("{value:.1}{}", UNITS[unit]) } else { format!("{value:.0}{}", UNITS[unit]) }
}

/// A short time for people: three digits at most.
pub(crate) fn show_time(time: Duration) -> String {
    const UNITS: [&str; 4] = ["ns", "us", "ms", "s"];
    let (mut value, mut unit) = (time.as_nanos() as f64, 0);
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit > 0 && value < 9.95 { format!("{value:.1}{}", UNITS[unit]) } else { format!("{value:.0}{}", UNITS[unit]) }
}

/// An age for people.
pub(crate) fn show_age(age: Duration) -> String {
    let seconds = age.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86400 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_are_read_as_people_write_them() {
        let millis = |text| duration(text).map(|duration| duration.as_millis());
        assert_eq!(
            ["500ms", "30s", "1.5m", "2h", "3"].map(millis),
            [Ok(500), Ok(30_000), Ok(90_000), Ok(7_200_000), Ok(3000)]
        );
        assert!(["", "s", "5x", "1e999s"].iter().all(|text| duration(text).is_err()));
        assert_eq!(
            ["512M", "1g", "64KiB", "7", "2MB"].map(size),
            [Ok(512 << 20), Ok(1 << 30), Ok(64 << 10), Ok(7), Ok(2 << 20)]
        );
        assert!(["", "M", "5Q", "99999999999T"].iter().all(|text| size(text).is_err()));
    }

    #[test]
    fn what_is_shown_is_short() {
        assert_eq!([0.0, 7.4, 999.0, 1000.0, 1234.0, 45e6].map(show_count), ["0", "7", "999", "1.0k", "1.2k", "45M"]);
        assert_eq!(
            [90, 999, 1500, 48_000, 3_200_000, 61_000_000_000].map(|nanos| show_time(Duration::from_nanos(nanos))),
            ["90ns", "999ns", "1.5us", "48us", "3.2ms", "61s"]
        );
        assert_eq!([900, 10 << 10, 3 << 20, 12 << 30].map(show_size), ["1K", "10K", "3.0M", "12G"]);
        assert_eq!(
            [5, 65, 3700, 90_000].map(|age| show_age(Duration::from_secs(age))),
            ["5s", "1m05s", "1h01m", "1d01h"]
        );
    }
}
