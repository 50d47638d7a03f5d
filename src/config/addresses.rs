//! Whose requests are answered and whom we ask: `[nodes]`, `[peers]`.

use std::net::IpAddr;

use instantmirror_core::address::{AddressBlock, AddressPolicy};
use serde::{Deserialize, Deserializer};

/// `[nodes]`: which addresses may use the API of a master.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodesConfig {
    /// If there are any, only these.
    pub allow: Vec<AddressBlock>,
    /// Never these, whatever `allow` says.
    pub deny: Vec<AddressBlock>,
}

impl NodesConfig {
    /// Whether a client may use the API. One without an address, on a Unix socket, may.
    #[must_use]
    pub fn admits(&self, address: Option<IpAddr>) -> bool {
        let policy = AddressPolicy {
            preferred: Vec::new(),
            allow: self.allow.clone(),
            deny: self.deny.clone(),
        };
        address.is_none_or(|address| policy.admits(address))
    }
}

/// `[peers]`: from whom a node fetches.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PeersConfig {
    /// Blocks of addresses, and names of hosts as they stand in `master`, that are asked before others.
    pub preferred: Vec<Preferred>,
    /// If there are any, nothing is asked of others.
    pub allow: Vec<AddressBlock>,
    /// Nothing is ever asked of these, whatever `allow` says.
    pub deny: Vec<AddressBlock>,
}

/// Somebody who is preferred: a block of addresses, or a host by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// The same, as far as it is about addresses.
    #[must_use]
    pub fn policy(&self) -> AddressPolicy {
        let block = |preferred: &Preferred| match preferred {
            Preferred::Block(block) => Some(*block),
            Preferred::Host(_) => None,
        };
        AddressPolicy {
            preferred: self.preferred.iter().filter_map(block).collect(),
            allow: self.allow.clone(),
            deny: self.deny.clone(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn denied_wins_over_allowed() {
        let blocks = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let admits = |config: &NodesConfig, address: &str| config.admits(Some(address.parse().unwrap()));
        assert!(admits(&NodesConfig::default(), "192.0.2.1"));
        let config = NodesConfig {
            allow: blocks(&["192.0.2.0/24"]),
            deny: blocks(&["192.0.2.8/29"]),
        };
        assert!(admits(&config, "192.0.2.7") && !admits(&config, "192.0.2.9") && !admits(&config, "198.51.100.1"));
        assert!(config.admits(None));
    }
}
