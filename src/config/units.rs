//! Sizes and times with units, as people write them: `"500 GiB"`, `"6 h"`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

const SIZE_UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];
const TIME_UNITS: [(&str, u64); 5] = [
    ("ms", 1),
    ("s", 1_000),
    ("min", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

/// A number of bytes, written with its unit: `"64 KiB"`, `"1.5 TB"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// A length of time, written with its unit: `"500 ms"`, `"6 h"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimeSpan(pub Duration);

impl From<Duration> for TimeSpan {
    fn from(time: Duration) -> Self {
        Self(time)
    }
}

/// Splits `"1.5 GiB"` and multiplies. Exact for whole numbers.
fn parse(text: &str, units: &[(&str, u64)], example: &str) -> Result<u64, String> {
    let names = || units.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let wrong = || {
        format!(
            "'{text}' is not a quantity: write a number and a unit ({}), like \"{example}\"",
            names()
        )
    };
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
    let (number, unit) = text.split_at(split);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim()).ok_or_else(wrong)?;
    if let Ok(whole) = number.parse::<u64>() {
        return whole
            .checked_mul(*factor)
            .ok_or_else(|| format!("'{text}' is too large"));
    }
    let (whole, fraction) = number.split_once('.').ok_or_else(wrong)?;
    let whole: u64 = whole.parse().map_err(|_| wrong())?;
    let digits = fraction.get(..fraction.len().min(6)).unwrap_or_default();
    let scale = 10u64.pow(u32::try_from(digits.len()).unwrap_or(0));
    let part: u64 = digits.parse().map_err(|_| wrong())?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let total = u128::from(whole) * u128::from(*factor) + u128::from(part) * u128::from(*factor) / u128::from(scale);
    u64::try_from(total).map_err(|_| format!("'{text}' is too large"))
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse(text, &SIZE_UNITS, "500 GiB").map(Self)
    }
}

impl FromStr for TimeSpan {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse(text, &TIME_UNITS, "6 h").map(|millis| Self(Duration::from_millis(millis)))
    }
}

/// The size in the largest binary unit of which there is at least one, with one decimal.
impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = SIZE_UNITS[..5].iter().rev().find(|(_, factor)| self.0 >= *factor);
        match unit {
            None | Some((_, 1)) => write!(f, "{} B", self.0),
            Some((name, factor)) => {
                let tenths = u128::from(self.0) * 10 / u128::from(*factor);
                write!(f, "{}.{} {name}", tenths / 10, tenths % 10)
            }
        }
    }
}

/// Bytes per second, written with its unit: `"100 MiB/s"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteRate(pub u64);

impl FromStr for ByteRate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let size = text.trim().strip_suffix("/s").map(str::parse::<ByteSize>);
        match size {
            Some(Ok(size)) if size.0 > 0 => Ok(Self(size.0)),
            Some(Ok(_)) => Err(format!("'{text}' is no rate: leave the key out for no limit")),
            _ => Err(format!("'{text}' is not a rate: write one like \"100 MiB/s\"")),
        }
    }
}

impl fmt::Display for ByteRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", ByteSize(self.0))
    }
}

impl<'de> Deserialize<'de> for ByteRate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// A part of every day, in minutes from midnight: `"22:00-06:00"`. May go over midnight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DayHours {
    begin: u16,
    end: u16,
}

/// Minutes of a day.
const DAY: u16 = 24 * 60;

impl DayHours {
    /// From one time of day to another, each an hour and a minute, in local time; 24:00 is the end of a day. `None` if one of them is
    /// no time of day, or both are the same.
    ///
    /// ```
    /// use instantmirror::config::DayHours;
    ///
    /// let night = DayHours::new((22, 0), (6, 0));
    /// assert_eq!(night, "22:00-06:00".parse().ok());
    /// assert_eq!(DayHours::new((22, 60), (6, 0)), None);
    /// ```
    #[must_use]
    pub fn new(begin: (u16, u16), end: (u16, u16)) -> Option<Self> {
        let minute = |(hour, minute): (u16, u16)| {
            let is_time = hour <= 24 && minute < 60;
            is_time.then(|| hour * 60 + minute).filter(|minute| *minute <= DAY)
        };
        let (begin, end) = (minute(begin)?, minute(end)?);
        (begin != end && begin != DAY).then_some(Self { begin, end })
    }

