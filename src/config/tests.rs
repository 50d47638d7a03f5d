//! What people get wrong in configuration files, and what they are told.

use super::*;

const KEY: &str = "ed25519:d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
const SERVER: &str = "[store]\ndir = \"/srv/im\"\n";

fn server_error(text: &str) -> String {
    ServerConfig::parse(Path::new("imserver.toml"), text)
        .unwrap_err()
        .to_string()
}

fn node_error(text: &str) -> String {
    NodeConfig::parse(Path::new("imnode.toml"), text)
        .unwrap_err()
        .to_string()
}

#[test]
fn smallest_configurations_have_sensible_defaults() {
    let server = ServerConfig::parse(Path::new("x"), SERVER).unwrap();
    assert_eq!(server.store.key_file(), Path::new("/srv/im/key"));
    assert_eq!(server.control_socket(), Path::new("/srv/im/control.sock"));
    assert_eq!(server.http.listen[0].to_string(), "127.0.0.1:8080");
    let node = NodeConfig::parse(Path::new("x"), "[cache]\ndir = \"/c\"\nmax_size = \"1 GiB\"\n").unwrap();
    assert_eq!(node.cache.max_size, ByteSize(1 << 30));
}

#[test]
fn unknown_keys_are_named_with_place_and_nearest_key() {
    let text = format!("{SERVER}\n[http]\nlisen = [\"127.0.0.1:80\"]\n");
    let error = server_error(&text);
    assert!(error.starts_with("imserver.toml:5:1: unknown key `lisen`"), "{error}");
    assert!(error.ends_with("did you mean `listen`?"), "{error}");
    let error = server_error("[stor]\ndir = \"x\"\n");
    assert!(
        error.starts_with("imserver.toml:1:2: unknown key `stor`") && error.contains("`store`?"),
        "{error}"
    );
    let error = node_error("[cache]\ndir = \"x\"\nmax_size = \"1 GiB\"\nmax_objets = 5\n");
    assert!(
        error.starts_with("imnode.toml:4:1:") && error.contains("`max_objects`?"),
        "{error}"
    );
}

#[test]
fn wrong_values_are_named_with_place_and_what_is_allowed() {
    for (text, place, said) in [
        ("[store\n", "1:", "unclosed"),
        ("[store]\ndir = 5\n", "2:7:", "string"),
        (
            "[store]\ndir = \"/s\"\n[http]\nlisten = [\"localhost\"]\n",
            "4:11:",
            "socket address",
        ),
        (
            "[store]\ndir = \"/s\"\n[[repository]]\nname = \"A B\"\nsource = \"/x\"\n",
            "4:8:",
            "repository name",
        ),
        (
            "[store]\ndir = \"/s\"\n[[repository]]\nname = \"a\"\nsource = \"/x\"\nimport = \"hardlnk\"\n",
            "6:10:",
            "did you mean `hardlink`?",
        ),
        (
            "[store]\ndir = \"/s\"\n[[repository]]\nname = \"a\"\nsource = \"/x\"\npiece_length = \"1\"\n",
            "6:16:",
            "1 MiB",
        ),
    ] {
        let error = server_error(text);
        assert!(error.starts_with(&format!("imserver.toml:{place}")), "{error}");
        assert!(
            error.contains(said) || said == "1 MiB" && error.contains("GiB"),
            "{error}"
        );
    }
    let error = node_error("[cache]\ndir = \"x\"\nmax_size = \"lots\"\n");
    assert!(
        error.starts_with("imnode.toml:3:12:") && error.contains("500 GiB"),
        "{error}"
    );
    let missing = server_error("");
    assert!(missing.contains("missing field `store`"), "{missing}");
}

#[test]
fn a_repository_s_own_retention_stands_for_the_general_one() {
    let text = format!(
        "{SERVER}[retention]\nkeep_last = 5\nmax_bytes = \"1 TiB\"\n[snapshots]\ngrace = \"2 h\"\n\
         [[repository]]\nname = \"a\"\nsource = \"/x\"\n\
         [[repository]]\nname = \"b\"\nsource = \"/y\"\nretention = {{ keep_daily = 7, keep_within = \"3 d\" }}\n"
    );
    let config = ServerConfig::parse(Path::new("x"), &text).unwrap();
    let [a, b] = [0, 1].map(|at| config.retention_policy(&config.repositories[at]));
    assert_eq!((a.keep_last, a.max_bytes, a.keep_daily), (5, Some(1 << 40), 0));
    assert_eq!((b.keep_last, b.max_bytes, b.keep_daily), (0, None, 7));
    assert_eq!(b.keep_within, Some(std::time::Duration::from_secs(3 * 86_400)));
    assert_eq!(a.grace, std::time::Duration::from_secs(7200));
    let error = server_error(&format!("{SERVER}[retention]\nkeep_daly = 3\n"));
    assert!(error.contains("did you mean `keep_daily`?"), "{error}");
}

