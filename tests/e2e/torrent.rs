//! Export torrents in the hands of those who did not write them: libtorrent, aria2, Transmission.
//!
//! No client here has a tracker, a DHT or other peers: all they get, they get from web seeds on loopback.

use std::path::{Path, PathBuf};
use std::process::Command;

use instantmirror::core::metainfo::{FileKind, Metainfo};
use instantmirror_testkit::command::{Finished, clean_command, run};
use instantmirror_testkit::compare::files;
use instantmirror_testkit::http;
use instantmirror_testkit::process::{Daemon, TestDir, poll};
use instantmirror_testkit::tree::noise;

use crate::world::{LIMIT, Master, Node};

/// Small pieces, so that a small tree has many; and names that a client has to encode.
const OPTIONS: &str = "piece_length = \"32 KiB\"\ncheck = \"off\"\n\
                       torrents = [{ path = \"images\", name = \"my images\" }]";
const FILES: [(&str, usize); 8] = [
    ("large.iso", 400_000),
    ("exactly two pieces", 2 * 32 * 1024),
    ("sub/with space", 1),
    ("sub/ünïcödé-é", 70_001),
    ("sub/100% of #1 & more;+", 33_000),
    // Not a byte short of a piece: aria2 1.36 waits a minute after a file of one byte at the end of a piece, from nginx too.
    ("sub/deep/er/x", 32_700),
    ("sub/deep/y", 5),
    ("zz", 100_000),
];

fn tree(source: &Path) {
    for (path, size) in FILES {
        let path = source.join("images").join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, noise(size)).unwrap();
    }
    std::fs::write(source.join("README"), "not in the torrent").unwrap();
}

/// A master that offers a torrent of `images`, with itself as web seed.
fn world(dir: &TestDir) -> (Master, PathBuf) {
    let source = dir.folder("source").unwrap();
    tree(&source);
    let mut master = Master::with_options(dir, &[("r", &source)], "");
    master.publish_small_pieces(&source);
    (master, source)
}

impl Master {
    /// Offers torrents once the address of the server is known.
    fn publish_small_pieces(&mut self, source: &Path) {
        let text = std::fs::read_to_string(&self.config).unwrap();
        let text = text.replace(
            &format!("source = {source:?}\n"),
            &format!("source = {source:?}\n{OPTIONS}\n"),
        );
        let text = text.replace("[log]", "[torrents]\nweb_seeds = [\"http://127.0.0.1:0/\"]\n[log]");
        std::fs::write(&self.config, text).unwrap();
        self.publish("r");
        // The first run finds an address, the second one knows it from its configuration.
        self.serve();
        self.stop(false);
        let text = std::fs::read_to_string(&self.config).unwrap();
        let text = text.replace("http://127.0.0.1:0/", &format!("{}/", self.url()));
        std::fs::write(&self.config, text).unwrap();
        self.serve();
    }

    /// The `.torrent` file that is offered, once it is.
    fn offered(&self, file: &str) -> Vec<u8> {
        let url = format!("{}/.im/torrent/r/{file}", self.url());
        let found = poll(LIMIT, || http::get(&url).ok().filter(|answer| answer.status == 200));
        let found = found.unwrap_or_else(|| panic!("{url} does not appear"));
        assert_eq!(found.header("content-type"), Some("application/x-bittorrent"));
        found.body
    }
}

fn info_hashes(made: &Finished) -> Vec<String> {
    let text = made.text();
    let lines = text.lines().filter_map(|line| line.trim().strip_prefix("info-hash "));
    lines.map(str::to_owned).collect()
}

/// The directories hold the same files, but for pads, which aria2 and Transmission write.
fn assert_same(expected: &Path, found: &Path) {
    let kept = |root: &Path| -> Vec<PathBuf> {
        let all = files(root).unwrap().into_iter();
        all.filter(|path| !path.starts_with(".pad")).collect()
    };
    assert_eq!(kept(expected), kept(found));
    for path in kept(expected) {
        let (expected, found) = (std::fs::read(expected.join(&path)), std::fs::read(found.join(&path)));
        assert!(expected.unwrap() == found.unwrap(), "{} differs", path.display());
    }
}