    /// Whether a minute of the day lies in it.
    #[must_use]
    pub fn contains(&self, minute: u16) -> bool {
        if self.begin < self.end {
            (self.begin..self.end).contains(&minute)
        } else {
            minute >= self.begin || minute < self.end
        }
    }

    /// Minutes from this minute of the day until it begins; 0 if it goes on now.
    #[must_use]
    pub fn begins_in(&self, minute: u16) -> u16 {
        if self.contains(minute) {
            return 0;
        }
        (self.begin + DAY - minute) % DAY
    }
}

impl FromStr for DayHours {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let time = |text: &str| {
            let (hour, minute) = text.trim().split_once(':')?;
            Some((hour.parse().ok()?, minute.parse().ok()?))
        };
        let wrong = || format!("'{text}' is no part of a day: write one like \"22:00-06:00\", in local time");
        let (begin, end) = text.split_once('-').ok_or_else(wrong)?;
        let (begin, end) = (time(begin).ok_or_else(wrong)?, time(end).ok_or_else(wrong)?);
        Self::new(begin, end).ok_or_else(wrong)
    }
}

impl fmt::Display for DayHours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { begin, end } = self;
        write!(f, "{:02}:{:02}-{:02}:{:02}", begin / 60, begin % 60, end / 60, end % 60)
    }
}

impl<'de> Deserialize<'de> for DayHours {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for TimeSpan {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_want_their_unit() {
        assert_eq!("100 MiB/s".parse(), Ok(ByteRate(100 << 20)));
        assert_eq!(ByteRate(1 << 20).to_string(), "1.0 MiB/s");
        for wrong in ["100 MiB", "100", "0 B/s", "/s", ""] {
            assert!(wrong.parse::<ByteRate>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn parts_of_a_day_may_go_over_midnight() {
        let at = |hour: u16, minute: u16| hour * 60 + minute;
        let night: DayHours = "22:00-06:00".parse().unwrap();
        assert!(night.contains(at(23, 0)) && night.contains(0) && night.contains(at(5, 59)));
        assert!(!night.contains(at(6, 0)) && !night.contains(at(21, 59)));
        assert_eq!(
            (
                night.begins_in(at(21, 0)),
                night.begins_in(at(1, 0)),
                night.begins_in(at(6, 0))
            ),
            (60, 0, 960)
        );
        let noon: DayHours = " 11:30 - 12:45".parse().unwrap();
        assert!(noon.contains(at(12, 0)) && !noon.contains(at(12, 45)));
        assert_eq!(noon.begins_in(at(13, 30)), 22 * 60);
        assert!("18:00-24:00".parse::<DayHours>().unwrap().contains(at(23, 59)));
        assert_eq!(night.to_string(), "22:00-06:00");
        for wrong in [
            "22-6",
            "25:00-26:00",
            "2000:00-06:00",
            "24:01-6:00",
            "1:60-2:00",
            "3:00-3:00",
            "24:00-1:00",
            "x",
            "",
        ] {
            assert!(wrong.parse::<DayHours>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn reads_what_people_write() {
        for (text, bytes) in [
            ("0 B", 0),
            ("64 KiB", 65_536),
            ("64KiB", 65_536),
            ("1.5 GB", 1_500_000_000),
            ("0.5 KiB", 512),
            (" 2 TiB ", 2 << 40),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for text in [
            "",
            "5",
            "GiB",
            "5 gib",
            "-1 B",
            "1..5 GB",
            "1.x GB",
            "99999999 TiB",
            "1 GiB x",
        ] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
        assert_eq!("90 s".parse(), Ok(TimeSpan(Duration::from_secs(90))));
        assert!("90 sec".parse::<TimeSpan>().unwrap_err().contains("min"));
    }

    #[test]
    fn shows_sizes_for_people() {
        for (bytes, text) in [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 40, "5.0 TiB")] {
            assert_eq!(ByteSize(bytes).to_string(), text);
        }
    }
}
