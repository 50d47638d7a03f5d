//! Configuration: one TOML file per daemon, the same section names everywhere. Unknown keys are errors, and
//! every error says file, line, column, and the nearest key or what is allowed.

mod addresses;
mod cache;
mod fetch;
mod http;
mod level;
mod lifecycle;
mod limits;
#[cfg(feature = "node")]
mod node;
mod outgoing;
mod parts;
mod peers;
mod report;
#[cfg(feature = "master")]
mod server;
pub(crate) mod surroundings;
mod torrents;
#[cfg(feature = "tracker")]
mod tracker;
mod units;

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

pub use addresses::NodesConfig;
pub use cache::{CacheConfig, ExpiryKind, VerifyKind};
pub use fetch::{ClassConfig, ClassName, FetchConfig, PreseedConfig, RulesConfig, SourceConfig};
pub use http::{HeaderRuleConfig, HttpConfig, LogLineFormat, ProxyHeaderKind, TlsConfig};
pub use level::log_filter;
pub use lifecycle::{MasterSnapshotsConfig, NodeSnapshotsConfig, RetentionConfig};
pub use limits::{Bound, LimitsConfig};
#[cfg(feature = "node")]
pub use node::{NodeConfig, NodeRepository};
pub use outgoing::OutgoingConfig;
pub use parts::{ControlConfig, LogConfig, LogFormat, MountConfig};
pub use peers::{PeersConfig, Preferred};
pub use report::Finding;
use report::{Report, position};
#[cfg(feature = "master")]
pub(crate) use server::check_piece_length;
#[cfg(feature = "master")]
pub use server::{
    CheckKind, IgnoreKind, ImportKind, PrivateKind, ServerConfig, ServerRepository, StoreConfig, SymlinkKind,
    UnpublishableKind,
};
pub use torrents::{TorrentConfig, TorrentsConfig, check_url};
#[cfg(feature = "tracker")]
pub(crate) use tracker::RESCAN_MIN;
#[cfg(feature = "tracker")]
pub use tracker::{ServedTorrentsConfig, TrackerConfig, TrackerLimitsConfig, UdpConfig};
pub use units::{ByteRate, ByteSize, DayHours, TimeSpan};

/// Why a configuration cannot be used. Programs exit with code 2.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: cannot be read", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not what it should be, at one place.
    #[error("{}:{line}:{column}: {message}", file.display())]
    Invalid {
        /// The file.
        file: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// What is wrong, and what would be right.
        message: String,
    },
    /// Values that are each valid and cannot be used: contradictions, and what the machine does not have.
    #[error("{}", listed(.0))]
    Contradictions(Vec<Finding>),
}

