//! Configuration: one TOML file per daemon, the same section names everywhere. Unknown keys are errors, and
//! every error says file, line, column, and the nearest key or what is allowed.

mod addresses;
mod cache;
mod fetch;
mod http;
mod lifecycle;
mod node;
mod parts;
mod peers;
mod server;
mod torrents;
mod tracker;
mod units;

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

pub use addresses::NodesConfig;
pub use cache::{CacheConfig, ExpiryKind, VerifyKind};
pub use fetch::{ClassConfig, FetchConfig, PreseedConfig, RulesConfig, SourceConfig};
pub use http::{HttpConfig, LimitsConfig, TlsConfig};
pub use lifecycle::{MasterSnapshotsConfig, NodeSnapshotsConfig, RetentionConfig};
pub use node::{NodeConfig, NodeRepository};
pub use parts::{ControlConfig, LogConfig, MountConfig};
pub use peers::{PeersConfig, Preferred};
pub use server::{
    CheckKind, ImportKind, PrivateKind, ServerConfig, ServerRepository, StoreConfig, SymlinkKind, UnpublishableKind,
};
pub use torrents::{TorrentConfig, TorrentsConfig, check_url};
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
    /// Parts that are each valid contradict each other.
    #[error("{}: {message}", file.display())]
    Contradiction {
        /// The file.
        file: PathBuf,
        /// What contradicts what.
        message: String,
    },
}

/// A configuration that checks what its types cannot.
trait Checked: DeserializeOwned {
    fn check(&self) -> Result<(), String>;
}

fn load<T: Checked>(file: &Path) -> Result<T, ConfigError> {
    let text = std::fs::read_to_string(file).map_err(|source| ConfigError::Unreadable {
        file: file.to_path_buf(),
        source,
    })?;
    parse(file, &text)
}

fn parse<T: Checked>(file: &Path, text: &str) -> Result<T, ConfigError> {
    let config: T = toml::from_str(text).map_err(|error| {
        let (line, column) = position(text, error.span().map_or(0, |span| span.start));
        let message = with_nearest_key(error.message());
        ConfigError::Invalid {
            file: file.to_path_buf(),
            line,
            column,
            message,
        }
    })?;
    let contradiction = |message| ConfigError::Contradiction {
        file: file.to_path_buf(),
        message,
    };
    config.check().map_err(contradiction)?;
    Ok(config)
}

/// Line and column of a byte offset, from 1.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset.min(text.len())).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
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
mod tests;
#[cfg(test)]
mod tracker_tests;
