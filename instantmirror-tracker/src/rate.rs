//! How often an address may ask: memory of a fixed size, whoever asks.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::Duration;

/// Addresses share these. With a secret hash nobody can choose with whom; busy trackers see some sharing, which costs those
/// who share a part of what they may ask.
const SLOTS: usize = 1 << 16;

/// What counts as one asker: an IPv4 address, or an IPv6 /64, which is what one customer gets.
pub(crate) fn network(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(address) => u64::from(u32::from(address)),
        IpAddr::V6(address) => (u128::from(address) >> 64) as u64 | 1 << 63,
    }
}

/// For every slot the time at which its debt is paid, in microseconds.
#[derive(Debug)]
pub(crate) struct Rates {
    paid_at: Box<[u64]>,
    hasher: RandomState,
}

impl Rates {
    pub(crate) fn new() -> Self {
        Self {
            paid_at: vec![0; SLOTS].into_boxed_slice(),
            hasher: RandomState::new(),
        }
    }

    /// Whether it may ask now; if so, that is counted.
    #[allow(clippy::cast_possible_truncation, reason = "the remainder is below SLOTS")]
    pub(crate) fn admits(&mut self, address: IpAddr, now: Duration, per_minute: u32) -> bool {
        const MINUTE: u64 = 60_000_000;
        let slot = (self.hasher.hash_one(network(address)) % SLOTS as u64) as usize;
        let now = u64::try_from(now.as_micros()).unwrap_or(u64::MAX / 2);
        let Some(paid_at) = self.paid_at.get_mut(slot) else {
            return true;
        };
        let paid = (*paid_at).max(now) + MINUTE / u64::from(per_minute.max(1));
        if paid > now + MINUTE {
            return false;
        }
        *paid_at = paid;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_a_minute_and_then_no_more() {
        let mut rates = Rates::new();
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        let mut asked = |second: u64, times: usize| {
            (0..times)
                .filter(|_| rates.admits(address, Duration::from_secs(second), 60))
                .count()
        };
        assert_eq!(asked(100, 100), 60);
        assert_eq!(asked(110, 100), 10);
        assert_eq!(asked(1000, 100), 60);
    }

    #[test]
    fn a_network_of_version_6_is_one_asker() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }
}
