//! [`TrackerBuilder`]: a tracker of typed values, checked together.
//!
//! Decision: as for a node, the builder collects and [`build`](TrackerBuilder::build) checks, and a configuration file is one
//! more source of the same values (`TrackerBuilder::from(TrackerConfig)`).

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use instantmirror_core::url::SecretUrl;
use instantmirror_tracker::InfoHash;

use super::{Tracker, TrackerError, masters};
use crate::BuildError;
use crate::config::{
    HttpConfig, OutgoingConfig, RESCAN_MIN, ServedTorrentsConfig, TimeSpan, TrackerConfig, TrackerLimitsConfig,
};

/// Builds a [`Tracker`]; [`Tracker::builder`] begins one.
///
/// It serves the torrents that it is told of, and no others; nothing is listened on unless said. Each key of `imtracker.toml` has a
/// counterpart: a method, or a field of the settings that a method takes. (That of `[log]` is
/// [`start_logging`](crate::daemon::start_logging): a log belongs to the process.)
///
/// ```
/// use std::time::Duration;
///
/// use instantmirror::Tracker;
/// use instantmirror::config::TrackerLimitsConfig;
///
/// let mut limits = TrackerLimitsConfig::default();
/// limits.interval = Duration::from_secs(600).into();
/// let tracker = Tracker::builder()
///     .torrent("0123456789abcdef0123456789abcdef01234567".parse()?)
///     .limits(limits)
///     .listen("127.0.0.1:0".parse()?)
///     .listen_udp("127.0.0.1:0".parse()?)
///     .build()?;
/// assert_eq!(tracker.config().torrents.allow.len(), 1);
///
/// let error = Tracker::builder().build().unwrap_err();
/// assert!(error.to_string().starts_with("torrent is missing: "));
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing before `build`"]
pub struct TrackerBuilder {
    settings: TrackerConfig,
    /// Whether the settings are those of a file: a daemon has a control socket wherever it is.
    is_of_file: bool,
}

impl Default for TrackerBuilder {
    fn default() -> Self {
        Self {
            settings: TrackerConfig::bare(),
            is_of_file: false,
        }
    }
}

impl From<TrackerConfig> for TrackerBuilder {
    /// The tracker that a configuration file describes. Methods that are called afterwards add to what it lists (torrents, masters,
    /// addresses), and replace what it has one of.
    fn from(settings: TrackerConfig) -> Self {
        Self {
            settings,
            is_of_file: true,
        }
    }
}

impl TrackerBuilder {
    /// Serves one more torrent.
    pub fn torrent(mut self, hash: InfoHash) -> Self {
        self.settings.torrents.allow.push(hash);
        self
    }

    /// Serves the swarms of a repository, and of the torrents that its master offers: `https://master.example.org/debian`.
    pub fn master(mut self, repository: impl Into<SecretUrl>) -> Self {
        self.settings.torrents.masters.push(repository.into());
        self
    }

    /// Serves the torrents whose `.torrent` files are in this directory.
    pub fn torrent_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.settings.torrents.dir = Some(dir.into());
        self
    }

    /// Looks at the directory, and for other swarms of masters, this often, a second at least; 30 s unless told otherwise.
    pub fn rescan(mut self, interval: Duration) -> Self {
        self.settings.torrents.rescan = TimeSpan(interval);
        self
    }

    /// Answers by HTTP at one more address; port 0 is any free port.
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.settings.http.listen.push(address);
        self
    }

    /// All about serving HTTP, instead of what was said before; its `listen` too.
    pub fn http(mut self, http: HttpConfig) -> Self {
        self.settings.http = http;
        self
    }

    /// Answers datagrams (BEP 15) at one more address; port 0 is any free port.
    pub fn listen_udp(mut self, address: SocketAddr) -> Self {
        self.settings.udp.listen.push(address);
        self
    }

    /// How often is announced, and how much is kept and answered.
    pub fn limits(mut self, limits: TrackerLimitsConfig) -> Self {
        self.settings.limits = limits;
        self
    }

    /// How masters are connected to.
    pub fn outgoing(mut self, outgoing: OutgoingConfig) -> Self {
        self.settings.outgoing = outgoing;
        self
    }

    /// Answers the command line (`imtracker status` and its kind) on a Unix socket at this path.
    pub fn control_socket(mut self, path: impl Into<PathBuf>) -> Self {
        self.settings.control.socket = Some(path.into());
        self
    }

    /// Checks what was given and returns the configuration that it makes, with all defaults. Opens nothing and looks at no file.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn into_config(self) -> Result<TrackerConfig, BuildError> {
        self.check().map(|()| self.settings)
    }

    /// Checks what was given and reads the torrents that are allowed. Nothing is answered before the tracker is
    /// [served](super::TrackerServer). Blocks on the disk.
    ///
    /// # Errors
    /// [`TrackerError::Build`] for what was given; [`TrackerError::Torrents`] if the directory of torrents cannot be read,
    /// [`TrackerError::Outgoing`] if files of the settings for outgoing connections, or the environment's proxies, cannot be used.
    pub fn build(self) -> Result<Tracker, TrackerError> {
        self.check()?;
        let named = self.settings.control.socket.clone();
        let control_socket = named.or_else(|| self.is_of_file.then(|| self.settings.control_socket()));
        Tracker::start(self.settings, control_socket)
    }

    fn check(&self) -> Result<(), BuildError> {
        let settings = &self.settings;
        let torrents = &settings.torrents;
        if torrents.allow.is_empty() && torrents.dir.is_none() && torrents.masters.is_empty() {
            let advice = "no torrent would be served; say .torrent(INFO_HASH), .torrent_dir(DIR) or .master(URL)";
            return Err(BuildError::missing("torrent", advice));
        }
        check_torrents(torrents)?;
        let sections = [
            ("limits", settings.limits.check()),
            ("outgoing", settings.outgoing.check()),
            ("http", settings.check_http()),
            ("listen", settings.check_addresses()),
            ("listen_udp", settings.check_datagram_addresses()),
        ];
        let mut sections = sections.into_iter();
        sections.try_for_each(|(field, checked)| BuildError::of_settings(field, checked))
    }
}

fn check_torrents(torrents: &ServedTorrentsConfig) -> Result<(), BuildError> {
    let mut seen = HashSet::new();
    if let Some(twice) = torrents.allow.iter().find(|hash| !seen.insert(**hash)) {
        return Err(BuildError::invalid("torrent", twice, "it is there twice"));
    }
    for url in &torrents.masters {
        masters::parse(url).map_err(|error| BuildError::invalid("master", url, error))?;
    }
    if torrents.dir.as_ref().is_some_and(|dir| dir.as_os_str().is_empty()) {
        let advice = "it is no directory; leave it out, or say \".\"";
        return Err(BuildError::invalid("torrent_dir", "", advice));
    }
    if torrents.rescan.0 < RESCAN_MIN {
        let advice = format!("it must be {RESCAN_MIN:?} or more");
        return Err(BuildError::invalid(
            "rescan",
            format!("{:?}", torrents.rescan.0),
            advice,
        ));
    }
    Ok(())
}
