//! Announces to trackers that follow a script, on loopback.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::super::{Event, Retry, request};
use super::*;

const SOON: Duration = Duration::from_millis(100);

fn announcer() -> Announcer {
    let timeouts = Timeouts {
        datagram: SOON,
        announce: Duration::from_secs(2),
        other_family: SOON,
    };
    Announcer::new(&AddressPolicy::default(), timeouts).unwrap()
}

async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// Answers one request after the other with these bytes, and returns the requests' first lines.
async fn http_tracker(answers: Vec<Vec<u8>>) -> (TrackerUrl, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/announce?own=1", listener.local_addr().unwrap());
    let served = tokio::spawn(async move {
        let mut lines = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let head = read_head(&mut stream).await;
            lines.push(head.lines().next().unwrap().to_owned());
            // Who has heard enough may have hung up.
            let _ = stream.write_all(&answer).await;
        }
        lines
    });
    (url.parse().unwrap(), served)
}

fn response(status: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\n\r\n");
    [head.as_bytes(), body].concat()
}

async fn by_http(answer: Vec<u8>) -> Result<AnnounceReply, AnnounceError> {
    let (url, served) = http_tracker(vec![answer]).await;
    let result = announcer().announce(&url, &request()).await;
    served.await.unwrap();
    result
}

#[tokio::test]
async fn a_tracker_is_asked_by_http_and_answers() {
    let body = b"d8:intervali60e5:peers6:\x01\x02\x03\x04\0\x05e";
    let (url, served) = http_tracker(vec![response("200 OK", body)]).await;
    let reply = announcer().announce(&url, &request()).await.unwrap();
    assert_eq!(reply.peers, ["1.2.3.4:5".parse().unwrap()]);
    let lines = served.await.unwrap();
    let ought =
        "GET /announce?own=1&info_hash=%00%FFabcdefghijk%20%25%26%3D%2B-z&peer_id=-IM0100-0123456789ab&port=6881";
    assert!(lines[0].starts_with(ought), "{lines:?}");
}

/// Names of the world may lead nowhere where a proxy is needed to get out.
#[tokio::test]
async fn by_a_proxy_only_the_proxy_has_to_know_where_the_tracker_is() {
    let body = b"d8:intervali60e5:peers6:\x01\x02\x03\x04\0\x05e";
    let answers = vec![
        response("200 OK", body),
        response("403 Forbidden", b"no"),
        response("403 Forbidden", b"no"),
    ];
    let (proxy, served) = http_tracker(answers).await;
    let proxies = Proxies::all(&SecretUrl::from(proxy.url().as_str())).unwrap();
    let mut policy = AddressPolicy::default();
    policy.allow = vec!["192.0.2.0/24".parse().unwrap()];
    let outgoing = Outgoing {
        policy,
        proxies,
        ..Outgoing::default()
    };
    let announcer = Announcer::from_addresses(&outgoing, Timeouts::default(), &[]).unwrap();
    let tracker = "http://tracker.invalid:6969/announce".parse().unwrap();
    let reply = announcer.announce(&tracker, &request()).await.unwrap();
    assert_eq!(reply.peers, ["1.2.3.4:5".parse().unwrap()]);
    let refused = announcer.announce(&tracker, &request()).await.unwrap_err().to_string();
    assert!(
        refused.contains("403") && refused.contains("through the proxy http://127.0.0.1:"),
        "{refused}"
    );
    served.abort();
}

#[tokio::test]
async fn who_is_sent_on_in_vain_by_a_tracker_is_told_where_to() {
    let (place, _served) = http_tracker(vec![response("503 Service Unavailable", b"")]).await;
    let status = format!("302 Found\r\nLocation: {place}?passkey=SECRET");
    let error = by_http(response(&status, b"")).await.unwrap_err().to_string();
    assert!(
        error.contains("503") && error.contains(&format!("(sent on to {place})")),
        "{error}"
    );
}

