//! Addresses and ports as peers and trackers list them: 6 bytes each of IPv4, 18 of IPv6.

use std::net::{IpAddr, SocketAddr};

/// Length of an entry of IPv4.
pub(crate) const V4_BYTES: usize = 6;
/// Length of an entry of IPv6.
pub(crate) const V6_BYTES: usize = 18;

pub(crate) fn is_v4(address: &SocketAddr) -> bool {
    address.ip().to_canonical().is_ipv4()
}

pub(crate) fn put(out: &mut Vec<u8>, address: &SocketAddr) {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
        IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
    }
    out.extend_from_slice(&address.port().to_be_bytes());
}

/// The whole entries of so many bytes each. An IPv4 address that stands there as one of IPv6 is one of IPv4: rules for
/// addresses would not know it otherwise.
pub(crate) fn addresses(bytes: &[u8], entry_bytes: usize) -> impl Iterator<Item = SocketAddr> {
    bytes.chunks_exact(entry_bytes).filter_map(|entry| {
        let (ip, port) = entry.split_last_chunk::<2>()?;
        Some(SocketAddr::new(octets(ip)?, u16::from_be_bytes(*port)))
    })
}

/// The address that 4 or 16 bytes are.
pub(crate) fn octets(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(|octets| IpAddr::from(octets).to_canonical()))
        .ok()
}

/// As many of two lists as are taken, so that neither family keeps the other out.
pub(crate) fn both<T>(v4: impl Iterator<Item = T>, v6: impl Iterator<Item = T>, most: usize) -> Vec<T> {
    let v6: Vec<T> = v6.take(most).collect();
    let mut taken: Vec<T> = v4.take(most - v6.len().min(most / 2)).collect();
    let room = most - taken.len();
    taken.extend(v6.into_iter().take(room));
    taken
}
