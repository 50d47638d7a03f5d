//! What people get wrong in `imtracker.toml`, and what they are told.

use super::*;

const HASH: &str = "0123456789abcdef0123456789abcdef01234567";

fn error(text: &str) -> String {
    let parsed = TrackerConfig::parse(Path::new("imtracker.toml"), text);
    parsed.unwrap_err().to_string()
}

#[test]
fn wrong_keys_and_values_are_named_with_place_and_what_is_right() {
    for (text, place, said) in [
        ("[torrents]\nalow = []\n".to_owned(), "2:1:", "did you mean `allow`?"),
        (
            "[torrents]\nallow = [\"12\"]\n".to_owned(),
            "2:9:",
            "40 hexadecimal digits",
        ),
        (
            format!("[torrents]\nallow = [\"{HASH}\"]\n[limits]\nintervall = \"1 h\"\n"),
            "4:1:",
            "did you mean `interval`?",
        ),
        (
            format!("[torrents]\nallow = [\"{HASH}\"]\n[limits]\ninterval = 1800\n"),
            "4:12:",
            "string",
        ),
        (
            format!("[torrents]\nallow = [\"{HASH}\"]\n[udb]\n"),
            "3:2:",
            "did you mean `udp`?",
        ),
        (
            "[udp]\nlisten = [\"localhost:6969\"]\n".to_owned(),
            "2:11:",
            "socket address",
        ),
        (String::new(), "1:1:", "missing field `torrents`"),
    ] {
        let error = error(&text);
        assert!(
            error.starts_with(&format!("imtracker.toml:{place}")) && error.contains(said),
            "{error}"
        );
    }
}

#[test]
fn contradictions_are_refused() {
    let with = |more: &str| format!("[torrents]\nallow = [\"{HASH}\"]\n{more}\n");
    for (text, said) in [
        ("[torrents]\n".to_owned(), "no torrent would be served"),
        (format!("[torrents]\nallow = [\"{HASH}\", \"{HASH}\"]\n"), "twice"),
        ("[torrents]\ndir = \"/x\"\nrescan = \"10 ms\"\n".to_owned(), "rescan"),
        (with("[http]\nlisten = []"), "listens anywhere"),
        (with("[limits]\ninterval = \"1 s\""), "from \"5 s\""),
        (
            with("[limits]\nseed_interval = \"1 s\""),
            "seed_interval must be from \"5 s\"",
        ),
        (with("[limits]\nmin_interval = \"2 h\""), "longer than interval"),
        (with("[limits]\nmax_handed_out = 201"), "not more than 200"),
        (with("[limits]\nhanded_out = 201"), "not be more than"),
        (with("[limits]\nmax_peers = 0"), "from 1 to"),
        (with("[limits]\nrequests_per_minute = 0"), "nobody could ask"),
        (with("[http]\nmax_connections = 0"), "from 1 to"),
        (with("[log]\nlevel = \"in=fo=x\""), "[log] level"),
    ] {
        let error = error(&text);
        assert!(error.contains(said), "{text}: {error}");
    }
}

#[test]
fn the_documented_configuration_is_valid_and_states_the_defaults() {
    let text = include_str!("../../docs/config/imtracker.toml");
    let config = TrackerConfig::parse(Path::new("docs/config/imtracker.toml"), text).unwrap();
    assert_eq!(config.limits, TrackerLimitsConfig::default());
    assert_eq!(config.torrents.rescan, ServedTorrentsConfig::default().rescan);
    assert_eq!(
        (&config.http.limits, &config.log),
        (&LimitsConfig::default(), &LogConfig::default())
    );
    assert_eq!(config.http.max_connections, HttpConfig::default().max_connections);
    assert_eq!(config.torrents.allow.len(), 1);
}
