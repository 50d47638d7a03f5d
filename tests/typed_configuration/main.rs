//! Each key of a configuration file has a typed counterpart in Rust that makes the same daemon. The keys are asked of the parsers
//! themselves, so that a new one without a counterpart fails here.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod keys;
mod master;
mod node;
mod shared;
mod tracker;

/// A search that finds nothing would have nothing missing.
#[test]
fn the_search_finds_keys_of_tables_lists_and_maps() {
    use std::path::Path;

    use instantmirror::config::NodeConfig;

    let parse = |text: &str| NodeConfig::parse(Path::new("imnode.toml"), text);
    let known = keys::known(parse, &["fetch.class.demand"]);
    for key in [
        "cache.dir",
        "http.headers",
        "http.rule.type",
        "http.tls.hsts",
        "fetch.class.demand.max_running",
        "repository.master",
        "repository.mounts.view",
        "repository.outgoing.client_key",
    ] {
        assert!(known.contains(key), "{key}: {known:?}");
    }
    assert!(!known.contains("http") && !known.contains("fetch.class"), "{known:?}");
    let stated = keys::stated("[[repository]]\nmounts = [{ path = \"/\" }]\n", &[]);
    assert_eq!(stated, ["repository.mounts.path".to_owned()].into());
}