#[test]
fn limits_per_address_can_be_left_out_and_given() {
    let limits = |text: &str| {
        let config = ServerConfig::parse(Path::new("x"), &format!("{SERVER}[http.limits]\n{text}\n")).unwrap();
        config.http.limits().addresses
    };
    let default = limits("");
    assert_eq!(default, instantmirror_http::AddressLimits::default());
    assert_eq!((default.connections_max.unwrap().get(), default.requests), (1000, None));
    let given = limits("connections_per_address = \"off\"\nrequests_per_address = 50\nipv6_prefix = 56\nexempt = []");
    assert_eq!(
        (given.connections_max, given.ipv6_prefix, given.exempt.len()),
        (None, 56, 0)
    );
    let rate = given.requests.unwrap();
    assert_eq!((rate.per_second.get(), rate.burst.get()), (50, 500));
    let rate = limits("requests_per_address = 50\nrequests_burst = 60")
        .requests
        .unwrap();
    assert_eq!(rate.burst.get(), 60);
}

#[test]
fn contradictions_are_refused() {
    let limits = |line: &str| format!("[http.limits]\n{line}\n");
    let repo = |name: &str, more: &str| format!("[[repository]]\nname = \"{name}\"\nsource = \"/x\"\n{more}\n");
    let cases = [
        ("[log]\nlevel = \"in=fo=x\"\n".to_owned(), "[log] level"),
        ("[http]\nmax_connections = 0\n".to_owned(), "from 1 to"),
        (
            "[http]\nmax_connections = 9223372036854775807\n".to_owned(),
            "from 1 to",
        ),
        (limits("connections_per_address = 0"), "or \"off\" for no limit"),
        (limits("connections_per_address = 2000000"), "from 1 to 1048576"),
        (limits("connections_per_address = -1"), "out of range"),
        (
            limits("connections_per_address = \"no\""),
            "a number from 1 on, or \"off\"",
        ),
        (limits("requests_per_address = 0"), "from 1 to"),
        (
            limits("requests_per_address = 10\nrequests_burst = 0"),
            "a burst below 1",
        ),
        (limits("requests_burst = 10"), "without requests_per_address"),
        (limits("ipv6_prefix = 129"), "from 1 to 128"),
        (limits("ipv6_prefix = 0"), "from 1 to 128"),
        (limits("ipv6_prefix = 300"), "u8"),
        (limits("exempt = [\"192.0.2.1/24\"]"), "bits of the address over"),
        (repo("a", "") + &repo("a", ""), "twice"),
        (repo("a", "piece_length = \"3 MiB\""), "power of two"),
        (repo("a", "mounts = [{ path = \"x\" }]"), "begin with '/'"),
        (
            repo("a", "mounts = [{ path = \"/x\" }, { path = \"/x/\" }]"),
            "used twice",
        ),
        (
            repo(
                "a",
                "mounts = [{ path = \"/\", host = \"h\" }, { path = \"/\", host = \"H.\" }]",
            ),
            "used twice on host 'h'",
        ),
        (
            repo("a", "mounts = [{ path = \"/\", host = \"h:80\" }]"),
            "without port",
        ),
        (repo("a", "mounts = [{ path = \"/a/../b\" }]"), "'.' or '..'"),
        (repo("a", "mounts = [{ path = \"/.im/v1\" }]"), "server's own"),
        (
            "[[repository]]\nname = \"a\"\nsource = \"/srv\"\n".to_owned(),
            "publish itself",
        ),
    ];
    for (repositories, said) in cases {
        let error = server_error(&format!("{SERVER}{repositories}"));
        assert!(error.contains(said), "{error}");
    }
    let node = "[cache]\ndir = \"x\"\nmax_size = \"1 GiB\"\n[[repository]]\nname = \"a\"\ntrust = []\n";
    assert!(node_error(&format!("{node}master = \"http://m\"\n")).contains("trust names no key"));
    assert!(node_error(&format!("{node}master = []\n")).contains("no URL"));
    assert!(node_error(&format!("{node}master = \"m:80\"\n")).contains("http"));
    let key = node.replace("[]", "[\"ed25519:12\"]");
    assert!(node_error(&format!("{key}master = \"http://m\"\n")).contains("not a public key"));
}

