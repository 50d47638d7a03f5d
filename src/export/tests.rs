//! Dates against known ones; the lists as a whole are tested end to end, against the real `ls`.

use super::calendar::{Civil, ls_time};
use super::*;

#[test]
fn dates_are_those_of_the_calendar() {
    for (seconds, unix) in [
        (0, "Thu Jan  1 00:00:00 UTC 1970"),
        (-1, "Wed Dec 31 23:59:59 UTC 1969"),
        (951_782_400, "Tue Feb 29 00:00:00 UTC 2000"),
        (1_709_251_199, "Thu Feb 29 23:59:59 UTC 2024"),
        (4_107_542_400, "Mon Mar  1 00:00:00 UTC 2100"),
        (1_795_379_661, "Sun Nov 22 20:34:21 UTC 2026"),
    ] {
        assert_eq!(Civil::new(seconds).unix(), unix);
    }
    let civil = Civil::new(1_795_379_661);
    assert_eq!(civil.mail(), "Sun, 22 Nov 2026 20:34:21 +0000");
}

#[test]
fn old_and_future_files_show_their_year() {
    let now = 1_795_379_661;
    assert_eq!(ls_time(now, now), "Nov 22 20:34");
    assert_eq!(ls_time(now + 1, now), "Nov 22  2026");
    assert_eq!(ls_time(now - 86_400 * 200, now), "May  6  2026");
}

#[test]
fn formats_have_names() {
    assert_eq!("ls-lR".parse(), Ok(ExportFormat::LsLr));
    assert!("ls".parse::<ExportFormat>().unwrap_err().contains("fullfiletimelist"));
}
