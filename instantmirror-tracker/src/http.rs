//! Announces and scrapes by HTTP, from query to bencoded answer. Every answer has status 200: a refusal is a dictionary with
//! a `failure reason`, which is what clients show, and `retry in` (BEP 31) where it is known. An asker learns the address that
//! it is seen at (BEP 24).

use std::net::IpAddr;
use std::time::Duration;

use instantmirror_core::bencode::Value;

pub use crate::query::{AnnounceQuery, QUERY_BYTES_MAX, QueryError, SCRAPED_MAX, parse_announce, parse_scrape};
use crate::{Announced, Contact, InfoHash, Limits, Refusal, Registry, Scraped};

/// Answers an announce.
pub fn announce(registry: &mut Registry, now: Duration, from: IpAddr, query: &str) -> Vec<u8> {
    let asked = match parse_announce(query) {
        Ok(asked) => asked,
        Err(error) => return refused(&error.to_string(), Some(Value::text(NEVER))),
    };
    match registry.announce(now, from, &asked.announce) {
        Ok(announced) => encode_announced(&announced, &asked, from.to_canonical()),
        Err(refusal) => refused(&refusal.to_string(), retry_in(refusal, registry.limits())),
    }
}

/// Answers a scrape.
pub fn scrape(registry: &mut Registry, now: Duration, from: IpAddr, query: &str) -> Vec<u8> {
    let torrents = match parse_scrape(query) {
        Ok(torrents) => torrents,
        Err(error) => return refused(&error.to_string(), Some(Value::text(NEVER))),
    };
    match registry.scrape(now, from, &torrents) {
        Ok(scraped) => encode_scraped(&torrents, &scraped),
        Err(refusal) => refused(&refusal.to_string(), retry_in(refusal, registry.limits())),
    }
}

/// An answer that says only why there is no other.
#[must_use]
pub fn failure(reason: &str) -> Vec<u8> {
    refused(reason, None)
}

/// The `retry in` of what will never be answered (BEP 31).
const NEVER: &str = "never";

fn refused(reason: &str, retry_in: Option<Value<'_>>) -> Vec<u8> {
    let reason = ("failure reason".as_bytes(), Value::text(reason));
    let retry = retry_in.map(|retry| ("retry in".as_bytes(), retry));
    Value::dict([reason].into_iter().chain(retry)).encode()
}

/// After how many minutes it is worth to ask again. `None`: nobody knows, and the client's own pauses, which grow, are best.
fn retry_in(refusal: Refusal, limits: &Limits) -> Option<Value<'static>> {
    let minutes = match refusal {
        Refusal::TooOften => 1,
        Refusal::TooManyPeers => limits.interval.as_secs().div_ceil(60).max(1),
        Refusal::NotAllowed | Refusal::Unreachable => return None,
    };
    i64::try_from(minutes).ok().map(Value::Int)
}

fn number(number: u32) -> Value<'static> {
    Value::Int(i64::from(number))
}

fn encode_announced(announced: &Announced, asked: &AnnounceQuery, from: IpAddr) -> Vec<u8> {
    let seen_as = match from {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let mut entries: Vec<(&[u8], Value<'_>)> = vec![
        (b"complete", number(announced.swarm.complete)),
        (b"downloaded", number(announced.swarm.downloaded)),
        (b"external ip", Value::bytes(seen_as)),
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

#[cfg(test)]
mod tests {
    use instantmirror_core::bencode::Strictness;

    use super::*;
    use crate::RandomSample;

    #[test]
    fn askers_learn_where_they_are_and_when_to_come_again() {
        let limits = Limits {
            address_peers_max: 1,
            requests_per_minute: 3,
            ..Limits::default()
        };
        let mut registry = Registry::new(limits, Box::new(RandomSample), 1);
        registry.allow([InfoHash([b'h'; 20])].into());
        let mut ask = |from: &str, port: u16, hash: &str| {
            let query = format!(
                "info_hash={}&peer_id={}&port={port}&left=1",
                hash.repeat(20),
                "p".repeat(20)
            );
            announce(&mut registry, Duration::ZERO, from.parse().unwrap(), &query)
        };
        let field = |answer: &[u8], name: &str| {
            let answer = Value::decode(answer, Strictness::All).unwrap();
            answer.get(name).map(|value| match value {
                Value::Int(number) => number.to_string(),
                other => format!("{:?}", other.as_bytes().unwrap()),
            })
        };
        for (from, seen_as) in [
            ("192.0.2.1", "[192, 0, 2, 1]"),
            ("::ffff:192.0.2.2", "[192, 0, 2, 2]"),
            ("2001:db8::1", "[32, 1, 13, 184, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]"),
        ] {
            assert_eq!(field(&ask(from, 1, "h"), "external ip").as_deref(), Some(seen_as));
        }
        assert_eq!(field(&ask("192.0.2.1", 2, "h"), "retry in").as_deref(), Some("30"));
        assert_eq!(field(&ask("192.0.2.1", 2, "x"), "retry in"), None);
        assert_eq!(field(&ask("192.0.2.1", 2, "h"), "retry in").as_deref(), Some("1"));
        let wrong = announce(&mut registry, Duration::ZERO, [192, 0, 2, 9].into(), "port=x");
        assert_eq!(field(&wrong, "retry in"), Some(format!("{:?}", b"never")));
    }
}
