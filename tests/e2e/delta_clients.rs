//! Clients that fetch only what changed: zsync and zchunk ask for many ranges at once, and get them.

use std::path::{Path, PathBuf};

use instantmirror_testkit::command::{clean_command, run};
use instantmirror_testkit::http;
use instantmirror_testkit::process::{TestDir, poll};
use instantmirror_testkit::tree::noise;

use crate::world::{LIMIT, Master, Node};

const FILE_BYTES: usize = 12 << 20;
/// So many places of the file differ between its two versions.
const CHANGES: usize = 150;
const CHANGE_BYTES: usize = 100;

/// Two versions of a file with changes all over it.
fn versions() -> (Vec<u8>, Vec<u8>) {
    let old = noise(FILE_BYTES);
    let mut new = old.clone();
    for change in 0..CHANGES {
        let at = change * (FILE_BYTES / CHANGES);
        new[at..at + CHANGE_BYTES].iter_mut().for_each(|byte| *byte ^= 0x5a);
    }
    (old, new)
}

/// Requests for a file that a node has answered: status and bytes.
fn answers(log: &Path, name: &str) -> Vec<(u16, u64)> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let answer = |line: &str| {
        let (request, behind) = line.split_once("\" ")?;
        let mut words = behind.split(' ');
        let (status, bytes) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        request.contains(&format!("/{name} ")).then_some((status, bytes))
    };
    text.lines().filter_map(answer).collect()
}

/// What a node sent of a file to a client that has gone. A log is written once a second.
fn sent(log: &Path, name: &str) -> Vec<(u16, u64)> {
    poll(LIMIT, || Some(answers(log, name)).filter(|answers| !answers.is_empty())).expect("the requests are logged")
}

fn node(dir: &TestDir, source: &Path) -> (Master, Node, PathBuf) {
    let mut master = Master::new(dir, &[("r", source)]);
    let snapshot = master.publish("r");
    master.serve();
    let mut node = Node::configure(dir, &master.url(), &master.key, &["r"], "1 GiB");
    let log = node.dir.join("access.log");
    let config = std::fs::read_to_string(&node.config).unwrap();
    let logged = config.replace("[http]", &format!("[http]\naccess_log = {log:?}"));
    std::fs::write(&node.config, logged).unwrap();
    node.run();
    node.wait_for("r", &snapshot);
    (master, node, log)
}

#[test]
fn zsync_and_zchunk_fetch_what_changed() {
    let dir = TestDir::new("e2e-delta").unwrap();
    let (source, home) = (dir.folder("source").unwrap(), dir.folder("home").unwrap());
    let (old, new) = versions();
    std::fs::write(home.join("old"), &old).unwrap();
    std::fs::write(source.join("new"), &new).unwrap();
    let mut zsyncmake = clean_command("zsyncmake");
    zsyncmake
        .current_dir(&source)
        .args(["-u", "new", "-o", "new.zsync", "new"]);
    run(&mut zsyncmake, LIMIT).unwrap();
    for (from, to) in [
        (home.join("old"), home.join("old.zck")),
        (source.join("new"), source.join("new.zck")),
    ] {
        run(clean_command("zck").arg(&from).arg("-o").arg(&to), LIMIT).unwrap();
    }
    let (_master, node, log) = node(&dir, &source);
    let zck_bytes = std::fs::metadata(source.join("new.zck")).unwrap().len();

    let mut zsync = clean_command("zsync");
    zsync.current_dir(&home).args(["-i", "old", "-o", "by-zsync"]);
    run(zsync.arg(format!("{}/pub/r/new.zsync", node.url())), LIMIT).unwrap();
    assert!(
        std::fs::read(home.join("by-zsync")).unwrap() == new,
        "zsync made another file"
    );
    check("zsync", &sent(&log, "new"), FILE_BYTES as u64);

    let mut zckdl = clean_command("zckdl");
    zckdl.current_dir(&home).args(["-s", "old.zck"]);
    run(zckdl.arg(format!("{}/pub/r/new.zck", node.url())), LIMIT).unwrap();
    let (by_zckdl, published) = (home.join("new.zck"), source.join("new.zck"));
    assert!(
        std::fs::read(by_zckdl).unwrap() == std::fs::read(published).unwrap(),
        "zckdl made another file"
    );
    check("zckdl", &sent(&log, "new.zck"), zck_bytes);

    // As many as there may be, of a file that was never read whole before: each part is itself.
    let ranges: Vec<String> = (0..256)
        .map(|i| format!("{}-{}", i * 16_000, i * 16_000 + 99))
        .collect();
    let asked = [("Range", format!("bytes={}", ranges.join(",")))];
    let asked = asked.each_ref().map(|(name, value)| (*name, value.as_str()));
    let answer = http::request("GET", &format!("{}/pub/r/new", node.url()), &asked).unwrap();
    assert_eq!(answer.status, 206);
    for at in (0..256).map(|i| i * 16_000) {
        let field = format!("Content-Range: bytes {at}-{}/{FILE_BYTES}\r\n\r\n", at + 99);
        let found = answer
            .body
            .windows(field.len())
            .position(|window| window == field.as_bytes());
        let begin = found.unwrap_or_else(|| panic!("no part begins at {at}")) + field.len();
        assert!(answer.body[begin..begin + 100] == new[at..at + 100], "the part at {at}");
    }
}

/// A client got parts and nothing else, in few requests, and not the whole file.
fn check(client: &str, answers: &[(u16, u64)], file_bytes: u64) {
    assert!(
        answers.iter().all(|(status, _)| *status == 206),
        "{client}: {answers:?}"
    );
    let bytes: u64 = answers.iter().map(|(_, bytes)| bytes).sum();
    assert!(
        bytes * 4 < file_bytes * 3,
        "{client} was sent {bytes} of {file_bytes} bytes: {answers:?}"
    );
    assert!(
        answers.len() < 12,
        "{client} asked {} times: {answers:?}",
        answers.len()
    );
}
