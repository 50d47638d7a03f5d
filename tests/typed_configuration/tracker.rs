//! `imtracker.toml` beside [`TrackerBuilder`], and what that refuses.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use instantmirror::config::{ConfigError, HttpConfig, OutgoingConfig, TrackerConfig, TrackerLimitsConfig};
use instantmirror::{BuildError, Tracker, TrackerBuilder, TrackerError, TrackerServer};

use crate::keys::{assert_complete, known, stated};
use crate::shared::{LEAVES, LOG, Said, http_cases, log, outgoing_cases, rule};

const ADDRESS: &str = "127.0.0.1:6969";
const HASH: &str = "0123456789abcdef0123456789abcdef01234567";
const OTHER: &str = "fedcba9876543210fedcba9876543210fedcba98";

const LIMITS: &[Said<TrackerLimitsConfig>] = &[
    ("limits.interval = \"7 min\"", |limits| {
        limits.interval = Duration::from_secs(420).into();
    }),
    ("limits.seed_interval = \"7 min\"", |limits| {
        limits.seed_interval = Duration::from_secs(420).into();
    }),
    ("limits.min_interval = \"7 s\"", |limits| {
        limits.min_interval = Duration::from_secs(7).into();
    }),
    ("limits.max_peers = 7", |limits| limits.max_peers = 7),
    ("limits.max_peers_per_torrent = 7", |limits| {
        limits.max_peers_per_torrent = 7;
    }),
    ("limits.max_peers_per_address = 7", |limits| {
        limits.max_peers_per_address = 7;
    }),
    ("limits.handed_out = 7", |limits| limits.handed_out = 7),
    ("limits.max_handed_out = 77", |limits| limits.max_handed_out = 77),
    ("limits.requests_per_minute = 7", |limits| {
        limits.requests_per_minute = 7;
    }),
];

fn parse(text: &str) -> Result<TrackerConfig, ConfigError> {
    TrackerConfig::parse(Path::new("/etc/imtracker.toml"), text)
}

fn file(lines: &str) -> String {
    let base = [
        ("torrents.allow =", format!("torrents.allow = [\"{HASH}\"]\n")),
        ("http.listen =", format!("http.listen = [\"{ADDRESS}\"]\n")),
    ];
    let base = base.iter().filter(|(key, _)| !lines.contains(key));
    base.map(|(_, line)| line.as_str()).collect::<String>() + lines + "\n"
}

fn tracker() -> TrackerBuilder {
    Tracker::builder().torrent(HASH.parse().unwrap())
}

