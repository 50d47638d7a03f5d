//! Announces and scrapes by UDP (BEP 15), from datagram to datagram.
//!
//! Who has no connection id gets an id and nothing else, as large as what it sent; who sends a wrong one gets no answer at
//! all. So nobody can have somebody else flooded by forging the other's address.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::http::SCRAPED_MAX;
use crate::{Announce, ConnectionIds, Contact, Event, InfoHash, PeerId, Registry, Scraped};

/// What a connect request begins with instead of a connection id.
pub const PROTOCOL: u64 = 0x0417_2710_1980;
/// Longest datagram that is read whole; clients send 98 bytes, those with BEP 41 a little more.
pub const PACKET_BYTES_MAX: usize = 2048;
/// Length of an announce, without extensions.
pub const ANNOUNCE_BYTES: usize = 98;
/// Peers of IPv6 in one answer, so that it fits a datagram that nobody takes apart.
const PEERS_V6_MAX: usize = 74;

const CONNECT: u32 = 0;
const ANNOUNCE: u32 = 1;
const SCRAPE: u32 = 2;
const ERROR: u32 = 3;

/// A request, as it stands in a datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// For a connection id.
    Connect {
        /// Comes back with the answer.
        transaction: u32,
    },
    /// An announce.
    Announce {
        /// From a connect.
        connection: u64,
        /// Comes back with the answer.
        transaction: u32,
        /// What is announced.
        announce: Announce,
    },
    /// A scrape.
    Scrape {
        /// From a connect.
        connection: u64,
        /// Comes back with the answer.
        transaction: u32,
        /// Of which torrents.
        torrents: Vec<InfoHash>,
    },
}

/// What is wrong with a datagram of somebody who has a connection id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PacketError {
    /// Not even the fields that every request has, or a connect without the protocol's number.
    #[error("this is no request")]
    NoRequest,
    /// An announce that ends early.
    #[error("an announce has {ANNOUNCE_BYTES} bytes or more")]
    Short,
    /// Neither connect nor announce nor scrape.
    #[error("there is no action of this number")]
    Action,
    /// An event that does not exist.
    #[error("there is no event of this number")]
    Event,
    /// Nobody could connect to it.
    #[error("port 0 cannot be announced")]
    Port,
    /// Not whole hashes, none, or too many.
    #[error("a scrape names 1 to {SCRAPED_MAX} info-hashes of 20 bytes each")]
    Scrape,
}

/// Takes fields off the front.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*field)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }
}

impl Request {
    /// Reads a datagram.
    ///
    /// # Errors
    /// [`PacketError`].
    pub fn decode(packet: &[u8]) -> Result<Self, PacketError> {
        let mut fields = Fields(packet);
        let head = (fields.u64(), fields.u32(), fields.u32());
        let (Some(connection), Some(action), Some(transaction)) = head else {
            return Err(PacketError::NoRequest);
        };
        match action {
            CONNECT if connection == PROTOCOL => Ok(Self::Connect { transaction }),
            CONNECT => Err(PacketError::NoRequest),
            ANNOUNCE => Ok(Self::Announce {
                connection,
                transaction,
                announce: decode_announce(fields).ok_or(PacketError::Short)??,
            }),
            SCRAPE => {
                let (hashes, rest) = fields.0.as_chunks::<20>();
                if hashes.is_empty() || hashes.len() > SCRAPED_MAX || !rest.is_empty() {
                    return Err(PacketError::Scrape);
                }
                Ok(Self::Scrape {
                    connection,
                    transaction,
                    torrents: hashes.iter().copied().map(InfoHash).collect(),
                })
            }
            _ => Err(PacketError::Action),
        }
    }

    /// The datagram of a request, as a client sends it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(ANNOUNCE_BYTES);
        let mut head = |connection: u64, action: u32, transaction: u32| {
            out.extend_from_slice(&connection.to_be_bytes());
            out.extend_from_slice(&action.to_be_bytes());
            out.extend_from_slice(&transaction.to_be_bytes());
        };
        match self {
            Self::Connect { transaction } => head(PROTOCOL, CONNECT, *transaction),
            Self::Announce {
                connection,
                transaction,
                announce,
            } => {
                head(*connection, ANNOUNCE, *transaction);
                out.extend_from_slice(&announce.info_hash.0);
                out.extend_from_slice(&announce.peer_id.0);
                out.extend_from_slice(&[0; 8]);
                out.extend_from_slice(&announce.left.unwrap_or(u64::MAX).to_be_bytes());
                out.extend_from_slice(&[0; 8]);
                out.extend_from_slice(&event_number(announce.event).to_be_bytes());
                out.extend_from_slice(&[0; 4]);
                out.extend_from_slice(&announce.key.to_be_bytes());
                out.extend_from_slice(&announce.wanted.unwrap_or(u32::MAX).to_be_bytes());
                out.extend_from_slice(&announce.port.to_be_bytes());
            }
            Self::Scrape {
                connection,
                transaction,
                torrents,
            } => {
                head(*connection, SCRAPE, *transaction);
                torrents.iter().for_each(|hash| out.extend_from_slice(&hash.0));
            }
        }
        out
    }
}