fn libtorrent(torrent: &Path, out: &Path, chosen: &[&str]) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/torrent_client.py");
    // The system's Python, for which Debian builds the module.
    let mut command = clean_command("/usr/bin/python3");
    command.arg(script).arg(torrent).arg(out).args(chosen);
    run(&mut command, LIMIT).unwrap().text().trim().to_owned()
}

fn aria2(torrent: &Path, out: &Path, select: Option<&str>) {
    let mut command = clean_command("aria2c");
    command.args([
        "--no-conf",
        "--seed-time=0",
        "--enable-dht=false",
        "--enable-dht6=false",
        "--bt-enable-lpd=false",
    ]);
    command.args([
        "--enable-peer-exchange=false",
        "--interface=127.0.0.1",
        "--file-allocation=none",
        "--dir",
    ]);
    command
        .arg(out)
        .args(select.map(|select| format!("--select-file={select}")))
        .arg(torrent);
    run(&mut command, LIMIT).unwrap();
}

/// Downloads with Transmission, which then would seed for ever.
fn transmission(dir: &TestDir, torrent: &Path, out: &Path) {
    let home = dir.folder("transmission").unwrap();
    let (script, done) = (home.join("done.sh"), home.join("done"));
    let settings = serde_json::json!({
        "dht-enabled": false, "lpd-enabled": false, "pex-enabled": false, "utp-enabled": false,
        "port-forwarding-enabled": false, "bind-address-ipv4": "127.0.0.1", "bind-address-ipv6": "::1",
    });
    std::fs::write(home.join("settings.json"), settings.to_string()).unwrap();
    std::fs::write(&script, format!("#!/bin/sh\n: > '{}'\n", done.display())).unwrap();
    let mut executable = Command::new("chmod");
    run(executable.arg("+x").arg(&script), LIMIT).unwrap();
    let mut command = clean_command("transmission-cli");
    command.arg("--config-dir").arg(&home).arg("--download-dir").arg(out);
    command.arg("--no-portmap").arg("--finish").arg(&script).arg(torrent);
    let mut client = Daemon::start("transmission-cli", &mut command, &home.join("log")).unwrap();
    let finished = poll(LIMIT, || done.exists().then_some(()));
    assert!(finished.is_some(), "Transmission has not finished:\n{}", client.log());
    client.kill9().unwrap();
}

#[test]
fn every_client_downloads_a_torrent_by_web_seed_alone() {
    let dir = TestDir::new("e2e-torrent").unwrap();
    let (master, source) = world(&dir);
    let bytes = master.offered("my%20images.torrent");
    let torrent = dir.path().join("offered.torrent");
    std::fs::write(&torrent, &bytes).unwrap();
    let ours = Metainfo::parse(&bytes).unwrap();
    assert_eq!(
        ours.files.iter().filter(|file| file.kind == FileKind::Content).count(),
        FILES.len()
    );
    let (expected, out) = (source.join("images"), |client: &str| dir.folder(client).unwrap());

    assert_eq!(libtorrent(&torrent, &out("libtorrent"), &[]), ours.hash.to_string());
    assert_same(&expected, &out("libtorrent").join("my images"));
    aria2(&torrent, &out("aria2"), None);
    assert_same(&expected, &out("aria2").join("my images"));
    transmission(&dir, &torrent, &out("by-transmission"));
    assert_same(&expected, &out("by-transmission").join("my images"));
}

