//! Cheap publishes: named paths, lists, the watch, the control socket; and who waits for whom.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use instantmirror::store::disk::RealDisk;
use instantmirror::store::snapshots::DiskSnapshotStore;
use instantmirror_testkit::http;
use instantmirror_testkit::process::{TestDir, poll};

use crate::world::{LIMIT, Master};

fn write(source: &Path, path: &str, content: &str) {
    let path = source.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

/// A tree that was published long ago, as far as time stamps tell.
fn old_tree(dir: &TestDir, files: &[&str]) -> std::path::PathBuf {
    let source = dir.folder("source").unwrap();
    files.iter().for_each(|path| write(&source, path, "old"));
    source
}

#[test]
fn only_named_paths_are_looked_at() {
    let dir = TestDir::new("e2e-changed").unwrap();
    let source = old_tree(&dir, &["a/one", "a/two", "b/three", "b/four"]);
    let mut master = Master::new(&dir, &[("r", &source)]);
    // Nothing to start from yet: everything is looked at, and the log says so.
    let first = master.run(&["publish", "r", "--changed", "a/one"]);
    assert!(
        first.transcript().contains("looking at the whole tree"),
        "{}",
        first.transcript()
    );
    assert!(first.text().contains("4 files"), "{}", first.text());
    master.serve();
    let shown = |path: &str| http::get(&format!("{}/r/snap/current/{path}", master.url())).unwrap();
    let shows = |path: &str, content: &str| {
        let seen = poll(LIMIT, || (shown(path).text() == content).then_some(()));
        seen.unwrap_or_else(|| panic!("{path} is {}", shown(path).text()));
    };
    for path in ["a/one", "a/two", "b/three"] {
        write(&source, path, "new");
    }
    std::fs::remove_file(source.join("b/four")).unwrap();
    let absolute = source.join("b/four");
    let said = master
        .run(&["publish", "r", "--changed", "./a/one", absolute.to_str().unwrap()])
        .text();
    assert!(
        said.contains("3 files") && said.contains("1 new or changed file "),
        "{said}"
    );
    assert!(said.contains("only what was named was looked at"), "{said}");
    shows("a/one", "new");
    assert_eq!(
        (shown("a/two").text(), shown("b/three").text()),
        ("old".to_owned(), "old".to_owned())
    );
    let listing = shown("b/").text();
    assert!(!listing.contains("four"), "{listing}");

    let list = dir.path().join("list");
    std::fs::write(&list, "a/two\n\nb/\n").unwrap();
    master.run(&["publish", "r", "--changed-from", list.to_str().unwrap()]);
    shows("a/two", "new");
    shows("b/three", "new");
    assert!(master.run(&["publish", "r"]).text().contains("nothing has changed"));

    let (_, said) = master.fail(&["publish", "r", "--changed", "../escape"]);
    assert!(said.contains("'../escape' is no path of the source tree"), "{said}");
    let (_, said) = master.fail(&["publish", "r", "--changed-from", "no-such-list"]);
    assert!(said.contains("cannot open no-such-list"), "{said}");
}

/// The tree as create-filelist of quick-fedora-mirror lists it.
fn fullfiletimelist(source: &Path) -> String {
    let mut text = String::from("[Version]\n2\n\n[Files]\n");
    let mut pending = vec![source.to_path_buf()];
    while let Some(dir) = pending.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = path.symlink_metadata().unwrap();
            let kind = if meta.is_dir() { "d" } else { "f" };
            let (time, inner) = (meta.mtime().max(meta.ctime()), path.strip_prefix(source).unwrap());
            text += &format!("{time}\t{kind}\t{}\t{}\n", meta.size(), inner.display());
            if meta.is_dir() {
                pending.push(path);
            }
        }
    }
    text + "\n[Checksums SHA1]\n\n[End]\n"
}

