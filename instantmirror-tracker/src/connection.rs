//! Connection ids of BEP 15: the proof that whoever asks receives at the address it asks from.
//!
//! Nothing is kept of those who connect: an id is a keyed hash of address and minute, so that a flood of forged requests
//! costs no memory, and the owner of a forged address gets nothing but an answer as small as what was sent.

use std::net::IpAddr;
use std::time::Duration;

/// One minute of ids; an id is good in the one it was made in and the two after it.
const EPOCH: Duration = Duration::from_secs(60);
const EPOCHS: u64 = 3;

/// For at least this long an id is good, as BEP 15 wants it.
pub const CONNECTION_LIFETIME: Duration = Duration::from_secs(120);

/// Makes and checks connection ids.
#[derive(Debug, Clone)]
pub struct ConnectionIds {
    secret: [u8; 32],
}

impl ConnectionIds {
    /// Ids under a secret, which should be random.
    #[must_use]
    pub fn new(secret: [u8; 32]) -> Self {
        Self { secret }
    }

    /// The id for an address at a time.
    #[must_use]
    pub fn id(&self, address: IpAddr, now: Duration) -> u64 {
        self.of_epoch(address, now.as_secs() / EPOCH.as_secs())
    }

    /// Whether an id was made for this address not long ago.
    #[must_use]
    pub fn is_good(&self, id: u64, address: IpAddr, now: Duration) -> bool {
        let epoch = now.as_secs() / EPOCH.as_secs();
        (0..EPOCHS)
            .filter_map(|back| epoch.checked_sub(back))
            .any(|epoch| self.of_epoch(address, epoch) == id)
    }

    fn of_epoch(&self, address: IpAddr, epoch: u64) -> u64 {
        let address = match address {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        let mut input = [0; 24];
        input[..16].copy_from_slice(&address.octets());
        input[16..].copy_from_slice(&epoch.to_be_bytes());
        let hash = blake3::keyed_hash(&self.secret, &input);
        hash.as_bytes()
            .iter()
            .take(8)
            .fold(0, |id, byte| id << 8 | u64::from(*byte))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_good_for_its_address_and_two_minutes() {
        let ids = ConnectionIds::new([7; 32]);
        let [here, there]: [IpAddr; 2] = ["192.0.2.1", "192.0.2.2"].map(|text| text.parse().unwrap());
        for second in [0, 59, 60, 1_000_000] {
            let made = Duration::from_secs(second);
            let id = ids.id(here, made);
            assert!(ids.is_good(id, here, made) && ids.is_good(id, here, made + CONNECTION_LIFETIME));
            assert!(!ids.is_good(id, there, made) && !ids.is_good(id ^ 1, here, made));
            assert!(!ids.is_good(id, here, made + Duration::from_secs(181)));
        }
        let others = ConnectionIds::new([8; 32]);
        assert!(!others.is_good(ids.id(here, Duration::ZERO), here, Duration::ZERO));
    }
}
