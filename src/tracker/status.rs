//! How a tracker is, for people and programs.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Tracker, lock};
use crate::serve::HttpStatus;

/// How a tracker is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrackerStatus {
    /// Seconds since it was opened.
    pub uptime_s: u64,
    /// What it serves.
    pub torrents: TorrentsStatus,
    /// The masters that name swarms.
    #[serde(default)]
    pub masters: Vec<MasterStatus>,
    /// Peers by IPv4.
    pub peers_v4: usize,
    /// Peers by IPv6.
    pub peers_v6: usize,
    /// How many of them have all there is of their torrent.
    pub seeds: usize,
    /// Announces that were answered.
    pub announces: u64,
    /// Scrapes that were answered.
    pub scrapes: u64,
    /// Peers handed out.
    pub handed_out: u64,
    /// Completions.
    pub completed: u64,
    /// Peers that stopped.
    pub stopped: u64,
    /// Peers that were not heard of any more.
    pub expired: u64,
    /// Peers that were answered and not kept, for want of room.
    pub not_kept: u64,
    /// Refused requests, by what the client was told.
    pub refused: BTreeMap<String, u64>,
    /// The HTTP server.
    pub http: HttpStatus,
}

/// What a tracker serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TorrentsStatus {
    /// Info-hashes that are allowed.
    pub allowed: usize,
    /// Those with a peer.
    pub live: usize,
    /// Torrent files that were read.
    pub files: usize,
    /// Files that are no torrents, and why.
    pub bad_files: Vec<String>,
}

/// How a master is that names swarms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MasterStatus {
    /// The URL of its repository, without what may be secret.
    pub url: String,
    /// Swarms that it has named last: its repository's own, and those of torrents.
    pub swarms: usize,
    /// Why it names none now. Those that it has named are served all the same.
    pub trouble: Option<String>,
}

impl Tracker {
    /// How it is.
    #[must_use]
    pub fn status(&self, http: HttpStatus) -> TrackerStatus {
        let (files, bad_files) = {
            let torrents = lock(&self.0.torrents);
            (torrents.files(), torrents.bad())
        };
        let (census, counts) = {
            let registry = self.registry();
            (registry.census(), registry.counts().clone())
        };
        TrackerStatus {
            uptime_s: self.now().as_secs(),
            torrents: TorrentsStatus {
                allowed: census.torrents,
                live: census.swarms,
                files,
                bad_files,
            },
            masters: lock(&self.0.masters).clone(),
            peers_v4: census.peers_v4,
            peers_v6: census.peers_v6,
            seeds: census.seeds,
            announces: counts.announces,
            scrapes: counts.scrapes,
            handed_out: counts.handed_out,
            completed: counts.completed,
            stopped: counts.stopped,
            expired: counts.expired,
            not_kept: counts.not_kept,
            refused: counts
                .refused
                .iter()
                .map(|(why, count)| (why.to_string(), *count))
                .collect(),
            http,
        }
    }
}

/// For people: a line for each matter.
impl fmt::Display for TrackerStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let torrents = &self.torrents;
        writeln!(
            f,
            "torrents: {} served ({} of files), {} with peers",
            torrents.allowed, torrents.files, torrents.live
        )?;
        torrents
            .bad_files
            .iter()
            .try_for_each(|bad| writeln!(f, "left out: {bad}"))?;
        for master in &self.masters {
            let MasterStatus { url, swarms, trouble } = master;
            match trouble {
                None => writeln!(f, "master {url}: {swarms} swarms")?,
                Some(trouble) => writeln!(f, "master {url}: TROUBLE: {trouble} ({swarms} swarms from before)")?,
            }
        }
        writeln!(
            f,
            "peers: {} ({} by IPv4, {} by IPv6), {} of them seeds; {} stopped, {} not heard of any more, {} not kept",
            self.peers_v4 + self.peers_v6,
            self.peers_v4,
            self.peers_v6,
            self.seeds,
            self.stopped,
            self.expired,
            self.not_kept
        )?;
        writeln!(
            f,
            "asked: {} announces, {} scrapes in {} s; {} peers handed out, {} completions",
            self.announces, self.scrapes, self.uptime_s, self.handed_out, self.completed
        )?;
        for (why, count) in &self.refused {
            writeln!(f, "refused: {count} ({why})")?;
        }
        write!(f, "{}", self.http)
    }
}