fn listening() -> TrackerBuilder {
    tracker().listen(address(ADDRESS))
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn cases() -> Vec<(String, TrackerBuilder)> {
    let mut cases = vec![
        (String::new(), listening()),
        (
            format!("torrents.allow = [\"{HASH}\", \"{OTHER}\"]"),
            listening().torrent(OTHER.parse().unwrap()),
        ),
        (
            "torrents.masters = [\"https://master.example.org/debian\"]".to_owned(),
            listening().master("https://master.example.org/debian"),
        ),
        (
            "torrents.dir = \"/torrents\"".to_owned(),
            listening().torrent_dir("/torrents"),
        ),
        (
            "torrents.rescan = \"7 s\"".to_owned(),
            listening().rescan(Duration::from_secs(7)),
        ),
        (
            format!("http.listen = [\"127.0.0.1:80\", \"{ADDRESS}\"]"),
            tracker().listen(address("127.0.0.1:80")).listen(address(ADDRESS)),
        ),
        (
            "udp.listen = [\"127.0.0.1:7070\"]".to_owned(),
            listening().listen_udp(address("127.0.0.1:7070")),
        ),
        (
            "control.socket = \"/run/im.sock\"".to_owned(),
            listening().control_socket("/run/im.sock"),
        ),
    ];
    for (text, set) in LIMITS {
        let mut limits = TrackerLimitsConfig::default();
        set(&mut limits);
        cases.push(((*text).to_owned(), listening().limits(limits)));
    }
    cases.extend(
        http_cases(ADDRESS)
            .into_iter()
            .map(|(text, http)| (text, tracker().http(http))),
    );
    cases.extend(outgoing_cases().map(|(text, outgoing)| (text, listening().outgoing(outgoing))));
    cases
}

#[test]
fn a_file_and_rust_say_the_same_of_each_key() {
    let (mut all, mut bare) = (BTreeSet::new(), None);
    for (lines, builder) in cases() {
        let text = file(&lines);
        let config = parse(&text).unwrap_or_else(|error| panic!("{text}{error}"));
        assert_eq!(builder.into_config().as_ref(), Ok(&config), "{text}");
        let changes_nothing = bare.get_or_insert_with(|| config.clone()) == &config;
        assert_eq!(changes_nothing, all.is_empty(), "{text}");
        all.extend(stated(&text, LEAVES));
    }
    all.extend(LOG.iter().map(ToString::to_string));
    // A tracker has no repositories that a rule could be for.
    all.insert("http.rule.repository".to_owned());
    assert_complete(&known(parse, &[]), &all);
}

#[test]
fn a_log_is_said_by_its_settings() {
    let (text, expected) = log();
    assert_eq!(parse(&(text.to_owned() + &file(""))).unwrap().log, expected);
}

#[test]
fn a_tracker_of_a_file_is_the_one_that_is_built() {
    let mut limits = TrackerLimitsConfig::default();
    limits.max_peers = 7;
    let built = listening().limits(limits).build().unwrap();
    let opened = Tracker::open(parse(&file("limits.max_peers = 7")).unwrap()).unwrap();
    assert_eq!(built.config(), opened.config());
}

fn refused(builder: TrackerBuilder) -> String {
    match builder.build() {
        Err(TrackerError::Build(error)) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_cannot_be_used_is_named_with_what_to_do() {
    let limits = |set: fn(&mut TrackerLimitsConfig)| {
        let mut limits = TrackerLimitsConfig::default();
        set(&mut limits);
        tracker().limits(limits)
    };
    let http = |set: fn(&mut HttpConfig)| {
        let mut http = HttpConfig::default();
        set(&mut http);
        tracker().http(http)
    };
    let mut outgoing = OutgoingConfig::default();
    outgoing.client_key = Some("/key".into());
    let twice = format!("torrent '{HASH}': it is there twice");
    for (builder, expected) in [
        (
            Tracker::builder(),
            "torrent is missing: no torrent would be served; say .torrent(INFO_HASH)",
        ),
        (tracker().torrent(HASH.parse().unwrap()), twice.as_str()),
        (tracker().master("ftp://user:secret@a/b"), "master 'ftp://"),
        (tracker().torrent_dir(""), "torrent_dir '': it is no directory"),
        (
            tracker().rescan(Duration::from_millis(10)),
            "rescan '10ms': it must be 1s or more",
        ),
        (
            limits(|limits| limits.max_peers = 0),
            "limits '(settings)': [limits] max_peers = 0: ",
        ),
        (
            limits(|limits| limits.requests_per_minute = 0),
            "limits '(settings)': [limits] requests_per_minute",
        ),
        (
            http(|http| http.max_connections = 0),
            "http '(settings)': [http] max_connections = 0",
        ),
        (
            http(|http| {
                http.rules = vec![rule(|rule| {
                    rule.repository = Some("debian".parse().unwrap());
                    rule.cache = Some("no-store".to_owned());
                })];
            }),
            "http '(settings)': [[http.rule]] repository: there is no repository 'debian' here",
        ),
        (
            tracker().outgoing(outgoing),
            "outgoing '(settings)': client_certificate and client_key",
        ),
        (
            listening().listen(address(ADDRESS)),
            "listen '(settings)': 127.0.0.1:6969 is there twice",
        ),
        (
            tracker().listen_udp(address(ADDRESS)).listen_udp(address(ADDRESS)),
            "listen_udp '(settings)': 127.0.0.1:6969 is there twice",
        ),
    ] {
        let text = refused(builder);
        assert!(text.starts_with(expected), "{text}\n{expected}");
        assert!(!text.contains("secret"), "{text}");
    }
    let missing = Tracker::builder().into_config();
    assert!(matches!(missing, Err(BuildError::Missing { field, .. }) if field == "torrent"));
}

/// A daemon has a control socket wherever it is started; a tracker in another program only if it is told where.
#[tokio::test]
async fn only_a_socket_that_was_asked_for_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("socket");
    let any = address("127.0.0.1:0");
    let plain = TrackerServer::bind(tracker().listen(any).build().unwrap())
        .await
        .unwrap();
    assert!(!Path::new("imtracker.sock").exists() && plain.urls().len() == 1);
    let named = tracker().listen(any).control_socket(&socket).build().unwrap();
    let named = TrackerServer::bind(named).await.unwrap();
    assert!(socket.exists());
    drop(named);
}
