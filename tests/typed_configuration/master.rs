//! `imserver.toml` beside [`MasterBuilder`] and [`Repository`].

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use instantmirror::config::{
    ByteSize, CheckKind, ConfigError, HttpConfig, IgnoreKind, ImportKind, NodesConfig, PrivateKind, RetentionConfig,
    ServerConfig, SymlinkKind, TorrentConfig, TorrentsConfig, UnpublishableKind,
};
use instantmirror::core::RepoPath;
use instantmirror::master::{MasterBuilder, Repository};
use instantmirror::{BuildError, Master};

use crate::keys::{assert_complete, known, stated};
use crate::shared::{LEAVES, LOG, Said, http_cases, log, mount_cases, outgoing_cases, peer_cases, rule};

const ADDRESS: &str = "127.0.0.1:8080";

/// Lines of a file, keys of its repository, and the same in Rust.
struct Case {
    lines: String,
    repository: String,
    builder: MasterBuilder,
}

/// `[retention]`, and `retention` of a repository.
const RETENTION: &[Said<RetentionConfig>] = &[
    ("keep_last = 7", |retention| retention.keep_last = 7),
    ("keep_within = \"7 d\"", |retention| {
        retention.keep_within = Some(Duration::from_secs(7 * 86_400).into());
    }),
    ("keep_hourly = 7", |retention| retention.keep_hourly = 7),
    ("keep_daily = 7", |retention| retention.keep_daily = 7),
    ("keep_weekly = 7", |retention| retention.keep_weekly = 7),
    ("keep_monthly = 7", |retention| retention.keep_monthly = 7),
    ("keep_yearly = 7", |retention| retention.keep_yearly = 7),
    ("max_bytes = \"7 GiB\"", |retention| {
        retention.max_bytes = Some(ByteSize(7 << 30));
    }),
    ("delete_after = \"7 h\"", |retention| {
        retention.delete_after = Duration::from_secs(7 * 3600).into();
    }),
];

fn parse(text: &str) -> Result<ServerConfig, ConfigError> {
    ServerConfig::parse(Path::new("/etc/imserver.toml"), text)
}

fn repository() -> Repository {
    Repository::new("debian").source("/srv/debian")
}

fn bare() -> MasterBuilder {
    Master::builder().dir("/store")
}

fn master() -> MasterBuilder {
    bare().listen(ADDRESS.parse().unwrap())
}

/// Of the master alone.
fn said(lines: impl Into<String>, builder: MasterBuilder) -> Case {
    let (lines, builder) = (lines.into(), builder.repository(repository()));
    Case {
        lines,
        repository: String::new(),
        builder,
    }
}

/// Of its repository alone.
fn said_of_repository(keys: impl Into<String>, repository: Repository) -> Case {
    Case {
        lines: String::new(),
        repository: format!(", {}", keys.into()),
        builder: master().repository(repository),
    }
}

impl Case {
    /// The whole file: what every case has, and what is its own.
    fn file(&self) -> String {
        let Self { lines, repository, .. } = self;
        let base = [
            ("store.dir =", "store.dir = \"/store\"".to_owned()),
            ("http.listen =", format!("http.listen = [\"{ADDRESS}\"]")),
        ];
        let mut text = String::new();
        for (key, line) in base.iter().filter(|(key, _)| !lines.contains(key)) {
            assert!(line.starts_with(key));
            text += &format!("{line}\n");
        }
        let table = match repository.contains("source =") {
            true => format!("name = \"debian\"{repository}"),
            false => format!("name = \"debian\", source = \"/srv/debian\"{repository}"),
        };
        text + &format!("{lines}\nrepository = [{{ {table} }}]\n")
    }
}

/// All that [`RETENTION`] says.
fn retention_cases() -> impl Iterator<Item = (&'static str, RetentionConfig)> {
    RETENTION.iter().map(|(text, set)| {
        let mut retention = RetentionConfig::default();
        set(&mut retention);
        (*text, retention)
    })
}

