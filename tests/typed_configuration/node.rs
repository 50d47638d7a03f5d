//! `imnode.toml` beside [`NodeBuilder`] and [`Repository`].

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use instantmirror::config::{
    ByteRate, ByteSize, ClassConfig, ClassName, ConfigError, DayHours, ExpiryKind, FetchConfig, HttpConfig, NodeConfig,
    SourceConfig, VerifyKind,
};
use instantmirror::core::traits::{CacheLimits, Class};
use instantmirror::node::{Node, NodeBuilder, PrefetchRules, Repository};

use crate::keys::{assert_complete, known, stated};
use crate::shared::{KEY, LEAVES, LOG, http_cases, log, mount_cases, outgoing_cases, peer_cases as peers, rule};

const ADDRESS: &str = "127.0.0.1:8081";
const MASTER: &str = "https://192.0.2.1";

/// Lines of a file, keys of its repository, and the same in Rust.
struct Case {
    lines: String,
    repository: String,
    builder: NodeBuilder,
}

fn parse(text: &str) -> Result<NodeConfig, ConfigError> {
    NodeConfig::parse(Path::new("/etc/imnode.toml"), text)
}

fn repository() -> Repository {
    Repository::new("debian").master(MASTER).trust(KEY.parse().unwrap())
}

fn node() -> NodeBuilder {
    Node::builder()
        .dir("/cache")
        .cache_limits(CacheLimits::bytes(1 << 30))
        .listen(ADDRESS.parse().unwrap())
}

/// Of the node alone.
fn said(lines: impl Into<String>, builder: NodeBuilder) -> Case {
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
        builder: node().repository(repository),
    }
}

impl Case {
    /// The whole file: what every case has, and what is its own.
    fn file(&self) -> String {
        let Self { lines, repository, .. } = self;
        let base = [
            ("cache.dir =", "cache.dir = \"/cache\"".to_owned()),
            ("cache.max_size =", "cache.max_size = \"1 GiB\"".to_owned()),
            ("http.listen =", format!("http.listen = [\"{ADDRESS}\"]")),
        ];
        let mut text = String::new();
        for (key, line) in base.iter().filter(|(key, _)| !lines.contains(key)) {
            assert!(line.starts_with(key));
            text += &format!("{line}\n");
        }
        text + &format!(
            "{lines}\nrepository = [{{ name = \"debian\", master = \"{MASTER}\", trust = [\"{KEY}\"]{repository} }}]\n"
        )
    }
}

fn cache_cases() -> Vec<Case> {
    vec![
        said("", node()),
        said("cache.dir = \"/other\"", node().dir("/other")),
        said(
            "cache.max_size = \"2 GiB\"",
            node().cache_limits(CacheLimits::bytes(2 << 30)),
        ),
        said(
            "cache.max_objects = 7",
            node().cache_limits(CacheLimits::bytes(1 << 30).objects(7)),
        ),
        said(
            "cache.keep_free = \"7 B\"",
            node().cache_limits(CacheLimits::bytes(1 << 30).keep_free(7)),
        ),
        said("cache.policy = \"gdsf\"", node().expiry(ExpiryKind::Gdsf)),
        said("cache.verify = \"always\"", node().verify(VerifyKind::Always)),
        said("cache.scrub_rate = \"7 MiB/s\"", node().scrub_rate(7 << 20)),
        said("cache.never = [\"*.iso\"]", node().never_keep("*.iso")),
        said("snapshots.keep_last = 7", node().keep_last(7)),
        said(
            "snapshots.keep_within = \"7 d\"",
            node().keep_within(Duration::from_secs(7 * 86_400)),
        ),
        said("snapshots.grace = \"7 h\"", node().grace(Duration::from_secs(7 * 3600))),
        said("snapshots.grace_never = [\"*.iso\"]", node().grace_never("*.iso")),
        said("snapshots.grace_optional = true", node().grace_optional(true)),
        said(
            "control.socket = \"/run/imnode.sock\"",
            node().control_socket("/run/imnode.sock"),
        ),
    ]
}

