//! The queries of announces and scrapes by HTTP (BEP 3, 7, 23, 48). Values are bytes, percent-encoded.

use crate::{Announce, Event, InfoHash, PeerId};

/// Longest query that is read: a scrape of as many torrents as are answered at once, everything percent-encoded.
pub const QUERY_BYTES_MAX: usize = 8192;
/// Most torrents in one scrape, by HTTP as by UDP.
pub const SCRAPED_MAX: usize = 74;

/// What is wrong with a query. The text is sent to the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QueryError {
    /// Longer than any that makes sense.
    #[error("the query has {0} bytes; {QUERY_BYTES_MAX} are the most")]
    TooLong(usize),
    /// A parameter that has to be there is not.
    #[error("the query has no {0}")]
    Missing(&'static str),
    /// A parameter that says one thing only is there twice.
    #[error("the query has more than one {0}")]
    Twice(&'static str),
    /// Hashes and ids are 20 bytes.
    #[error(
        "{name} has {length} bytes instead of 20 (it must be sent as bytes, percent-encoded, not as hexadecimal digits)"
    )]
    NotTwenty {
        /// The parameter.
        name: &'static str,
        /// Its length when decoded.
        length: usize,
    },
    /// Not a number, or one that cannot be.
    #[error("{0} is no number that can be used here")]
    Number(&'static str),
    /// A percent sign without two hexadecimal digits.
    #[error("{0} is not percent-encoded as it should be")]
    Encoding(&'static str),
    /// More than are answered at once.
    #[error("a scrape may name {SCRAPED_MAX} torrents at most")]
    TooMany,
}

/// An announce, and in which form its answer is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnnounceQuery {
    /// What is announced.
    pub announce: Announce,
    /// Peers in six bytes each (BEP 23), as all clients want them; otherwise as dictionaries.
    pub compact: bool,
    /// Whether dictionaries need no peer ids.
    pub no_peer_id: bool,
}

/// The values of a parameter, still encoded.
fn values<'a>(query: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .filter(move |(key, _)| *key == name)
        .map(|(_, value)| value)
}

fn one<'a>(query: &'a str, name: &'static str) -> Result<Option<&'a str>, QueryError> {
    let mut all = values(query, name);
    let first = all.next();
    match all.next() {
        Some(_) => Err(QueryError::Twice(name)),
        None => Ok(first),
    }
}

/// Percent-decoding to bytes. A plus sign is a plus sign: these are no forms.
fn decode(name: &'static str, text: &str) -> Result<Vec<u8>, QueryError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let pair = digit(rest.next()).zip(digit(rest.next()));
        let (high, low) = pair.ok_or(QueryError::Encoding(name))?;
        bytes.push(u8::try_from(high << 4 | low).map_err(|_| QueryError::Encoding(name))?);
    }
    Ok(bytes)
}

fn twenty(name: &'static str, text: &str) -> Result<[u8; 20], QueryError> {
    let bytes = decode(name, text)?;
    let length = bytes.len();
    bytes.try_into().map_err(|_| QueryError::NotTwenty { name, length })
}

fn check_length(query: &str) -> Result<(), QueryError> {
    match query.len() {
        length if length > QUERY_BYTES_MAX => Err(QueryError::TooLong(length)),
        _ => Ok(()),
    }
}

/// Reads an announce. Parameters that are not known are ignored, `ip` among them.
///
/// # Errors
/// [`QueryError`].
pub fn parse_announce(query: &str) -> Result<AnnounceQuery, QueryError> {
    check_length(query)?;
    let needed = |name| one(query, name)?.ok_or(QueryError::Missing(name));
    let port: u16 = needed("port")?.parse().map_err(|_| QueryError::Number("port"))?;
    if port == 0 {
        return Err(QueryError::Number("port"));
    }
    let left = match one(query, "left")? {
        // Some clients send -1 as long as they do not know.
        None | Some("" | "-1") => None,
        Some(text) => Some(text.parse().map_err(|_| QueryError::Number("left"))?),
    };
    let wanted = match one(query, "numwant")? {
        None | Some("") => None,
        Some(text) => match text.parse::<i64>() {
            Ok(wanted) => u32::try_from(wanted).ok(),
            Err(_) => return Err(QueryError::Number("numwant")),
        },
    };
    let event = match one(query, "event")? {
        Some("started") => Event::Started,
        Some("stopped") => Event::Stopped,
        Some("completed") => Event::Completed,
        Some("paused") => Event::Paused,
        // What is added to the protocol one day is an announce still.
        _ => Event::Regular,
    };
    let key = one(query, "key")?.map_or(Ok(Vec::new()), |text| decode("key", text))?;
    Ok(AnnounceQuery {
        announce: Announce {
            info_hash: InfoHash(twenty("info_hash", needed("info_hash")?)?),
            peer_id: PeerId(twenty("peer_id", needed("peer_id")?)?),
            port,
            left,
            event,
            wanted,
            key: key_of(&key),
        },
        compact: one(query, "compact")? != Some("0"),
        no_peer_id: one(query, "no_peer_id")? == Some("1"),
    })
}

