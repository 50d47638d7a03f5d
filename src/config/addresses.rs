//! Whose requests are answered: `[nodes]`.

use std::net::IpAddr;

use instantmirror_core::address::{AddressBlock, AddressPolicy};
use serde::Deserialize;

/// `[nodes]`: which addresses may use the API of a master.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
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
        let mut policy = AddressPolicy::default();
        policy.allow = self.allow.clone();
        policy.deny = self.deny.clone();
        address.is_none_or(|address| policy.admits(address))
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
