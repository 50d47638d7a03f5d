//! curl as people use it: ranges, resuming, conditions, many files at once. Each over every transport of a node.

use std::path::Path;
use std::process::Command;

use instantmirror_testkit::command::{Finished, clean_command, run, run_any};
use instantmirror_testkit::process::TestDir;
use instantmirror_testkit::tree::noise;

use crate::world::{LIMIT, Master, Node};

/// Ways to reach a node: a name, and what curl is told beside the URL. A transport that is added here goes through
/// every test of this file.
const TRANSPORTS: [(&str, &[&str]); 2] = [("HTTP/1.1", &["--http1.1"]), ("HTTP/1.0", &["--http1.0"])];

const LARGE_BYTES: usize = 3 << 20;

/// curl's exit status when the server sends the whole instead of the rest.
const CURL_RANGE_ERROR: i32 = 33;

/// Files of the tree that are fetched all at once.
const MANY: usize = 300;

fn curl(transport: &[&str]) -> Command {
    let mut command = clean_command("curl");
    command
        .args(["--disable", "--silent", "--show-error", "--noproxy", "*"])
        .args(transport);
    command
}

/// Runs curl; it must succeed.
fn fetched(command: &mut Command) -> Finished {
    run(command, LIMIT).unwrap()
}

struct World {
    dir: TestDir,
    master: Master,
    node: Node,
}

impl World {
    /// A repository `r` with the file `large`, mirrored.
    fn new(name: &str, large: &[u8]) -> Self {
        let dir = TestDir::new(name).unwrap();
        let source = dir.folder("source").unwrap();
        std::fs::write(source.join("large"), large).unwrap();
        let mut master = Master::new(&dir, &[("r", &source)]);
        let snapshot = master.publish("r");
        master.serve();
        let node = Node::start(&dir, &master, &["r"]);
        node.wait_for("r", &snapshot);
        Self { dir, master, node }
    }

    fn change(&self, large: &[u8]) {
        std::fs::write(self.dir.path().join("source/large"), large).unwrap();
        let snapshot = self.master.publish("r");
        self.node.wait_for("r", &snapshot);
    }

    fn url(&self) -> String {
        format!("{}/pub/r/large", self.node.url())
    }

    fn etag(&self) -> String {
        let answer = instantmirror_testkit::http::request("HEAD", &self.url(), &[]).unwrap();
        answer.header("etag").expect("files have entity tags").to_owned()
    }
}

#[test]
fn curl_gets_the_ranges_it_asks_for() {
    let content = noise(LARGE_BYTES);
    for (name, transport) in TRANSPORTS {
        // A node of its own, so that the first range comes from a file that nobody has read.
        let world = World::new("e2e-curl-ranges", &content);
        let last = LARGE_BYTES - 1;
        for (range, expected) in [
            ("-10".to_owned(), &content[LARGE_BYTES - 10..]),
            ("0-0".to_owned(), &content[..1]),
            ("65530-65545".to_owned(), &content[65_530..65_546]),
            ("1000000-1999999".to_owned(), &content[1_000_000..2_000_000]),
            (format!("{last}-"), &content[last..]),
            ("0-".to_owned(), &content[..]),
        ] {
            let got = fetched(curl(transport).args(["--fail", "--range", &range]).arg(world.url()));
            assert!(got.stdout == expected, "{name}, {range}: {} bytes", got.stdout.len());
        }
        let several = fetched(
            curl(transport)
                .args(["--fail", "--range", "0-9,2000000-2000009"])
                .arg(world.url()),
        );
        for part in [&content[..10], &content[2_000_000..2_000_010]] {
            assert!(
                several.stdout.windows(10).any(|window| window == part),
                "{name}: a part is missing"
            );
        }
        let beyond = run_any(
            curl(transport).args(["--fail", "--range", "9999999-"]).arg(world.url()),
            LIMIT,
        )
        .unwrap();
        assert!(
            !beyond.status.success() && beyond.transcript().contains("416"),
            "{name}: {}",
            beyond.transcript()
        );
    }
}

#[test]
fn curl_resumes_where_it_stopped() {
    let content = noise(LARGE_BYTES);
    let world = World::new("e2e-curl-resume", &content);
    for (name, transport) in TRANSPORTS {
        for had in [0, 1, 65_536, 1_234_567, LARGE_BYTES - 1] {
            let file = world.dir.path().join("copy");
            std::fs::write(&file, &content[..had]).unwrap();
            let mut command = curl(transport);
            command.args([
                "--fail",
                "--continue-at",
                "-",
                "--write-out",
                "%{size_download}",
                "--output",
            ]);
            let said = fetched(command.arg(&file).arg(world.url())).text();
            assert_eq!(
                said,
                (LARGE_BYTES - had).to_string(),
                "{name}: more than the rest was sent"
            );
            assert!(
                std::fs::read(&file).unwrap() == content,
                "{name}, from {had}: another file"
            );
        }
    }
}

