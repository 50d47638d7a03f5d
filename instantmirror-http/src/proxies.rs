//! Who asks, where a proxy stands in front: the address that a trusted proxy tells instead of its own.
//!
//! Key decision: only what trusted addresses say counts, and of a list only what the last of them has added. Reason:
//! everything before that was written by the client, who could be anybody then. One header is read, the one that the proxy
//! is known to set: the other one comes through from the client.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use instantmirror_core::address::AddressBlock;
use proxy_header::{ParseConfig, ProxyHeader};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use crate::message::request::Fields;

/// The longest line of version 1, and what stands before the length in version 2.
const V1_BYTES_MAX: usize = 107;
const V2_HEAD_BYTES: usize = 16;
/// More than addresses and what proxies tell besides.
const V2_BYTES_MAX: usize = 4096;
const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// The header in which proxies tell whom they ask for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ForwardedBy {
    /// `X-Forwarded-For: client, proxy`.
    #[default]
    XForwardedFor,
    /// `Forwarded: for=client, for=proxy` (RFC 7239).
    Forwarded,
}

/// Proxies whose word about their clients counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedProxies {
    blocks: Vec<AddressBlock>,
    header: ForwardedBy,
}

impl TrustedProxies {
    /// Those in these blocks, which tell it in this header.
    #[must_use]
    pub fn new(blocks: Vec<AddressBlock>, header: ForwardedBy) -> Self {
        Self { blocks, header }
    }

    /// Whether this address is one of them.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.blocks.iter().any(|block| block.contains(address))
    }

    /// The client of a request that came from `peer`: the last address of the list that is none of ours. A list that ends
    /// in something else than an address tells no more than that.
    pub(crate) fn client(&self, peer: IpAddr, fields: &Fields<'_>) -> IpAddr {
        if self.blocks.is_empty() || !self.contains(peer) {
            return peer;
        }
        let list = match self.header {
            ForwardedBy::XForwardedFor => fields.x_forwarded_for.as_deref(),
            ForwardedBy::Forwarded => fields.forwarded.as_deref(),
        };
        let mut client = peer;
        for hop in from_the_end(list.unwrap_or_default(), b',') {
            let told = match self.header {
                ForwardedBy::XForwardedFor => Some(hop.trim()),
                ForwardedBy::Forwarded => node_of(hop),
            };
            let Some(address) = told.and_then(address_of) else {
                break;
            };
            client = address;
            if !self.contains(address) {
                break;
            }
        }
        client
    }
}

/// The parts of a list from its last on. A separator inside quotes separates nothing. Read from the end, since what our
/// proxies have added stands there: whoever wrote the rest may have left a quote open.
fn from_the_end(list: &str, separator: u8) -> impl Iterator<Item = &str> {
    let mut rest = Some(list);
    std::iter::from_fn(move || {
        let list = rest?;
        let (bytes, mut is_quoted) = (list.as_bytes(), false);
        let is_escaped = |at: usize| {
            let before = bytes.iter().take(at).rev();
            before.take_while(|byte| **byte == b'\\').count() % 2 == 1
        };
        for (at, byte) in bytes.iter().enumerate().rev() {
            if *byte == b'"' && !is_escaped(at) {
                is_quoted = !is_quoted;
            } else if *byte == separator && !is_quoted {
                let (before, last) = list.split_at(at);
                rest = Some(before);
                return last.get(1..);
            }
        }
        rest.take()
    })
}

/// The `for` of one element of a Forwarded header, without quotes.
fn node_of(element: &str) -> Option<&str> {
    from_the_end(element, b';').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        name.trim()
            .eq_ignore_ascii_case("for")
            .then(|| value.trim().trim_matches('"'))
    })
}