#[test]
fn a_file_list_tells_what_has_changed() {
    let dir = TestDir::new("e2e-filelist").unwrap();
    let source = old_tree(&dir, &["a/one", "a/two", "b/gone", "c/still"]);
    let master = Master::new(&dir, &[("r", &source)]);
    // Time stamps within two seconds of the scan are not relied on.
    std::thread::sleep(Duration::from_millis(3100));
    master.publish("r");
    let list = dir.path().join("fullfiletimelist");
    let publish = || {
        std::fs::write(&list, fullfiletimelist(&source)).unwrap();
        master.run(&["publish", "r", "--changed-from", list.to_str().unwrap()])
    };
    assert!(publish().text().contains("nothing has changed"));
    write(&source, "a/one", "changed");
    write(&source, "new/file", "new");
    std::fs::remove_dir_all(source.join("b")).unwrap();
    let said = publish().text();
    assert!(
        said.contains("4 files") && said.contains("2 new or changed files"),
        "{said}"
    );
    assert!(said.contains("only what was named"), "{said}");
    assert!(master.run(&["publish", "r"]).text().contains("nothing has changed"));
    std::fs::write(&list, "[Version]\n2\n[Files]\n").unwrap();
    let (_, said) = master.fail(&["publish", "r", "--changed-from", list.to_str().unwrap()]);
    assert!(said.contains("cut off"), "{said}");
}

#[test]
fn a_second_publish_is_refused_or_waits() {
    let dir = TestDir::new("e2e-busy").unwrap();
    let source = old_tree(&dir, &["file"]);
    let master = Master::new(&dir, &[("r", &source)]);
    let disk = Arc::new(RealDisk::open(dir.path().join("master/store")).unwrap());
    let held = DiskSnapshotStore::open(disk, "").unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| master.run(&["publish", "r", "--wait"]).text());
        let (code, said) = master.fail(&["publish", "r"]);
        let us = format!("process {} writes to the store now", std::process::id());
        assert!(code == 1 && said.contains(&us) && said.contains("--wait"), "{said}");
        assert!(!waiting.is_finished());
        drop(held);
        assert!(waiting.join().unwrap().contains("1 file,"));
    });
}

/// POSTs to the control socket; returns status and JSON.
pub(crate) fn control(master: &Master, path: &str, body: &str) -> (u16, serde_json::Value) {
    let mut stream = UnixStream::connect(master.dir.join("store/control.sock")).unwrap();
    let length = body.len();
    let request =
        format!("POST {path} HTTP/1.1\r\nHost: control\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    (
        status,
        serde_json::from_str(body).unwrap_or_else(|_| panic!("{answer}")),
    )
}

