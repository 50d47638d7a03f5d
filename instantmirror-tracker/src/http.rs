//! Announces and scrapes by HTTP, from query to bencoded answer. Every answer has status 200: a refusal is a dictionary with
//! a `failure reason`, which is what clients show.

use std::net::IpAddr;
use std::time::Duration;

use instantmirror_core::bencode::Value;

pub use crate::query::{AnnounceQuery, QUERY_BYTES_MAX, QueryError, SCRAPED_MAX, parse_announce, parse_scrape};
use crate::{Announced, Contact, InfoHash, Registry, Scraped};

/// Answers an announce.
pub fn announce(registry: &mut Registry, now: Duration, from: IpAddr, query: &str) -> Vec<u8> {
    let asked = match parse_announce(query) {
        Ok(asked) => asked,
        Err(error) => return failure(&error.to_string()),
    };
    match registry.announce(now, from, &asked.announce) {
        Ok(announced) => encode_announced(&announced, &asked),
        Err(refusal) => failure(&refusal.to_string()),
    }
}

/// Answers a scrape.
pub fn scrape(registry: &mut Registry, now: Duration, from: IpAddr, query: &str) -> Vec<u8> {
    let torrents = match parse_scrape(query) {
        Ok(torrents) => torrents,
        Err(error) => return failure(&error.to_string()),
    };
    match registry.scrape(now, from, &torrents) {
        Ok(scraped) => encode_scraped(&torrents, &scraped),
        Err(refusal) => failure(&refusal.to_string()),
    }
}

/// An answer that says only why there is no other.
#[must_use]
pub fn failure(reason: &str) -> Vec<u8> {
    Value::dict([("failure reason".as_bytes(), Value::text(reason))]).encode()
}

fn number(number: u32) -> Value<'static> {
    Value::Int(i64::from(number))
}

fn encode_announced(announced: &Announced, asked: &AnnounceQuery) -> Vec<u8> {
    let mut entries: Vec<(&[u8], Value<'_>)> = vec![
        (b"complete", number(announced.swarm.complete)),
        (b"downloaded", number(announced.swarm.downloaded)),
        (b"incomplete", number(announced.swarm.incomplete)),
        (b"interval", number(announced.interval_s)),
        (b"min interval", number(announced.interval_min_s)),
    ];
    if let Some(warning) = announced.warning {
        entries.push((b"warning message", Value::text(warning)));
    }
    if asked.compact {
        let [mut v4, mut v6] = [Vec::new(), Vec::new()];
        for Contact { address, port, .. } in &announced.peers {
            let into = match address {
                IpAddr::V4(address) => {
                    v4.extend_from_slice(&address.octets());
                    &mut v4
                }
                IpAddr::V6(address) => {
                    v6.extend_from_slice(&address.octets());
                    &mut v6
                }
            };
            into.extend_from_slice(&port.to_be_bytes());
        }
        entries.push((b"peers", Value::bytes(v4)));
        if !v6.is_empty() {
            entries.push((b"peers6", Value::bytes(v6)));
        }
    } else {
        let peers = announced.peers.iter().map(|peer| in_words(peer, asked.no_peer_id));
        entries.push((b"peers", Value::List(peers.collect())));
    }
    Value::dict(entries).encode()
}

fn in_words(peer: &Contact, no_peer_id: bool) -> Value<'static> {
    let mut entries: Vec<(&[u8], Value<'_>)> = vec![
        (b"ip", Value::bytes(peer.address.to_string().into_bytes())),
        (b"port", number(u32::from(peer.port))),
    ];
    if !no_peer_id {
        entries.push((b"peer id", Value::bytes(peer.id.0.to_vec())));
    }
    Value::dict(entries)
}

fn encode_scraped(torrents: &[InfoHash], scraped: &[Option<Scraped>]) -> Vec<u8> {
    let known = torrents.iter().zip(scraped).filter_map(|(hash, scraped)| {
        let scraped = (*scraped)?;
        let counts: [(&[u8], Value<'_>); 4] = [
            (b"complete", number(scraped.complete)),
            (b"downloaded", number(scraped.downloaded)),
            (b"downloaders", number(scraped.downloaders)),
            (b"incomplete", number(scraped.incomplete)),
        ];
        Some((hash.0.to_vec(), Value::dict(counts)))
    });
    Value::dict([("files".as_bytes(), Value::dict(known))]).encode()
}