#[test]
fn files_that_clients_rename_are_downloaded_and_named_in_a_warning() {
    let dir = TestDir::new("e2e-torrent-renamed").unwrap();
    let (master, source) = world(&dir);
    let long = format!("{}.deb", "x".repeat(246));
    let names = ["what? <odd> name.", r"back\slash", &long, "left\u{200e}to right"];
    for name in names {
        std::fs::create_dir_all(source.join("odd/dir:1")).unwrap();
        std::fs::write(source.join("odd/dir:1").join(name), noise(40_000)).unwrap();
    }
    master.publish("r");
    let file = dir.path().join("odd.torrent");
    let made = master.run(&["torrent", "r", "--path", "odd", "--out", file.to_str().unwrap()]);
    let said = made.transcript();
    assert!(
        said.contains("4 files get other names") && said.contains(r"'dir:1/back\slash'"),
        "{said}"
    );
    let sizes = |out: &Path| -> Vec<u64> {
        let all = files(out)
            .unwrap()
            .into_iter()
            .filter(|path| !path.to_str().unwrap().contains(".pad"));
        all.map(|path| std::fs::metadata(out.join(path)).unwrap().len())
            .collect()
    };
    let out = |client: &str| dir.folder(client).unwrap();
    libtorrent(&file, &out("libtorrent"), &[]);
    transmission(&dir, &file, &out("by-transmission"));
    for client in ["libtorrent", "by-transmission"] {
        assert_eq!(sizes(&out(client)), [40_000; 4], "{client}");
    }
}

#[test]
fn a_client_downloads_only_the_files_it_chose() {
    let dir = TestDir::new("e2e-torrent-chosen").unwrap();
    let (master, source) = world(&dir);
    let bytes = master.offered("my%20images.torrent");
    let torrent = dir.path().join("offered.torrent");
    std::fs::write(&torrent, &bytes).unwrap();
    let chosen = ["sub/deep/er/x", "zz"];
    // Every file begins with a piece, so no neighbour comes along.
    let check = |out: &Path| {
        let root = out.join("my images");
        for path in chosen {
            assert_eq!(
                std::fs::read(root.join(path)).unwrap(),
                std::fs::read(source.join("images").join(path)).unwrap()
            );
        }
        for (path, _) in FILES.iter().filter(|(path, _)| !chosen.contains(path)) {
            let size = std::fs::metadata(root.join(path)).map_or(0, |meta| meta.len());
            assert_eq!(size, 0, "{path} was not chosen");
        }
    };
    let out = dir.folder("libtorrent").unwrap();
    libtorrent(&torrent, &out, &chosen);
    check(&out);
    let ours = Metainfo::parse(&bytes).unwrap();
    let number = |path: &&str| ours.files.iter().position(|file| file.path.as_str() == *path).unwrap() + 1;
    let numbers: Vec<String> = chosen.iter().map(|path| number(path).to_string()).collect();
    let out = dir.folder("aria2").unwrap();
    aria2(&torrent, &out, Some(&numbers.join(",")));
    check(&out);
}

#[test]
fn a_mirror_is_a_web_seed_that_fetches_what_a_client_asks_for() {
    let dir = TestDir::new("e2e-torrent-node").unwrap();
    let (master, source) = world(&dir);
    let node = Node::start(&dir, &master, &["r"]);
    node.wait_for("r", &master.live("r")[0]);
    let made = dir.path().join("one.torrent");
    let file = made.to_str().unwrap();
    // One file alone is a torrent of a single file.
    let arguments = ["torrent", "r", "--path", "images/large.iso", "--out", file];
    master.run(&[&arguments[..], &["--no-webseed", "--tracker", "udp://t.invalid:1"]].concat());
    let bare = Metainfo::parse(&std::fs::read(&made).unwrap()).unwrap();
    assert_eq!((bare.outside.web_seeds.len(), bare.outside.trackers.len()), (0, 1));
    master.run(&[&arguments[..], &["--no-tracker", "--webseed", &node.url()]].concat());
    let torrent = Metainfo::parse(&std::fs::read(&made).unwrap()).unwrap();
    assert!(torrent.files[0].path.is_root());
    let expected = std::fs::read(source.join("images/large.iso")).unwrap();
    // WebTorrent (1.9, 2.8) takes the URL of a web seed as it stands where there is one file.
    let url = &torrent.outside.web_seeds[0];
    assert!(url.ends_with("/large.iso"), "{url}");
    assert!(http::get(url).unwrap().body == expected);
    for client in ["libtorrent", "aria2", "transmission"] {
        let out = dir.folder(&format!("by-{client}")).unwrap();
        match client {
            "aria2" => aria2(&made, &out, None),
            "transmission" => transmission(&dir, &made, &out),
            _ => _ = libtorrent(&made, &out, &[]),
        }
        assert!(std::fs::read(out.join("large.iso")).unwrap() == expected, "{client}");
    }
}

