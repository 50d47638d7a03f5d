//! What one address is allowed: connections at a time, and requests a second by a token bucket.
//!
//! Invariant: the memory for buckets is bounded. A bucket that is full again is not kept, and where too many are not, those
//! that lack the fewest tokens go: their clients gain no more than a burst.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::limits::{AddressLimits, RequestRate};

/// A lock for each of so many parts of the buckets.
const SHARDS: usize = 16;
/// Buckets of one part, each of some 50 bytes.
const BUCKETS_MAX: usize = 4096;

impl AddressLimits {
    /// What an address counts for; `None` if it is not limited.
    pub(super) fn key(&self, address: IpAddr) -> Option<IpAddr> {
        if self.exempt.iter().any(|block| block.contains(address)) {
            return None;
        }
        Some(match address.to_canonical() {
            IpAddr::V4(address) => IpAddr::V4(address),
            IpAddr::V6(address) => {
                let rest = 128_u32.saturating_sub(u32::from(self.ipv6_prefix));
                let mask = u128::MAX.checked_shl(rest).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask))
            }
        })
    }
}

/// When the bucket of each address will be full again, in nanoseconds of the server's clock (the generic cell rate
/// algorithm: a token bucket in one number).
#[derive(Debug)]
pub(super) struct Buckets {
    shards: Vec<Mutex<HashMap<IpAddr, u64>>>,
    hasher: RandomState,
}

impl Default for Buckets {
    fn default() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
        }
    }
}

impl Buckets {
    /// Takes a token for one request.
    ///
    /// # Errors
    /// The time until there is one.
    pub(super) fn take(&self, key: IpAddr, rate: RequestRate, now: u64) -> Result<(), Duration> {
        let interval = 1_000_000_000 / u64::from(rate.per_second.get());
        let tolerance = interval.saturating_mul(u64::from(rate.burst.get()) - 1);
        let shard = usize::try_from(self.hasher.hash_one(key) >> 32).unwrap_or(0) % SHARDS;
        let Some(shard) = self.shards.get(shard) else {
            return Ok(());
        };
        let mut buckets = shard.lock().unwrap_or_else(PoisonError::into_inner);
        let full_at = buckets.get(&key).copied().unwrap_or(now).max(now);
        let lacking = full_at - now;
        if lacking > tolerance {
            return Err(Duration::from_nanos(lacking - tolerance));
        }
        if buckets.len() >= BUCKETS_MAX && !buckets.contains_key(&key) {
            thin_out(&mut buckets, now);
        }
        buckets.insert(key, full_at.saturating_add(interval));
        Ok(())
    }
}

/// Lets full buckets go, and if that is not enough, those that are nearly so.
fn thin_out(buckets: &mut HashMap<IpAddr, u64>, now: u64) {
    buckets.retain(|_, full_at| *full_at > now);
    let most = BUCKETS_MAX / 4 * 3;
    if buckets.len() > most {
        let mut ends: Vec<u64> = buckets.values().copied().collect();
        let surplus = ends.len() - most;
        let (_, last, _) = ends.select_nth_unstable(surplus - 1);
        let last = *last;
        buckets.retain(|_, full_at| *full_at > last);
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn rate(per_second: u32, burst: u32) -> RequestRate {
        RequestRate {
            per_second: NonZeroU32::new(per_second).unwrap(),
            burst: NonZeroU32::new(burst).unwrap(),
        }
    }

    #[test]
    fn a_bucket_has_its_burst_and_fills_at_its_rate() {
        let buckets = Buckets::default();
        let address: IpAddr = "192.0.2.7".parse().unwrap();
        let take = |now| buckets.take(address, rate(10, 5), now);
        for _ in 0..5 {
            assert_eq!(take(SECOND), Ok(()));
        }
        assert_eq!(take(SECOND), Err(Duration::from_millis(100)));
        assert_eq!(take(SECOND + SECOND / 20), Err(Duration::from_millis(50)));
        assert_eq!(take(SECOND + SECOND / 10), Ok(()));
        assert!(take(SECOND + SECOND / 10).is_err());
        // However long the pause, no more than a burst.
        let taken = (0..100).filter(|_| take(1000 * SECOND).is_ok()).count();
        assert_eq!(taken, 5);
        let other = buckets.take("192.0.2.8".parse().unwrap(), rate(10, 5), 1000 * SECOND);
        assert_eq!(other, Ok(()));
        // A burst of one is one request each so often, and the fastest rate is one.
        let at = 2000 * SECOND;
        assert_eq!(buckets.take(address, rate(1, 1), at), Ok(()));
        assert_eq!(buckets.take(address, rate(1, 1), at), Err(Duration::from_secs(1)));
        assert_eq!(buckets.take(address, rate(u32::MAX, u32::MAX), at + SECOND), Ok(()));
    }

    #[test]
    fn however_many_addresses_come_memory_is_bounded() {
        let buckets = Buckets::default();
        let greedy: IpAddr = "203.0.113.9".parse().unwrap();
        for _ in 0..100 {
            buckets.take(greedy, rate(1, 100), SECOND).unwrap();
        }
        for number in 0..300_000_u128 {
            let address = Ipv6Addr::from_bits((0x2001_0db8 << 96) | (number << 64));
            assert_eq!(buckets.take(IpAddr::V6(address), rate(1, 100), SECOND + 1), Ok(()));
        }
        let len = |shard: &Mutex<HashMap<IpAddr, u64>>| shard.lock().unwrap().len();
        assert!(buckets.shards.iter().all(|shard| len(shard) <= BUCKETS_MAX));
        assert!(
            buckets.take(greedy, rate(1, 100), SECOND + 1).is_err(),
            "who has taken most is not forgotten for the others"
        );
        // What is full again takes no room.
        let hour = 3600 * SECOND;
        for number in 0..100_000_u128 {
            let address = Ipv6Addr::from_bits((0x2001_0db9 << 96) | (number << 64));
            let _ = buckets.take(
                IpAddr::V6(address),
                rate(1, 100),
                hour + u64::try_from(number).unwrap() * SECOND,
            );
        }
        assert!(buckets.shards.iter().all(|shard| len(shard) <= BUCKETS_MAX));
    }

    #[test]
    fn addresses_count_by_prefix_and_this_machine_does_not_count() {
        let mut limits = AddressLimits::default();
        let key = |limits: &AddressLimits, address: &str| {
            let key = limits.key(address.parse().unwrap());
            key.map(|key| key.to_string())
        };
        for (address, expected) in [
            ("127.0.0.1", None),
            ("127.8.8.8", None),
            ("::1", None),
            ("::ffff:127.0.0.1", None),
            ("192.0.2.7", Some("192.0.2.7")),
            ("::ffff:192.0.2.7", Some("192.0.2.7")),
            ("2001:db8:1:2:3:4:5:6", Some("2001:db8:1:2::")),
            ("2001:db8:1:3:3:4:5:6", Some("2001:db8:1:3::")),
        ] {
            assert_eq!(key(&limits, address).as_deref(), expected, "{address}");
        }
        limits.exempt.clear();
        for (prefix, expected) in [(128, "2001:db8::7"), (48, "2001:db8::"), (1, "::"), (0, "::")] {
            limits.ipv6_prefix = prefix;
            assert_eq!(key(&limits, "2001:db8::7").as_deref(), Some(expected), "/{prefix}");
        }
        assert_eq!(key(&limits, "127.0.0.1").as_deref(), Some("127.0.0.1"));
    }
}