/// An address with or without port; of IPv6 in brackets where there is one.
fn address_of(node: &str) -> Option<IpAddr> {
    let address = if let Some(rest) = node.strip_prefix('[') {
        rest.split_once(']')?.0.parse().ok()
    } else if let Ok(address) = node.parse() {
        Some(address)
    } else {
        node.rsplit_once(':')?.0.parse().ok().filter(IpAddr::is_ipv4)
    };
    address.map(|address| address.to_canonical())
}

/// Reads the header of the PROXY protocol (version 1 or 2) at the beginning of a connection from `peer`, and not a byte
/// more. Returns whom the proxy asks for: `peer` itself if it says that it asks for nobody.
///
/// # Errors
/// For what is no such header, or does not come in time.
pub(crate) async fn read_proxy_header(stream: &mut TcpStream, peer: IpAddr, limit: Duration) -> io::Result<IpAddr> {
    let header = tokio::time::timeout(limit, read_header(stream)).await??;
    let config = ParseConfig {
        include_tlvs: false,
        ..ParseConfig::default()
    };
    let (header, _) = ProxyHeader::parse(&header, config).map_err(|error| io::Error::other(format!("{error:?}")))?;
    let source = header.proxied_address().map(|address| address.source.ip());
    Ok(source.unwrap_or(peer).to_canonical())
}

