//! Sections that master and node share.

use std::path::PathBuf;

use instantmirror_core::view::View;
use serde::{Deserialize, Deserializer};

/// `[control]`: the socket on which the command line reaches a running daemon.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ControlConfig {
    /// Path of a Unix socket; without one, `control.sock` in the daemon's own directory.
    pub socket: Option<PathBuf>,
}

/// `[log]`: what is logged, on standard error.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// `error`, `warn`, `info`, `debug` or `trace`, or directives like `info,instantmirror_swarm=debug`.
    pub level: String,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
        }
    }
}

/// `mounts = [{ path = "/debian", view = "current" }]`: an extra place at which a view of the repository appears.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MountConfig {
    /// URL path, beginning with `/`.
    pub path: String,
    /// `current`, `snap/<uuid>`, `master-snap/<tag>` or `local-snap/<tag>`.
    #[serde(default = "current", deserialize_with = "view")]
    pub view: View,
    /// Answer a directory with its `index.html`, if it has one, instead of a listing.
    #[serde(default)]
    pub index: bool,
}

fn current() -> View {
    View::Current
}

fn view<'de, D: Deserializer<'de>>(deserializer: D) -> Result<View, D::Error> {
    String::deserialize(deserializer)?
        .parse()
        .map_err(serde::de::Error::custom)
}

impl LogConfig {
    pub(super) fn check(&self) -> Result<(), String> {
        let filter = tracing_subscriber::EnvFilter::try_new(&self.level);
        filter
            .map(drop)
            .map_err(|error| format!("[log] level '{}': {error}", self.level))
    }
}

/// Mount paths are absolute, plain and used once.
pub(super) fn check_mounts<'a>(mounts: impl Iterator<Item = &'a MountConfig>) -> Result<(), String> {
    let mut seen = std::collections::BTreeSet::new();
    for MountConfig { path, .. } in mounts {
        let below = path.strip_prefix('/').map(|rest| rest.trim_end_matches('/'));
        let Some(below) = below.filter(|below| !below.is_empty()) else {
            return Err(format!("mount path '{path}' must begin with '/' and name a directory"));
        };
        if let Err(error) = instantmirror_core::RepoPath::new(below) {
            return Err(format!("mount path '{path}' has {error}"));
        }
        if below == ".im" || below.starts_with(".im/") {
            return Err(format!("mount path '{path}' is taken by the API"));
        }
        if !seen.insert(below) {
            return Err(format!("mount path '{path}' is used twice"));
        }
    }
    Ok(())
}
