//! How the daemon's own log is written: for people, as JSON, and with priorities where the journal reads it.

use std::fmt;
use std::os::unix::fs::MetadataExt as _;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::time::FormatTime as _;
use tracing_subscriber::fmt::{self as lines, FmtContext};
use tracing_subscriber::registry::LookupSpan;

use crate::config::LogFormat;

/// Writes the priority of a line before it, as sd-daemon(3) has it: the journal takes it off again.
pub(crate) struct Prioritised<F>(pub(crate) F);

impl<S, N, F> FormatEvent<S, N> for Prioritised<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut text = String::new();
        self.0.format_event(context, Writer::new(&mut text), event)?;
        // The journal makes an entry of each line, and a line without a priority has another one.
        let priority = priority(*event.metadata().level());
        text.split_inclusive('\n')
            .try_for_each(|line| write!(writer, "{priority}{line}"))
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

/// A line about the daemon, for standard output, in the form that its log has: whoever reads both together reads one form.
pub(crate) fn line(format: LogFormat, program: &str, text: &str) -> String {
    match format {
        LogFormat::Text => text.to_owned(),
        LogFormat::Json => {
            let mut now = String::new();
            // It fails only where writing into a string does.
            let _ = lines::time::SystemTime.format_time(&mut Writer::new(&mut now));
            let line = serde_json::json!({ "timestamp": now, "level": "INFO", "message": text, "target": program });
            line.to_string()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn every_line_of_an_event_has_its_priority() {
        let written = Written::default();
        let writer = written.clone();
        let lines = tracing_subscriber::fmt()
            .event_format(for_journal())
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(lines, || {
            tracing::error!("not published: 2 paths\n  a\n  b");
            tracing::info!(count = 1, "well");
        });
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        let expected = "<3>ERROR not published: 2 paths\n<3>  a\n<3>  b\n<6> INFO well count=1\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn lines_for_standard_output_have_the_form_of_the_log() {
        assert_eq!(line(LogFormat::Text, "imnode", "serving"), "serving");
        let line: serde_json::Value = serde_json::from_str(&line(LogFormat::Json, "imnode", "serving \"x\"")).unwrap();
        assert_eq!(
            (&line["level"], &line["message"]),
            (&"INFO".into(), &"serving \"x\"".into())
        );
        assert!(line["timestamp"].as_str().unwrap().ends_with('Z'), "{line}");
    }

    #[test]
    fn the_journal_is_known_by_device_and_inode() {
        let own = std::fs::metadata("/proc/self/fd/2").unwrap();
        assert!(goes_to_journal(Some(&format!("{}:{}", own.dev(), own.ino()))));
        assert!(!goes_to_journal(Some(&format!("{}:{}", own.dev(), own.ino() + 1))));
        assert!(!goes_to_journal(Some("x")) && !goes_to_journal(None));
    }
}