#[tokio::test]
async fn no_announce_uses_the_connection_of_another() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
    // It promises by its version to answer again, and does not.
    let served = tokio::spawn(async move {
        let mut streams = Vec::new();
        for _ in 0..3 {
            let (mut stream, _) = listener.accept().await.unwrap();
            let head = read_head(&mut stream).await.to_lowercase();
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nde";
            stream.write_all(answer).await.unwrap();
            streams.push((stream, head));
        }
        streams
    });
    let announcer = announcer();
    for _ in 0..3 {
        announcer.announce(&url, &request()).await.unwrap();
    }
    for (_, head) in served.await.unwrap() {
        assert!(
            head.contains("connection: close") && head.contains("accept-encoding: identity"),
            "{head}"
        );
    }
}

#[tokio::test]
async fn refusals_are_heard_whatever_their_status() {
    for status in ["200 OK", "400 Bad Request", "503 Service Unavailable"] {
        let refused = by_http(response(status, b"d14:failure reason4:full8:retry ini1ee")).await;
        let reason = "full".to_owned();
        let retry = Retry::After(Duration::from_secs(60));
        assert_eq!(refused, Err(AnnounceError::Refused { reason, retry }));
    }
}

#[tokio::test]
async fn what_is_no_reply_says_what_it_is() {
    for (answer, why) in [
        (response("503 Service Unavailable", b"<html>"), "503"),
        (response("404 Not Found", b"d8:intervali60ee"), "404"),
        (response("200 OK", b"<html>"), "no bencode"),
        (
            response("200 OK", &vec![b'0'; REPLY_BYTES_MAX + 1]),
            "longer than 1 MiB",
        ),
        (b"SSH-2.0\r\n\r\n".to_vec(), "cannot be reached"),
        (response("302 Found\r\nLocation: ftp://127.0.0.1/", b""), "scheme"),
    ] {
        let error = by_http(answer).await.unwrap_err().to_string();
        assert!(error.contains(why), "{why}: {error}");
        assert!(!error.contains("info_hash"), "{error}");
    }
}

#[tokio::test]
async fn a_redirect_is_followed_and_an_endless_one_is_not() {
    let found = |to: &str| response(&format!("302 Found\r\nLocation: {to}"), b"");
    let (url, served) = http_tracker(vec![found("/elsewhere"), response("200 OK", b"de")]).await;
    announcer().announce(&url, &request()).await.unwrap();
    assert!(served.await.unwrap()[1].starts_with("GET /elsewhere"));
    let (url, served) = http_tracker(vec![found("/again"); 1 + REDIRECTS_MAX]).await;
    let error = announcer().announce(&url, &request()).await.unwrap_err();
    assert!(error.to_string().contains("too many redirects"), "{error}");
    served.await.unwrap();
}

#[test]
fn redirects_do_not_become_less_safe() {
    assert!(may_follow("http", "http") && may_follow("http", "https") && may_follow("https", "https"));
    assert!(!may_follow("https", "http") && !may_follow("http", "file"));
}

#[tokio::test]
async fn a_tracker_that_is_silent_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/announce", listener.local_addr().unwrap())
        .parse()
        .unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let udp = format!("udp://{}", socket.local_addr().unwrap()).parse().unwrap();
    let mut announcer = announcer();
    announcer.timeouts.announce = Duration::from_millis(300);
    for url in [url, udp] {
        let begun = Instant::now();
        let error = announcer.announce(&url, &request()).await.unwrap_err().to_string();
        assert!(error.contains("no answer in 300ms"), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(2));
    }
}

#[tokio::test]
async fn a_tracker_that_is_gone_is_known_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let urls = [
        format!("http://{}", listener.local_addr().unwrap()),
        format!("udp://{}", socket.local_addr().unwrap()),
    ];
    drop((listener, socket));
    for url in urls {
        let error = announcer()
            .announce(&url.parse().unwrap(), &request())
            .await
            .unwrap_err();
        assert!(error.to_string().contains("refused"), "{url}: {error}");
    }
}