#[test]
fn what_has_not_changed_keeps_its_info_hash_in_the_next_snapshot() {
    let dir = TestDir::new("e2e-torrent-shards").unwrap();
    let source = dir.folder("source").unwrap();
    // Each with its pad: 36,000 files are too many for one torrent.
    for folder in ["a", "b"] {
        std::fs::create_dir_all(source.join(folder)).unwrap();
        for n in 0..9000 {
            std::fs::write(
                source.join(folder).join(format!("{n:04}")),
                format!("{folder}{}", n % 7),
            )
            .unwrap();
        }
    }
    let master = Master::with_options(&dir, &[("r", &source)], "piece_length = \"16 KiB\"");
    let first = master.publish("r");
    let (code, said) = master.fail(&["torrent", "r"]);
    assert!(
        code == 1 && said.contains("clients cope with 30000") && said.contains("shards"),
        "{said}"
    );
    let out = |name: &str| dir.path().join(name);
    let make = |name: &str, more: &[&str]| {
        let out = out(name);
        let arguments = [
            "torrent",
            "r",
            "--shards",
            "--tracker",
            "udp://tracker.invalid:1",
            "--out",
            out.to_str().unwrap(),
        ];
        info_hashes(&master.run(&[&arguments, more].concat()))
    };
    let before = make("before", &[]);
    assert_eq!(before.len(), 2);
    std::fs::write(source.join("b/0001"), "changed").unwrap();
    std::fs::write(source.join("news"), "new").unwrap();
    master.publish("r");
    let after = make("after", &[]);
    assert_eq!(after.len(), 3);
    let hash_in = |folder: &str, file: &str| {
        let torrent = Metainfo::parse(&std::fs::read(out(folder).join(file)).unwrap()).unwrap();
        assert_eq!(torrent.outside.trackers, ["udp://tracker.invalid:1"]);
        torrent.hash.to_string()
    };
    assert_eq!(hash_in("before", "r.a.torrent"), hash_in("after", "r.a.torrent"));
    assert_ne!(hash_in("before", "r.b.torrent"), hash_in("after", "r.b.torrent"));
    assert_eq!(
        make("again", &["--snapshot", &first]),
        before,
        "an old snapshot gives the old torrents"
    );
    assert_eq!(make("one", &["--path", "a"]).len(), 1);
    assert!(out("one").is_dir(), "one shard today may be two tomorrow");
}

#[test]
fn the_offer_follows_the_current_snapshot() {
    let dir = TestDir::new("e2e-torrent-offer").unwrap();
    let (master, source) = world(&dir);
    let offered = || Metainfo::parse(&master.offered("my%20images.torrent")).unwrap();
    let page = || {
        http::get(&format!("{}/r/snap/current/images/", master.url()))
            .unwrap()
            .text()
    };
    let first = offered();
    assert!(page().contains(&format!("magnet:?xt=urn:btih:{}", first.hash)));
    let made = master.run(&[
        "torrent",
        "r",
        "--path",
        "/images/",
        "--name",
        "my images",
        "--out",
        dir.path().to_str().unwrap(),
    ]);
    assert_eq!(info_hashes(&made), [first.hash.to_string()]);
    assert_eq!(
        std::fs::read(dir.path().join("my images.torrent")).unwrap(),
        master.offered("my%20images.torrent")
    );

    // Another file of the repository changes: the torrent stays, its web seed is the new snapshot.
    std::fs::write(source.join("README"), "changed").unwrap();
    let second = master.publish("r");
    let moved = poll(LIMIT, || {
        let now = offered();
        now.outside.web_seeds[0].contains(&second).then_some(now)
    });
    assert_eq!(moved.unwrap().hash, first.hash);
    // One of its own changes.
    std::fs::write(source.join("images/zz"), "changed").unwrap();
    let third = master.publish("r");
    let changed = poll(LIMIT, || {
        Some(offered()).filter(|now| now.outside.web_seeds[0].contains(&third))
    });
    assert_ne!(changed.unwrap().hash, first.hash);
    // It is gone: so is the torrent.
    std::fs::remove_dir_all(source.join("images")).unwrap();
    master.publish("r");
    let url = format!("{}/.im/torrent/r/my%20images.torrent", master.url());
    assert!(poll(LIMIT, || (http::get(&url).unwrap().status == 404).then_some(())).is_some());
}