#[test]
fn addresses_that_take_one_another_are_refused() {
    let listening = |listen: &str| {
        ServerConfig::parse(
            Path::new("imserver.toml"),
            &format!("{SERVER}[http]\nlisten = [{listen}]\n"),
        )
    };
    for (listen, said) in [
        ("\"127.0.0.1:80\", \"0.0.0.0:80\"", "all addresses of IPv4"),
        ("\"0.0.0.0:80\", \"127.0.0.1:80\"", "all addresses of IPv4"),
        ("\"[::1]:80\", \"[::]:80\"", "all addresses"),
        ("\"[::]:80\", \"192.0.2.1:80\"", "IPv4 too"),
        ("\"0.0.0.0:80\", \"[::]:80\", \"192.0.2.1:80\"", "all addresses of IPv4"),
        ("\"[::ffff:127.0.0.1]:80\", \"127.0.0.1:80\"", "there twice"),
        ("\"[::ffff:0.0.0.0]:80\", \"127.0.0.1:80\"", "leave the other out"),
    ] {
        let error = listening(listen).unwrap_err().to_string();
        assert!(error.contains(said) && error.lines().count() == 1, "{listen}: {error}");
    }
    for listen in [
        "\"127.0.0.1:80\", \"0.0.0.0:81\"",
        "\"127.0.0.1:0\", \"0.0.0.0:0\"",
        "\"[::1]:80\", \"0.0.0.0:80\"",
        "\"127.0.0.1:80\", \"127.0.0.2:80\"",
        "\"0.0.0.0:80\", \"[::]:80\"",
        "\"[::]:80\", \"0.0.0.0:80\"",
    ] {
        listening(listen).unwrap();
    }
    // Each section opens its own sockets.
    let both = format!("{SERVER}[http]\nlisten = [\"0.0.0.0:80\"]\n[peers]\nlisten = [\"[::]:80\"]\n");
    let error = ServerConfig::parse(Path::new("x"), &both).unwrap_err().to_string();
    assert!(error.contains("IPv4 too"), "{error}");
    let tracker = "[torrents]\ndir = \"t\"\n[udp]\nlisten = [\"127.0.0.1:6969\", \"0.0.0.0:6969\"]\n";
    let error = TrackerConfig::parse(Path::new("x"), tracker).unwrap_err().to_string();
    assert!(error.starts_with("x:4:29: "), "{error}");
}