#[tokio::test]
async fn the_address_policy_holds_for_trackers() {
    let mut policy = AddressPolicy::default();
    policy.deny = vec!["127.0.0.0/8".parse().unwrap()];
    let announcer = Announcer::new(&policy, Timeouts::default()).unwrap();
    for url in ["http://127.0.0.1:1/", "udp://127.0.0.1:1/"] {
        let error = announcer.announce(&url.parse().unwrap(), &request()).await.unwrap_err();
        assert!(error.to_string().contains("admits none"), "{error}");
    }
}

/// Answers datagrams as the script says, which gets their number and what they say, until it is stopped.
struct UdpTracker {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for UdpTracker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl UdpTracker {
    async fn at(place: &str, mut script: impl FnMut(usize, &[u8]) -> Vec<Vec<u8>> + Send + 'static) -> Self {
        let socket = UdpSocket::bind(place).await.unwrap();
        let address = socket.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let mut buffer = [0; 2048];
            for number in 0.. {
                let (len, from) = socket.recv_from(&mut buffer).await.unwrap();
                for answer in script(number, &buffer[..len]) {
                    socket.send_to(&answer, from).await.unwrap();
                }
            }
        });
        Self { address, task }
    }

    async fn new(script: impl FnMut(usize, &[u8]) -> Vec<Vec<u8>> + Send + 'static) -> Self {
        Self::at("127.0.0.1:0", script).await
    }

    async fn asked(&self) -> Result<AnnounceReply, AnnounceError> {
        let url = format!("udp://{}", self.address).parse().unwrap();
        announcer().announce(&url, &request()).await
    }
}

const ID: &[u8; 8] = b"connecti";

/// The right answer to a datagram, with one peer.
fn right(packet: &[u8], peer: &[u8]) -> Vec<u8> {
    let (action, transaction) = (&packet[8..12], &packet[12..16]);
    if action == [0; 4] {
        assert_eq!(packet[..8], udp::connect(0)[..8]);
        return [action, transaction, ID].concat();
    }
    assert_eq!(packet[..8], *ID);
    assert_eq!(packet[16..36], *request().info_hash.as_bytes());
    [action, transaction, &[0, 0, 7, 8, 0, 0, 0, 1, 0, 0, 0, 2], peer].concat()
}

const PEER: &[u8] = b"\x01\x02\x03\x04\0\x05";

#[tokio::test]
async fn a_tracker_is_asked_by_udp_and_answers() {
    let tracker = UdpTracker::new(|_, packet| vec![right(packet, PEER)]).await;
    let reply = tracker.asked().await.unwrap();
    assert_eq!(reply.peers, ["1.2.3.4:5".parse().unwrap()]);
    assert_eq!(reply.interval, Duration::from_secs(1800));
    assert_eq!((reply.incomplete, reply.complete), (Some(1), Some(2)));
}

#[tokio::test]
async fn lost_datagrams_are_sent_again() {
    // The first connect and the first two announces are lost.
    let tracker = UdpTracker::new(|number, packet| match number {
        0 | 2 | 3 => vec![],
        _ => vec![right(packet, PEER)],
    });
    let (tracker, begun) = (tracker.await, Instant::now());
    assert_eq!(tracker.asked().await.unwrap().peers.len(), 1);
    let elapsed = begun.elapsed();
    assert!(
        elapsed >= SOON + SOON + 2 * SOON,
        "each wait is twice the one before: {elapsed:?}"
    );
}

#[tokio::test]
async fn answers_to_other_transactions_are_passed_over() {
    let tracker = UdpTracker::new(|_, packet| {
        let mut forged = right(packet, b"\x09\x09\x09\x09\0\x09");
        forged[4] ^= 1;
        let mut refusal = forged.clone();
        refusal[..4].copy_from_slice(&[0, 0, 0, 3]);
        vec![forged, vec![], b"short".to_vec(), refusal, right(packet, PEER)]
    });
    let reply = tracker.await.asked().await.unwrap();
    assert_eq!(reply.peers, ["1.2.3.4:5".parse().unwrap()]);
}

