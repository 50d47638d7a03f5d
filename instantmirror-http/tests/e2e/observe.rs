//! The same requests over every protocol: the same entries in the access log, and the same counters.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use instantmirror_http::{AccessLog, AccessLogFormat, Server, Stats, Tls};

use serde_json::Value;

use crate::world::{Item, World, start_on};

/// How curl asks: its options, and the scheme of its URLs.
const PROTOCOLS: [(&str, &str, &str); 3] = [
    ("--http1.1", "http", "HTTP/1.1"),
    ("--http1.1", "https", "HTTP/1.1"),
    ("--http2", "https", "HTTP/2.0"),
];

/// Options and target of each request. The first one for a file is answered from its object, later ones from what is
/// kept ready.
const REQUESTS: [(&[&str], &str); 14] = [
    (&[], "/debian/snap/current/small"),
    (&[], "/debian/snap/current/small"),
    (&["-I"], "/debian/snap/current/small"),
    (&["-r", "1-3"], "/debian/snap/current/small"),
    (&["-r", "1-1,3-3"], "/debian/snap/current/small"),
    (&["-H", "If-None-Match: *"], "/debian/snap/current/small"),
    (&[], "/debian/snap/current/large"),
    (&["-r", "100000-299999"], "/debian/snap/current/large"),
    (&["-I"], "/debian/snap/current/empty"),
    (&[], "/debian/snap/current/"),
    (&[], "/debian/snap/current/%22nothing%22?x=y"),
    (&["-X", "PUT"], "/debian/snap/current/small"),
    (&["-X", "POST"], "/debian/snap/current/small"),
    (&["-X", "OPTIONS"], "/debian/snap/current/small"),
];

fn certify(certificate: &Path, key: &Path) {
    let mut openssl = Command::new("openssl");
    openssl.args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=mirror".split(' '));
    let made = openssl.arg("-keyout").arg(key).arg("-out").arg(certificate).output();
    assert!(made.unwrap().status.success());
}

fn ask(address: SocketAddr, protocol: &str, scheme: &str, options: &[&str], target: &str) {
    let mut curl = Command::new("curl");
    curl.args(["-sSk", "-m", "20", "-o", "/dev/null", "-A", "test/1", "-e", "a\"b"]);
    curl.args([protocol, "--connect-to", &format!("mirror::{address}")])
        .args(options);
    let done = curl.arg(format!("{scheme}://mirror{target}")).output().unwrap();
    assert!(
        done.status.success(),
        "{target}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
}

/// What is told of all requests over one protocol: entries without what differs by nature, and counters.
async fn observed(
    dir: &Path,
    (protocol, scheme, version): (&'static str, &'static str, &'static str),
) -> (Vec<Value>, Stats) {
    let world = World::new();
    let items = vec![
        ("small", Item::File("content".into())),
        ("large", Item::File(Bytes::from(vec![7; 400_000]))),
        ("empty", Item::File(Bytes::new())),
    ];
    world.publish(1, items, true).await;
    let path = dir.join(format!("{scheme}{protocol}.log"));
    let log = AccessLog::open(&path, AccessLogFormat::Json).unwrap();
    let service = world.service().with_api(world.api()).with_access_log(log);
    let mut server = Server::default();
    let address = "127.0.0.1:0".parse().unwrap();
    let address = if scheme == "https" {
        let tls = Tls::load(&dir.join("certificate.pem"), &dir.join("key.pem")).unwrap();
        server.listen_tls(address, tls).await.unwrap()
    } else {
        server.listen(address).await.unwrap()
    };
    let server = start_on(server, service);
    for (options, target) in REQUESTS {
        tokio::task::spawn_blocking(move || ask(address, protocol, scheme, options, target))
            .await
            .unwrap();
    }
    let service = Arc::clone(&server.service);
    server.stop().await;
    let stats = service.stats();
    drop(service);
    // Whoever lets go of the log last has it written.
    let mut text = String::new();
    while text.lines().count() < REQUESTS.len() {
        tokio::time::sleep(Duration::from_millis(10)).await;
        text = std::fs::read_to_string(&path).unwrap();
    }
    let entries = text.lines().map(|line| {
        let mut entry: Value = serde_json::from_str(line).unwrap();
        assert_eq!(entry["version"], version, "{entry}");
        for differs in ["time", "seconds", "version"] {
            assert!(entry.as_object_mut().unwrap().remove(differs).is_some());
        }
        entry
    });
    (entries.collect(), stats)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_protocol_is_observed_alike() {
    let dir = tempfile::tempdir().unwrap();
    certify(&dir.path().join("certificate.pem"), &dir.path().join("key.pem"));
    let (entries, stats) = observed(dir.path(), PROTOCOLS[0]).await;
    for (number, bytes, cache) in [(0, 7, "hit"), (1, 7, "hit"), (2, 0, "-"), (5, 0, "-")] {
        let entry = &entries[number];
        assert!(entry["bytes"] == bytes && entry["cache"] == cache, "{entry}");
    }
    assert!(stats.answers_hot >= 4 && stats.by_status[&304] == 1, "{stats:?}");
    for protocol in &PROTOCOLS[1..] {
        let (others, other) = observed(dir.path(), *protocol).await;
        assert_eq!(entries.len(), others.len(), "{protocol:?}");
        for (entry, others) in entries.iter().zip(&others) {
            assert_eq!(entry, others, "{protocol:?}");
        }
        // A kernel encrypts nothing, so no bytes of files go by it there; how many connections there were is curl's matter.
        let comparable = |stats: &Stats| Stats {
            sendfile_bytes: 0,
            connections_accepted: 0,
            connections_open: 0,
            ..stats.clone()
        };
        assert_eq!(comparable(&stats), comparable(&other), "{protocol:?}");
    }
}
