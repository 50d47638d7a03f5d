//! An announce by HTTP means what a plain reading of its query says; whatever comes, the answer is one bencoded dictionary.
#![no_main]

use std::time::Duration;

use instantmirror_core::bencode::{Strictness, Value};
use instantmirror_tracker::http::{self, parse_announce};
use instantmirror_tracker::{Limits, RandomSample, Registry};
use libfuzzer_sys::fuzz_target;

/// Byte by byte: the values of a key, decoded; `None` for one that cannot be.
fn model(query: &str, key: &str) -> Vec<Option<Vec<u8>>> {
    let mut all = Vec::new();
    for pair in query.split('&') {
        let Some(at) = pair.find('=') else { continue };
        if &pair[..at] != key {
            continue;
        }
        let (bytes, mut out, mut i) = (pair[at + 1..].as_bytes(), Some(Vec::new()), 0);
        while i < bytes.len() {
            if bytes[i] == b'%' {
                let hex = bytes.get(i + 1..i + 3).filter(|two| two.iter().all(u8::is_ascii_hexdigit));
                let byte = hex.and_then(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok());
                match (byte, &mut out) {
                    (Some(byte), Some(out)) => out.push(byte),
                    _ => {
                        out = None;
                        break;
                    }
                }
                i += 3;
            } else {
                out.iter_mut().for_each(|out| out.push(bytes[i]));
                i += 1;
            }
        }
        all.push(out);
    }
    all
}

fuzz_target!(|data: &[u8]| {
    let query = String::from_utf8_lossy(data);
    let read = parse_announce(&query);
    let mut registry = Registry::new(Limits::default(), Box::new(RandomSample), 1);
    if let Ok(read) = &read {
        let announce = &read.announce;
        assert_eq!(model(&query, "info_hash"), [Some(announce.info_hash.0.to_vec())]);
        assert_eq!(model(&query, "peer_id"), [Some(announce.peer_id.0.to_vec())]);
        let port = model(&query, "port");
        let number = port[0].as_ref().and_then(|text| std::str::from_utf8(text).ok()?.parse::<u16>().ok());
        assert_eq!((port.len(), number), (1, Some(announce.port)));
        assert!(announce.port > 0);
        registry.allow([announce.info_hash].into());
    } else {
        // What is refused lacks something, or says it twice or wrongly.
        let twenty = |key| matches!(&model(&query, key)[..], [Some(bytes)] if bytes.len() == 20);
        let simple = !["left", "numwant", "key", "event", "compact", "no_peer_id"].iter().any(|key| !model(&query, key).is_empty());
        let port = matches!(&model(&query, "port")[..], [Some(text)] if query.split('&').any(|pair| pair == format!("port={}", String::from_utf8_lossy(text)))
            && std::str::from_utf8(text).is_ok_and(|text| text.parse::<u16>().is_ok_and(|port| port > 0)));
        assert!(!(twenty("info_hash") && twenty("peer_id") && port && simple && query.len() <= http::QUERY_BYTES_MAX));
    }
    for _ in 0..2 {
        let Ok(from) = "192.0.2.1".parse() else { return };
        let answer = http::announce(&mut registry, Duration::ZERO, from, &query);
        let decoded = Value::decode(&answer, Strictness::All).expect("bencode");
        assert_eq!(decoded.get("failure reason").is_some(), read.is_err());
        let scraped = http::scrape(&mut registry, Duration::ZERO, from, &query);
        assert!(Value::decode(&scraped, Strictness::All).expect("bencode").as_dict().is_some());
    }
    assert!(registry.census().peers_v4 <= 1);
});
