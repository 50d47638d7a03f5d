//! What goes wrong, what is said then, and that everything else goes on.

use std::os::unix::fs::PermissionsExt as _;

use instantmirror_testkit::command::{clean_command, run_any};
use instantmirror_testkit::http;
use instantmirror_testkit::process::{TestDir, binary, poll};
use instantmirror_testkit::tree::noise;

use crate::world::{LIMIT, Master, Mount, Node};

/// A published, served and mirrored repository `r` with the files `good` and `large`.
fn world(name: &str) -> (TestDir, Master, Node, String) {
    let dir = TestDir::new(name).unwrap();
    let source = dir.folder("source").unwrap();
    std::fs::write(source.join("good"), "good").unwrap();
    std::fs::write(source.join("large"), noise(1 << 20)).unwrap();
    let mut master = Master::new(&dir, &[("r", &source)]);
    let snapshot = master.publish("r");
    master.serve();
    let node = Node::start(&dir, &master, &["r"]);
    node.wait_for("r", &snapshot);
    (dir, master, node, snapshot)
}

#[test]
fn a_missing_source_is_named_and_the_old_snapshot_stays() {
    let (dir, master, node, _) = world("e2e-missing");
    std::fs::rename(dir.path().join("source"), dir.path().join("gone")).unwrap();
    let (code, said) = master.fail(&["publish", "r"]);
    assert_eq!(code, 1);
    assert!(said.contains("source") && said.contains("No such file"), "{said}");
    assert_eq!(node.get("/r/snap/current/good"), b"good");
}

#[test]
fn a_tree_that_has_lost_all_its_files_is_not_published_unless_asked_for() {
    let dir = TestDir::new("e2e-emptied").unwrap();
    let (gone, other) = (dir.folder("gone").unwrap(), dir.folder("other").unwrap());
    std::fs::write(gone.join("file"), "x").unwrap();
    std::fs::write(other.join("file"), "x").unwrap();
    let master = Master::new(&dir, &[("gone", &gone), ("other", &other)]);
    let kept = master.publish("gone");
    std::fs::remove_file(gone.join("file")).unwrap();
    // One that fails keeps none of the others back.
    let (code, said) = master.fail(&["publish"]);
    assert_eq!(code, 1);
    assert!(
        said.contains("is it mounted?") && said.contains("other: snapshot"),
        "{said}"
    );
    assert!(said.contains("not published: gone"), "{said}");
    assert!(master.run(&["snapshot", "show", "gone"]).text().contains(&kept));
    master.run(&["publish", "--allow-empty", "gone"]);
    assert!(
        !master
            .run(&["snapshot", "show", "gone"])
            .text()
            .contains(&format!("snapshot    {kept}"))
    );
}

#[test]
fn unpublishable_paths_are_listed_all_at_once() {
    let (dir, master, node, snapshot) = world("e2e-unpublishable");
    use std::os::unix::ffi::OsStrExt as _;
    let source = dir.path().join("source");
    std::fs::write(source.join(std::ffi::OsStr::from_bytes(b"not-utf8-\xff")), "x").unwrap();
    std::fs::write(source.join("line\nfeed"), "x").unwrap();
    std::fs::create_dir(source.join("below")).unwrap();
    std::fs::write(source.join("below/\u{7f}"), "x").unwrap();
    let (_, said) = master.fail(&["publish", "r"]);
    for part in [
        "3 path(s)",
        r"not-utf8-\xff: bytes that are not UTF-8",
        r"line\nfeed: a control character",
        r"below/\x7f",
    ] {
        assert!(said.contains(part), "{part} is not in:\n{said}");
    }
    node.wait_for("r", &snapshot);
    // The operator may say that they do not matter.
    let text = std::fs::read_to_string(&master.config).unwrap();
    std::fs::write(&master.config, text + "unpublishable = \"skip\"\n").unwrap();
    let said = master.run(&["publish", "r"]).transcript();
    assert!(said.contains("2 files") && said.contains("left out"), "{said}");
}

