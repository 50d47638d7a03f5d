//! The test support, tested with a plain HTTP server that is not ours: each client must see what was published, and
//! must see the newer thing after it was published. Never uses a program of this workspace.

#![allow(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

use std::path::Path;
use std::time::Duration;

use instantmirror_testkit::command::clean_command;
use instantmirror_testkit::compare::{Comparison, files};
use instantmirror_testkit::debian::{AptClient, Archive};
use instantmirror_testkit::process::{Daemon, TestDir};
use instantmirror_testkit::tree::TreeSpec;
use instantmirror_testkit::yum::{DnfClient, Repository};
use instantmirror_testkit::{fetch, http};

const SOON: Duration = Duration::from_secs(30);
const LIMIT: Duration = Duration::from_secs(120);

/// `python3 -m http.server` on a free port that it chose; the URL ends with a slash.
fn serve(root: &Path, dir: &TestDir) -> (Daemon, String) {
    let mut command = clean_command("python3");
    command
        .args(["-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory"])
        .arg(root);
    let mut daemon = Daemon::start("http.server", &mut command, &dir.path().join("server.log")).unwrap();
    let line = daemon.wait_for_line("Serving HTTP", SOON).unwrap();
    let port: u16 = line
        .split("port ")
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    let url = format!("http://127.0.0.1:{port}/");
    daemon.wait_for_port(port, SOON).unwrap();
    daemon.wait_for_url(&url, SOON).unwrap();
    (daemon, url)
}

#[test]
fn apt_sees_an_archive_and_its_upgrade() {
    let dir = TestDir::new("apt").unwrap();
    let archive = Archive::build(&dir.folder("archive").unwrap()).unwrap();
    let (_server, url) = serve(archive.root(), &dir);
    let client = AptClient::new(&dir.folder("client").unwrap(), &url).unwrap();
    client.update().unwrap();
    let old = archive.version("hello").unwrap();
    assert_eq!(client.candidate("hello").unwrap(), Some(old.clone()));
    assert_eq!(client.candidate("no-such-package").unwrap(), None);
    assert_eq!(
        client.download("hello").unwrap(),
        std::fs::read(archive.package_file("hello").unwrap()).unwrap()
    );

    let new = archive.upgrade("hello").unwrap();
    assert_ne!(old, new);
    assert_eq!(
        client.candidate("hello").unwrap(),
        Some(old),
        "apt must not know before it updates"
    );
    client.update().unwrap();
    assert_eq!(client.versions("hello").unwrap(), [new]);
    assert_eq!(
        client.download("hello").unwrap(),
        std::fs::read(archive.package_file("hello").unwrap()).unwrap()
    );
}

#[test]
fn apt_reports_a_broken_archive() {
    let dir = TestDir::new("apt").unwrap();
    let archive = Archive::build_of(&dir.folder("archive").unwrap(), &["hello"]).unwrap();
    let (mut server, url) = serve(archive.root(), &dir);
    let client = AptClient::new(&dir.folder("client").unwrap(), &url).unwrap();
    client.update().unwrap();
    let file = archive.package_file("hello").unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, bytes).unwrap();
    assert!(
        client.download("hello").is_err(),
        "apt must refuse a package with a wrong hash"
    );
    server.terminate(SOON).unwrap();
    assert!(client.update().is_err(), "apt must report a server that is gone");
}

