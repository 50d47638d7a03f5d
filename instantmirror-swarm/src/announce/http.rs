//! Announces by HTTP (BEP 3, 7, 23, 31): the URL that is asked for, and what the answer says.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use instantmirror_core::bencode::{Strictness, Value};
use reqwest::Url;

use super::{
    AnnounceError, AnnounceReply, AnnounceRequest, Event, INTERVAL, REPLY_BYTES_MAX, REPLY_PEERS_MAX, Retry,
    TEXT_BYTES_MAX, TRACKER_ID_BYTES_MAX, TrackerUrl, is_place,
};
use crate::contacts::{V4_BYTES, V6_BYTES, addresses, both, is_v4};
use crate::text::shown;

/// The URL of an announce. What stands in the tracker's own query stays in front.
#[must_use]
pub fn announce_url(tracker: &TrackerUrl, request: &AnnounceRequest) -> Url {
    let mut query = String::with_capacity(400);
    if let Some(own) = tracker.url().query().filter(|own| !own.is_empty()) {
        query.push_str(own.trim_end_matches('&'));
        query.push('&');
    }
    query.push_str("info_hash=");
    escape(&mut query, request.info_hash.as_bytes());
    query.push_str("&peer_id=");
    escape(&mut query, &request.peer_id.0);
    let numbers = [
        ("port", u64::from(request.port)),
        ("uploaded", request.uploaded),
        ("downloaded", request.downloaded),
        ("left", request.left),
    ];
    for (name, number) in numbers {
        // Writing to a string does not fail.
        let _ = write!(query, "&{name}={number}");
    }
    let _ = write!(query, "&key={:08x}&compact=1&no_peer_id=1", request.key);
    if let Some(wanted) = request.wanted {
        let _ = write!(query, "&numwant={wanted}");
    }
    if request.event != Event::Regular {
        let _ = write!(query, "&event={}", request.event);
    }
    if let Some(id) = &request.tracker_id {
        query.push_str("&trackerid=");
        escape(&mut query, id);
    }
    let mut url = tracker.url().clone();
    url.set_query(Some(&query));
    url
}