fn event_number(event: Event) -> u32 {
    match event {
        Event::Regular => 0,
        Event::Completed => 1,
        Event::Started => 2,
        Event::Stopped => 3,
        Event::Paused => 4,
    }
}

/// `None` if it ends early. The address in it is ignored.
fn decode_announce(mut fields: Fields<'_>) -> Option<Result<Announce, PacketError>> {
    let (info_hash, peer_id) = (InfoHash(fields.take()?), PeerId(fields.take()?));
    let (_downloaded, left, _uploaded) = (fields.u64()?, fields.u64()?, fields.u64()?);
    let (event, _address, key, wanted) = (fields.u32()?, fields.u32()?, fields.u32()?, fields.u32()?);
    let port = fields.u16()?;
    // 4 is in no BEP; clients that are partial seeds send it.
    let events = [
        Event::Regular,
        Event::Completed,
        Event::Started,
        Event::Stopped,
        Event::Paused,
    ];
    let Some(event) = events.into_iter().find(|one| event_number(*one) == event) else {
        return Some(Err(PacketError::Event));
    };
    if port == 0 {
        return Some(Err(PacketError::Port));
    }
    Some(Ok(Announce {
        info_hash,
        peer_id,
        port,
        left: (left != u64::MAX).then_some(left),
        event,
        // Negative: as many as the tracker thinks right.
        wanted: i32::try_from(wanted).ok().and_then(|wanted| u32::try_from(wanted).ok()),
        key,
    }))
}

/// Answers a datagram, or does not.
pub fn answer(
    registry: &mut Registry,
    ids: &ConnectionIds,
    now: Duration,
    from: SocketAddr,
    packet: &[u8],
) -> Option<Vec<u8>> {
    let source = from.ip().to_canonical();
    let (connection, transaction) = {
        let mut fields = Fields(packet);
        let connection = fields.u64()?;
        let _action = fields.u32()?;
        (connection, fields.u32()?)
    };
    let request = Request::decode(packet);
    if !matches!(request, Ok(Request::Connect { .. })) && !ids.is_good(connection, source, now) {
        return None;
    }
    Some(match request {
        Ok(Request::Connect { .. }) => {
            let mut out = head(CONNECT, transaction);
            out.extend_from_slice(&ids.id(source, now).to_be_bytes());
            out
        }
        Ok(Request::Announce { announce, .. }) => answer_announce(registry, now, source, transaction, announce),
        Ok(Request::Scrape { torrents, .. }) => match registry.scrape(now, source, &torrents) {
            Ok(scraped) => {
                let mut out = head(SCRAPE, transaction);
                // There is no other way to say here that a torrent is not known.
                for Scraped {
                    complete,
                    downloaded,
                    incomplete,
                    ..
                } in scraped.into_iter().map(Option::unwrap_or_default)
                {
                    for number in [complete, downloaded, incomplete] {
                        out.extend_from_slice(&number.to_be_bytes());
                    }
                }
                out
            }
            Err(refusal) => error(transaction, &refusal.to_string()),
        },
        Err(wrong) => error(transaction, &wrong.to_string()),
    })
}

fn answer_announce(
    registry: &mut Registry,
    now: Duration,
    source: IpAddr,
    transaction: u32,
    mut announce: Announce,
) -> Vec<u8> {
    let most = if source.is_ipv6() { PEERS_V6_MAX } else { usize::MAX };
    let limited = |wanted: u32| wanted.min(u32::try_from(most).unwrap_or(u32::MAX));
    announce.wanted = announce.wanted.map(limited);
    let announced = match registry.announce(now, source, &announce) {
        Ok(announced) => announced,
        Err(refusal) => return error(transaction, &refusal.to_string()),
    };
    let mut out = head(ANNOUNCE, transaction);
    let swarm = announced.swarm;
    for number in [announced.interval_s, swarm.incomplete, swarm.complete] {
        out.extend_from_slice(&number.to_be_bytes());
    }
    let peers = announced.peers.iter();
    let peers = peers.filter(|peer| peer.address.is_ipv6() == source.is_ipv6());
    peers.take(most).for_each(|peer| put_contact(&mut out, peer));
    out
}

fn head(action: u32, transaction: u32) -> Vec<u8> {
    [action.to_be_bytes(), transaction.to_be_bytes()].concat()
}

fn error(transaction: u32, text: &str) -> Vec<u8> {
    let mut out = head(ERROR, transaction);
    out.extend_from_slice(text.as_bytes());
    out
}

fn put_contact(out: &mut Vec<u8>, peer: &Contact) {
    match peer.address {
        IpAddr::V4(address) => out.extend_from_slice(&address.octets()),
        IpAddr::V6(address) => out.extend_from_slice(&address.octets()),
    }
    out.extend_from_slice(&peer.port.to_be_bytes());
}

#[cfg(test)]
#[path = "udp_tests.rs"]
mod tests;