fn store_cases() -> Vec<Case> {
    let nodes = |set: fn(&mut NodesConfig)| {
        let mut nodes = NodesConfig::default();
        set(&mut nodes);
        master().nodes(nodes)
    };
    let two = "http.listen = [\"127.0.0.1:8080\", \"127.0.0.1:8082\"]";
    let mut cases = vec![
        said("", master()),
        said("store.dir = \"/other\"", master().dir("/other")),
        said("store.key_file = \"/key\"", master().key_file("/key")),
        said("retention.keep_last = 8", master().keep_last(8)),
        said(
            "snapshots.grace = \"7 h\"",
            master().grace(Duration::from_secs(7 * 3600)),
        ),
        said("snapshots.grace_never = [\"*.iso\"]", master().grace_never("*.iso")),
        said("snapshots.grace_optional = true", master().grace_optional(true)),
        said(
            "nodes.allow = [\"192.0.2.0/24\"]",
            nodes(|nodes| nodes.allow = vec!["192.0.2.0/24".parse().unwrap()]),
        ),
        said(
            "nodes.deny = [\"203.0.113.0/24\"]",
            nodes(|nodes| nodes.deny = vec!["203.0.113.0/24".parse().unwrap()]),
        ),
        said(two, master().listen("127.0.0.1:8082".parse().unwrap())),
        said(
            "control.socket = \"/run/imserver.sock\"",
            master().control_socket("/run/imserver.sock"),
        ),
    ];
    for (text, retention) in retention_cases() {
        cases.push(said(format!("retention.{text}"), master().retention(retention)));
    }
    cases
}

fn torrents(set: fn(&mut TorrentsConfig)) -> MasterBuilder {
    let mut torrents = TorrentsConfig::default();
    set(&mut torrents);
    master().torrents(torrents)
}

fn swarm_cases() -> Vec<Case> {
    let listening = || master().listen_peers("127.0.0.1:6881".parse().unwrap());
    let mut cases = vec![
        said(
            "torrents.web_seeds = [\"https://mirror.example.org\"]",
            torrents(|torrents| torrents.web_seeds = vec!["https://mirror.example.org".to_owned()]),
        ),
        said(
            "torrents.trackers = [\"udp://192.0.2.7:6969\"]",
            torrents(|torrents| torrents.trackers = vec!["udp://192.0.2.7:6969".into()]),
        ),
        said("peers.listen = [\"127.0.0.1:6881\"]", listening()),
        said(
            "peers.listen = [\"127.0.0.1:6881\"]\npeers.trackers = [\"udp://192.0.2.7:6969\"]",
            listening().tracker("udp://192.0.2.7:6969"),
        ),
    ];
    cases.extend(
        peer_cases()
            .into_iter()
            .map(|(text, peers)| said(text, master().peers(peers))),
    );
    cases
}

/// A method of a repository.
type Method = fn(Repository) -> Repository;

/// `[[repository]]`, in inline tables.
const REPOSITORY: &[(&str, Method)] = &[
    ("source = \"/srv/other\"", |one| one.source("/srv/other")),
    ("import = \"hardlink\"", |one| one.import(ImportKind::Hardlink)),
    ("import = \"copy\"", |one| one.import(ImportKind::Copy)),
    ("exclude = [\"*.tmp\", \"lost+found\"]", |one| {
        one.exclude("*.tmp").exclude("lost+found")
    }),
    ("unpublishable = \"skip\"", |one| {
        one.unpublishable(UnpublishableKind::Skip)
    }),
    ("private = \"publish\"", |one| one.private(PrivateKind::Publish)),
    ("private = \"refuse\"", |one| one.private(PrivateKind::Refuse)),
    ("symlinks = \"rewrite\"", |one| one.symlinks(SymlinkKind::Rewrite)),
    ("ignore = []", |one| one.ignore([])),
    ("ignore = [\"ctime\", \"inode\"]", |one| {
        one.ignore([IgnoreKind::Ctime, IgnoreKind::Inode])
    }),
    ("check = \"off\"", |one| one.check(CheckKind::Off)),
    ("piece_length = \"64 KiB\"", |one| one.piece_length(64 << 10)),
    ("preseed = [\"dists/\", \"*.iso\"]", |one| {
        one.suggest("dists/").suggest("*.iso")
    }),
];

