//! Sections that master and node share.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use instantmirror_core::address::Ipv4Wildcards;
use instantmirror_core::view::View;
use instantmirror_core::{RepoName, RepoPath};
use instantmirror_http::{HostName, Mount, Mounts};
use serde::{Deserialize, Deserializer};

use super::Report;

/// `[control]`: the socket on which the command line reaches a running daemon.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct ControlConfig {
    /// Path of a Unix socket; without one, `control.sock` in the daemon's own directory.
    pub socket: Option<PathBuf>,
}

/// `[log]`: what is logged on standard error, and how.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct LogConfig {
    /// `error`, `warn`, `info`, `debug`, `trace` or `off`, or directives like `info,instantmirror_swarm=debug`.
    pub level: String,
    /// What lines look like.
    pub format: LogFormat,
}

/// The form of the daemon's own log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum LogFormat {
    /// For people; with priorities where the journal reads it.
    #[default]
    Text,
    /// An object of JSON a line.
    Json,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
            format: LogFormat::default(),
        }
    }
}

/// `mounts = [{ path = "/debian", view = "current" }]`: an extra place at which a view of the repository appears.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct MountConfig {
    /// URL path, beginning with `/`; `/` alone is the root.
    pub path: String,
    /// The host on which it is shown; on every one if there is none.
    #[serde(default, deserialize_with = "host")]
    pub host: Option<HostName>,
    /// `current`, `snap/<uuid>`, `master-snap/<tag>` or `local-snap/<tag>`.
    #[serde(default = "current", deserialize_with = "view")]
    pub view: View,
    /// Answer a directory with its `index.html`, if it has one, instead of a listing.
    #[serde(default)]
    pub index: bool,
}

impl MountConfig {
    /// Shows what is current at this path of URLs, on every host.
    #[must_use]
    pub fn new(path: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            host: None,
            view: View::Current,
            index: false,
        }
    }

    /// The same for the HTTP server.
    pub(crate) fn mount(&self, repository: &RepoName) -> Result<Mount, String> {
        let path = &self.path;
        let below = path.strip_prefix('/').map(|rest| rest.trim_end_matches('/'));
        let below = below.ok_or_else(|| format!("mount path '{path}' must begin with '/', as URLs do"))?;
        let below = RepoPath::new(below).map_err(|error| format!("mount path '{path}' has {error}"))?;
        let mut mount = Mount::new(below, repository.clone());
        (mount.host, mount.view) = (self.host.clone(), self.view.clone());
        mount.index = self.index;
        Ok(mount)
    }
}

fn host<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<HostName>, D::Error> {
    let name = String::deserialize(deserializer)?.parse();
    name.map(Some).map_err(serde::de::Error::custom)
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
    /// Everything of this level and above, for people.
    #[must_use]
    pub fn at(level: &str) -> Self {
        Self {
            level: level.to_owned(),
            ..Self::default()
        }
    }

    pub(super) fn check(&self, report: &mut Report<'_>) {
        let filter = super::log_filter(&self.level).map(drop);
        report.check("log.level", filter.map_err(|error| format!("[log] level: {error}")));
    }
}

/// Mount paths are absolute, plain and used once. Notes say which of two that overlap wins.
pub(super) fn check_mounts<'a>(all: impl Iterator<Item = (&'a RepoName, &'a [MountConfig])>, report: &mut Report<'_>) {
    let (mut mounts, mut repositories) = (Vec::new(), Vec::new());
    let mut places = BTreeMap::new();
    for (number, (repository, of_one)) in all.enumerate() {
        repositories.push(repository.clone());
        for (at, config) in of_one.iter().enumerate() {
            let place = format!("repository.{number}.mounts.{at}.path");
            let mount = match config.mount(repository) {
                Ok(mount) => mount,
                Err(error) => {
                    report.refuse(&place, error);
                    continue;
                }
            };
            let key = (mount.path.clone(), mount.host.clone());
            if places.insert(key, place.clone()).is_some() {
                let host = mount.host.map(|host| format!(" on host '{host}'")).unwrap_or_default();
                report.refuse(&place, format!("mount path '{}' is used twice{host}", config.path));
            } else {
                mounts.push(mount);
            }
        }
    }
    match Mounts::new(mounts) {
        Ok(mounts) => {
            for overlap in mounts.overlaps(&repositories) {
                let mut at = places.iter().filter(|((path, _), _)| path == overlap.path());
                let place = at.next().map_or("repository", |(_, place)| place.as_str());
                report.note(place, overlap.to_string());
            }
        }
        Err(error) => report.refuse("repository", error.to_string()),
    }
}

/// No address may be listened on twice. Port 0 is another one each time.
pub(super) fn check_addresses(addresses: &[(String, SocketAddr)], report: &mut Report<'_>) {
    for (at, (place, address)) in addresses.iter().enumerate() {
        let before = addresses.iter().take(at);
        let is_same = |other: &SocketAddr| address.port() != 0 && is_same_address(other, address);
        if let Some((other, _)) = before.clone().find(|(_, other)| is_same(other)) {
            report.refuse(place, format!("{address} is there twice: {} has it too", key_of(other)));
        }
        let is_shared =
            |key: &str, other: &SocketAddr| section_of(key) == section_of(place) && share_a_port(other, address);
        let mut before = before.filter(|(key, other)| !is_same(other) && !is_shared(key, other));
        if let Some((_, other)) = before.find(|(_, other)| covers(other, address) || covers(address, other)) {
            let wildcard = if covers(other, address) { other } else { address };
            let all = match (wildcard.is_ipv6(), address.is_ipv4() || other.is_ipv4()) {
                (true, true) => "[::] listens on the addresses of IPv4 too",
                (true, false) => "[::] listens on all addresses",
                (false, _) => "0.0.0.0 listens on all addresses of IPv4",
            };
            report.refuse(place, format!("{address} and {other}: {all}; leave the other out"));
        }
    }
}

/// Whether two addresses are one, also where one of them is an IPv4 address as IPv6 writes it.
fn is_same_address(one: &SocketAddr, other: &SocketAddr) -> bool {
    let plain = |address: &SocketAddr| (address.ip().to_canonical(), address.port());
    one == other || plain(one) == plain(other) && plain(one).0.is_ipv4()
}

/// Whether one of two different addresses stands for all of this machine, and the other one for some of them at the same port.
fn covers(wildcard: &SocketAddr, other: &SocketAddr) -> bool {
    let (all, some) = (wildcard.ip().to_canonical(), other.ip().to_canonical());
    let is_of_family = all.is_ipv6() || some.is_ipv4();
    wildcard.port() == other.port() && wildcard.port() != 0 && all.is_unspecified() && is_of_family
}

/// Whether one is `[::]` and the other one `0.0.0.0`: the start opens the former for IPv6 alone.
fn share_a_port(one: &SocketAddr, other: &SocketAddr) -> bool {
    let leaves = |v6: &SocketAddr, v4: &SocketAddr| Ipv4Wildcards::among([v4]).take_ipv4_of(v6);
    leaves(one, other) || leaves(other, one)
}

/// What opens the socket: `http` of `http.tls.listen.0`.
fn section_of(place: &str) -> &str {
    place.split_once('.').map_or(place, |(section, _)| section)
}

/// `http.tls.listen.0` as people write it: `[http.tls] listen`.
fn key_of(place: &str) -> String {
    let keys: Vec<&str> = place.split('.').filter(|step| step.parse::<usize>().is_err()).collect();
    match keys.split_last() {
        Some((key, section)) => format!("[{}] {key}", section.join(".")),
        None => place.to_owned(),
    }
}