#[test]
fn values_that_mean_nothing_or_too_much_are_told() {
    let repository = "[[repository]]\nname = \"a\"\nsource = \"/x\"\n";
    let error = server_error(&format!("{SERVER}[retention]\nmax_bytes = \"0 B\"\n"));
    assert!(
        error.contains("toml:4:13: ") && error.contains("keep_last = 1"),
        "{error}"
    );
    let error = server_error(&format!("{SERVER}{repository}retention = {{ max_bytes = \"0 B\" }}\n"));
    assert!(error.contains("toml:6:27: "), "{error}");
    let rule = "[[http.rule]]\npaths = [\"*\"]\nrepository = \"zzz\"\ncache = \"no-store\"\n";
    let error = server_error(&format!("{SERVER}{repository}{rule}"));
    assert!(
        error.contains("toml:8:14: ") && error.contains("no repository 'zzz'"),
        "{error}"
    );
    let of_a = rule.replace("zzz", "a");
    ServerConfig::parse(Path::new("x"), &format!("{SERVER}{repository}{of_a}")).unwrap();
    let node = "[cache]\ndir = \"x\"\nmax_size = \"1 GiB\"\n";
    assert!(node_error(&format!("{node}{of_a}")).contains("no repository 'a'"));
    let tracker = format!("[torrents]\ndir = \"t\"\n{of_a}");
    let error = TrackerConfig::parse(Path::new("x"), &tracker).unwrap_err().to_string();
    assert!(error.contains("no repository 'a'"), "{error}");
    // What is the default is told only where it is written down.
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("imnode.toml");
    let notes = |sections: &str| {
        std::fs::write(&file, format!("{node}[http]\nlisten = [\"127.0.0.1:0\"]\n{sections}")).unwrap();
        let notes = NodeConfig::inspect(&file).unwrap().1;
        notes.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(notes(""), Vec::<String>::new());
    let told = notes("[snapshots]\nkeep_last = 0\n");
    assert!(
        told.len() == 1 && told[0].contains("toml:7:13: keep_last = 0"),
        "{told:?}"
    );
    assert_eq!(notes("[snapshots]\nkeep_last = 1\n"), Vec::<String>::new());
}

#[test]
fn a_control_socket_needs_a_place_that_is_free() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x.toml");
    std::fs::write(dir.path().join("plain"), "a file").unwrap();
    let listen = "[http]\nlisten = [\"127.0.0.1:0\"]\n";
    let programs: [(&str, &dyn Fn() -> Option<String>); 3] = [
        ("[store]\ndir = \"deep/own\"\n", &|| {
            ServerConfig::inspect(&file).err().map(|error| error.to_string())
        }),
        ("[cache]\ndir = \"deep/own\"\nmax_size = \"1 GiB\"\n", &|| {
            NodeConfig::inspect(&file).err().map(|error| error.to_string())
        }),
        ("[torrents]\nmasters = [\"http://127.0.0.1:1/r\"]\n", &|| {
            TrackerConfig::inspect(&file).err().map(|error| error.to_string())
        }),
    ];
    for (number, (sections, refused)) in programs.iter().enumerate() {
        let with = |socket: &str| {
            let text = format!("{sections}{listen}[control]\nsocket = {socket:?}\n");
            std::fs::write(&file, text).unwrap();
            refused()
        };
        let missing = with("nope/s").unwrap();
        assert!(missing.contains("make it first"), "{missing}");
        let occupied = with("plain").unwrap();
        assert!(occupied.contains("is no socket"), "{occupied}");
        assert_eq!(with("s"), None);
        // In the directory that the start makes, or beside it.
        for socket in ["deep/own/s", "deep/s"] {
            assert_eq!(with(socket).is_none(), number < 2, "{socket}");
        }
        assert!(with("deep/own/deeper/s").is_some());
    }
    let _listening = std::os::unix::net::UnixListener::bind(dir.path().join("live")).unwrap();
    let text = format!("{}{listen}[control]\nsocket = \"live\"\n", programs[1].0);
    std::fs::write(&file, text).unwrap();
    NodeConfig::inspect(&file).unwrap();
}

#[tokio::test]
async fn neither_daemon_takes_the_directory_of_the_other_nor_overlooks_one_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let (file, listen) = (dir.path().join("x.toml"), "[http]\nlisten = [\"127.0.0.1:0\"]\n");
    let server = |piece_length: &str| {
        std::fs::create_dir_all(dir.path().join("tree")).unwrap();
        let text = format!(
            "[store]\ndir = \"dir\"\n{listen}[[repository]]\nname = \"a\"\nsource = \"tree\"\n\
             piece_length = \"{piece_length}\"\n"
        );
        std::fs::write(&file, text).unwrap();
        ServerConfig::load(&file).unwrap()
    };
    let config = server("64 KiB");
    crate::master::Master::init(&config).unwrap();
    let published = std::thread::spawn(move || {
        let master = crate::master::Master::open(config).unwrap();
        let options = crate::master::PublishOptions::default();
        master
            .publish(&"a".parse().unwrap(), &options, &crate::master::NoProgress)
            .unwrap();
    });
    published.join().unwrap();
    ServerConfig::inspect(&file).unwrap();
    server("128 KiB");
    let error = ServerConfig::inspect(&file).unwrap_err().to_string();
    assert!(error.contains("toml:8:16: ") && error.contains("65536"), "{error}");

    let node = |cache: &str| {
        let text = format!("[cache]\ndir = {cache:?}\nmax_size = \"1 GiB\"\n{listen}");
        std::fs::write(&file, text).unwrap();
        (NodeConfig::load(&file).unwrap(), NodeConfig::inspect(&file))
    };
    let (config, inspected) = node("dir");
    let error = inspected.unwrap_err().to_string();
    assert!(
        error.contains("toml:2:7: ") && error.contains("store of a master"),
        "{error}"
    );
    let error = crate::node::Node::open(config).await.unwrap_err().to_string();
    assert!(error.contains("store of a master"), "{error}");
    std::fs::create_dir_all(dir.path().join("cache")).unwrap();
    assert!(node("cache").1.unwrap().1.is_empty());
    std::fs::write(dir.path().join("cache/debian.iso"), "of a source tree").unwrap();
    let (config, inspected) = node("cache");
    let notes = inspected.unwrap().1;
    assert!(
        notes.len() == 1 && notes[0].to_string().contains("debian.iso"),
        "{notes:?}"
    );
    drop(crate::node::Node::open(config).await.unwrap());
    assert!(node("cache").1.unwrap().1.is_empty(), "it is a cache now");
    let mut config = server("64 KiB");
    config.store.dir = dir.path().join("cache");
    let error = crate::master::Master::init(&config).unwrap_err().to_string();
    assert!(error.contains("cache of a node"), "{error}");
}