/// Percent-encodes everything but what no URL needs escaped.
fn escape(out: &mut String, bytes: &[u8]) {
    for byte in bytes {
        match byte {
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(*byte)),
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
}

/// Reads the answer to an announce.
///
/// # Errors
/// [`AnnounceError::Refused`] if it is a refusal, [`AnnounceError::Reply`] if it is no answer.
pub fn parse_reply(body: &[u8]) -> Result<AnnounceReply, AnnounceError> {
    let wrong = |why: &str| AnnounceError::Reply(why.to_owned());
    if body.len() > REPLY_BYTES_MAX {
        return Err(wrong("it is longer than 1 MiB"));
    }
    // Some end with a line feed.
    let decoded = Value::decode_first(body, Strictness::Keys);
    let (reply, _) = decoded.map_err(|error| AnnounceError::Reply(format!("it is no bencode: {error}")))?;
    if reply.as_dict().is_none() {
        return Err(wrong("it is no dictionary"));
    }
    let bytes = |key| reply.get(key).and_then(Value::as_bytes);
    let text = |key| bytes(key).map(|text| shown(text, TEXT_BYTES_MAX));
    if let Some(reason) = text("failure reason") {
        let retry = reply.get("retry in").map_or(Retry::Unsaid, retry_in);
        return Err(AnnounceError::Refused { reason, retry });
    }
    let seconds = |key| {
        reply
            .get(key)
            .and_then(Value::as_int)
            .and_then(|seconds| u64::try_from(seconds).ok())
    };
    let count = |key| {
        reply
            .get(key)
            .and_then(Value::as_int)
            .and_then(|count| u32::try_from(count).ok())
    };
    let tracker_id = bytes("tracker id").filter(|id| id.len() <= TRACKER_ID_BYTES_MAX);
    Ok(AnnounceReply {
        interval: seconds("interval").map_or(INTERVAL, Duration::from_secs),
        interval_min: seconds("min interval").map(Duration::from_secs),
        complete: count("complete"),
        incomplete: count("incomplete"),
        peers: peers(&reply)?,
        warning: text("warning message").filter(|text| !text.is_empty()),
        tracker_id: tracker_id.map(<[u8]>::to_vec),
    })
}

/// Minutes, or `never` (BEP 31).
fn retry_in(value: &Value<'_>) -> Retry {
    if value.as_bytes() == Some(b"never") {
        return Retry::Never;
    }
    match value.as_int().map(u64::try_from) {
        Some(Ok(minutes)) => Retry::After(Duration::from_secs(minutes.saturating_mul(60))),
        _ => Retry::Unsaid,
    }
}

fn peers(reply: &Value<'_>) -> Result<Vec<SocketAddr>, AnnounceError> {
    let compact = |key, entry_bytes| match reply.get(key) {
        Some(Value::Bytes(bytes)) if bytes.len() % entry_bytes != 0 => Err(AnnounceError::Reply(format!(
            "'{key}' has {} bytes, and each peer has {entry_bytes}",
            bytes.len()
        ))),
        Some(Value::Bytes(bytes)) => Ok(&**bytes),
        None | Some(Value::List(_)) => Ok(&[][..]),
        Some(_) => Err(AnnounceError::Reply(format!("'{key}' is no list of peers"))),
    };
    let (v4, v6) = (compact("peers", V4_BYTES)?, compact("peers6", V6_BYTES)?);
    let lists = ["peers", "peers6"]
        .into_iter()
        .filter_map(|key| reply.get(key)?.as_list());
    let in_words: Vec<SocketAddr> = lists.flatten().filter_map(in_words).filter(is_place).collect();
    let of_family = |ought: bool| in_words.iter().copied().filter(move |address| is_v4(address) == ought);
    let v4 = addresses(v4, V4_BYTES).filter(is_place).chain(of_family(true));
    let v6 = addresses(v6, V6_BYTES).filter(is_place).chain(of_family(false));
    let mut peers = both(v4, v6, REPLY_PEERS_MAX);
    peers.sort_by_key(|address| !is_v4(address));
    Ok(peers)
}

/// A peer as a dictionary. One that is named and not numbered is passed over: we resolve nothing for a tracker.
fn in_words(peer: &Value<'_>) -> Option<SocketAddr> {
    let ip: IpAddr = peer.get("ip")?.as_text()?.parse().ok()?;
    let port = u16::try_from(peer.get("port")?.as_int()?).ok()?;
    Some(SocketAddr::new(ip.to_canonical(), port))
}

#[cfg(test)]
mod tests {
    use super::super::request;
    use super::*;

    fn url(tracker: &str) -> String {
        announce_url(&tracker.parse().unwrap(), &request()).into()
    }

    #[test]
    fn an_announce_says_everything_in_its_query() {
        let ought = "info_hash=%00%FFabcdefghijk%20%25%26%3D%2B-z&peer_id=-IM0100-0123456789ab&port=6881&uploaded=1\
            &downloaded=2&left=3&key=0000beef&compact=1&no_peer_id=1&numwant=50&event=started";
        assert_eq!(
            url("http://t.example/announce"),
            format!("http://t.example/announce?{ought}")
        );
        let mut request = request();
        request.event = Event::Regular;
        request.wanted = None;
        request.tracker_id = Some(b"a b&c".to_vec());
        let tracker = "https://t.example/a".parse().unwrap();
        let url = announce_url(&tracker, &request);
        assert!(url.as_str().ends_with("&no_peer_id=1&trackerid=a%20b%26c"), "{url}");
    }

    #[test]
    fn the_trackers_own_query_stays() {
        let url = url("http://t.example/announce.php?passkey=a%20b&x=1");
        assert!(
            url.starts_with("http://t.example/announce.php?passkey=a%20b&x=1&info_hash=%00"),
            "{url}"
        );
    }

    fn peers(body: &[u8]) -> Vec<String> {
        parse_reply(body)
            .unwrap()
            .peers
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn reads_compact_peers_of_both_families() {
        let body =
            b"d8:completei5e10:incompletei7e8:intervali1800e12:min intervali60e5:peers12:\x01\x02\x03\x04\x1a\xe1\
            \x05\x06\x07\x08\0\x506:peers618:\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x1a\xe110:tracker id2:id\
            15:warning message4:hm\x07me";
        let reply = parse_reply(body).unwrap();
        assert_eq!(peers(body), ["1.2.3.4:6881", "5.6.7.8:80", "[2001:db8::1]:6881"]);
        assert_eq!((reply.complete, reply.incomplete), (Some(5), Some(7)));
        assert_eq!(reply.interval, Duration::from_secs(1800));
        assert_eq!(reply.interval_min, Some(Duration::from_secs(60)));
        assert_eq!(reply.tracker_id.as_deref(), Some(&b"id"[..]));
        assert_eq!(reply.warning.as_deref(), Some("hmm"));
    }

    #[test]
    fn reads_peers_in_words() {
        let body = b"d8:intervali60e5:peersld2:ip9:192.0.2.17:peer id20:aaaaaaaaaaaaaaaaaaaa4:porti6881eed2:ip11:2001:db8::14:porti1ee\
            d2:ip14:host.example.x4:porti1eed2:ip9:192.0.2.24:porti65536eed2:ip9:192.0.2.24:porti0eei5e4:nopeee";
        assert_eq!(peers(body), ["192.0.2.1:6881", "[2001:db8::1]:1"]);
    }

    #[test]
    fn nobody_is_nowhere() {
        let body = b"d5:peers30:\0\0\0\0\0\x01\x01\x02\x03\x04\0\0\xff\xff\xff\xff\0\x01\xe0\0\0\x01\0\x01\x01\x02\x03\x04\0\x01\
            6:peers636:\0\0\0\0\0\0\0\0\0\0\xff\xff\x01\x02\x03\x05\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01e";
        assert_eq!(peers(body), ["1.2.3.4:1", "1.2.3.5:1"]);
    }

    #[test]
    fn a_reply_may_leave_out_nearly_everything() {
        let reply = parse_reply(b"de\n").unwrap();
        assert_eq!((reply.interval, reply.peers.len()), (INTERVAL, 0));
        let reply = parse_reply(b"d8:intervali-1e8:completei-1e12:min intervali9223372036854775807ee").unwrap();
        assert_eq!((reply.interval, reply.complete), (INTERVAL, None));
        assert_eq!(reply.interval_min, Some(Duration::from_secs(u64::MAX / 2)));
    }

    #[test]
    fn refusals_say_why_and_when_to_come_again() {
        for (rest, retry) in [
            (&b""[..], Retry::Unsaid),
            (b"8:retry ini5e", Retry::After(Duration::from_secs(300))),
            (b"8:retry in5:never", Retry::Never),
            (b"8:retry ini-5e", Retry::Unsaid),
            (b"8:retry in4:soon", Retry::Unsaid),
            (
                b"8:retry ini9223372036854775807e",
                Retry::After(Duration::from_secs(u64::MAX)),
            ),
        ] {
            let body = [&b"d14:failure reason7:no\x1b you"[..], rest, b"e"].concat();
            let reason = "no you".to_owned();
            assert_eq!(parse_reply(&body), Err(AnnounceError::Refused { reason, retry }));
        }
    }

    #[test]
    fn hostile_replies_are_refused_with_the_reason() {
        let long = vec![b' '; REPLY_BYTES_MAX + 1];
        let deep = vec![b'l'; REPLY_BYTES_MAX];
        for (body, why) in [
            (&b"<html>"[..], "no bencode"),
            (b"", "no bencode"),
            (b"le", "no dictionary"),
            (b"d5:peers5:abcdee", "'peers' has 5 bytes"),
            (b"d6:peers617:abcdefghijklmnopqe", "'peers6' has 17 bytes"),
            (b"d5:peersi1ee", "'peers' is no list"),
            (b"d5:peers99999999999:e", "longer than what is there"),
            (b"d8:intervali99999999999999999999ee", "64 bits"),
            (&long, "longer than 1 MiB"),
            (&deep, "nested too deep"),
        ] {
            let error = parse_reply(body).unwrap_err();
            assert!(matches!(error, AnnounceError::Reply(_)));
            assert!(error.to_string().contains(why), "{error}");
        }
    }

    #[test]
    fn a_bomb_of_peers_brings_a_thousand() {
        let (v4, v6) = ([1_u8; 6 * 5000], [1_u8; 18 * 5000]);
        let body = [&b"d5:peers30000:"[..], &v4, b"6:peers690000:", &v6, b"e"].concat();
        let peers = parse_reply(&body).unwrap().peers;
        let of_v4 = peers.iter().filter(|address| address.is_ipv4()).count();
        assert_eq!((peers.len(), of_v4), (REPLY_PEERS_MAX, REPLY_PEERS_MAX / 2));
        let words = b"d2:ip11:2001:db8::14:porti1ee".repeat(2000);
        let body = [&b"d5:peers30000:"[..], &v4, b"6:peers6l", &words, b"ee"].concat();
        let peers = parse_reply(&body).unwrap().peers;
        let of_v4 = peers.iter().filter(|address| address.is_ipv4()).count();
        assert_eq!((peers.len(), of_v4), (REPLY_PEERS_MAX, REPLY_PEERS_MAX / 2));
        let words = b"d2:ip7:1.2.3.44:porti1ee".repeat(20_000);
        let body = [&b"d5:peersl"[..], &words, b"ee"].concat();
        assert_eq!(parse_reply(&body).unwrap().peers.len(), REPLY_PEERS_MAX);
    }

    #[test]
    fn texts_and_ids_that_are_too_long_are_not_kept() {
        let body = [
            &b"d10:tracker id300:"[..],
            &[b'i'; 300],
            b"15:warning message300:",
            &[b'w'; 300],
            b"e",
        ]
        .concat();
        let reply = parse_reply(&body).unwrap();
        assert_eq!(reply.tracker_id, None);
        assert_eq!(reply.warning.map(|text| text.len()), Some(TEXT_BYTES_MAX));
    }
}
