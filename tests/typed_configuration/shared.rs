//! Sections that several daemons have: what stands in a file beside the same in Rust.

use std::collections::BTreeMap;
use std::time::Duration;

use instantmirror::config::{
    Bound, ByteRate, HeaderRuleConfig, HttpConfig, LimitsConfig, LogConfig, LogFormat, LogLineFormat, MountConfig,
    OutgoingConfig, PeersConfig, Preferred, ProxyHeaderKind, TlsConfig,
};

pub(crate) const KEY: &str = "ed25519:d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

/// Tables of header fields, whose keys are names of fields.
pub(crate) const LEAVES: &[&str] = &["http.headers", "http.rule.headers"];

/// `[log]` belongs to the process, not to a daemon in it.
pub(crate) const LOG: &[&str] = &["log.level", "log.format"];

/// Lines of a file, and settings that say the same.
pub(crate) type Said<T> = (&'static str, fn(&mut T));

/// `[http]` of a server at one address.
pub(crate) const HTTP: &[Said<HttpConfig>] = &[
    ("http.max_connections = 7", |http| http.max_connections = 7),
    ("http.access_log = \"/log\"", |http| {
        http.access_log = Some("/log".into());
    }),
    ("http.access_log_format = \"json\"", |http| {
        http.access_log_format = LogLineFormat::Json;
    }),
    ("http.trusted_proxies = [\"192.0.2.7\"]", |http| {
        http.trusted_proxies = vec!["192.0.2.7".parse().unwrap()];
    }),
    ("http.proxy_header = \"forwarded\"", |http| {
        http.proxy_header = ProxyHeaderKind::Forwarded;
    }),
    (
        "http.listen_proxy = [\"127.0.0.1:82\"]\nhttp.trusted_proxies = [\"192.0.2.7\"]",
        |http| {
            http.listen_proxy = vec!["127.0.0.1:82".parse().unwrap()];
            http.trusted_proxies = vec!["192.0.2.7".parse().unwrap()];
        },
    ),
    ("http.cors = false", |http| http.cors = false),
    ("http.headers = { X-Robots-Tag = \"noindex\" }", |http| {
        http.headers = fields("X-Robots-Tag", "noindex");
    }),
    ("http.root = \"/srv/www\"", |http| http.root = Some("/srv/www".into())),
    ("http.rule = [{ paths = [\"*.iso\"], type = \"a/b\" }]", |http| {
        http.rules = vec![rule(|rule| rule.media = Some("a/b".into()))];
    }),
    ("http.rule = [{ paths = [\"*.iso\"], cache = \"no-store\" }]", |http| {
        http.rules = vec![rule(|rule| rule.cache = Some("no-store".into()))];
    }),
    (
        "http.rule = [{ paths = [\"*.iso\"], headers = { X-Note = \"text\" } }]",
        |http| {
            http.rules = vec![rule(|rule| rule.headers = fields("X-Note", "text"))];
        },
    ),
    ("http.limits.header_timeout = \"7 s\"", |http| {
        limits(http).header_timeout = Duration::from_secs(7).into();
    }),
    ("http.limits.idle_timeout = \"7 s\"", |http| {
        limits(http).idle_timeout = Duration::from_secs(7).into();
    }),
    ("http.limits.write_timeout = \"7 s\"", |http| {
        limits(http).write_timeout = Duration::from_secs(7).into();
    }),
    ("http.limits.send_rate_min = 7", |http| limits(http).send_rate_min = 7),
    ("http.limits.shutdown_grace = \"7 s\"", |http| {
        limits(http).shutdown_grace = Duration::from_secs(7).into();
    }),
    ("http.limits.connections_per_address = 7", |http| {
        limits(http).connections_per_address = Bound::At(7);
    }),
    ("http.limits.connections_per_address = \"off\"", |http| {
        limits(http).connections_per_address = Bound::Off;
    }),
    ("http.limits.requests_per_address = 7", |http| {
        limits(http).requests_per_address = Bound::At(7);
    }),
    (
        "http.limits.requests_per_address = 7\nhttp.limits.requests_burst = 8",
        |http| {
            limits(http).requests_per_address = Bound::At(7);
            limits(http).requests_burst = Some(8);
        },
    ),
    ("http.limits.ipv6_prefix = 56", |http| limits(http).ipv6_prefix = 56),
    ("http.limits.exempt = [\"192.0.2.0/24\"]", |http| {
        limits(http).exempt = vec!["192.0.2.0/24".parse().unwrap()];
    }),
];

const PAIR: &str = "http.tls.certificate = \"/cert\"\nhttp.tls.key = \"/key\"\n";

/// `[http.tls]`, each with a certificate and its key before it.
pub(crate) const TLS: &[Said<TlsConfig>] = &[
    ("http.tls.listen = [\"127.0.0.1:443\"]", |tls| {
        tls.listen = vec!["127.0.0.1:443".parse().unwrap()];
    }),
    (
        "http.tls.listen_proxy = [\"127.0.0.1:443\"]\nhttp.trusted_proxies = [\"192.0.2.7\"]",
        |tls| tls.listen_proxy = vec!["127.0.0.1:443".parse().unwrap()],
    ),
    (
        "http.tls.listen = [\"127.0.0.1:443\"]\nhttp.tls.hsts = \"7 d\"",
        |tls| {
            tls.listen = vec!["127.0.0.1:443".parse().unwrap()];
            tls.hsts = Some(Duration::from_secs(7 * 86_400).into());
        },
    ),
];

/// All that [`HTTP`] and [`TLS`] say of a server at this address.
pub(crate) fn http_cases(address: &str) -> Vec<(String, HttpConfig)> {
    let server = || {
        let mut http = HttpConfig::default();
        http.listen = vec![address.parse().unwrap()];
        http
    };
    let mut cases = Vec::new();
    for (text, set) in HTTP {
        let mut http = server();
        set(&mut http);
        cases.push(((*text).to_owned(), http));
    }
    for (text, set) in TLS {
        let (mut http, mut tls) = (server(), TlsConfig::new("/cert", "/key"));
        set(&mut tls);
        if !tls.listen_proxy.is_empty() {
            http.trusted_proxies = vec!["192.0.2.7".parse().unwrap()];
        }
        http.tls = Some(tls);
        cases.push((format!("{PAIR}{text}"), http));
    }
    cases
}

/// `outgoing`, as inline tables hold it.
pub(crate) const OUTGOING: &[Said<OutgoingConfig>] = &[
    ("proxy = \"http://proxy.example.org:3128\"", |outgoing| {
        outgoing.proxy = Some("http://proxy.example.org:3128".into());
    }),
    (
        "proxy = \"http://proxy.example.org:3128\", proxy_credentials_file = \"/password\"",
        |outgoing| {
            outgoing.proxy = Some("http://proxy.example.org:3128".into());
            outgoing.proxy_credentials_file = Some("/password".into());
        },
    ),
    ("ca_file = \"/ca\"", |outgoing| outgoing.ca_file = Some("/ca".into())),
    ("client_certificate = \"/cert\", client_key = \"/key\"", |outgoing| {
        outgoing.client_certificate = Some("/cert".into());
        outgoing.client_key = Some("/key".into());
    }),
];

/// [`OUTGOING`] as settings.
pub(crate) fn outgoing_cases() -> impl Iterator<Item = (String, OutgoingConfig)> {
    OUTGOING.iter().map(|(text, set)| {
        let mut outgoing = OutgoingConfig::default();
        set(&mut outgoing);
        (format!("outgoing = {{ {text} }}"), outgoing)
    })
}

/// `[peers]`.
const PEERS: &[Said<PeersConfig>] = &[
    ("peers.preferred = [\"192.0.2.0/24\", \"a.example.org\"]", |peers| {
        let host = Preferred::Host("a.example.org".to_owned());
        peers.preferred = vec![Preferred::Block("192.0.2.0/24".parse().unwrap()), host];
    }),
    ("peers.allow = [\"192.0.2.0/24\"]", |peers| {
        peers.allow = vec!["192.0.2.0/24".parse().unwrap()];
    }),
    ("peers.deny = [\"203.0.113.0/24\"]", |peers| {
        peers.deny = vec!["203.0.113.0/24".parse().unwrap()];
    }),
    ("peers.listen = [\"127.0.0.1:6881\"]", |peers| {
        peers.listen = vec!["127.0.0.1:6881".parse().unwrap()];
    }),
    (
        "peers.listen = [\"127.0.0.1:6881\"]\npeers.connect = [\"192.0.2.7:6881\"]",
        |peers| {
            peers.listen = vec!["127.0.0.1:6881".parse().unwrap()];
            peers.connect = vec!["192.0.2.7:6881".parse().unwrap()];
        },
    ),
    (
        "peers.listen = [\"127.0.0.1:6881\"]\npeers.trackers = [\"udp://192.0.2.7:6969\"]",
        |peers| {
            peers.listen = vec!["127.0.0.1:6881".parse().unwrap()];
            peers.trackers = vec!["udp://192.0.2.7:6969".into()];
        },
    ),
    ("peers.max_connections = 7", |peers| peers.max_connections = 7),
    ("peers.slots = 7", |peers| peers.slots = 7),
    ("peers.upload = \"7 MiB/s\"", |peers| {
        peers.upload = Some(ByteRate(7 << 20));
    }),
    ("peers.download = \"7 MiB/s\"", |peers| {
        peers.download = Some(ByteRate(7 << 20));
    }),
    ("peers.private = true", |peers| peers.private = true),
    ("peers.torrents = false", |peers| peers.torrents = false),
];

/// All that [`PEERS`] says, and each way to their trackers.
pub(crate) fn peer_cases() -> Vec<(String, PeersConfig)> {
    let mut cases = Vec::new();
    for (text, set) in PEERS {
        let mut peers = PeersConfig::default();
        set(&mut peers);
        cases.push(((*text).to_owned(), peers));
    }
    for (text, outgoing) in outgoing_cases() {
        let mut peers = PeersConfig::default();
        peers.outgoing = Some(outgoing);
        cases.push((format!("peers.{text}"), peers));
    }
    cases
}

/// Other lines of a mount at `/pub`.
const MOUNTS: &[Said<MountConfig>] = &[
    ("", |_| {}),
    (", host = \"deb.example.org\"", |mount| {
        mount.host = Some("deb.example.org".parse().unwrap());
    }),
    (", view = \"local-snap/tested\"", |mount| {
        mount.view = "local-snap/tested".parse().unwrap();
    }),
    (", index = true", |mount| mount.index = true),
];

/// `mounts` of a repository.
pub(crate) fn mount_cases() -> impl Iterator<Item = (String, MountConfig)> {
    MOUNTS.iter().map(|(text, set)| {
        let mut mount = MountConfig::new("/pub");
        set(&mut mount);
        (format!("mounts = [{{ path = \"/pub\"{text} }}]"), mount)
    })
}

pub(crate) fn fields(name: &str, value: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(name.to_owned(), value.to_owned())])
}

/// A rule for `*.iso`.
pub(crate) fn rule(set: impl FnOnce(&mut HeaderRuleConfig)) -> HeaderRuleConfig {
    let mut rule = HeaderRuleConfig::new(["*.iso"]);
    set(&mut rule);
    rule
}

fn limits(http: &mut HttpConfig) -> &mut LimitsConfig {
    &mut http.limits
}

/// The lines that the tests of [`LOG`] write, and the same in Rust.
pub(crate) fn log() -> (&'static str, LogConfig) {
    let mut log = LogConfig::at("debug");
    log.format = LogFormat::Json;
    ("log.level = \"debug\"\nlog.format = \"json\"\n", log)
}