#[test]
fn special_files_are_left_out_and_said_so() {
    let (dir, master, _node, _) = world("e2e-special");
    let fifo = dir.path().join("source/pipe");
    assert!(clean_command("mkfifo").arg(&fifo).status().unwrap().success());
    let said = master.run(&["publish", "r", "--note", "with a pipe"]).transcript();
    assert!(
        said.contains("pipe") && said.contains("not a file, directory or symlink"),
        "{said}"
    );
}

#[test]
fn an_unreadable_source_file_is_named() {
    let (dir, master, node, _) = world("e2e-unreadable");
    // Root reads everything, so the reading itself is made to fail.
    std::fs::write(dir.path().join("source/new"), "new").unwrap();
    let mut command = clean_command("strace");
    command
        .args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=openat2", "-P"])
        .arg("new");
    command
        .args(["-e", "inject=openat2:error=EACCES:when=1+"])
        .arg(binary("imserver").unwrap());
    command.arg("--config").arg(&master.config).args(["publish", "r"]);
    let finished = run_any(&mut command, LIMIT).unwrap();
    assert!(!finished.status.success(), "{}", finished.transcript());
    assert!(
        finished.transcript().contains("Permission denied"),
        "{}",
        finished.transcript()
    );
    assert_eq!(node.get("/r/snap/current/good"), b"good");
    master.run(&["publish", "r"]);
}

#[test]
fn a_source_file_that_never_holds_still_fails_the_publish_with_its_name() {
    let (dir, master, node, snapshot) = world("e2e-changing");
    let restless = dir.path().join("source/restless");
    std::fs::write(&restless, noise(64 << 20)).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            use std::os::unix::fs::FileExt as _;
            let file = std::fs::OpenOptions::new().write(true).open(&restless).unwrap();
            let mut count = 0u64;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                count += 1;
                file.write_all_at(&count.to_le_bytes(), count * 8 % (1 << 20)).unwrap();
            }
        });
        let (_, said) = master.fail(&["publish", "r"]);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(
            said.contains("restless") && said.contains("changed while it was read"),
            "{said}"
        );
    });
    node.wait_for("r", &snapshot);
    master.run(&["publish", "r"]);
}

#[test]
fn a_full_disk_under_the_store_is_said_and_serving_goes_on() {
    let dir = TestDir::new("e2e-full").unwrap();
    let (small, source) = (dir.folder("master").unwrap(), dir.folder("source").unwrap());
    let mount = Mount::tmpfs(&small, "size=8m");
    std::fs::write(source.join("good"), "good").unwrap();
    let mut master = Master::new(&dir, &[("r", &source)]);
    let snapshot = master.publish("r");
    master.serve();
    let node = Node::start(&dir, &master, &["r"]);
    node.wait_for("r", &snapshot);
    std::fs::write(source.join("huge"), noise(16 << 20)).unwrap();
    let (code, said) = master.fail(&["publish", "r"]);
    assert_eq!(code, 1);
    assert!(said.contains("no space left"), "{said}");
    assert_eq!(node.get("/r/snap/current/good"), b"good");
    // It recovers unaided, and leaves no litter.
    std::fs::remove_file(source.join("huge")).unwrap();
    std::fs::write(source.join("fits"), "fits").unwrap();
    let second = master.publish("r");
    node.wait_for("r", &second);
    assert_eq!(std::fs::read_dir(small.join("store/tmp")).unwrap().count(), 0);
    master.stop(false);
    drop(mount);
}

#[test]
fn what_does_not_fit_on_a_full_disk_is_streamed_past_the_cache() {
    let dir = TestDir::new("e2e-node-full").unwrap();
    let source = dir.folder("source").unwrap();
    let huge = noise(32 << 20);
    std::fs::write(source.join("good"), "good").unwrap();
    std::fs::write(source.join("huge"), &huge).unwrap();
    let mut master = Master::new(&dir, &[("r", &source)]);
    let snapshot = master.publish("r");
    master.serve();
    let mount = Mount::tmpfs(&dir.folder("node").unwrap(), "size=16m");
    let mut node = Node::start(&dir, &master, &["r"]);
    node.wait_for("r", &snapshot);
    assert!(
        node.get("/r/snap/current/huge") == huge,
        "other bytes than the source's"
    );
    node.daemon().wait_for_line("past the cache", LIMIT).unwrap();
    assert_eq!(node.get("/r/snap/current/good"), b"good");
    node.stop(false);
    drop(mount);
}