#[test]
fn build_systems_publish_through_the_control_socket() {
    let dir = TestDir::new("e2e-control-publish").unwrap();
    let source = old_tree(&dir, &["a", "b"]);
    let mut master = Master::new(&dir, &[("r", &source)]);
    master.serve();
    let (status, done) = control(&master, "/.im/publish/r", "");
    assert_eq!(
        (status, &done["published"], &done["details"]["files"]),
        (200, &true.into(), &2.into())
    );
    assert_eq!(done["details"]["full_scan"], true);
    let (status, same) = control(&master, "/.im/publish/r", "{}");
    assert_eq!(
        (status, &same["published"], &same["snapshot"]),
        (200, &false.into(), &done["snapshot"])
    );
    write(&source, "a", "changed");
    write(&source, "b", "changed");
    let (status, done) = control(&master, "/.im/publish/r", r#"{"changed": ["a"], "note": "build 7"}"#);
    assert_eq!((status, &done["details"]["read_files"]), (200, &1.into()));
    assert_eq!(done["details"]["full_scan"], false);
    let listed = master.run(&["snapshot", "list", "r"]).text();
    assert!(listed.contains("build 7"), "{listed}");

    for (path, body, wanted) in [
        ("/.im/publish/none", "", 404),
        ("/.im/publish/Not%20A%20Name", "", 400),
        ("/.im/publish/r", "{\"changd\": []}", 400),
        ("/.im/publish/r", "{\"changed\": [\"../x\"]}", 400),
    ] {
        let (status, answer) = control(&master, path, body);
        assert_eq!(status, wanted, "{path} {body}: {answer}");
        assert!(!answer["error"].as_str().unwrap().is_empty());
    }
    // The public never gets there.
    let public = http::request("POST", &format!("{}/.im/publish/r", master.url()), &[]).unwrap();
    assert!(matches!(public.status, 404 | 405), "{}", public.status);
}

#[test]
fn a_watch_publishes_by_itself() {
    let dir = TestDir::new("e2e-watch").unwrap();
    let source = old_tree(&dir, &["a/one", "b/two"]);
    let mut master = Master::new(&dir, &[("r", &source)]);
    master.serve();
    let mut watch = master.start(&["watch", "r", "--settle", "300ms"], "watch");
    watch.wait_for_line("2 files", LIMIT).unwrap();
    let shows = |path: &str, content: &str| {
        let url = format!("{}/r/snap/current/{path}", master.url());
        let seen = poll(LIMIT, || (http::get(&url).ok()?.text() == content).then_some(()));
        seen.unwrap_or_else(|| panic!("{path} never shows {content}"));
    };
    let begun = SystemTime::now();
    write(&source, "a/one", "changed");
    shows("a/one", "changed");
    assert!(begun.elapsed().unwrap() < Duration::from_secs(20));
    assert!(
        watch.log().contains("only what was named was looked at"),
        "{}",
        watch.log()
    );
    write(&source, "new/deep/file", "new");
    shows("new/deep/file", "new");
    write(&source, "new/deep/file", "again");
    shows("new/deep/file", "again");
    // What cannot be published is said, and forgotten nothing: the next change publishes all of it.
    write(&source, "a/bad\u{1}name", "x");
    write(&source, "b/two", "changed");
    watch.wait_for_line("it is tried again", LIMIT).unwrap();
    std::fs::remove_file(source.join("a/bad\u{1}name")).unwrap();
    shows("b/two", "changed");
    assert!(watch.terminate(LIMIT).unwrap().success());
    assert!(master.run(&["publish", "r"]).text().contains("nothing has changed"));
}

#[test]
fn a_watch_follows_the_source_when_it_is_swapped_and_when_a_symlink_flips() {
    let dir = TestDir::new("e2e-watch-root").unwrap();
    let source = dir.path().join("source");
    let tree = |name: &str, files: &[&str]| {
        files.iter().for_each(|file| write(&dir.path().join(name), file, name));
    };
    tree("source", &["both", "only-1"]);
    let mut master = Master::new(&dir, &[("r", &source)]);
    master.configure("[snapshots]\ngrace = \"0 s\"");
    master.serve();
    let mut watch = master.start(&["watch", "r", "--settle", "200ms"], "watch");
    watch.wait_for_line("2 files", LIMIT).unwrap();
    let get = |path: &str| http::get(&format!("{}/r/snap/current/{path}", master.url())).ok();
    let shows = |path: &str, content: &str| {
        let seen = poll(LIMIT, || (get(path)?.text() == content).then_some(()));
        seen.unwrap_or_else(|| panic!("{path} never shows {content}"));
    };
    // mv new source
    tree("v2", &["both", "only-2"]);
    std::fs::rename(&source, dir.path().join("v1")).unwrap();
    std::fs::rename(dir.path().join("v2"), &source).unwrap();
    shows("only-2", "v2");
    shows("both", "v2");
    assert_eq!(get("only-1").unwrap().status, 404);
    assert!(watch.log().contains("has lost track"), "{}", watch.log());
    // A symlink that flips between two trees; an edit in the old one is none of the new one.
    tree("v3", &["both", "only-3"]);
    std::fs::rename(&source, dir.path().join("v2")).unwrap();
    std::os::unix::fs::symlink("v2", &source).unwrap();
    let flip = |to: &str| {
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(to, &link).unwrap();
        std::fs::rename(&link, &source).unwrap();
    };
    flip("v3");
    write(&dir.path().join("v2"), "both", "edited too late");
    write(&dir.path().join("v2"), "mixed", "never");
    shows("only-3", "v3");
    write(&source, "last", "v3");
    shows("last", "v3");
    shows("both", "v3");
    assert_eq!(
        (get("only-2").unwrap().status, get("mixed").unwrap().status),
        (404, 404)
    );
    assert!(watch.terminate(LIMIT).unwrap().success());
    // Neither does a publish of named paths build on another tree.
    flip("v1");
    let said = master.run(&["publish", "r", "--changed", "last"]).transcript();
    assert!(said.contains("the source tree is another directory"), "{said}");
    shows("only-1", "source");
    assert_eq!(get("only-3").unwrap().status, 404);
}
