//! How far a long command is: a line that is drawn anew on a terminal, a plain line now and then elsewhere.
//!
//! All bars of a process draw through one place, and so do the lines of its log ([`LogWriter`]): a bar gives way to a line and
//! comes back below it, so neither spoils the other.

use std::io::{IsTerminal as _, Write};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use crate::config::ByteSize;

/// How often a bar is drawn at most, in a second.
const DRAWS_A_SECOND: u8 = 10;
/// How often a line is written where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(30);

static BARS: LazyLock<MultiProgress> =
    LazyLock::new(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(DRAWS_A_SECOND)));

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Files.
    Files,
    /// Objects.
    Objects,
}

impl Unit {
    fn shown(self, count: u64) -> String {
        match self {
            Self::Bytes => ByteSize(count).to_string(),
            Self::Files | Self::Objects => count.to_string(),
        }
    }

    /// What stands behind a number of them.
    fn noun(self) -> &'static str {
        match self {
            Self::Bytes => "",
            Self::Files => " files",
            Self::Objects => " objects",
        }
    }

    /// The template of a bar with a known end, and of one without.
    fn templates(self) -> [&'static str; 2] {
        match self {
            Self::Bytes => [
                "{prefix} {wide_bar} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left{msg}",
                "{prefix} {spinner} {bytes}, {bytes_per_sec}, {elapsed}{msg}",
            ],
            Self::Files => [
                "{prefix} {wide_bar} {human_pos} of {human_len} files, {rate}, {eta} left{msg}",
                "{prefix} {spinner} {human_pos} files, {rate}, {elapsed}{msg}",
            ],
            Self::Objects => [
                "{prefix} {wide_bar} {human_pos} of {human_len} objects, {rate}, {eta} left{msg}",
                "{prefix} {spinner} {human_pos} objects, {rate}, {elapsed}{msg}",
            ],
        }
    }
}

/// How far one thing is.
#[derive(Debug)]
pub struct Bar {
    bar: ProgressBar,
    what: String,
    unit: Unit,
    begun: Instant,
    /// When the last plain line was written; `None` on a terminal.
    said: Option<Mutex<Instant>>,
}

impl Bar {
    /// Begins to show how far `what` is. The end may become known later ([`set`](Self::set)).
    #[must_use]
    pub fn new(what: impl Into<String>, unit: Unit) -> Self {
        let (what, begun) = (what.into(), Instant::now());
        let bar = BARS.add(ProgressBar::no_length().with_prefix(what.clone()));
        bar.set_style(style(unit.templates()[1]));
        let said = if std::io::stderr().is_terminal() {
            bar.enable_steady_tick(Duration::from_millis(200));
            None
        } else {
            Some(Mutex::new(begun))
        };
        Self {
            bar,
            what,
            unit,
            begun,
            said,
        }
    }

    /// So much is done, of so much if that is known; `note` says what else there is to say.
    pub fn set(&self, done: u64, total: Option<u64>, note: &str) {
        let Some(said) = &self.said else {
            let total = total.filter(|total| *total > 0).map(|total| total.max(done));
            if self.bar.length() != total
                && let Some(total) = total
            {
                if self.bar.length().is_none() {
                    self.bar.set_style(style(self.unit.templates()[0]));
                }
                self.bar.set_length(total);
            }
            self.bar.set_message(note.to_owned());
            return self.bar.set_position(done);
        };
        let now = Instant::now();
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        if now.duration_since(*said) >= LINE_INTERVAL {
            *said = now;
            // Progress that nobody can read is no reason to fail.
            let _ = writeln!(std::io::stderr(), "{}", self.line(done, total, note, now - self.begun));
        }
    }

    /// The line of what is no terminal.
    fn line(&self, done: u64, total: Option<u64>, note: &str, took: Duration) -> String {
        let shown = |count| self.unit.shown(count);
        let seconds = took.as_secs().max(1);
        let rate = done / seconds;
        let noun = self.unit.noun();
        let mut text = match total.filter(|total| *total > 0) {
            Some(total) => format!("{}: {} of {}{noun}", self.what, shown(done), shown(total.max(done))),
            None => format!("{}: {}{noun}", self.what, shown(done)),
        };
        text += &format!(", {}/s", shown(rate));
        if let (Some(total), 1..) = (total, rate) {
            text += &format!(", {} s left", total.saturating_sub(done) / rate);
        }
        text + note
    }

    /// Writes a line to standard output, above the bars.
    pub fn above(&self, line: &str) {
        // Whoever does not read it any more is no reason to fail.
        BARS.suspend(|| _ = writeln!(std::io::stdout(), "{line}"));
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
        BARS.remove(&self.bar);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.finish();
    }
}

fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    // Nobody wants to know the fourth digit behind the point.
    style.with_key("rate", |state: &ProgressState, out: &mut dyn std::fmt::Write| {
        let _ = write!(out, "{:.0}/s", state.per_sec());
    })
}

/// Writes to standard error, above whatever bars are drawn there.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        BARS.suspend(|| std::io::stderr().write(bytes))
    }

    fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        BARS.suspend(|| std::io::stderr().write_all(bytes))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_line_says_what_how_much_how_fast_and_how_long_yet() {
        let line = |unit, done, total, seconds| {
            let bar = Bar::new("publish debian", unit);
            bar.line(done, total, "; 3 new", Duration::from_secs(seconds))
        };
        assert_eq!(
            line(Unit::Files, 500, Some(2_000), 10),
            "publish debian: 500 of 2000 files, 50/s, 30 s left; 3 new"
        );
        assert_eq!(
            line(Unit::Files, 500, None, 10),
            "publish debian: 500 files, 50/s; 3 new"
        );
        assert_eq!(
            line(Unit::Bytes, 1 << 30, Some(1 << 31), 1),
            "publish debian: 1.0 GiB of 2.0 GiB, 1.0 GiB/s, 1 s left; 3 new"
        );
        assert_eq!(
            line(Unit::Objects, 10, Some(30), 10),
            "publish debian: 10 of 30 objects, 1/s, 20 s left; 3 new"
        );
        // Nothing yet, more than was expected, and no time at all.
        assert_eq!(
            line(Unit::Files, 0, Some(9), 0),
            "publish debian: 0 of 9 files, 0/s; 3 new"
        );
        assert_eq!(
            line(Unit::Files, 12, Some(9), 1),
            "publish debian: 12 of 12 files, 12/s, 0 s left; 3 new"
        );
    }
}
