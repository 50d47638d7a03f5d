//! The examples that end by themselves say what they should. Cargo builds them with all tests; one that is not there because this
//! file is tested alone is built first.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use instantmirror::master::Repository;
use instantmirror::{Master, MasterServer, NoProgress, PublishOptions};
use instantmirror_testkit::http;
use instantmirror_testkit::process::TestDir;

/// The program of an example of the facade.
fn program(name: &str) -> PathBuf {
    built("instantmirror", name)
}

/// The program of an example of a package.
fn built(package: &str, name: &str) -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let example: PathBuf = tests.parent().unwrap().parent().unwrap().join("examples").join(name);
    if !example.is_file() {
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
        let built = Command::new(cargo)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .args(["build", "--package", package, "--example", name])
            .status();
        assert!(built.unwrap().success(), "{name} cannot be built");
    }
    example
}

/// What an example prints when it ends well.
fn run(name: &str, arguments: &[&Path]) -> String {
    let example = program(name);
    let done = Command::new(&example).args(arguments).output();
    let done = done.unwrap_or_else(|error| panic!("{}: {error}", example.display()));
    let said = String::from_utf8(done.stdout).unwrap();
    assert!(done.status.success(), "{said}{}", String::from_utf8_lossy(&done.stderr));
    said
}

fn assert_lines(said: &str, expected: &[&str]) {
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), expected.len(), "{said}");
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.contains(expected), "{expected}\n{said}");
    }
}

#[test]
fn verify_head_takes_the_good_one_alone() {
    let expected = [
        "debian: sequence 2, current none",
        "0 snapshots, expires 2",
        "a changed byte: the head of 'debian' was refused: ",
        "another key: the head of 'debian' was refused: no signature by a trusted key",
        "an older head: rollback: the head of 'debian' has sequence 1, but 2 was seen before",
    ];
    assert_lines(&run("verify_head", &[]), &expected);
}

#[test]
fn custom_transport_is_not_believed() {
    let expected = ["(\"memory\", Score {", "(\"what was brought\", Score {"];
    let said = run("custom_transport", &[]);
    assert_lines(&said, &expected);
    let failures: Vec<bool> = said.lines().map(|line| line.contains("failures: 0,")).collect();
    assert_eq!(failures, [true, false], "{said}");
}

#[test]
fn custom_routes_are_answered_beside_files() {
    let expected = [
        "refused: GET /hello/{name} (Greets) and GET /hello/{who} (Greets again)",
        "GET  /hello/{name}  everybody  Greets",
        "GET  /visits        everybody  Counts the greetings",
        "GET /hello/world: HTTP/1.1 200 OK: Hello, world!",
        "GET /visits: HTTP/1.1 200 OK: 1",
        "POST /visits: HTTP/1.1 405 Method Not Allowed: 405: use one of GET, HEAD, OPTIONS",
        "GET /robots.txt: HTTP/1.1 200 OK: User-agent: *",
    ];
    assert_lines(&run("custom_routes", &[]), &expected);
}

#[test]
fn custom_scheduler_is_asked() {
    let expected = [
        "submitted: bundle of 7 bytes",
        "started: bundle",
        "finished: Done",
        "here: true",
    ];
    assert_lines(&run("custom_scheduler", &[]), &expected);
}

#[test]
fn read_catalog_lists_follows_and_compares() {
    let said = run("read_catalog", &[]);
    let expected = [
        "pool: 2 files of 6 bytes",
        "  hello_1.deb 3 ",
        "  hello_2.deb 3 ",
        "latest -> Some(Symlink(\"pool\"))",
        "latest/hello_2.deb: Found(",
        "added: pool/hello_2.deb",
    ];
    assert_lines(&said, &expected);
}

#[test]
fn make_torrent_writes_what_the_parser_reads() {
    let dir = TestDir::new("example-torrent").unwrap();
    let tree = dir.folder("tree").unwrap();
    std::fs::write(tree.join("a"), "content").unwrap();
    std::fs::write(tree.join("b"), vec![1; 300_000]).unwrap();
    let file = dir.path().join("tree.torrent");
    let said = run("make_torrent", &[&tree, &file]);
    let torrent = instantmirror::core::metainfo::Metainfo::parse(&std::fs::read(&file).unwrap()).unwrap();
    assert!(said.contains(&format!("2 files, info-hash {}", torrent.hash)), "{said}");
    assert_eq!(torrent.total_bytes, 262_144 + 300_000);
}

/// A master that has published a tree, served by threads of its own, and its URL.
fn master(dir: &Path, source: &Path) -> (Master, String) {
    let master = Master::builder()
        .dir(dir.join("master"))
        .repository(Repository::new("example").source(source))
        .listen("127.0.0.1:0".parse().unwrap())
        .build()
        .unwrap();
    let published = master.publish(&"example".parse().unwrap(), &PublishOptions::default(), &NoProgress);
    published.unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build();
    // It is there to the end of the tests.
    let runtime: &'static tokio::runtime::Runtime = Box::leak(Box::new(runtime.unwrap()));
    let server = runtime.block_on(MasterServer::bind(master.clone())).unwrap();
    let url = server.urls().remove(0);
    runtime.spawn(server.run(std::future::pending()));
    (master, url)
}