#[test]
fn curl_never_joins_parts_of_two_versions() {
    let old = noise(LARGE_BYTES);
    let world = World::new("e2e-curl-changed", &old);
    let old_tag = world.etag();
    let new: Vec<u8> = old.iter().map(|byte| !byte).collect();
    world.change(&new);
    for (name, transport) in TRANSPORTS {
        let file = world.dir.path().join("copy");
        let half = LARGE_BYTES / 2;
        let resume = |tag: &str| {
            let mut command = curl(transport);
            command.args([
                "--fail",
                "--continue-at",
                "-",
                "--header",
                &format!("If-Range: {tag}"),
                "--output",
            ]);
            run_any(command.arg(&file).arg(world.url()), LIMIT).unwrap()
        };
        std::fs::write(&file, &old[..half]).unwrap();
        let refused = resume(&old_tag);
        assert_eq!(
            refused.status.code(),
            Some(CURL_RANGE_ERROR),
            "{name}: {}",
            refused.transcript()
        );
        assert!(
            std::fs::read(&file).unwrap() == old[..half],
            "{name}: two versions in one file"
        );

        std::fs::write(&file, &new[..half]).unwrap();
        let resumed = resume(&world.etag());
        assert!(resumed.status.success(), "{name}: {}", resumed.transcript());
        assert!(std::fs::read(&file).unwrap() == new, "{name}: another file");
    }
}

#[test]
fn curl_is_told_when_it_has_the_file() {
    let content = noise(LARGE_BYTES);
    let world = World::new("e2e-curl-same", &content);
    for (name, transport) in TRANSPORTS {
        let dir = world.dir.folder(&name.replace('/', "-")).unwrap();
        let (file, tag) = (dir.join("copy"), dir.join("tag"));
        let get = |options: &[&str]| {
            let mut command = curl(transport);
            command.args(["--fail", "--remote-time", "--write-out", "%{http_code}", "--output"]);
            fetched(command.arg(&file).args(options).arg(world.url())).text()
        };
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let (file_text, tag_text) = (text(&file), text(&tag));
        assert_eq!(get(&["--etag-save", &tag_text]), "200", "{name}");
        assert_eq!(get(&["--etag-compare", &tag_text]), "304", "{name}");
        assert_eq!(get(&["--time-cond", &file_text]), "304", "{name}");
        assert!(std::fs::read(&file).unwrap() == content, "{name}");
    }
}

#[test]
fn curl_fetches_many_files_at_once() {
    let dir = TestDir::new("e2e-curl-parallel").unwrap();
    let source = dir.folder("source").unwrap();
    let content = |i: usize| format!("file {i} ").repeat(1 + i * 7).into_bytes();
    for i in 0..MANY {
        std::fs::write(source.join(format!("file-{i:03}")), content(i)).unwrap();
    }
    let mut master = Master::new(&dir, &[("r", &source)]);
    let snapshot = master.publish("r");
    master.serve();
    let node = Node::start(&dir, &master, &["r"]);
    node.wait_for("r", &snapshot);
    for (name, transport) in TRANSPORTS {
        let copy = dir.folder(&format!("copy-{}", name.replace('/', "-"))).unwrap();
        let mut command = curl(transport);
        command
            .current_dir(&copy)
            .args(["--fail", "--parallel", "--parallel-max", "50", "--parallel-immediate"]);
        let last = MANY - 1;
        fetched(
            command
                .args(["--output", "#1"])
                .arg(format!("{}/pub/r/file-[000-{last}]", node.url())),
        );
        for i in 0..MANY {
            assert!(
                std::fs::read(copy.join(format!("{i:03}"))).unwrap() == content(i),
                "{name}: file {i}"
            );
        }
    }
}

#[test]
fn curl_keeps_its_connection() {
    let world = World::new("e2e-curl-kept", &noise(100_000));
    let mut command = curl(&["--http1.1"]);
    command.args(["--fail", "--write-out", "%{num_connects} "]);
    for _ in 0..5 {
        command.args(["--output", "/dev/null"]).arg(world.url());
    }
    assert_eq!(fetched(&mut command).text(), "1 0 0 0 0 ");
}
