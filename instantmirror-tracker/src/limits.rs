//! What a tracker allows, in numbers.

use std::time::Duration;

/// How often is announced and how much is kept. Everything that anybody can make us keep is bounded by these and by the
/// number of allowed torrents.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Peers are asked to announce this often.
    pub interval: Duration,
    /// Peers that have something for others and want nothing are asked to announce this often, if that is more often: they
    /// learn of a leecher that nobody can be reached by only when they ask, and connect to it then.
    pub interval_seeds: Duration,
    /// And not more often than this. A wish: what is more frequent is answered, within `requests_per_minute`.
    pub interval_min: Duration,
    /// Peers kept at a time, of all torrents.
    pub peers_max: usize,
    /// Peers kept at a time of one torrent.
    pub swarm_peers_max: usize,
    /// Peers kept at a time of one torrent from one address (IPv6: from one /64 network).
    pub address_peers_max: usize,
    /// Peers handed out to an asker who does not say how many it wants.
    pub handed_out: usize,
    /// Peers handed out at most.
    pub handed_out_max: usize,
    /// Announces and scrapes that one address (IPv6: one /64 network) may make in a minute, and at once.
    pub requests_per_minute: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(30 * 60),
            interval_seeds: Duration::from_secs(2 * 60),
            interval_min: Duration::from_secs(60),
            peers_max: 2_000_000,
            swarm_peers_max: 100_000,
            address_peers_max: 32,
            handed_out: 50,
            handed_out_max: 200,
            requests_per_minute: 6000,
        }
    }
}

/// Added to the life of a peer, for announces that are under way.
const SLACK: Duration = Duration::from_secs(60);

impl Limits {
    /// A peer that has not announced for so long is gone: one announce may get lost.
    #[must_use]
    pub fn peer_lifetime(&self) -> Duration {
        self.interval * 2 + SLACK
    }
}
