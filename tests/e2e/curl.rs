//! curl as people use it: ranges, resuming, conditions, many files at once. Each over every transport of a node.

use std::path::Path;
use std::process::Command;

use instantmirror_testkit::command::{Finished, clean_command, run, run_any};
use instantmirror_testkit::process::{TestDir, free_port};
use instantmirror_testkit::tree::noise;

use crate::tls::certify;
use crate::world::{LIMIT, Master, Node};

/// A way to reach a node.
struct Transport {
    name: &'static str,
    scheme: &'static str,
    option: &'static str,
    /// What curl says that it was answered in.
    version: &'static str,
}

/// Every test of this file goes through all of them.
const TRANSPORTS: [Transport; 4] = [
    Transport {
        name: "HTTP/1.1",
        scheme: "http",
        option: "--http1.1",
        version: "1.1",
    },
    Transport {
        name: "HTTP/1.0",
        scheme: "http",
        option: "--http1.0",
        version: "1.1",
    },
    Transport {
        name: "HTTP/1.1 over TLS",
        scheme: "https",
        option: "--http1.1",
        version: "1.1",
    },
    Transport {
        name: "HTTP/2",
        scheme: "https",
        option: "--http2",
        version: "2",
    },
];

const LARGE_BYTES: usize = 3 << 20;

/// curl's exit status when the server sends the whole instead of the rest.
const CURL_RANGE_ERROR: i32 = 33;

/// Files of the tree that are fetched all at once.
const MANY: usize = 300;

/// Runs curl; it must succeed.
fn fetched(command: &mut Command) -> Finished {
    run(command, LIMIT).unwrap()
}

struct World {
    dir: TestDir,
    master: Master,
    node: Node,
    tls_port: u16,
}

impl World {
    /// A repository `r` with these files, mirrored by a node that speaks TLS as well.
    fn new(name: &str, files: impl IntoIterator<Item = (String, Vec<u8>)>) -> Self {
        let dir = TestDir::new(name).unwrap();
        let source = dir.folder("source").unwrap();
        for (name, content) in files {
            std::fs::write(source.join(name), content).unwrap();
        }
        let mut master = Master::new(&dir, &[("r", &source)]);
        let snapshot = master.publish("r");
        master.serve();
        certify(&dir.path().join(CERTIFICATE), &dir.path().join(KEY));
        let tls_port = free_port().unwrap();
        let mut node = Node::configure(&dir, &master.url(), &master.key, &["r"], "10 GiB");
        let config = std::fs::read_to_string(&node.config).unwrap();
        let tls = format!(
            "{config}\n[http.tls]\nlisten = [\"127.0.0.1:{tls_port}\"]\ncertificate = {:?}\nkey = {:?}\n",
            dir.path().join(CERTIFICATE),
            dir.path().join(KEY),
        );
        std::fs::write(&node.config, tls).unwrap();
        node.run();
        node.wait_for("r", &snapshot);
        Self {
            dir,
            master,
            node,
            tls_port,
        }
    }

    fn with_large(name: &str, content: &[u8]) -> Self {
        Self::new(name, [("large".to_owned(), content.to_vec())])
    }

    fn change(&self, large: &[u8]) {
        std::fs::write(self.dir.path().join("source/large"), large).unwrap();
        let snapshot = self.master.publish("r");
        self.node.wait_for("r", &snapshot);
    }

    fn url(&self, transport: &Transport, file: &str) -> String {
        let base = match transport.scheme {
            "https" => format!("https://127.0.0.1:{}", self.tls_port),
            _ => self.node.url(),
        };
        format!("{base}/pub/r/{file}")
    }

    /// curl, told how to come to the node and to fail where the node answers with an error.
    fn curl(&self, transport: &Transport) -> Command {
        let mut command = clean_command("curl");
        command.args(["--disable", "--silent", "--show-error", "--fail", "--noproxy", "*"]);
        command
            .arg(transport.option)
            .arg("--cacert")
            .arg(self.dir.path().join(CERTIFICATE));
        command
    }

    fn etag(&self) -> String {
        let url = self.url(&TRANSPORTS[0], "large");
        let answer = instantmirror_testkit::http::request("HEAD", &url, &[]).unwrap();
        answer.header("etag").expect("files have entity tags").to_owned()
    }
}

const CERTIFICATE: &str = "certificate.pem";
const KEY: &str = "key.pem";

#[test]
fn every_transport_is_what_it_says() {
    let world = World::with_large("e2e-curl-transports", b"content");
    for transport in &TRANSPORTS {
        let mut command = world.curl(transport);
        command
            .args(["--write-out", " %{http_version}"])
            .arg(world.url(transport, "large"));
        assert_eq!(
            fetched(&mut command).text(),
            format!("content {}", transport.version),
            "{}",
            transport.name
        );
    }
}