#[test]
fn a_port_in_use_is_said_with_the_address() {
    let (dir, master, mut node, _) = world("e2e-port");
    let taken = node.url();
    let text = std::fs::read_to_string(&node.config).unwrap();
    let address = taken.trim_start_matches("http://");
    let config = dir.path().join("second.toml");
    let text = text
        .replace("127.0.0.1:0", address)
        .replace("/node/cache", "/node/cache2");
    std::fs::write(&config, text).unwrap();
    let mut command = clean_command(binary("imnode").unwrap().to_str().unwrap());
    let finished = run_any(command.arg("--config").arg(&config).arg("run"), LIMIT).unwrap();
    let said = finished.transcript();
    assert_eq!(finished.status.code(), Some(1), "{said}");
    assert!(said.contains(address) && said.contains("in use"), "{said}");
    assert!(node.daemon().is_running());
    drop(master);
}

#[test]
fn a_wrong_key_shows_nothing_and_says_why() {
    let (dir, master, _node, _) = world("e2e-key");
    let stranger = master
        .run(&["keygen", dir.path().join("stranger").to_str().unwrap()])
        .text();
    let other = TestDir::new("e2e-key-node").unwrap();
    let mut node = Node::configure(&other, &master.url(), stranger.trim(), &["r"], "1 GiB");
    node.run();
    node.daemon().wait_for_line("REFUSED", LIMIT).unwrap();
    let answer = http::get(&format!("{}/r/snap/current/good", node.url())).unwrap();
    assert!(answer.status == 404 || answer.status == 503, "{}", answer.status);
    let status = node.status();
    let error = status["repositories"][0]["last_error"].as_str().unwrap();
    assert!(error.contains("no signature by a trusted key"), "{error}");
}

#[test]
fn a_damaged_head_on_the_node_is_said_and_fetched_again_and_other_repositories_go_on() {
    let dir = TestDir::new("e2e-head").unwrap();
    let (one, two) = (dir.folder("one").unwrap(), dir.folder("two").unwrap());
    std::fs::write(one.join("shared"), "the same content").unwrap();
    std::fs::write(two.join("shared"), "the same content").unwrap();
    let mut master = Master::new(&dir, &[("one", &one), ("two", &two)]);
    let snapshots = [master.publish("one"), master.publish("two")];
    master.serve();
    let mut node = Node::start(&dir, &master, &["one", "two"]);
    node.wait_for("one", &snapshots[0]);
    node.wait_for("two", &snapshots[1]);
    assert_eq!(node.get("/pub/one/shared"), b"the same content");
    // Content is stored once, whatever repository it was read through.
    assert_eq!(node.get("/pub/two/shared"), b"the same content");
    assert_eq!(node.status()["fetch"]["objects"], 1);
    node.stop(false);
    master.stop(false);
    std::fs::write(node.dir.join("cache/snapshots/heads/one.head"), "rubbish").unwrap();
    node.run();
    assert_eq!(node.get("/pub/two/shared"), b"the same content");
    assert_eq!(
        http::get(&format!("{}/pub/one/shared", node.url())).unwrap().status,
        503
    );
    node.daemon()
        .wait_for_line("nothing of it is shown until a trusted head comes", LIMIT)
        .unwrap();
    master.serve();
    node.wait_for("one", &snapshots[0]);
    assert_eq!(node.get("/pub/one/shared"), b"the same content");
}

#[test]
fn an_older_head_is_refused_as_a_rollback() {
    let (dir, mut master, mut node, _) = world("e2e-rollback");
    let head = master.dir.join("store/heads/r.head");
    let old = std::fs::read(&head).unwrap();
    std::fs::write(dir.path().join("source/second"), "second").unwrap();
    let second = master.publish("r");
    node.wait_for("r", &second);
    master.stop(false);
    std::fs::write(&head, &old).unwrap();
    master.serve();
    node.daemon().wait_for_line("rollback", LIMIT).unwrap();
    assert_eq!(node.get("/r/snap/current/second"), b"second");
    assert!(node.status()["repositories"][0]["refused"].as_u64().unwrap() > 0);
}

