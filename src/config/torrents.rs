//! `[torrents]`, and `torrents` of a repository: what everybody's torrent clients are offered.

use instantmirror_core::url::SecretUrl;
use instantmirror_core::{Name, RepoPath};
use serde::{Deserialize, Deserializer};

/// `[torrents]`: how those who have a torrent find its content.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct TorrentsConfig {
    /// The URLs under which everybody reaches this server, or mirrors of it: they become web seeds.
    pub web_seeds: Vec<String>,
    /// Trackers, in order of preference.
    pub trackers: Vec<SecretUrl>,
}

/// One of the `torrents` of a repository.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct TorrentConfig {
    /// The directory or file, relative to the repository's root; the root if there is none.
    #[serde(default, deserialize_with = "path")]
    pub path: RepoPath,
    /// What clients call it.
    pub name: Option<String>,
    /// Whether it is cut into several torrents if it is too large for one.
    #[serde(default)]
    pub shards: bool,
}

fn path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<RepoPath, D::Error> {
    let text = String::deserialize(deserializer)?;
    let path = RepoPath::new(text.trim_matches('/'));
    path.map_err(|error| serde::de::Error::custom(format!("the path '{text}' has {error}")))
}

/// Whether this is a URL of one of these schemes.
///
/// # Errors
/// A text for a person.
pub fn check_url(text: &str, schemes: &[&str]) -> Result<(), String> {
    let uri: Option<::http::Uri> = text.parse().ok();
    let is_good = uri.is_some_and(|uri| {
        let scheme = uri.scheme_str().unwrap_or_default();
        schemes.contains(&scheme) && uri.host().is_some_and(|host| !host.is_empty())
    });
    if is_good {
        Ok(())
    } else {
        Err(format!(
            "'{}' is no URL with {}",
            SecretUrl::from(text),
            schemes.join(", ")
        ))
    }
}

impl TorrentsConfig {
    /// Schemes of web seeds.
    pub const WEB_SEED_SCHEMES: &[&str] = &["http", "https"];
    /// Schemes of trackers.
    pub const TRACKER_SCHEMES: &[&str] = &["http", "https", "udp"];

    pub(crate) fn check(&self) -> Result<(), String> {
        for url in &self.web_seeds {
            check_url(url, Self::WEB_SEED_SCHEMES).map_err(|error| format!("[torrents] web_seeds: {error}"))?;
        }
        for url in &self.trackers {
            check_url(url.exposed(), Self::TRACKER_SCHEMES).map_err(|error| format!("[torrents] trackers: {error}"))?;
        }
        Ok(())
    }

    /// Checks what one repository offers.
    pub(crate) fn check_offers(&self, repository: &str, offers: &[TorrentConfig]) -> Result<(), String> {
        if !offers.is_empty() && self.web_seeds.is_empty() && self.trackers.is_empty() {
            return Err(format!(
                "repository '{repository}': nobody could download its torrents; say in [torrents] web_seeds under which URL \
                 this server is reached (\"https://mirror.example.org\"), or name trackers"
            ));
        }
        let mut names = std::collections::BTreeSet::new();
        for offer in offers {
            let last = offer.path.split_last().map(|(_, last)| last);
            let name = offer.name.as_deref().or(last).unwrap_or(repository);
            if let Err(error) = Name::new(name) {
                return Err(format!(
                    "repository '{repository}': the torrent name '{name}' has {error}"
                ));
            }
            if !names.insert(name) {
                return Err(format!(
                    "repository '{repository}': two torrents are called '{name}'; give one another name"
                ));
            }
        }
        Ok(())
    }
}
