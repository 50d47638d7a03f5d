//! `imtracker.toml`.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use instantmirror_core::address::AddressPolicy;
use instantmirror_core::url::SecretUrl;
use instantmirror_tracker::{InfoHash, Limits};
use serde::{Deserialize, Deserializer};

use super::parts::check_addresses;
use super::{
    Checked, ConfigError, ControlConfig, Finding, HttpConfig, LogConfig, OutgoingConfig, Report, TimeSpan, surroundings,
};

/// Where `imtracker` looks for its control socket if the configuration names none.
const CONTROL_SOCKET: &str = "imtracker.sock";
/// Peers that one answer can hold: more make datagrams that are taken apart on the way.
const HANDED_OUT_MAX: usize = 200;
/// Most peers that may be allowed: places are 32 bits.
const PEERS_MAX: usize = 1 << 31;
/// The directory of torrents is looked at this often at most.
pub(crate) const RESCAN_MIN: Duration = Duration::from_secs(1);
/// The shortest and the longest interval of announces that makes sense.
const INTERVALS: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(86_400));

/// The configuration of a tracker.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct TrackerConfig {
    /// `[torrents]`.
    pub torrents: ServedTorrentsConfig,
    /// `[outgoing]`, for masters.
    #[serde(default)]
    pub outgoing: OutgoingConfig,
    /// `[http]`.
    #[serde(default)]
    pub http: HttpConfig,
    /// `[udp]`.
    #[serde(default)]
    pub udp: UdpConfig,
    /// `[limits]`.
    #[serde(default)]
    pub limits: TrackerLimitsConfig,
    /// `[control]`.
    #[serde(default)]
    pub control: ControlConfig,
    /// `[log]`.
    #[serde(default)]
    pub log: LogConfig,
}

/// `[torrents]`: what is served. Nothing else is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct ServedTorrentsConfig {
    /// Info-hashes, 40 hexadecimal digits each.
    #[serde(deserialize_with = "hashes")]
    pub allow: Vec<InfoHash>,
    /// URLs of repositories at their masters, whose swarms are served.
    pub masters: Vec<SecretUrl>,
    /// A directory of `.torrent` files.
    pub dir: Option<PathBuf>,
    /// The directory is looked at this often.
    pub rescan: TimeSpan,
}

/// `[udp]`: where the tracker answers datagrams.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct UdpConfig {
    /// Addresses with ports.
    pub listen: Vec<SocketAddr>,
}

/// `[limits]`: how often is announced, and how much is kept.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct TrackerLimitsConfig {
    /// Peers are asked to announce this often.
    pub interval: TimeSpan,
    /// Peers that have something and want nothing are asked to announce this often, if that is more often.
    pub seed_interval: TimeSpan,
    /// And not more often than this.
    pub min_interval: TimeSpan,
    /// Peers kept at a time, of all torrents.
    pub max_peers: usize,
    /// Of one torrent.
    pub max_peers_per_torrent: usize,
    /// Of one torrent from one address.
    pub max_peers_per_address: usize,
    /// Peers in an answer to somebody who does not say how many it wants.
    pub handed_out: usize,
    /// Peers in an answer at most.
    pub max_handed_out: usize,
    /// Announces and scrapes from one address.
    pub requests_per_minute: u32,
}

impl Default for ServedTorrentsConfig {
    fn default() -> Self {
        Self {
            allow: Vec::new(),
            masters: Vec::new(),
            dir: None,
            rescan: TimeSpan(Duration::from_secs(30)),
        }
    }
}

impl Default for TrackerLimitsConfig {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            interval: TimeSpan(limits.interval),
            seed_interval: TimeSpan(limits.interval_seeds),
            min_interval: TimeSpan(limits.interval_min),
            max_peers: limits.peers_max,
            max_peers_per_torrent: limits.swarm_peers_max,
            max_peers_per_address: limits.address_peers_max,
            handed_out: limits.handed_out,
            max_handed_out: limits.handed_out_max,
            requests_per_minute: limits.requests_per_minute,
        }
    }
}

fn hashes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<InfoHash>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    texts
        .iter()
        .map(|text| text.parse().map_err(serde::de::Error::custom))
        .collect()
}

impl TrackerLimitsConfig {
    /// The same, as the tracker knows them.
    #[must_use]
    pub fn limits(&self) -> Limits {
        let mut limits = Limits::default();
        limits.interval = self.interval.0;
        limits.interval_seeds = self.seed_interval.0;
        limits.interval_min = self.min_interval.0;
        limits.peers_max = self.max_peers;
        limits.swarm_peers_max = self.max_peers_per_torrent;
        limits.address_peers_max = self.max_peers_per_address;
        limits.handed_out = self.handed_out;
        limits.handed_out_max = self.max_handed_out;
        limits.requests_per_minute = self.requests_per_minute;
        limits
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        if !(INTERVALS.0..=INTERVALS.1).contains(&self.interval.0) {
            return Err("[limits] interval must be from \"5 s\" to \"1 d\"".to_owned());
        }
        if !(INTERVALS.0..=INTERVALS.1).contains(&self.seed_interval.0) {
            return Err("[limits] seed_interval must be from \"5 s\" to \"1 d\"".to_owned());
        }
        if self.min_interval > self.interval {
            return Err("[limits] min_interval is longer than interval".to_owned());
        }
        if self.handed_out > self.max_handed_out || self.max_handed_out > HANDED_OUT_MAX {
            return Err(format!(
                "[limits] handed_out = {} and max_handed_out = {}: the first must not be more than the second, and that not \
                 more than {HANDED_OUT_MAX}",
                self.handed_out, self.max_handed_out
            ));
        }
        let counts = [
            ("max_peers", self.max_peers),
            ("max_peers_per_torrent", self.max_peers_per_torrent),
            ("max_peers_per_address", self.max_peers_per_address),
        ];
        if let Some((name, count)) = counts.iter().find(|(_, count)| !(1..=PEERS_MAX).contains(count)) {
            return Err(format!("[limits] {name} = {count}: it must be from 1 to {PEERS_MAX}"));
        }
        match self.requests_per_minute {
            0 => Err("[limits] requests_per_minute = 0: nobody could ask".to_owned()),
            _ => Ok(()),
        }
    }
}