fn fetch_cases() -> Vec<Case> {
    let rules = PrefetchRules::none;
    let fetch = |set: fn(&mut FetchConfig)| {
        let mut fetch = FetchConfig::default();
        set(&mut fetch);
        node().fetch(fetch)
    };
    let source = |set: fn(&mut SourceConfig)| {
        let mut source = SourceConfig::default();
        set(&mut source);
        node().fetch_source(source)
    };
    let class = |set: fn(&mut ClassConfig)| {
        let mut class = ClassConfig::default();
        set(&mut class);
        class
    };
    let rated = || class(|class| class.max_rate = Some(ByteRate(7 << 20)));
    let mut both = FetchConfig::default();
    both.class.insert(ClassName(Class::Demand), rated());
    vec![
        said(
            "preseed.first = [\"a/\", \"b/\"]",
            node().prefetch(rules().first("a/").first("b/")),
        ),
        said("preseed.never = [\"*.iso\"]", node().prefetch(rules().never("*.iso"))),
        said("preseed.suggested = true", node().prefetch(rules().suggested())),
        said("preseed.popular = true", node().prefetch(rules().popular())),
        said("preseed.rest = true", node().prefetch(PrefetchRules::everything())),
        said(
            "preseed.hours = [\"22:00-06:00\"]",
            node().prefetch_hours(DayHours::new((22, 0), (6, 0)).unwrap()),
        ),
        said("preseed.max_rate = \"7 MiB/s\"", node().prefetch_rate(7 << 20)),
        said("preseed.budget = \"7 GiB\"", node().prefetch_budget(7 << 30)),
        said("fetch.max_rate = \"7 MiB/s\"", node().fetch_rate(7 << 20)),
        said("fetch.background = 7", fetch(|fetch| fetch.background = Some(7))),
        said(
            "fetch.batched = \"7 KiB\"",
            fetch(|fetch| fetch.batched = Some(ByteSize(7 << 10))),
        ),
        said("fetch.yields = false", fetch(|fetch| fetch.yields = Some(false))),
        said(
            "fetch.source.max_rate = \"7 MiB/s\"",
            source(|source| source.max_rate = Some(ByteRate(7 << 20))),
        ),
        said(
            "fetch.source.max_running = 7",
            source(|source| source.max_running = Some(7)),
        ),
        said(
            "fetch.class.demand.max_rate = \"7 MiB/s\"",
            node().fetch_class(Class::Demand, rated()),
        ),
        said("fetch.class.demand.max_rate = \"7 MiB/s\"", node().fetch(both)),
        said(
            "fetch.class.rest.max_running = 7",
            node().fetch_class(Class::Rest, class(|class| class.max_running = Some(7))),
        ),
        said(
            "fetch.class.demand.max_running = 7",
            node().fetch_class(Class::Demand, class(|class| class.max_running = Some(7))),
        ),
    ]
}

fn peer_cases() -> Vec<Case> {
    let listening = || node().listen_peers("127.0.0.1:6881".parse().unwrap());
    let mut cases = vec![
        said("peers.listen = [\"127.0.0.1:6881\"]", listening()),
        said(
            "peers.listen = [\"127.0.0.1:6881\"]\npeers.trackers = [\"udp://192.0.2.7:6969\"]",
            listening().tracker("udp://192.0.2.7:6969"),
        ),
    ];
    cases.extend(peers().into_iter().map(|(text, peers)| said(text, node().peers(peers))));
    cases
}

fn repository_cases() -> Vec<Case> {
    let rules = PrefetchRules::none;
    let mut cases = vec![
        said_of_repository("token_file = \"/token\"", repository().token_file("/token")),
        said_of_repository(
            "preseed = { first = [\"a/\"] }",
            repository().prefetch(rules().first("a/")),
        ),
        said_of_repository(
            "preseed = { never = [\"a/\"] }",
            repository().prefetch(rules().never("a/")),
        ),
        said_of_repository(
            "preseed = { suggested = true }",
            repository().prefetch(rules().suggested()),
        ),
        said_of_repository("preseed = { popular = true }", repository().prefetch(rules().popular())),
        said_of_repository("preseed = { rest = true }", repository().prefetch(rules().rest())),
    ];
    for (text, outgoing) in outgoing_cases() {
        cases.push(said_of_repository(text, repository().outgoing(outgoing)));
    }
    for (text, mount) in mount_cases() {
        cases.push(said_of_repository(text, repository().mount(mount)));
    }
    cases
}

fn cases() -> Vec<Case> {
    let sections = [cache_cases(), fetch_cases(), peer_cases(), repository_cases()];
    let mut cases: Vec<Case> = sections.into_iter().flatten().collect();
    for (text, http) in http_cases(ADDRESS) {
        cases.push(said(text, node().http(http)));
    }
    let mut http = HttpConfig::default();
    http.listen = vec![ADDRESS.parse().unwrap()];
    http.rules = vec![rule(|rule| {
        rule.repository = Some("debian".parse().unwrap());
        rule.cache = Some("no-store".to_owned());
    })];
    let text = "http.rule = [{ paths = [\"*.iso\"], repository = \"debian\", cache = \"no-store\" }]";
    cases.push(said(text, node().http(http)));
    for (text, outgoing) in outgoing_cases() {
        cases.push(said(text, node().outgoing(outgoing)));
    }
    cases
}

#[test]
fn a_file_and_rust_say_the_same_of_each_key() {
    let (mut all, mut bare) = (BTreeSet::new(), None);
    for case in cases() {
        let text = case.file();
        let config = parse(&text).unwrap_or_else(|error| panic!("{text}{error}"));
        let of_file = NodeBuilder::from(config).into_config().unwrap();
        let built = case.builder.into_config();
        assert_eq!(built.as_ref(), Ok(&of_file), "{text}");
        // The first one states nothing but what all need; each other one changes something.
        let changes_nothing = bare.get_or_insert_with(|| of_file.clone()) == &of_file;
        assert_eq!(changes_nothing, all.is_empty(), "{text}");
        all.extend(stated(&text, LEAVES));
    }
    all.extend(LOG.iter().map(ToString::to_string));
    assert_complete(&known(parse, &["fetch.class.demand"]), &all_classes_as_one(all));
}

/// Keys of all classes under the name of one of them.
fn all_classes_as_one(keys: BTreeSet<String>) -> BTreeSet<String> {
    let rest = |key: String| key.replace("fetch.class.rest.", "fetch.class.demand.");
    keys.into_iter().map(rest).collect()
}

#[test]
fn a_log_is_said_by_its_settings() {
    let (text, expected) = log();
    let config = parse(&(text.to_owned() + &said("", node()).file())).unwrap();
    assert_eq!(config.log, expected);
}