#[test]
fn forged_and_truncated_objects_of_the_master_never_leave_the_node() {
    let (_dir, master, mut node, _) = world("e2e-forged");
    let file = master.object_file(&noise(1 << 20));
    let content = std::fs::read(&file).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    for damaged in [
        [&content[..500_000], b"forged", &content[500_006..]].concat(),
        content[..content.len() / 2].to_vec(),
        Vec::new(),
    ] {
        std::fs::write(&file, &damaged).unwrap();
        let answer = http::get(&format!("{}/r/snap/current/large", node.url()));
        if let Ok(answer) = answer {
            assert!(
                answer.status >= 500 || content.starts_with(&answer.body),
                "wrong bytes were served"
            );
            assert!(
                answer.status != 200 || answer.body.len() < content.len(),
                "a whole answer from damaged content"
            );
        }
        assert_eq!(node.get("/r/snap/current/good"), b"good");
    }
    node.daemon().wait_for_line("large", LIMIT).unwrap();
    std::fs::write(&file, &content).unwrap();
    assert!(node.get("/r/snap/current/large") == content);
}

#[test]
fn a_damaged_catalog_of_the_master_changes_nothing_on_the_node() {
    let (dir, mut master, mut node, snapshot) = world("e2e-catalog");
    for i in 0..300 {
        std::fs::write(dir.path().join("source").join(format!("file-{i}")), i.to_string()).unwrap();
    }
    master.stop(false);
    master.publish("r");
    let segments: Vec<_> = std::fs::read_dir(master.dir.join("store/catalog"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "pack"))
        .collect();
    let good: Vec<_> = segments.iter().map(|path| std::fs::read(path).unwrap()).collect();
    for (path, bytes) in segments.iter().zip(&good) {
        let mut bytes = bytes.clone();
        let middle = bytes.len() * 3 / 4;
        bytes[middle] ^= 0xff;
        std::fs::write(path, bytes).unwrap();
    }
    master.serve();
    let said = poll(LIMIT, || {
        let error = node.status()["repositories"][0]["last_error"].as_str()?.to_owned();
        error.contains("catalog").then_some(error)
    });
    said.expect("an error is shown");
    node.daemon().wait_for_line("catalog", LIMIT).unwrap();
    node.wait_for("r", &snapshot);
    assert_eq!(node.get("/r/snap/current/good"), b"good");
}

#[test]
fn hostile_paths_get_an_error_and_nothing_else() {
    let (_dir, _master, mut node, snapshot) = world("e2e-hostile");
    let host = node.url().trim_start_matches("http://").to_owned();
    let hostile = [
        "/r/snap/current/../../../../etc/passwd",
        "/r/snap/current/%2e%2e/%2e%2e/etc/passwd",
        "/r/snap/current/..%2f..%2fetc/passwd",
        "/r/snap/current/%252e%252e/x",
        "/r/snap/current/good/below",
        "/r/snap/current/a%00b",
        "/r/snap/current/%ff%fe",
        "/r/snap/current/.//..//good",
        "/r/snap/current/good%0d%0aX-Injected:%20yes",
        "/r/snap/00000000-0000-0000-0000-000000000000/good",
        "/r/snap/..;/good",
        "//etc/passwd",
        "/.im/v1/r/objects/../../../etc/passwd",
        "/.im/status",
        &format!("/r/snap/{}/good", snapshot.to_uppercase()),
        &format!("/r/snap/current/{}", "a/".repeat(3000)),
    ];
    for path in hostile {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let answer = http::exchange(&host, request.as_bytes()).unwrap();
        let text = String::from_utf8_lossy(&answer);
        let status = text.split(' ').nth(1).unwrap_or_default();
        assert!(status.starts_with('4'), "{path}: {text}");
        assert!(
            !text.contains("root:") && !text.contains("X-Injected: yes\r\n"),
            "{path}: {text}"
        );
    }
    assert!(node.daemon().is_running());
    assert_eq!(node.get("/r/snap/current/good"), b"good");
}