#[test]
fn what_is_staged_is_offered_to_nobody_before_its_release() {
    let dir = TestDir::new("e2e-torrent-staged").unwrap();
    let (master, source) = world(&dir);
    let before = master.offered("my%20images.torrent");
    std::fs::write(source.join("images/secret"), noise(50_000)).unwrap();
    master.run(&["publish", "--stage", "r"]);
    let staged = master.live("r").pop().unwrap();
    // Its operator has the torrent ready, and nobody the content.
    let file = dir.path().join("ready.torrent");
    let arguments = [
        "torrent",
        "r",
        "--path",
        "images",
        "--name",
        "my images",
        "--snapshot",
        &staged,
        "--out",
    ];
    let made = master.run(&[&arguments[..], &[file.to_str().unwrap()]].concat());
    let ready = Metainfo::parse(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(info_hashes(&made), [ready.hash.to_string()]);
    let seed = |path: &str| format!("{}my%20images/{path}", ready.outside.web_seeds[0]);
    for path in ["secret", "zz", ".pad/15536", ""] {
        assert_eq!(http::get(&seed(path)).unwrap().status, 404, "{path}");
    }
    assert_eq!(master.offered("my%20images.torrent"), before);
    master.run(&["snapshot", "release", "r", &staged]);
    let shown = poll(LIMIT, || {
        let now = Metainfo::parse(&master.offered("my%20images.torrent")).unwrap();
        (now.hash == ready.hash).then_some(())
    });
    assert!(shown.is_some());
    assert_eq!(
        http::get(&seed("secret")).unwrap().body,
        std::fs::read(source.join("images/secret")).unwrap()
    );
}

#[test]
fn what_cannot_be_made_is_refused_with_the_reason() {
    let dir = TestDir::new("e2e-torrent-bad").unwrap();
    let source = dir.folder("source").unwrap();
    tree(&source);
    std::fs::create_dir(source.join("nothing")).unwrap();
    std::fs::write(source.join("nothing/empty"), "").unwrap();
    let master = Master::with_options(&dir, &[("r", &source)], "check = \"off\"");
    let never = master.fail(&["torrent", "r"]).1;
    assert!(never.contains("never published"), "{never}");
    master.publish("r");
    for (arguments, said) in [
        (&["--path", "imges"][..], "there is no '/imges'"),
        (&["--path", "../etc"], "'.' or '..'"),
        (&["--path", "nothing"], "nothing to share"),
        (&["--path", "nothing", "--shards"], "nothing to share"),
        (&["--name", "a/b"], "cannot be called 'a/b'"),
        (
            &["--tracker", "ftp://x/"],
            "--tracker 'ftp://x/' is no URL with http, https, udp",
        ),
        (&["--webseed", "x"], "--webseed 'x' is no URL"),
        (&["--out", "/nonexistent/x.torrent"], "/nonexistent/x.torrent"),
    ] {
        let (code, text) = master.fail(&[&["torrent", "r"], arguments].concat());
        assert!(code == 1 && text.contains(said), "{arguments:?}: {text}");
    }
    let text = std::fs::read_to_string(&master.config).unwrap();
    for (section, said) in [
        (
            "torrents = [{ path = \"images\" }]",
            "nobody could download its torrents",
        ),
        ("torrents = [{ pth = \"images\" }]", "did you mean `path`?"),
        ("[torrents]\ntrackers = [\"x\"]", "[torrents] trackers: 'x' is no URL"),
    ] {
        std::fs::write(&master.config, format!("{text}\n{section}\n")).unwrap();
        let (code, text) = master.fail(&["--check-config"]);
        assert!(code == 2 && text.contains(said), "{text}");
    }
}