#[test]
fn embed_master_publishes_once_more_for_each_line() {
    let dir = TestDir::new("example-embed-master").unwrap();
    let tree = dir.folder("tree").unwrap();
    std::fs::write(tree.join("a"), "content").unwrap();
    std::fs::write(tree.join("left-out.tmp"), "x").unwrap();
    let mut master = Command::new(program("embed_master"))
        .arg(&tree)
        .arg("example")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = master.stdin.take().unwrap();
    let mut lines = BufReader::new(master.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap)
        .filter(|line| !line.contains("left out"));
    let mut next = || lines.next().unwrap();
    assert!(next().starts_with("mirrors have to trust ed25519:"));
    let url = next().strip_prefix("master ").unwrap().trim_end_matches('/').to_owned();
    let first = next();
    assert!(first.starts_with("snapshot ") && first.contains("1 file"), "{first}");
    std::fs::write(tree.join("a"), "other content").unwrap();
    for expected in ["snapshot ", "nothing has changed"] {
        writeln!(input).unwrap();
        let said = next();
        assert!(said.starts_with(expected), "{said}");
    }
    // The server takes a new head up some hundredths of a second after the publish.
    let file = format!("{url}/example/snap/current/a");
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let curl = Command::new("curl").args(["-fsS", "--max-time", "30", &file]).output();
        match String::from_utf8_lossy(&curl.unwrap().stdout).as_ref() {
            "other content" => break,
            said => assert!(said == "content" && Instant::now() < deadline, "{said}"),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(input);
    assert!(master.wait().unwrap().success());
}

#[test]
fn embed_node_mirrors_a_tree_until_it_is_told_to_stop() {
    let dir = TestDir::new("example-embed-node").unwrap();
    let tree = dir.folder("tree").unwrap();
    std::fs::write(tree.join("a"), "content").unwrap();
    std::fs::write(tree.join("b"), vec![1; 300_000]).unwrap();
    let (master, url) = master(dir.path(), &tree);
    let key = master.public_key().to_string();
    let mut node = Command::new(program("embed_node"))
        .args([&url, "example", &key])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(node.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mirror = lines.next().unwrap().strip_prefix("mirror ").unwrap().to_owned();
    assert_eq!(lines.next().unwrap(), "2 files, 300007 bytes");
    let file = format!("{}/example/snap/current/a", mirror.trim_end_matches('/'));
    let curl = Command::new("curl")
        .args(["-fsS", "--max-time", "30", &file])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&curl.stdout), "content");
    let told = Command::new("kill").arg(node.id().to_string()).status().unwrap();
    assert!(told.success() && node.wait().unwrap().success());
}

#[test]
fn serve_directory_serves_what_lies_there() {
    let dir = TestDir::new("example-serve").unwrap();
    std::fs::create_dir(dir.path().join("pool")).unwrap();
    std::fs::write(dir.path().join("pool/hello.deb"), "content").unwrap();
    let mut example = Command::new(built("instantmirror-http", "serve_directory"));
    let mut example = example.arg(dir.path()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(example.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap);
    assert_eq!(said.next().as_deref(), Some("1 files"));
    let serving = said.next().unwrap();
    let url = serving.strip_prefix("serving ").unwrap();
    let found = http::get(&format!("{url}pool/hello.deb")).unwrap();
    let listed = http::get(&format!("{url}pool/")).unwrap();
    let missing = http::get(&format!("{url}pool/other.deb")).unwrap();
    example.kill().unwrap();
    example.wait().unwrap();
    assert_eq!((found.status, found.body.as_slice()), (200, &b"content"[..]));
    assert!(listed.text().contains("hello.deb"), "{}", listed.text());
    assert_eq!(missing.status, 404);
}

#[test]
fn mount_shows_a_directory_until_its_input_ends() {
    let dir = TestDir::new("example-mount").unwrap();
    let (tree, mountpoint) = (dir.folder("tree").unwrap(), dir.folder("mount").unwrap());
    std::fs::create_dir(tree.join("pool")).unwrap();
    std::fs::write(tree.join("pool/hello.deb"), "content").unwrap();
    let mut example = Command::new(built("instantmirror-fuse", "mount"));
    let example = example.args([&tree, &mountpoint]);
    let mut example = example.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(example.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap);
    let Some(mounted) = said.next() else {
        let has_device = Path::new("/dev/fuse").exists();
        assert!(
            !has_device || !example.wait().unwrap().success(),
            "it ended well and has mounted nothing"
        );
        return;
    };
    assert!(mounted.starts_with("mounted "), "{mounted}");
    let found = std::fs::read_to_string(mountpoint.join("snap/current/pool/hello.deb"));
    drop(example.stdin.take());
    assert_eq!(
        (found.unwrap().as_str(), said.next().as_deref()),
        ("content", Some("1 files opened"))
    );
    assert!(example.wait().unwrap().success());
    assert_eq!(
        std::fs::read_dir(&mountpoint).unwrap().count(),
        0,
        "it is still mounted"
    );
}
