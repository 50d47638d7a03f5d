//! What came of a configuration that was read again while a daemon runs.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::config::ConfigError;

/// Where the control socket takes it, asked with nothing.
pub(crate) const RELOAD_PATH: &str = "/.im/reload";

/// Reads the configuration again and takes it up.
pub type Reloader = Arc<dyn Fn() -> Result<Reloaded, ConfigError> + Send + Sync>;

/// What came of reading the configuration again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// What has changed and holds from now on, by its name in the configuration.
    pub changed: Vec<String>,
    /// What has changed and takes a restart: it stays as it was.
    pub refused: Vec<String>,
}

impl Reloaded {
    /// Adds what another part of the daemon has taken up and refused.
    pub(crate) fn extend(&mut self, other: Self) {
        self.changed.extend(other.changed);
        self.refused.extend(other.refused);
    }

    /// Says it in the log.
    pub(crate) fn tell(&self) {
        for name in &self.refused {
            tracing::warn!("{name} has changed, which takes a restart; it stays as it was");
        }
        for name in &self.changed {
            tracing::info!("{name} has changed, and holds from now on");
        }
    }
}