fn listed(findings: &[Finding]) -> String {
    let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

/// The key of the directory of public files.
const ROOT: &str = "http.root";

/// A configuration that checks what its types cannot.
trait Checked: DeserializeOwned {
    /// Every path of a file in it, with the place of its key.
    fn paths(&mut self) -> Vec<(String, &mut PathBuf)>;

    /// Looks for what contradicts itself.
    fn check(&self, report: &mut Report<'_>);

    /// Looks for what a start on this machine would stumble over. Changes nothing.
    fn check_surroundings(&self, report: &mut Report<'_>);
}

fn load<T: Checked>(file: &Path) -> Result<T, ConfigError> {
    parse(file, &read(file)?)
}

fn read(file: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(file).map_err(|source| ConfigError::Unreadable {
        file: file.to_path_buf(),
        source,
    })
}

fn parse<T: Checked>(file: &Path, text: &str) -> Result<T, ConfigError> {
    let mut report = Report::new(file, text);
    let config = check(file, text, &mut report)?;
    report.end().map(|_| config)
}

/// Reads and checks a file together with what it names on this machine. Beside the configuration it returns what may not
/// be meant as it stands there.
fn inspect<T: Checked>(file: &Path) -> Result<(T, Vec<Finding>), ConfigError> {
    let text = read(file)?;
    let mut report = Report::new(file, &text);
    let config: T = check(file, &text, &mut report)?;
    config.check_surroundings(&mut report);
    report.end().map(|notes| (config, notes))
}

fn check<T: Checked>(file: &Path, text: &str, report: &mut Report<'_>) -> Result<T, ConfigError> {
    let mut config: T = toml::from_str(text).map_err(|error| {
        let (line, column) = position(text, error.span().map_or(0, |span| span.start));
        ConfigError::Invalid {
            file: file.to_path_buf(),
            line,
            column,
            message: report::without_secrets(text, with_nearest_key(error.message())),
        }
    })?;
    let beside = file.parent().unwrap_or(Path::new(""));
    for (place, path) in config.paths() {
        if path.as_os_str().is_empty() {
            report.refuse(&place, "an empty path: name a file or directory, or leave the key out");
        } else if path.starts_with("~") {
            let text = format!("'{}': '~' is not expanded here; write the whole path", path.display());
            report.refuse(&place, text);
        }
        // A relative path counts from where the file is, whatever directory the program was started in.
        *path = beside.join(&*path);
    }
    check_root(file, config.paths(), report);
    config.check(report);
    Ok(config)
}

/// Refuses a `[http] root` that would show everybody what is the daemon's own: its configuration, store, keys and logs.
fn check_root(file: &Path, mut paths: Vec<(String, &mut PathBuf)>, report: &mut Report<'_>) {
    // Published trees, torrents and certificates are for everybody anyway.
    const PUBLIC: [&str; 5] = ["source", "torrents.dir", "certificate", "ca_file", "client_certificate"];
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let Some(at) = paths.iter().position(|(place, _)| place == ROOT) else {
        return;
    };
    let root = real(paths.swap_remove(at).1);
    let is_shown = |path: &Path| real(path).starts_with(&root);
    if is_shown(file) {
        let text = format!(
            "{} holds this configuration; name a directory of public files alone",
            root.display()
        );
        report.refuse(ROOT, text);
    }
    for (place, path) in paths {
        let is_within = ["store.dir", "cache.dir"].contains(&place.as_str()) && root.starts_with(real(path));
        let is_public = PUBLIC.iter().any(|public| place.ends_with(public));
        if is_within || (!is_public && is_shown(path)) {
            let relation = if is_within { "lies in" } else { "holds" };
            let text = format!(
                "{} {relation} {} ({place}), which is not for everybody; name a directory of public files alone",
                root.display(),
                path.display()
            );
            report.refuse(ROOT, text);
        }
    }
}

/// The faults that a check finds in settings that stand in no file.
fn check_alone(check: impl FnOnce(&mut Report<'_>)) -> Result<(), String> {
    let mut report = Report::new(Path::new(""), "");
    check(&mut report);
    match report.end() {
        Err(ConfigError::Contradictions(found)) => {
            let texts: Vec<String> = found.into_iter().map(|finding| finding.message).collect();
            Err(texts.join("; "))
        }
        Err(error) => Err(error.to_string()),
        Ok(_) => Ok(()),
    }
}

/// Adds the likeliest correction to "unknown field `x`, expected one of `a`, `b`".
fn with_nearest_key(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let (true, Some(wrong)) = (
        message.starts_with("unknown field") || message.starts_with("unknown variant"),
        quoted.next(),
    ) else {
        return message.to_owned();
    };
    let message = message
        .replacen("unknown field", "unknown key", 1)
        .replacen("unknown variant", "unknown value", 1);
    let nearest = quoted.map(|key| (strsim::damerau_levenshtein(wrong, key), key)).min();
    match nearest {
        Some((distance, key)) if distance <= key.len().max(3) / 2 => format!("{message}; did you mean `{key}`?"),
        _ => message,
    }
}

#[cfg(test)]
#[cfg(all(feature = "master", feature = "node", feature = "tracker"))]
mod tests;
#[cfg(test)]
#[cfg(feature = "tracker")]
mod tracker_tests;