#[test]
fn curl_gets_the_ranges_it_asks_for() {
    let content = noise(LARGE_BYTES);
    for transport in &TRANSPORTS {
        let name = transport.name;
        // A node of its own, so that the first range comes from a file that nobody has read.
        let world = World::with_large("e2e-curl-ranges", &content);
        let last = LARGE_BYTES - 1;
        for (range, expected) in [
            ("-10".to_owned(), &content[LARGE_BYTES - 10..]),
            ("0-0".to_owned(), &content[..1]),
            ("65530-65545".to_owned(), &content[65_530..65_546]),
            ("1000000-1999999".to_owned(), &content[1_000_000..2_000_000]),
            (format!("{last}-"), &content[last..]),
            ("0-".to_owned(), &content[..]),
        ] {
            let got = fetched(
                world
                    .curl(transport)
                    .args(["--range", &range])
                    .arg(world.url(transport, "large")),
            );
            assert!(got.stdout == expected, "{name}, {range}: {} bytes", got.stdout.len());
        }
        let several = fetched(
            world
                .curl(transport)
                .args(["--range", "0-9,2000000-2000009"])
                .arg(world.url(transport, "large")),
        );
        for part in [&content[..10], &content[2_000_000..2_000_010]] {
            assert!(
                several.stdout.windows(10).any(|window| window == part),
                "{name}: a part is missing"
            );
        }
        let beyond = run_any(
            world
                .curl(transport)
                .args(["--range", "9999999-"])
                .arg(world.url(transport, "large")),
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
    let world = World::with_large("e2e-curl-resume", &content);
    for transport in &TRANSPORTS {
        let name = transport.name;
        for had in [0, 1, 65_536, 1_234_567, LARGE_BYTES - 1] {
            let file = world.dir.path().join("copy");
            std::fs::write(&file, &content[..had]).unwrap();
            let mut command = world.curl(transport);
            command.args([
                "--fail",
                "--continue-at",
                "-",
                "--write-out",
                "%{size_download}",
                "--output",
            ]);
            let said = fetched(command.arg(&file).arg(world.url(transport, "large"))).text();
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
    let world = World::with_large("e2e-curl-changed", &old);
    let old_tag = world.etag();
    let new: Vec<u8> = old.iter().map(|byte| !byte).collect();
    world.change(&new);
    for transport in &TRANSPORTS {
        let name = transport.name;
        let file = world.dir.path().join("copy");
        let half = LARGE_BYTES / 2;
        let resume = |tag: &str| {
            let mut command = world.curl(transport);
            command.args([
                "--fail",
                "--continue-at",
                "-",
                "--header",
                &format!("If-Range: {tag}"),
                "--output",
            ]);
            run_any(command.arg(&file).arg(world.url(transport, "large")), LIMIT).unwrap()
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
    let world = World::with_large("e2e-curl-same", &content);
    for transport in &TRANSPORTS {
        let name = transport.name;
        let dir = world.dir.folder(&name.replace(['/', ' '], "-")).unwrap();
        let (file, tag) = (dir.join("copy"), dir.join("tag"));
        let get = |options: &[&str]| {
            let mut command = world.curl(transport);
            command.args(["--remote-time", "--write-out", "%{http_code}", "--output"]);
            fetched(command.arg(&file).args(options).arg(world.url(transport, "large"))).text()
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
    let content = |i: usize| format!("file {i} ").repeat(1 + i * 7).into_bytes();
    let world = World::new(
        "e2e-curl-parallel",
        (0..MANY).map(|i| (format!("file-{i:03}"), content(i))),
    );
    for transport in &TRANSPORTS {
        let name = transport.name;
        let copy = world.dir.folder(&name.replace(['/', ' '], "-")).unwrap();
        let mut command = world.curl(transport);
        command.current_dir(&copy).args(["--parallel", "--parallel-max", "50"]);
        let files = format!("file-[000-{}]", MANY - 1);
        fetched(command.args(["--output", "#1"]).arg(world.url(transport, &files)));
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
    let world = World::with_large("e2e-curl-kept", &noise(100_000));
    for transport in TRANSPORTS.iter().filter(|transport| transport.option != "--http1.0") {
        let mut command = world.curl(transport);
        command.args(["--write-out", "%{num_connects} "]);
        for _ in 0..5 {
            command
                .args(["--output", "/dev/null"])
                .arg(world.url(transport, "large"));
        }
        assert_eq!(fetched(&mut command).text(), "1 0 0 0 0 ", "{}", transport.name);
    }
}
