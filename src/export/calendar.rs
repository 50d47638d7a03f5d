//! Dates as the formats write them: UTC, English, independent of locale and time zone of the machine.

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];
const WEEKDAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
/// Half of the mean Gregorian year, which is where `ls` changes from time of day to year.
const HALF_YEAR_S: i64 = 31_556_952 / 2;

/// A point in time by the Gregorian calendar, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Civil {
    /// Year.
    pub year: i64,
    /// Month, from 1.
    pub month: usize,
    /// Day, from 1.
    pub day: i64,
    /// Seconds since midnight.
    pub second_of_day: i64,
    weekday: usize,
}

impl Civil {
    /// From seconds since 1970.
    #[must_use]
    pub fn new(seconds: i64) -> Self {
        let days = seconds.div_euclid(86_400);
        // Years that begin in March have their leap day at the end: eras of 400 years are all alike.
        let shifted = days + 719_468;
        let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
        let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * day_of_year + 2) / 153;
        let month = if march_month < 10 {
            march_month + 3
        } else {
            march_month - 9
        };
        Self {
            year: year_of_era + era * 400 + i64::from(month <= 2),
            month: usize::try_from(month).unwrap_or(1),
            day: day_of_year - (153 * march_month + 2) / 5 + 1,
            second_of_day: seconds.rem_euclid(86_400),
            weekday: usize::try_from((days + 4).rem_euclid(7)).unwrap_or(0),
        }
    }

    fn month_name(&self) -> &'static str {
        self.month
            .checked_sub(1)
            .and_then(|at| MONTHS.get(at))
            .copied()
            .unwrap_or("Jan")
    }

    fn weekday_name(&self) -> &'static str {
        WEEKDAYS.get(self.weekday).copied().unwrap_or("Sun")
    }

    fn clock(&self) -> String {
        let second = self.second_of_day;
        format!("{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)
    }

    /// As `date -u` in the C locale: `Sun Nov 22 20:14:21 UTC 2026`.
    #[must_use]
    pub fn unix(&self) -> String {
        let (weekday, month) = (self.weekday_name(), self.month_name());
        format!("{weekday} {month} {:2} {} UTC {}", self.day, self.clock(), self.year)
    }

    /// As in mail (RFC 5322): `Sun, 22 Nov 2026 20:14:21 +0000`.
    #[must_use]
    pub fn mail(&self) -> String {
        let (weekday, month) = (self.weekday_name(), self.month_name());
        format!(
            "{weekday}, {:02} {month} {} {} +0000",
            self.day,
            self.year,
            self.clock()
        )
    }
}

/// As `ls -l` in the C locale at the time `now`: with the time of day if it lies within the last half year, else the year.
pub(super) fn ls_time(seconds: i64, now: i64) -> String {
    let civil = Civil::new(seconds);
    let is_recent = now - HALF_YEAR_S < seconds && seconds <= now;
    let rest = if is_recent {
        civil.clock().get(..5).unwrap_or_default().to_owned()
    } else {
        format!("{:5}", civil.year)
    };
    format!("{} {:2} {rest}", civil.month_name(), civil.day)
}