impl TrackerConfig {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        super::load(file)
    }

    /// Reads and checks a file together with what it names on this machine, and says what may not be meant.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn inspect(file: &Path) -> Result<(Self, Vec<Finding>), ConfigError> {
        super::inspect(file)
    }

    /// Checks a text; `file` is for messages, and relative paths in it count from its directory.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn parse(file: &Path, text: &str) -> Result<Self, ConfigError> {
        super::parse(file, text)
    }

    /// No torrent, no address, and the default of everything else.
    pub(crate) fn bare() -> Self {
        let mut http = HttpConfig::default();
        http.listen.clear();
        Self {
            torrents: ServedTorrentsConfig::default(),
            outgoing: OutgoingConfig::default(),
            http,
            udp: UdpConfig::default(),
            limits: TrackerLimitsConfig::default(),
            control: ControlConfig::default(),
            log: LogConfig::default(),
        }
    }

    /// The fault in the HTTP server of a tracker that no file describes.
    pub(crate) fn check_http(&self) -> Result<(), String> {
        super::check_alone(|report| {
            self.http.check(report);
            self.http.check_repositories(std::iter::empty(), report);
        })
    }

    /// The same of its addresses.
    pub(crate) fn check_addresses(&self) -> Result<(), String> {
        super::check_alone(|report| check_addresses(&self.http.addresses(), report))
    }

    /// The same of its addresses for datagrams.
    pub(crate) fn check_datagram_addresses(&self) -> Result<(), String> {
        super::check_alone(|report| check_addresses(&self.datagram_addresses(), report))
    }

    /// The control socket.
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        let named = self.control.socket.clone();
        named.unwrap_or_else(|| PathBuf::from(CONTROL_SOCKET))
    }
}

impl Checked for TrackerConfig {
    fn paths(&mut self) -> Vec<(String, &mut PathBuf)> {
        let mut paths = self.http.paths();
        paths.extend(self.outgoing.paths("outgoing"));
        paths.extend(
            self.torrents
                .dir
                .iter_mut()
                .map(|path| ("torrents.dir".to_owned(), path)),
        );
        paths.extend(
            self.control
                .socket
                .iter_mut()
                .map(|path| ("control.socket".to_owned(), path)),
        );
        paths
    }

    fn check(&self, report: &mut Report<'_>) {
        self.http.check(report);
        self.log.check(report);
        report.check_section("limits", self.limits.check());
        report.check_section("outgoing", self.outgoing.check());
        let torrents = &self.torrents;
        if torrents.allow.is_empty() && torrents.dir.is_none() && torrents.masters.is_empty() {
            let text = "[torrents] has neither allow nor dir nor masters: no torrent would be served";
            report.refuse("torrents", text);
        }
        for (at, url) in torrents.masters.iter().enumerate() {
            let master = crate::tracker::masters::parse(url).map(drop);
            let master = master.map_err(|error| format!("[torrents] masters: {error}"));
            report.check(&format!("torrents.masters.{at}"), master);
        }
        let mut seen = HashSet::new();
        for (at, hash) in torrents.allow.iter().enumerate() {
            if !seen.insert(*hash) {
                report.refuse(
                    &format!("torrents.allow.{at}"),
                    format!("[torrents] allow names {hash} twice"),
                );
            }
        }
        if torrents.rescan.0 < RESCAN_MIN {
            report.refuse("torrents.rescan", "[torrents] rescan must be \"1 s\" or more");
        }
        let datagrams = self.datagram_addresses();
        if self.http.addresses().is_empty() && datagrams.is_empty() {
            report.refuse("http.listen", "neither [http] nor [udp] listens anywhere");
        }
        check_addresses(&self.http.addresses(), report);
        check_addresses(&datagrams, report);
        self.http.check_repositories(std::iter::empty(), report);
    }

    fn check_surroundings(&self, report: &mut Report<'_>) {
        surroundings::check_http(&self.http, report);
        surroundings::check_addresses(&self.http.addresses(), report);
        surroundings::check_addresses(&self.datagram_addresses(), report);
        surroundings::check_socket(&self.control_socket(), None, report);
        self.outgoing.check_files("outgoing", &AddressPolicy::default(), report);
        if let Some(dir) = &self.torrents.dir {
            surroundings::check_directory("torrents.dir", dir, report);
        }
    }
}

impl TrackerConfig {
    /// The UDP addresses it listens on, with their places in the file.
    fn datagram_addresses(&self) -> Vec<(String, SocketAddr)> {
        let listen = self.udp.listen.iter().enumerate();
        listen
            .map(|(at, address)| (format!("udp.listen.{at}"), *address))
            .collect()
    }
}
