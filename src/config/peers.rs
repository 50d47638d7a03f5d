//! With whom bytes are exchanged: `[peers]`.

use std::net::{IpAddr, SocketAddr};

use instantmirror_core::address::{AddressBlock, AddressPolicy};
use instantmirror_core::url::SecretUrl;
use instantmirror_swarm::peer::PeerLimits;
use serde::{Deserialize, Deserializer};

use super::torrents::check_url;
use super::{ByteRate, OutgoingConfig, TorrentsConfig};

/// `[peers]`: with whom bytes are exchanged.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct PeersConfig {
    /// Blocks of addresses, and names of hosts as they stand in `master`, that are asked before others.
    pub preferred: Vec<Preferred>,
    /// If there are any, nothing is asked of others.
    pub allow: Vec<AddressBlock>,
    /// Nothing is ever asked of these, whatever `allow` says.
    pub deny: Vec<AddressBlock>,
    /// Where peers connect to; without any, there is no swarm.
    pub listen: Vec<SocketAddr>,
    /// Peers to connect to, besides those that masters, trackers and other peers tell of.
    pub connect: Vec<SocketAddr>,
    /// Trackers that are told of us and tell us of others.
    pub trackers: Vec<SecretUrl>,
    /// How trackers are asked by HTTP; instead of `[outgoing]`, not in addition to it.
    pub outgoing: Option<OutgoingConfig>,
    /// Connections at a time.
    pub max_connections: usize,
    /// Peers that are served at a time.
    pub slots: usize,
    /// Bytes per second to all peers.
    pub upload: Option<ByteRate>,
    /// Bytes per second from all peers.
    pub download: Option<ByteRate>,
    /// Peers are not told of each other, and nobody is learned of from them.
    pub private: bool,
    /// Takes part in the swarms of torrents that masters offer.
    pub torrents: bool,
}

impl Default for PeersConfig {
    fn default() -> Self {
        let limits = PeerLimits::default();
        Self {
            preferred: Vec::new(),
            allow: Vec::new(),
            deny: Vec::new(),
            listen: Vec::new(),
            connect: Vec::new(),
            trackers: Vec::new(),
            outgoing: None,
            max_connections: limits.connections_max,
            slots: limits.slots,
            upload: None,
            download: None,
            private: false,
            torrents: true,
        }
    }
}

/// Somebody who is preferred: a block of addresses, or a host by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Preferred {
    /// All addresses of a block.
    Block(AddressBlock),
    /// A host name.
    Host(String),
}

impl<'de> Deserialize<'de> for Preferred {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let is_name = text.contains('.') || text == "localhost";
        let looks_like_address =
            text.contains(['/', ':']) || text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        match text.parse() {
            Ok(block) => Ok(Self::Block(block)),
            Err(error) if looks_like_address || !is_name => Err(serde::de::Error::custom(format!(
                "{error}, or the name of a host like mirror.example.org"
            ))),
            Err(_) => Ok(Self::Host(text.to_ascii_lowercase())),
        }
    }
}

impl PeersConfig {
    /// What cannot change while a daemon runs, by name, and whether it is the same in both.
    pub(crate) fn fixed(&self, new: &Self) -> [(&'static str, bool); 6] {
        [
            ("[peers] listen", self.listen == new.listen),
            ("[peers] connect", self.connect == new.connect),
            ("[peers] trackers", self.trackers == new.trackers),
            ("[peers] outgoing", self.outgoing == new.outgoing),
            ("[peers] private", self.private == new.private),
            ("[peers] torrents", self.torrents == new.torrents),
        ]
    }

    /// Whether both let as many peers in, and move as much.
    pub(crate) fn has_limits_of(&self, other: &Self) -> bool {
        let limits = |config: &Self| (config.max_connections, config.slots, config.upload, config.download);
        limits(self) == limits(other)
    }

    /// The same, as far as it is about addresses.
    #[must_use]
    pub fn policy(&self) -> AddressPolicy {
        let block = |preferred: &Preferred| match preferred {
            Preferred::Block(block) => Some(*block),
            Preferred::Host(_) => None,
        };
        let mut policy = AddressPolicy::default();
        policy.preferred = self.preferred.iter().filter_map(block).collect();
        policy.allow = self.allow.clone();
        policy.deny = self.deny.clone();
        policy
    }

    /// The same as limits of swarms.
    #[must_use]
    pub fn limits(&self) -> PeerLimits {
        let defaults = PeerLimits::default();
        let mut limits = PeerLimits::default();
        limits.connections_max = self.max_connections;
        limits.connections_sought = defaults.connections_sought.min(self.max_connections);
        limits.slots = self.slots;
        limits.upload = self.upload.map(|rate| rate.0);
        limits.download = self.download.map(|rate| rate.0);
        limits.listen = self.listen.iter().map(SocketAddr::ip).collect();
        limits.policy = self.policy();
        limits
    }

    /// The addresses it listens on, with their places.
    pub(super) fn addresses(&self) -> impl Iterator<Item = (String, SocketAddr)> {
        let listen = self.listen.iter().enumerate();
        listen.map(|(at, address)| (format!("peers.listen.{at}"), *address))
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        if self.upload == Some(ByteRate(0)) || self.download == Some(ByteRate(0)) {
            return Err("[peers] upload and download must be more than 0; leave them out for no limit".to_owned());
        }
        if self.max_connections == 0 || self.slots == 0 {
            return Err(
                "[peers] max_connections and slots must be 1 or more; leave listen out for no swarm".to_owned(),
            );
        }
        if self.listen.is_empty() && !(self.connect.is_empty() && self.trackers.is_empty()) {
            return Err("[peers] names peers or trackers, but there is no swarm without listen".to_owned());
        }
        if let Some(outgoing) = &self.outgoing {
            outgoing.check().map_err(|error| format!("[peers] outgoing: {error}"))?;
        }
        for url in &self.trackers {
            check_url(url.exposed(), TorrentsConfig::TRACKER_SCHEMES)
                .map_err(|error| format!("[peers] trackers: {error}"))?;
        }
        let refused = self.connect.iter().find(|address| !self.policy().admits(address.ip()));
        match refused {
            Some(address) => Err(format!(
                "[peers] allow and deny leave out {address}, which connect names"
            )),
            None => Ok(()),
        }
    }

    /// The place of a URL's host among the preferred ones, if it is one of them by its name or address.
    #[must_use]
    pub fn rank(&self, host: &str) -> Option<usize> {
        let host = host.trim_matches(['[', ']']);
        let address: Option<IpAddr> = host.parse().ok();
        self.preferred.iter().position(|preferred| match preferred {
            Preferred::Block(block) => address.is_some_and(|address| block.contains(address)),
            Preferred::Host(name) => name.eq_ignore_ascii_case(host),
        })
    }
}
