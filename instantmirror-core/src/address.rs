//! Network addresses as operators name them: blocks like `192.0.2.0/24`, and whom to prefer and to avoid.

use core::net::{IpAddr, SocketAddr};
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

/// All addresses that begin with the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressBlock {
    first: IpAddr,
    prefix: u8,
}

impl AddressBlock {
    /// Whether an address lies in the block. One of IPv4 that came over IPv6 (`::ffff:192.0.2.7`) counts as of IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.first, address.to_canonical()) {
            (IpAddr::V4(first), IpAddr::V4(address)) => {
                let differ = u32::from(first) ^ u32::from(address);
                differ.leading_zeros() >= u32::from(self.prefix)
            }
            (IpAddr::V6(first), IpAddr::V6(address)) => {
                let differ = u128::from(first) ^ u128::from(address);
                differ.leading_zeros() >= u32::from(self.prefix)
            }
            _ => false,
        }
    }
}

impl fmt::Display for AddressBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

impl FromStr for AddressBlock {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("'{text}' is not a block of addresses: write one like 192.0.2.7, 192.0.2.0/24 or 2001:db8::/32");
        let (address, prefix) = text
            .split_once('/')
            .map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let first: IpAddr = address.parse().map_err(|_| wrong())?;
        let bits = if first.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Ok(bits), |prefix| prefix.parse().map_err(|_| wrong()))?;
        let block = Self { first, prefix };
        // The bits behind the prefix are not meant: who writes them may have meant another prefix.
        let is_clean = match first {
            IpAddr::V4(first) => u32::from(first).checked_shl(u32::from(prefix)).unwrap_or(0) == 0,
            IpAddr::V6(first) => u128::from(first).checked_shl(u32::from(prefix)).unwrap_or(0) == 0,
        };
        if prefix > bits || !is_clean {
            return Err(format!("{}: the prefix leaves bits of the address over", wrong()));
        }
        Ok(block)
    }
}

impl<'de> Deserialize<'de> for AddressBlock {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// Which addresses to deal with, and which of them first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AddressPolicy {
    /// These come first, the first block before the second.
    pub preferred: Vec<AddressBlock>,
    /// If there are any, only these.
    pub allow: Vec<AddressBlock>,
    /// Never these, whatever `allow` says.
    pub deny: Vec<AddressBlock>,
}

impl AddressPolicy {
    /// Whether to deal with an address.
    #[must_use]
    pub fn admits(&self, address: IpAddr) -> bool {
        let in_one = |blocks: &[AddressBlock]| blocks.iter().any(|block| block.contains(address));
        (self.allow.is_empty() || in_one(&self.allow)) && !in_one(&self.deny)
    }

    /// The place of an address among the preferred ones; one behind the last of them for all others.
    #[must_use]
    pub fn rank(&self, address: IpAddr) -> usize {
        let place = self.preferred.iter().position(|block| block.contains(address));
        place.unwrap_or(self.preferred.len())
    }
}

/// The ports at which a program listens on `0.0.0.0`.
///
/// A socket on `[::]` is dual-stack: it takes connections of IPv4 too, unless the program listens on `0.0.0.0` at the same port.
/// Sockets state it explicitly (`IPV6_V6ONLY`), since the system's default (`net.ipv6.bindv6only`) differs between machines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ipv4Wildcards(BTreeSet<u16>);

impl Ipv4Wildcards {
    /// Those among the addresses that a program listens on.
    pub fn among<'a>(addresses: impl IntoIterator<Item = &'a SocketAddr>) -> Self {
        let wildcards = addresses
            .into_iter()
            .filter(|address| address.is_ipv4() && address.ip().is_unspecified() && address.port() != 0);
        Self(wildcards.map(SocketAddr::port).collect())
    }

    /// Whether a socket at this address has to leave IPv4 to another one.
    #[must_use]
    pub fn take_ipv4_of(&self, address: &SocketAddr) -> bool {
        address.is_ipv6() && address.ip().is_unspecified() && self.0.contains(&address.port())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_hold_what_begins_alike() {
        for (block, inside, outside) in [
            ("192.0.2.7", "192.0.2.7", "192.0.2.8"),
            ("192.0.2.0/24", "192.0.2.255", "192.0.3.0"),
            ("192.0.2.0/24", "::ffff:192.0.2.1", "::192.0.2.1"),
            ("0.0.0.0/0", "255.1.2.3", "::1"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("::/0", "::1", "127.0.0.1"),
        ] {
            let parsed: AddressBlock = block.parse().unwrap();
            assert!(parsed.contains(inside.parse().unwrap()), "{block} {inside}");
            assert!(!parsed.contains(outside.parse().unwrap()), "{block} {outside}");
        }
        for wrong in [
            "",
            "x",
            "192.0.2.0/33",
            "192.0.2.1/24",
            "::1/0",
            "::/129",
            "192.0.2/24",
            "1.2.3.4/-1",
        ] {
            assert!(wrong.parse::<AddressBlock>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_wildcard_of_ipv6_leaves_ipv4_to_one_at_the_same_port() {
        let all = ["0.0.0.0:80", "192.0.2.1:81", "0.0.0.0:0"].map(|text| text.parse().unwrap());
        let wildcards = Ipv4Wildcards::among(&all);
        let takes = |address: &str| wildcards.take_ipv4_of(&address.parse().unwrap());
        assert!(takes("[::]:80"));
        for other in ["[::]:81", "[::]:0", "[::1]:80", "[::ffff:0.0.0.0]:80", "0.0.0.0:80"] {
            assert!(!takes(other), "{other}");
        }
    }

    #[test]
    fn denied_wins_over_allowed_and_preferred_only_orders() {
        let blocks = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let admits = |policy: &AddressPolicy, address: &str| policy.admits(address.parse().unwrap());
        assert!(admits(&AddressPolicy::default(), "192.0.2.1"));
        let policy = AddressPolicy {
            preferred: blocks(&["2001:db8::/32", "192.0.2.0/28"]),
            allow: blocks(&["192.0.2.0/24"]),
            deny: blocks(&["192.0.2.8/29"]),
        };
        assert!(admits(&policy, "192.0.2.7") && !admits(&policy, "192.0.2.9") && !admits(&policy, "198.51.100.1"));
        assert!(!admits(&policy, "2001:db8::1"));
        let rank = |address: &str| policy.rank(address.parse().unwrap());
        assert_eq!((rank("2001:db8::1"), rank("192.0.2.3"), rank("192.0.2.77")), (0, 1, 2));
    }
}
