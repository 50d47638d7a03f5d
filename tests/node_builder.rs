//! What a builder of nodes refuses, and how it says so.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use instantmirror::BuildError;
use instantmirror::config::{
    ByteRate, ClassConfig, DayHours, ExpiryKind, FetchConfig, HeaderRuleConfig, HttpConfig, MountConfig, NodeConfig,
    OutgoingConfig, PeersConfig, VerifyKind,
};
use instantmirror::core::SecretKey;
use instantmirror::core::memory::{MemoryCache, MemoryCatalogs, MemoryStore, MemoryTransport};
use instantmirror::core::traits::{CacheLimits, Class};
use instantmirror::node::{Node, NodeBuilder, NodeError, PrefetchRules, Repository};
use instantmirror::store::StoreError;

const URL: &str = "http://127.0.0.1:1";

fn repository() -> Repository {
    Repository::new("debian").trust(SecretKey::from_random([7; 32]).public())
}

fn builder() -> NodeBuilder {
    Node::builder().repository(repository().master(URL))
}

async fn refused(builder: NodeBuilder) -> String {
    match builder.build().await {
        Err(NodeError::Build(error)) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_is_missing_is_named_with_what_to_do() {
    let expected = "repository is missing: give it one: Repository::new(NAME)";
    let text = refused(Node::builder()).await;
    assert!(text.starts_with(expected), "{text}");
    let untrusting = Repository::new("debian").master(URL);
    for (repository, expected) in [
        (untrusting, "repository 'debian' trust is missing: name a public key"),
        (
            repository(),
            "repository 'debian' master is missing: say where it comes from",
        ),
        (
            repository().transport(MemoryTransport::new()),
            "repository 'debian' upstream is missing: ",
        ),
        (
            repository().upstream(MemoryCatalogs::new()),
            "repository 'debian' transport is missing: ",
        ),
    ] {
        let text = refused(Node::builder().repository(repository)).await;
        assert!(text.starts_with(expected), "{text}");
    }
}

#[tokio::test]
async fn what_cannot_be_used_is_named_with_its_value_and_without_its_secrets() {
    let address = "127.0.0.1:81".parse().unwrap();
    let with_secret = "ftp://user:secret@mirror.example.org/";
    let (mut peers, mut http) = (PeersConfig::default(), HttpConfig::default());
    (peers.slots, http.max_connections) = (0, 0);
    for (builder, expected) in [
        (
            builder().repository(repository().master(URL)),
            "repository 'debian': it is there twice",
        ),
        (
            builder().repository(Repository::new("a b").master(URL)),
            "repository 'b a': ",
        ),
        (
            builder().repository(Repository::new("other").master(with_secret)),
            "repository 'other' trust is missing",
        ),
        (
            builder().cache_limits(CacheLimits::bytes(0)),
            "cache_limits 'CacheLimits",
        ),
        (builder().dir(""), "dir '': it is no directory"),
        (builder().never_keep("a{"), "never_keep 'a{': "),
        (builder().prefetch(PrefetchRules::none().first("[")), "prefetch '[': "),
        (builder().fetch_rate(0), "fetch_rate '0': nothing would come"),
        (builder().scrub_rate(0), "scrub_rate '0': nothing would come"),
        (builder().grace_never("a{"), "grace_never 'a{': "),
        (
            builder().expiry(ExpiryKind::Lru),
            "dir is missing: expiry is for a cache in a directory",
        ),
        (
            builder().listen(address).listen(address),
            "listen '(settings)': 127.0.0.1:81 is there twice",
        ),
        (
            builder().peers(peers),
            "peers '(settings)': [peers] max_connections and slots",
        ),
        (builder().http(http), "http '(settings)': [http] max_connections = 0"),
    ] {
        let text = refused(builder).await;
        let expected = expected.replace("'b a'", "'a b'");
        assert!(text.starts_with(&expected), "{text}\n{expected}");
    }
    let secret = Node::builder().repository(repository().master(with_secret));
    let shown = format!("{secret:?}");
    assert!(!shown.contains("secret"), "{shown}");
    let text = refused(secret).await;
    assert!(text.starts_with("repository 'debian' master 'ftp://"), "{text}");
    assert!(!text.contains("secret"), "{text}");
}

#[tokio::test]
async fn limits_that_let_nothing_through_are_refused() {
    let fetch = |set: fn(&mut FetchConfig)| {
        let mut fetch = FetchConfig::default();
        set(&mut fetch);
        fetch
    };
    let mut class = ClassConfig::default();
    class.max_running = Some(0);
    for (builder, expected) in [
        (
            builder().fetch(fetch(|fetch| fetch.background = Some(0))),
            "fetch '(settings)': [fetch] background is 0",
        ),
        (
            builder().fetch(fetch(|fetch| fetch.source.max_running = Some(1))),
            "fetch_source '(settings)': [fetch.source] max_running is less than 2",
        ),
        (
            builder().fetch_source(fetch(|fetch| fetch.source.max_rate = Some(ByteRate(0))).source),
            "fetch_source '(settings)': [fetch.source] max_rate is 0",
        ),
        (
            builder().fetch_class(Class::Rest, class),
            "fetch_class 'rest' '(settings)': [fetch.class] max_running is 0",
        ),
    ] {
        let text = refused(builder).await;
        assert!(text.starts_with(expected), "{text}\n{expected}");
    }
}

fn mount(path: &str) -> MountConfig {
    MountConfig::new(path)
}

#[tokio::test]
async fn what_repositories_show_and_ask_by_is_checked() {
    let key = SecretKey::from_random([7; 32]).public();
    let other = || Repository::new("other").master(URL).trust(key);
    let mut outgoing = OutgoingConfig::default();
    outgoing.client_certificate = Some("certificate".into());
    let mut rule = HeaderRuleConfig::new(["*.iso"]);
    (rule.repository, rule.cache) = (Some("unknown".parse().unwrap()), Some("no-store".to_owned()));
    let mut http = HttpConfig::default();
    http.rules = vec![rule];
    let mounted = Node::builder().repository(repository().master(URL).mount(mount("/pub")));
    for (builder, expected) in [
        (
            mounted.repository(other().mount(mount("/pub/"))),
            "repository 'other' mount '/pub/': two mounts at '/pub'",
        ),
        (
            builder().repository(other().mount(mount("pub"))),
            "repository 'other' mount 'pub': mount path 'pub' must begin with '/'",
        ),
        (
            builder().repository(other().mount(mount("/.im/pub"))),
            "repository 'other' mount '/.im/pub': a mount at '/.im/pub': paths below",
        ),
        (
            builder().repository(other().outgoing(outgoing)),
            "repository 'other' outgoing '(settings)': client_certificate and client_key go together",
        ),
        (builder().http(http), "http 'unknown': a rule is for this repository"),
    ] {
        let text = refused(builder).await;
        assert!(text.starts_with(expected), "{text}\n{expected}");
    }
}

#[tokio::test]
async fn what_excludes_each_other_is_said() {
    let both = builder()
        .cache(MemoryCache::new(None))
        .cache_limits(CacheLimits::bytes(1));
    let Err(NodeError::Build(BuildError::Contradiction { field, other, .. })) = both.build().await else {
        panic!("a cache of one's own has its limits");
    };
    assert_eq!((field.as_str(), other.as_str()), ("cache_limits", "cache"));
    let both = builder().cache(MemoryCache::new(None)).expiry(ExpiryKind::Lru);
    let text = refused(both).await;
    assert!(text.starts_with("expiry and cache exclude each other: "), "{text}");
}

#[tokio::test]
async fn what_is_left_out_by_address_is_not_asked() {
    let mut peers = PeersConfig::default();
    peers.deny = vec!["127.0.0.0/8".parse().unwrap()];
    let text = refused(builder().peers(peers)).await;
    let expected =
        "repository 'debian' master '(settings)': repository 'debian': [peers] allow and deny leave out its master";
    assert!(text.starts_with(expected), "{text}");
}

#[tokio::test]
async fn a_file_and_methods_describe_the_same_node() {
    let dir = tempfile::tempdir().unwrap();
    let key = SecretKey::from_random([7; 32]).public();
    let text = format!(
        "[cache]\ndir = {:?}\nmax_size = \"1 GiB\"\nmax_objects = 7\nnever = [\"*.iso\"]\n\
         policy = \"lru\"\nverify = \"scrub\"\nscrub_rate = \"1 MiB/s\"\n\
         [http]\nlisten = [\"127.0.0.1:0\"]\n[preseed]\nfirst = [\"dists/\"]\nrest = true\n\
         hours = [\"22:00-06:00\"]\nbudget = \"1 GiB\"\n[fetch.class.rest]\nmax_running = 3\n\
         [[repository]]\nname = \"debian\"\nmaster = \"{URL}\"\ntrust = [\"{key}\"]\n",
        dir.path().join("file"),
    );
    let config = NodeConfig::parse(std::path::Path::new("(built in)"), &text).unwrap();
    let of_file = NodeBuilder::from(config).build().await.unwrap();
    let mut class = ClassConfig::default();
    class.max_running = Some(3);
    let built = builder()
        .dir(dir.path().join("built"))
        .cache_limits(CacheLimits::bytes(1 << 30).objects(7))
        .never_keep("*.iso")
        .listen("127.0.0.1:0".parse().unwrap())
        .prefetch(PrefetchRules::none().first("dists/").rest())
        .expiry(ExpiryKind::Lru)
        .verify(VerifyKind::Scrub)
        .scrub_rate(1 << 20)
        .prefetch_hours(DayHours::new((22, 0), (6, 0)).unwrap())
        .prefetch_budget(1 << 30)
        .fetch_class(Class::Rest, class)
        .build()
        .await
        .unwrap();
    let mut expected = of_file.config().clone();
    expected.cache.dir = dir.path().join("built");
    assert_eq!(*built.config(), expected);
}

/// A builder of a file that has limits, a rate of scrubbing that is none, and `[[repository]]` debian.
fn of_file(dir: &std::path::Path) -> NodeBuilder {
    let key = SecretKey::from_random([7; 32]).public();
    let text = format!(
        "[cache]\ndir = {dir:?}\nmax_size = \"1 GiB\"\nmax_objects = 7\nnever = [\"*.iso\"]\nscrub_rate = \"1 B/s\"\n\
         [http]\nlisten = [\"127.0.0.1:0\"]\n\
         [[repository]]\nname = \"debian\"\nmaster = \"{URL}\"\ntrust = [\"{key}\"]\n",
    );
    NodeConfig::parse(std::path::Path::new("(built in)"), &text)
        .unwrap()
        .into()
}

#[tokio::test]
async fn methods_change_what_a_file_says() {
    let dir = tempfile::tempdir().unwrap();
    let node = of_file(&dir.path().join("file"));
    let key = SecretKey::from_random([7; 32]).public();
    let node = node
        .never_keep("*.img")
        .cache_limits(CacheLimits::bytes(1 << 20))
        .dir(dir.path().join("other"))
        .repository(Repository::new("other").master(URL).trust(key))
        .build()
        .await
        .unwrap();
    let cache = &node.config().cache;
    assert_eq!(cache.limits(), CacheLimits::bytes(1 << 20));
    assert_eq!(cache.never.texts(), ["*.iso", "*.img"]);
    assert_eq!(cache.dir, dir.path().join("other"));
    assert_eq!(node.config().repositories.len(), 2);
    assert!(!dir.path().join("file").exists());
    let node = of_file(dir.path()).cache(MemoryCache::new(Some(5 << 20)));
    let node = node.build().await.unwrap();
    assert_eq!(node.config().cache.limits(), CacheLimits::bytes(5 << 20).objects(7));
}

#[tokio::test]
async fn methods_after_a_file_are_checked() {
    let dir = tempfile::tempdir().unwrap();
    let (mut peers, mut http) = (PeersConfig::default(), HttpConfig::default());
    (peers.slots, http.max_connections) = (0, 0);
    let mut outgoing = OutgoingConfig::default();
    outgoing.client_key = Some("key".into());
    let file = || of_file(dir.path());
    let limited = file().cache(MemoryCache::new(None));
    for (builder, expected) in [
        (
            file().repository(repository().master(URL)),
            "repository 'debian': it is there twice",
        ),
        (
            limited.cache_limits(CacheLimits::bytes(1)),
            "cache_limits and cache exclude each other",
        ),
        (file().cache_limits(CacheLimits::bytes(0)), "cache_limits 'CacheLimits"),
        (file().never_keep("a{"), "never_keep 'a{': "),
        (
            file().verify(VerifyKind::Scrub),
            "verify '(settings)': [cache] scrub_rate",
        ),
        (file().prefetch(PrefetchRules::none().first("[")), "prefetch '[': "),
        (file().prefetch_rate(0), "prefetch_rate '0': "),
        (file().fetch_rate(0), "fetch_rate '0': "),
        (file().peers(peers), "peers '(settings)': "),
        (file().outgoing(outgoing), "outgoing '(settings)': client_certificate"),
        (file().http(http), "http '(settings)': [http] max_connections"),
    ] {
        let text = refused(builder).await;
        assert!(text.starts_with(expected), "{text}\n{expected}");
    }
}

#[tokio::test]
async fn two_nodes_do_not_share_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let with_cache = || builder().dir(dir.path()).cache(MemoryCache::new(None));
    let own = || with_cache().snapshots(MemoryStore::new());
    let node = own().build().await.unwrap();
    for second in [own(), with_cache(), builder().dir(dir.path())] {
        match second.build().await {
            Err(NodeError::Store(StoreError::Locked { pid, .. })) => assert_eq!(pid, Some(std::process::id())),
            other => panic!("{other:?}"),
        }
    }
    drop(node);
    own().build().await.unwrap();
}

#[tokio::test]
async fn what_a_cache_lacks_is_in_the_status() {
    let node = builder().build().await.unwrap();
    let status = node.status(instantmirror::HttpStatus::default());
    assert_eq!(
        status.cache.missing,
        ["no scrubber: what is at rest cannot be verified"]
    );
    assert_eq!(status.cache.max_bytes, Some(instantmirror::node::MEMORY_CACHE_BYTES));
    let request = instantmirror::node::VerifyRequest {
        subset: None,
        repair: false,
    };
    let error = node.verify(request).await.unwrap_err();
    assert!(error.to_string().contains("no scrubber"), "{error}");
}