/// Runs in `cargo xtask ci`, which tests without features too.
#[test]
#[cfg(not(feature = "tls"))]
fn what_is_not_compiled_in_is_refused_with_its_feature() {
    let tls = "[http.tls]\nlisten = [\"127.0.0.1:0\"]\ncertificate = \"/c\"\nkey = \"/k\"\n";
    let error = server_error(&format!("{SERVER}{tls}"));
    assert!(error.contains("[http.tls] needs the feature `tls`"), "{error}");
}

#[test]
#[cfg(not(feature = "metadata-check"))]
fn a_check_that_is_not_compiled_in_is_refused_and_none_is_the_default() {
    let repository = "[[repository]]\nname = \"a\"\nsource = \"/x\"\n";
    let parsed = ServerConfig::parse(Path::new("imserver.toml"), &format!("{SERVER}{repository}")).unwrap();
    assert_eq!(parsed.repositories[0].check, CheckKind::NotCompiled);
    let off = format!("{SERVER}{repository}check = \"off\"\n");
    let parsed = ServerConfig::parse(Path::new("imserver.toml"), &off).unwrap();
    assert_eq!(parsed.repositories[0].check, CheckKind::Off);
    let error = server_error(&format!("{SERVER}{repository}check = \"warn\"\n"));
    assert!(error.contains("check needs the feature `metadata-check`"), "{error}");
}

#[test]
fn everything_that_is_wrong_is_told_in_one_run_with_its_place() {
    let text = "[store]\ndir = \"\"\n[http]\nlisten = [\"[::]:80\", \"192.0.2.1:80\", \"[::]:80\"]\nmax_connections = 0\n\
                access_log = \"~/log\"\n[http.limits]\nidle_timeout = \"0 s\"\n[log]\nlevel = \"inof\"\n\
                [[repository]]\nname = \"a\"\nsource = \"/x\"\nmounts = [{ path = \"/m\" }, { path = \"/m/\" }]\n\
                [[repository]]\nname = \"a\"\nsource = \"/x\"\npiece_length = \"3 MiB\"\n[peers]\nslots = 0\n";
    let error = server_error(text);
    let lines: Vec<&str> = error.lines().collect();
    let expected = [
        ("2:7: ", "an empty path"),
        ("4:22: ", "IPv4 too"),
        ("4:38: ", "there twice"),
        ("4:38: ", "IPv4 too"),
        ("5:19: ", "from 1 to"),
        ("6:14: ", "not expanded"),
        ("8:16: ", "cut at once"),
        ("10:9: ", "`info`"),
        ("14:37: ", "used twice"),
        ("16:8: ", "there twice"),
        ("18:16: ", "power of two"),
        ("19:1: ", "slots must be 1"),
    ];
    assert_eq!(lines.len(), expected.len(), "{error}");
    for (line, (place, said)) in lines.iter().zip(expected) {
        assert!(
            line.starts_with(&format!("imserver.toml:{place}")) && line.contains(said),
            "{line}"
        );
    }
    let error = node_error("[cache]\ndir = \"x\"\nmax_size = \"0 B\"\n[http]\nlisten = []\n");
    assert!(
        error.contains("imnode.toml:3:12: [cache] max_size") && error.contains("5:10: neither"),
        "{error}"
    );
}

