//! What every daemon program does: log, and stop in order when it is told to.

use std::io::IsTerminal as _;

use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use crate::config::{ConfigError, LogConfig, LogFormat, log_filter};
use crate::logging::{for_journal, goes_to_journal};
use crate::serve::Frontend;

/// Logs to standard error from now on. The environment variable `RUST_LOG` overrides the level of the configuration. Where
/// standard error goes to the journal, lines have priorities and no time of their own.
///
/// # Errors
/// A text that says what is wrong with the level.
pub fn start_logging(config: &LogConfig) -> Result<(), String> {
    let level = std::env::var("RUST_LOG").unwrap_or_else(|_| config.level.clone());
    let filter = log_filter(&level).map_err(|error| format!("log level: {error}"))?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| crate::bars::LogWriter);
    let is_journal = goes_to_journal(std::env::var("JOURNAL_STREAM").ok().as_deref());
    let begun = match config.format {
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
        LogFormat::Text if is_journal => lines.event_format(for_journal()).try_init(),
        LogFormat::Text => {
            let is_terminal = std::io::stderr().is_terminal();
            lines.with_ansi(is_terminal).with_target(false).try_init()
        }
    };
    begun.map_err(|error| error.to_string())
}

/// A line for standard output of a program that says where the daemon is reached. Where the log is JSON, this is too: the
/// journal and containers put both streams together.
#[must_use]
pub fn line(config: &LogConfig, program: &str, text: &str) -> String {
    crate::logging::line(config.format, program, text)
}

/// Ends the program with exit code 1 and without a word when whoever reads its standard output has gone, as `head` goes: printing
/// panics then.
pub fn end_with_the_reader() {
    let others = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let said = panic.payload().downcast_ref::<String>().map_or("", String::as_str);
        if said.starts_with("failed printing to stdout") && said.contains("Broken pipe") {
            std::process::exit(1);
        }
        others(panic);
    }));
}

/// The runtime that a daemon wants. Sockets are looked at when every task that could run has run: by default tokio looks
/// every few dozen tasks, and with a thousand busy connections those that wait elsewhere than in a thread's own queue
/// then wait ten times as long as the others.
///
/// # Errors
/// What the system says when it cannot start threads.
pub fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .event_interval(4096)
        .build()
}

/// Descriptors that a daemon needs besides those of its connections: listeners, catalogs, transfers, objects kept open.
const OTHER_DESCRIPTORS: u64 = 20_000;

/// Raises the soft limit of open files as far as it may go, and says so in the log if that is too little for so many
/// connections.
pub fn raise_descriptor_limit(connections: usize) {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let raised = setrlimit(Resource::Nofile, limit).is_ok();
    let allowed = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let wanted = connections as u64 + OTHER_DESCRIPTORS;
    if allowed < wanted {
        tracing::warn!(
            allowed,
            wanted,
            raised,
            "the limit of open files is low for [http] max_connections = {connections}; raise it (`LimitNOFILE=` of the \
             service, `ulimit -Hn`)"
        );
    }
}

/// Ready at the first SIGTERM or SIGINT from now on: call it before anybody is told that the daemon runs, await it later. To be
/// called inside a tokio runtime.
pub fn told_to_stop() -> impl Future<Output = ()> {
    let handlers = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    async move {
        let (Ok(mut terminate), Ok(mut interrupt)) = handlers else {
            // Without handlers the signals end the process by themselves, which every write survives.
            return std::future::pending().await;
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping: requests that run are finished");
    }
}

/// Obeys signals for ever: at SIGHUP `reload` reads the configuration again and applies it, at SIGUSR1 the access log
/// is opened anew. A configuration that cannot be used is logged, and changes nothing.
pub async fn obey(frontend: &Frontend, reload: impl Fn() -> Result<(), ConfigError>) {
    let (Ok(mut hangup), Ok(mut user)) = (signal(SignalKind::hangup()), signal(SignalKind::user_defined1())) else {
        tracing::error!("no handlers for SIGHUP and SIGUSR1: they end the daemon");
        return std::future::pending().await;
    };
    loop {
        tokio::select! {
            _ = hangup.recv() => match reload() {
                Ok(()) => tracing::info!("the configuration was read again"),
                Err(error) => tracing::error!("{}; nothing was changed", explain(&error)),
            },
            _ = user.recv() => frontend.reopen_access_log(),
        }
    }
}

/// An error with its causes, for a person: a cause that its effect has told already is not told again.
#[must_use]
pub fn explain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let more = inner.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};
    use std::path::PathBuf;

    use super::*;
    use crate::store::StoreError;

    #[test]
    fn every_cause_is_told_once() {
        let source = || Error::new(ErrorKind::NotFound, "not there");
        let told = ConfigError::Unreadable {
            file: PathBuf::from("f"),
            source: source(),
        };
        assert_eq!(explain(&told), "f: cannot be read: not there");
        let chained = StoreError::Io {
            op: "open",
            path: PathBuf::from("f"),
            source: source(),
        };
        assert_eq!(explain(&chained), "cannot open f: not there");
    }
}