#[tokio::test]
async fn refusals_and_nonsense_by_udp_end_the_announce() {
    let refusal = |packet: &[u8]| [&[0, 0, 0, 3], &packet[12..16], b"not here"].concat();
    let tracker = UdpTracker::new(move |number, packet| match number {
        0 => vec![right(packet, PEER)],
        _ => vec![refusal(packet)],
    });
    let error = tracker.await.asked().await.unwrap_err();
    assert_eq!(error.to_string(), "the tracker refuses: not here");
    // A connection id where an announce was sent, an announce where an id was asked for, and half of one.
    for (action, length) in [(0, 16), (1, 20), (1, 15)] {
        let tracker = UdpTracker::new(move |number, packet| {
            let mut odd = [&[0, 0, 0, action], &packet[12..16], &[1; 30]].concat();
            odd.truncate(length);
            match number {
                0 if action == 0 => vec![right(packet, PEER)],
                _ => vec![odd],
            }
        });
        let error = tracker.await.asked().await.unwrap_err();
        assert!(matches!(error, AnnounceError::Reply(_)), "{error}");
    }
}

/// Asks two trackers as if they were one, by IPv4 and by IPv6.
async fn by_both(v4: &UdpTracker, v6: &UdpTracker) -> Result<AnnounceReply, AnnounceError> {
    let url = "udp://t.example:1".parse().unwrap();
    let at = [Some(v4.address), Some(v6.address)];
    let announcer = announcer();
    let deadline = Instant::now() + Duration::from_millis(600);
    announcer.announce_at(&url, &request(), at, deadline).await
}

const PEER_V6: &[u8] = b"\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x1a\xe1";

#[tokio::test]
async fn both_address_families_are_told_and_one_is_enough() {
    let v4 = UdpTracker::new(|_, packet| vec![right(packet, PEER)]).await;
    let v6 = UdpTracker::at("[::1]:0", |_, packet| vec![right(packet, PEER_V6)]).await;
    let peers = by_both(&v4, &v6).await.unwrap().peers;
    assert_eq!(
        peers,
        ["1.2.3.4:5".parse().unwrap(), "[2001:db8::1]:6881".parse().unwrap()]
    );
    let mute = UdpTracker::new(|_, _| vec![]).await;
    let begun = Instant::now();
    assert_eq!(by_both(&mute, &v6).await.unwrap().peers.len(), 1);
    assert!(
        begun.elapsed() < Duration::from_millis(500),
        "the other one is not waited for to the end"
    );
    let refusing = UdpTracker::at("[::1]:0", |_, packet| {
        vec![[&[0, 0, 0, 3], &packet[12..16], b"no"].concat()]
    });
    let error = by_both(&mute, &refusing.await).await.unwrap_err();
    assert!(matches!(error, AnnounceError::Refused { .. }), "{error}");
    let mute_v6 = UdpTracker::at("[::1]:0", |_, _| vec![]).await;
    let error = by_both(&mute, &mute_v6).await.unwrap_err();
    assert!(matches!(error, AnnounceError::Unreachable(_)), "{error}");
}

#[tokio::test]
async fn a_name_is_resolved() {
    let tracker = UdpTracker::new(|_, packet| vec![right(packet, PEER)]).await;
    let url = format!("udp://localhost:{}", tracker.address.port()).parse().unwrap();
    let stopped = AnnounceRequest {
        event: Event::Stopped,
        ..request()
    };
    assert_eq!(announcer().announce(&url, &stopped).await.unwrap().peers.len(), 1);
    let nowhere = "udp://nowhere.invalid:1".parse().unwrap();
    let error = announcer().announce(&nowhere, &request()).await.unwrap_err();
    assert!(matches!(error, AnnounceError::Unreachable(_)), "{error}");
}