async fn read_header(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut header = vec![0; V2_SIGNATURE.len()];
    stream.read_exact(&mut header).await?;
    if header == V2_SIGNATURE {
        header.resize(V2_HEAD_BYTES, 0);
        stream.read_exact(&mut header[V2_SIGNATURE.len()..]).await?;
        let len = usize::from(u16::from_be_bytes([header[14], header[15]]));
        if len > V2_BYTES_MAX {
            return Err(io::Error::other("a PROXY header that is too long"));
        }
        header.resize(V2_HEAD_BYTES + len, 0);
        stream.read_exact(&mut header[V2_HEAD_BYTES..]).await?;
    } else if header.starts_with(b"PROXY ") {
        // Byte by byte: what follows the line is the client's.
        while !header.ends_with(b"\r\n") {
            if header.len() == V1_BYTES_MAX {
                return Err(io::Error::other("a PROXY header that is too long"));
            }
            header.push(stream.read_u8().await?);
        }
    } else {
        return Err(io::Error::other("there is no PROXY header"));
    }
    Ok(header)
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[test]
    fn only_what_trusted_proxies_have_added_counts() {
        let blocks: Vec<AddressBlock> = ["10.0.0.0/8", "2001:db8::/32"]
            .map(|block| block.parse().unwrap())
            .into();
        let client = |header: ForwardedBy, peer: &str, text: &str| {
            let mut fields = Fields::default();
            let name = match header {
                ForwardedBy::XForwardedFor => "X-Forwarded-For",
                ForwardedBy::Forwarded => "Forwarded",
            };
            fields.note(name, text.as_bytes());
            let proxies = TrustedProxies::new(blocks.clone(), header);
            proxies.client(peer.parse().unwrap(), &fields).to_string()
        };
        for (peer, list, expected) in [
            ("192.0.2.1", "203.0.113.9", "192.0.2.1"),
            ("10.0.0.1", "203.0.113.9", "203.0.113.9"),
            ("10.0.0.1", "198.51.100.1, 203.0.113.9", "203.0.113.9"),
            ("10.0.0.1", "198.51.100.1,203.0.113.9 , 10.2.3.4", "203.0.113.9"),
            ("10.0.0.1", "127.0.0.1, 203.0.113.9:4711", "203.0.113.9"),
            ("10.0.0.1", "10.9.9.9", "10.9.9.9"),
            ("10.0.0.1", "203.0.113.9, unknown", "10.0.0.1"),
            ("10.0.0.1", "unknown, 10.2.3.4", "10.2.3.4"),
            ("10.0.0.1", "", "10.0.0.1"),
            ("2001:db8::1", "2001:db9::7", "2001:db9::7"),
            ("10.0.0.1", "[2001:db9::7]:80", "2001:db9::7"),
            ("::ffff:10.0.0.1", "::ffff:203.0.113.9", "203.0.113.9"),
        ] {
            assert_eq!(
                client(ForwardedBy::XForwardedFor, peer, list),
                expected,
                "{peer}: {list}"
            );
        }
        for (list, expected) in [
            ("for=203.0.113.9", "203.0.113.9"),
            (
                "for=198.51.100.1, For=\"203.0.113.9:80\";proto=http;by=10.0.0.1",
                "203.0.113.9",
            ),
            ("proto=https;for=\"[2001:db9::7]:4711\", for=10.3.3.3", "2001:db9::7"),
            ("for=_hidden", "10.0.0.1"),
            ("for=203.0.113.9, by=10.0.0.1", "10.0.0.1"),
            // What is quoted is one value, whatever it holds.
            ("for=203.0.113.9;by=\"a,b\"", "203.0.113.9"),
            ("for=203.0.113.9;by=\"a;for=6.6.6.6,\"", "203.0.113.9"),
            ("for=203.0.113.9;by=\"\\\",x\\\\\"", "203.0.113.9"),
            // And what the client leaves open ends nothing of what a proxy says.
            ("for=\"6.6.6.6, for=203.0.113.9", "203.0.113.9"),
            ("for=\"6.6.6.6, for=\"[2001:db9::7]\"", "2001:db9::7"),
        ] {
            assert_eq!(client(ForwardedBy::Forwarded, "10.0.0.1", list), expected, "{list}");
        }
    }

    #[tokio::test]
    async fn both_versions_are_read_to_their_end_and_no_further() {
        let v2 = |command: u8, family: u8, rest: &[u8]| {
            let len = u16::try_from(rest.len()).unwrap().to_be_bytes();
            [&V2_SIGNATURE[..], &[0x20 | command, family], &len, rest].concat()
        };
        let four = [203, 0, 113, 9, 10, 0, 0, 1, 0x12, 0x67, 0, 80, 0x04, 0, 1, 7];
        let cases: [(Vec<u8>, Option<&str>); 9] = [
            (
                b"PROXY TCP4 203.0.113.9 10.0.0.1 4711 80\r\n".to_vec(),
                Some("203.0.113.9"),
            ),
            (
                b"PROXY TCP6 2001:db9::7 2001:db8::1 4711 80\r\n".to_vec(),
                Some("2001:db9::7"),
            ),
            (b"PROXY UNKNOWN\r\n".to_vec(), Some("10.0.0.1")),
            (v2(1, 0x11, &four), Some("203.0.113.9")),
            (v2(0, 0, &[]), Some("10.0.0.1")),
            (b"GET / HTTP/1.1\r\nHost: h\r\n\r\n".to_vec(), None),
            ([&b"PROXY TCP4 "[..], &[b'1'; 120]].concat(), None),
            (b"PROXY TCP4 203.0.113.9 x 4711 80\r\n".to_vec(), None),
            ([&V2_SIGNATURE[..], &[0x21, 0x11, 0xff, 0xff]].concat(), None),
        ];
        for (header, expected) in cases {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut sender = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            sender.write_all(&header).await.unwrap();
            sender.write_all(b"GET").await.unwrap();
            sender.shutdown().await.unwrap();
            let (mut stream, _) = listener.accept().await.unwrap();
            let peer = "10.0.0.1".parse().unwrap();
            let found = read_proxy_header(&mut stream, peer, Duration::from_secs(20)).await;
            let shown = found.as_ref().ok().map(ToString::to_string);
            assert_eq!(
                shown.as_deref(),
                expected,
                "{found:?} {}",
                String::from_utf8_lossy(&header)
            );
            if expected.is_some() {
                let mut rest = Vec::new();
                stream.read_to_end(&mut rest).await.unwrap();
                assert_eq!(rest, b"GET");
            }
        }
    }
}
