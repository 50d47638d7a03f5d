//! How the daemon's own log is written: for people, as JSON, and with priorities where the journal reads it.

use std::fmt;
use std::os::unix::fs::MetadataExt as _;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{self as lines, FmtContext};
use tracing_subscriber::registry::LookupSpan;

/// Writes the priority of a line before it, as sd-daemon(3) has it: the journal takes it off again.
pub(crate) struct Prioritised<F>(pub(crate) F);

impl<S, N, F> FormatEvent<S, N> for Prioritised<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        writer.write_str(priority(*event.metadata().level()))?;
        self.0.format_event(context, writer, event)
    }
}

fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "<3>",
        Level::WARN => "<4>",
        Level::INFO => "<6>",
        _ => "<7>",
    }
}

/// Whether standard error goes to the journal: the variable names its device and inode.
pub(crate) fn goes_to_journal(stream: Option<&str>) -> bool {
    let named = stream.and_then(|stream| stream.split_once(':'));
    let named = named.and_then(|(device, inode)| Some((device.parse::<u64>().ok()?, inode.parse::<u64>().ok()?)));
    let own = std::fs::metadata("/proc/self/fd/2").map(|meta| (meta.dev(), meta.ino()));
    named.is_some_and(|named| own.is_ok_and(|own| own == named))
}

/// The lines that people read; the journal has the time itself.
pub(crate) fn for_journal() -> Prioritised<lines::format::Format<lines::format::Full, ()>> {
    Prioritised(lines::format().without_time().with_target(false).with_ansi(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journal_is_known_by_device_and_inode() {
        let own = std::fs::metadata("/proc/self/fd/2").unwrap();
        assert!(goes_to_journal(Some(&format!("{}:{}", own.dev(), own.ino()))));
        assert!(!goes_to_journal(Some(&format!("{}:{}", own.dev(), own.ino() + 1))));
        assert!(!goes_to_journal(Some("x")) && !goes_to_journal(None));
    }
}