#[test]
fn dnf_sees_a_repository_and_its_upgrade() {
    let dir = TestDir::new("dnf").unwrap();
    let repository = Repository::build(&dir.folder("repository").unwrap()).unwrap();
    let (mut server, url) = serve(repository.root(), &dir);
    let client = DnfClient::new(&dir.folder("client").unwrap(), &url).unwrap();
    client.makecache().unwrap();
    assert_eq!(client.available("im-beta").unwrap().as_deref(), Some("1.0-1"));
    assert_eq!(client.available("no-such-package").unwrap(), None);
    let published = std::fs::read(repository.package_file("im-beta").unwrap()).unwrap();
    assert_eq!(client.download("im-beta").unwrap(), published);

    repository.publish("im-beta", "2.0").unwrap();
    client.makecache().unwrap();
    assert_eq!(client.available("im-beta").unwrap().as_deref(), Some("2.0-1"));
    assert_eq!(client.available("im-alpha").unwrap().as_deref(), Some("1.0-1"));
    let published = std::fs::read(repository.package_file("im-beta").unwrap()).unwrap();
    assert_eq!(client.download("im-beta").unwrap(), published);

    server.terminate(SOON).unwrap();
    assert!(client.makecache().is_err(), "dnf must report a server that is gone");
}

#[test]
fn wget_fetches_a_nasty_tree_whole() {
    let dir = TestDir::new("wget").unwrap();
    let (source, copy) = (dir.path().join("source"), dir.path().join("copy"));
    TreeSpec::small().for_wget().build(&source).unwrap();
    let (_server, url) = serve(&source, &dir);
    let fetched = fetch::wget_tree(&url, &copy, LIMIT).unwrap();
    assert!(
        fetched.had_server_errors,
        "the symlinks that lead nowhere must have been asked for"
    );
    let differences = Comparison::symlinks_followed().differences(&source, &copy).unwrap();
    assert_eq!(differences, Vec::<String>::new());

    std::fs::write(copy.join("names/files/100%"), "101%").unwrap();
    let differences = Comparison::symlinks_followed().differences(&source, &copy).unwrap();
    assert_eq!(
        differences,
        ["names/files/100%: differs from byte 2 on"],
        "the planted difference must be found"
    );
}

#[test]
fn wget_fetches_a_folder_below_the_root() {
    let dir = TestDir::new("wget").unwrap();
    let (source, copy) = (dir.path().join("source"), dir.path().join("copy"));
    TreeSpec::small().real_files_max(0).for_wget().build(&source).unwrap();
    let (_server, url) = serve(&source, &dir);
    fetch::wget_tree(&format!("{url}links/target/"), &copy, LIMIT).unwrap();
    let differences = Comparison::exact()
        .differences(&source.join("links/target"), &copy)
        .unwrap();
    assert_eq!(differences, Vec::<String>::new());
}

#[test]
fn aria2_fetches_every_listed_file() {
    let dir = TestDir::new("aria2").unwrap();
    let (source, copy) = (dir.path().join("source"), dir.folder("copy").unwrap());
    TreeSpec::small().build(&source).unwrap();
    let (_server, url) = serve(&source, &dir);
    let list: Vec<_> = files(&source)
        .unwrap()
        .into_iter()
        .filter(|file| fetch::aria2_takes(file))
        .collect();
    fetch::aria2(&url, list.iter().map(AsRef::as_ref), &copy, LIMIT).unwrap();
    // A list of files brings no empty folders and no names that it cannot hold.
    let absent = |path: &Path| !fetch::aria2_takes(path) || path.ends_with("empty") || path.ends_with("empty/folders");
    let comparison = Comparison::symlinks_followed().skipping(move |path| absent(path) && !path.starts_with("sizes"));
    assert_eq!(
        comparison.differences(&source, &copy).unwrap(),
        ["folders/nested: missing"]
    );
}

#[test]
fn the_plain_client_gets_what_is_there() {
    let dir = TestDir::new("http").unwrap();
    let source = dir.folder("source").unwrap();
    std::fs::write(source.join("a b#?"), "content").unwrap();
    let (_server, url) = serve(&source, &dir);
    let answer = http::get(&format!("{url}{}", http::encode_path(b"a b#?"))).unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "content"));
    assert_eq!(http::get(&format!("{url}missing")).unwrap().status, 404);
    let head = http::request("HEAD", &format!("{url}{}", http::encode_path(b"a b#?")), &[]).unwrap();
    assert_eq!(
        (head.status, head.header("content-length"), head.body.len()),
        (200, Some("7"), 0)
    );
}