/// Clients that send the same key by UDP write it in hexadecimal digits; others send any text.
fn key_of(text: &[u8]) -> u32 {
    let digits = std::str::from_utf8(text).ok().filter(|text| text.len() <= 8);
    let number = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
    number.unwrap_or_else(|| {
        let mix = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        match text {
            [] => 0,
            text => text.iter().fold(0x811c_9dc5, mix),
        }
    })
}

/// Reads a scrape.
///
/// # Errors
/// [`QueryError`]: one that names no torrent among them, for the list of all is nobody's business.
pub fn parse_scrape(query: &str) -> Result<Vec<InfoHash>, QueryError> {
    check_length(query)?;
    let hashes: Vec<InfoHash> = values(query, "info_hash")
        .take(SCRAPED_MAX + 1)
        .map(|text| twenty("info_hash", text).map(InfoHash))
        .collect::<Result<_, _>>()?;
    match hashes.len() {
        0 => Err(QueryError::Missing("info_hash")),
        count if count > SCRAPED_MAX => Err(QueryError::TooMany),
        _ => Ok(hashes),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "info_hash=%01%23Eg%89%AB%cd%ef%01%23Eg%89%AB%cd%ef%01%23Eg&peer_id=-XX0000-abcdefghijk%6c&port=6881\
        &uploaded=0&downloaded=0&left=5&event=started&numwant=80&key=1A2B&ip=10.0.0.1&compact=1&supportcrypto=1";

    #[test]
    fn an_announce_as_clients_send_it() {
        let read = parse_announce(GOOD).unwrap();
        let announce = &read.announce;
        assert_eq!(
            announce.info_hash.to_string(),
            "0123456789abcdef0123456789abcdef01234567"
        );
        assert_eq!(&announce.peer_id.0, b"-XX0000-abcdefghijkl");
        assert_eq!((announce.port, announce.left, announce.key), (6881, Some(5), 0x1a2b));
        assert_eq!((announce.event, announce.wanted), (Event::Started, Some(80)));
        assert!(read.compact && !read.no_peer_id);
        let other = parse_announce(&GOOD.replace("compact=1", "compact=0&no_peer_id=1").replace("80", "-1")).unwrap();
        assert!(!other.compact && other.no_peer_id);
        assert_eq!(other.announce.wanted, None);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let hash = "info_hash=%01%23Eg%89%AB%cd%ef%01%23Eg%89%AB%cd%ef%01%23Eg";
        for (from, to, said) in [
            (hash, "", "has no info_hash"),
            (
                hash,
                "info_hash=0123456789abcdef0123456789abcdef01234567",
                "40 bytes instead of 20",
            ),
            ("%01%23", "%0x", "not percent-encoded"),
            ("%01%23", "%+1%23", "not percent-encoded"),
            ("peer_id=-", "peer_id=", "peer_id has 19 bytes"),
            ("&port=6881", "", "has no port"),
            ("port=6881", "port=0", "port is no number"),
            ("port=6881", "port=65536", "port is no number"),
            ("port=6881", "port=6881&port=6882", "more than one port"),
            ("left=5", "left=much", "left is no number"),
            ("numwant=80", "numwant=x", "numwant is no number"),
            ("ip=10.0.0.1", &"x".repeat(9000), "are the most"),
        ] {
            let query = GOOD.replacen(from, to, 1);
            let error = parse_announce(&query).unwrap_err().to_string();
            assert!(error.contains(said), "{query}: {error}");
        }
    }

    #[test]
    fn a_scrape_names_its_torrents() {
        let one = "info_hash=aaaaaaaaaaaaaaaaaaaa";
        assert_eq!(parse_scrape(one).unwrap(), [InfoHash([b'a'; 20])]);
        assert_eq!(parse_scrape(&vec![one; 74].join("&")).unwrap().len(), 74);
        assert_eq!(parse_scrape(&vec![one; 75].join("&")), Err(QueryError::TooMany));
        assert_eq!(parse_scrape(""), Err(QueryError::Missing("info_hash")));
        assert!(parse_scrape("info_hash=a").is_err());
    }

    #[test]
    fn keys_differ() {
        assert_eq!((key_of(b""), key_of(b"ff")), (0, 255));
        assert_ne!(key_of(b"qwertzui"), key_of(b"qwertzuj"));
    }

    proptest! {
        #[test]
        fn any_bytes_come_through(hash: [u8; 20], id: [u8; 20], port in 1..=u16::MAX, left: u64) {
            let encode = |bytes: [u8; 20]| bytes.iter().map(|byte| format!("%{byte:02x}")).collect::<String>();
            let query = format!("info_hash={}&peer_id={}&port={port}&left={left}", encode(hash), encode(id));
            let read = parse_announce(&query).unwrap().announce;
            prop_assert_eq!((read.info_hash.0, read.peer_id.0, read.port, read.left), (hash, id, port, Some(left)));
        }

        #[test]
        fn no_query_makes_it_panic(query in "\\PC*", tail in "[&=%a-f0-9]*") {
            let _ = parse_announce(&format!("{query}{tail}"));
            let _ = parse_scrape(&format!("info_hash={tail}{query}"));
        }
    }
}