/// One of the `torrents` of a repository.
const TORRENT: &[Said<TorrentConfig>] = &[
    ("path = \"/images/\"", |torrent| {
        torrent.path = RepoPath::new("images").unwrap();
    }),
    ("name = \"everything\"", |torrent| {
        torrent.name = Some("everything".to_owned());
    }),
    ("shards = true", |torrent| torrent.shards = true),
];

fn repository_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (text, set) in REPOSITORY {
        cases.push(said_of_repository(*text, set(repository())));
    }
    for (text, mount) in mount_cases() {
        cases.push(said_of_repository(text, repository().mount(mount)));
    }
    for (text, retention) in retention_cases() {
        let keys = format!("retention = {{ {text} }}");
        cases.push(said_of_repository(keys, repository().retention(retention)));
    }
    for (text, set) in TORRENT {
        let mut torrent = TorrentConfig::default();
        set(&mut torrent);
        let builder = torrents(|torrents| torrents.web_seeds = vec!["https://mirror.example.org".to_owned()]);
        cases.push(Case {
            lines: "torrents.web_seeds = [\"https://mirror.example.org\"]".to_owned(),
            repository: format!(", torrents = [{{ {text} }}]"),
            builder: builder.repository(repository().torrent(torrent)),
        });
    }
    cases
}

fn cases() -> Vec<Case> {
    let sections = [store_cases(), swarm_cases(), repository_cases()];
    let mut cases: Vec<Case> = sections.into_iter().flatten().collect();
    for (text, http) in http_cases(ADDRESS) {
        cases.push(said(text, bare().http(http)));
    }
    let mut http = HttpConfig::default();
    http.listen = vec![ADDRESS.parse().unwrap()];
    http.rules = vec![rule(|rule| {
        rule.repository = Some("debian".parse().unwrap());
        rule.cache = Some("no-store".to_owned());
    })];
    let text = "http.rule = [{ paths = [\"*.iso\"], repository = \"debian\", cache = \"no-store\" }]";
    cases.push(said(text, bare().http(http)));
    for (text, outgoing) in outgoing_cases() {
        cases.push(said(text, master().outgoing(outgoing)));
    }
    cases
}

#[test]
fn a_file_and_rust_say_the_same_of_each_key() {
    let (mut all, mut bare) = (BTreeSet::new(), None);
    for case in cases() {
        let text = case.file();
        let config = parse(&text).unwrap_or_else(|error| panic!("{text}{error}"));
        // The methods say the same as the file.
        let of_file = MasterBuilder::from(config.clone()).into_config();
        assert_eq!(of_file.as_ref(), Ok(&config), "{text}");
        assert_eq!(case.builder.into_config().as_ref(), Ok(&config), "{text}");
        // The first one states nothing but what all need; each other one changes something.
        let changes_nothing = bare.get_or_insert_with(|| config.clone()) == &config;
        assert_eq!(changes_nothing, all.is_empty(), "{text}");
        all.extend(stated(&text, LEAVES));
    }
    all.extend(LOG.iter().map(ToString::to_string));
    assert_complete(&known(parse, &[]), &all);
}

#[test]
fn a_log_is_said_by_its_settings() {
    let (text, expected) = log();
    let config = parse(&(text.to_owned() + &said("", master()).file())).unwrap();
    assert_eq!(config.log, expected);
}

#[test]
fn an_address_may_be_given_once_to_methods_as_in_a_file() {
    let (address, mut http) = (ADDRESS.parse().unwrap(), HttpConfig::default());
    http.listen = vec![address; 2];
    for case in [
        said(
            format!("http.listen = [\"{ADDRESS}\", \"{ADDRESS}\"]"),
            bare().http(http),
        ),
        said(
            format!("peers.listen = [\"{ADDRESS}\"]"),
            master().listen_peers(address),
        ),
    ] {
        let text = case.file();
        assert!(parse(&text).is_err(), "{text}");
        match case.builder.into_config() {
            Err(BuildError::Invalid { field, advice, .. }) => {
                assert_eq!(field, "listen");
                assert!(advice.starts_with(&format!("{ADDRESS} is there twice: ")), "{advice}");
            }
            other => panic!("{text}{other:?}"),
        }
    }
}