/// Each of these values is told in the error that it causes.
#[test]
fn a_url_behind_the_wrong_key_shows_no_secret() {
    let url = "http://me:SE\\\"CRET@host/x?key=SECRET";
    for text in [
        format!("[peers]\npreferred = [\"{url}\"]"),
        format!("[peers]\nallow = [\"{url}\"]"),
        format!("[peers]\nlisten = [\"{url}\"]"),
        "[peers]\npreferred = [\"me:SECRET@host\"]".to_owned(),
        format!("[http]\nmax_connections = \"{url}\""),
        format!("[http]\nheaders = {{ X = \"{url}\\n\" }}"),
        "[log]\nlevel = \"http://me:SECRET@host\"".to_owned(),
        format!("[log]\nformat = \"{url}\""),
        format!("[outgoing]\nproxy = \"{url}\"\nca_file = \"~/{url}\""),
        format!("[[repository]]\nname = \"{url}\""),
        format!("[[repository]]\nname = \"a\"\nmaster = \"{url}\"\ntrust = [\"{url}\"]"),
        format!("[[repository]]\nname = \"a\"\nmaster = \"gopher{url}\"\ntrust = []"),
    ] {
        let error = node_error(&format!("[cache]\ndir = \"/c\"\nmax_size = \"1 GiB\"\n{text}\n"));
        assert!(!error.contains("CRET"), "{text}: {error}");
    }
    let missing = tempfile::tempdir().unwrap();
    let file = missing.path().join("imnode.toml");
    let text = format!("[cache]\ndir = \"c\"\nmax_size = \"1 GiB\"\n[outgoing]\nca_file = \"{url}\"\n");
    std::fs::write(&file, text).unwrap();
    let error = NodeConfig::inspect(&file).unwrap_err().to_string();
    assert!(error.contains("cannot be read") && !error.contains("CRET"), "{error}");
}

#[test]
fn addresses_that_are_left_out_do_not_count_behind_a_proxy() {
    let text = |outgoing: &str| {
        format!(
            "[cache]\ndir = \"/c\"\nmax_size = \"1 GiB\"\n[peers]\nallow = [\"192.0.2.0/24\"]\n{outgoing}\n[[repository]]\n\
             name = \"r\"\nmaster = \"http://198.51.100.7:8080\"\ntrust = [\"{KEY}\"]\n"
        )
    };
    let direct = node_error(&text("[outgoing]\nproxy = \"none\""));
    assert!(
        direct.contains("leave out its master http://198.51.100.7:8080"),
        "{direct}"
    );
    let proxied = text("[outgoing]\nproxy = \"http://proxy.example.org:3128\"");
    let error = NodeConfig::parse(Path::new("x"), &proxied)
        .map(drop)
        .map_err(|error| error.to_string());
    assert!(
        !error.clone().is_err_and(|error| error.contains("leave out")),
        "{error:?}"
    );
}

#[test]
fn relative_paths_count_from_the_file() {
    let text = "[store]\ndir = \"store\"\nkey_file = \"/etc/key\"\n[http]\naccess_log = \"../log\"\n\
                [[repository]]\nname = \"a\"\nsource = \"tree\"\n";
    let config = ServerConfig::parse(Path::new("/srv/im/imserver.toml"), text).unwrap();
    assert_eq!(config.store.dir, Path::new("/srv/im/store"));
    assert_eq!(config.store.key_file(), Path::new("/etc/key"));
    assert_eq!(config.http.access_log.as_deref(), Some(Path::new("/srv/im/../log")));
    assert_eq!(config.repositories[0].source, Path::new("/srv/im/tree"));
    let config = ServerConfig::parse(Path::new("imserver.toml"), text).unwrap();
    assert_eq!(config.repositories[0].source, Path::new("tree"));
}

#[test]
fn a_root_that_shows_what_is_the_daemon_s_own_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for made in ["etc", "store/www", "www"] {
        std::fs::create_dir_all(dir.path().join(made)).unwrap();
    }
    let file = dir.path().join("etc/imserver.toml");
    let error = |root: &str| {
        let text = format!("[store]\ndir = \"../store\"\nkey_file = \"key\"\n[http]\nroot = \"{root}\"\n");
        ServerConfig::parse(&file, &text)
            .map_err(|error| error.to_string())
            .err()
    };
    std::fs::write(&file, "").unwrap();
    std::os::unix::fs::symlink("../etc", dir.path().join("www/link")).unwrap();
    assert_eq!(error("../www"), None);
    for (root, holds) in [
        ("../store", "lies in"),
        ("../store/www", "lies in"),
        ("..", "holds this configuration"),
        (".", "(store.key_file)"),
        ("../www/link", "holds this configuration"),
    ] {
        let error = error(root).unwrap_or_default();
        assert!(
            error.contains("imserver.toml:5:8: ") && error.contains(holds),
            "{root}: {error}"
        );
    }
}

#[test]
#[cfg(all(feature = "tls", feature = "metadata-check"))]
fn what_the_machine_does_not_have_is_found_before_a_start() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("imserver.toml");
    std::fs::create_dir(dir.path().join("tree")).unwrap();
    let good = "[store]\ndir = \"store\"\n[http]\nlisten = [\"127.0.0.1:0\"]\n\
                [[repository]]\nname = \"debian\"\nsource = \"tree\"\nmounts = [{ path = \"/debian/snap\" }]\n";
    std::fs::write(&file, good).unwrap();
    let (_, notes) = ServerConfig::inspect(&file).unwrap();
    let notes: Vec<String> = notes.iter().map(ToString::to_string).collect();
    assert!(
        notes.len() == 2 && notes[0].contains("toml:2:7: ") && notes[0].contains("imserver init"),
        "{notes:?}"
    );
    assert!(
        notes[1].contains("toml:8:") && notes[1].contains("snapshots of 'debian'"),
        "{notes:?}"
    );
    let long = "s".repeat(120);
    let bad = good.replace("\"tree\"", "\"tre\"").replace("127.0.0.1:0", "192.0.2.1:0").replace(
        "[[rep",
        &format!(
            "access_log = \"none/log\"\n[http.tls]\nlisten = [\"127.0.0.1:0\"]\ncertificate = \"c.pem\"\nkey = \"k.pem\"\n\
             [control]\nsocket = \"/tmp/{long}\"\n[[rep"
        ),
    );
    std::fs::write(&file, bad).unwrap();
    let error = ServerConfig::inspect(&file).unwrap_err().to_string();
    for (place, said) in [
        ("4:11: ", "no such address"),
        ("5:14: ", "none"),
        ("8:15: ", "c.pem"),
        ("11:10: ", "107 are the most"),
        ("14:10: ", "tre: No such"),
    ] {
        let found = error
            .lines()
            .any(|line| line.contains(&format!("imserver.toml:{place}")) && line.contains(said));
        assert!(found, "{place}{said}\n{error}");
    }
    let file = dir.path().join("imnode.toml");
    let text = "[cache]\ndir = \"imserver.toml/x\"\nmax_size = \"1 GiB\"\n[[repository]]\nname = \"a\"\n\
                master = \"http://127.0.0.1:1\"\ntoken_file = \"t\"\ntrust = [\"KEY\"]\n";
    let key = crate::master::generate_key().unwrap().public().to_string();
    std::fs::write(&file, text.replace("KEY", &key)).unwrap();
    let error = NodeConfig::inspect(&file).unwrap_err().to_string();
    assert!(
        error.contains("imnode.toml:2:7: ") && error.contains("imnode.toml:7:14: token file"),
        "{error}"
    );
}

#[test]
#[cfg(all(feature = "tls", feature = "metadata-check"))]
fn documented_configurations_are_valid_and_state_the_defaults() {
    let server = include_str!("../../docs/config/imserver.toml");
    let server = ServerConfig::parse(Path::new("docs/config/imserver.toml"), server).unwrap();
    assert_eq!(
        (&server.http, &server.log),
        (&HttpConfig::default(), &LogConfig::default())
    );
    assert_eq!(server.repositories[0].import, ImportKind::default());
    assert_eq!(
        (&server.retention, &server.snapshots),
        (&RetentionConfig::default(), &MasterSnapshotsConfig::default())
    );
    let node = include_str!("../../docs/config/imnode.toml");
    let node = NodeConfig::parse(Path::new("docs/config/imnode.toml"), node).unwrap();
    assert_eq!(node.repositories[0].master.len(), 1);
    assert_eq!(node.snapshots, NodeSnapshotsConfig::default());
}
