//! What stands between nodes and masters: gates that want a password, masters that have moved.

use std::path::{Path, PathBuf};
use std::time::Duration;

use instantmirror_testkit::command::{clean_command, run_any};
use instantmirror_testkit::debian::{AptClient, Archive};
use instantmirror_testkit::process::{Daemon, TestDir, free_port, poll};
use instantmirror_testkit::tree::noise;

use crate::world::{LIMIT, Master, Node};

const START_LIMIT: Duration = Duration::from_secs(30);

/// nginx with these `server` blocks, in a folder of its own.
pub(crate) struct Nginx(Daemon);

impl Nginx {
    pub(crate) fn start(dir: &Path, port: u16, servers: &str) -> Self {
        let config = dir.join("nginx.conf");
        let text = format!(
            "daemon off; master_process off; worker_processes 1; error_log stderr; pid {0:?};\n\
             events {{ worker_connections 512; }}\n\
             http {{ access_log {1:?}; client_body_temp_path {2:?}; proxy_temp_path {2:?}; fastcgi_temp_path {2:?};\n\
             uwsgi_temp_path {2:?}; scgi_temp_path {2:?}; proxy_http_version 1.1; proxy_buffering off;\n{servers} }}\n",
            dir.join("pid"),
            dir.join("access.log"),
            dir.join("temp"),
        );
        std::fs::write(&config, text).unwrap();
        let mut command = clean_command("nginx");
        command
            .arg("-p")
            .arg(dir)
            .arg("-e")
            .arg("stderr")
            .arg("-c")
            .arg(&config);
        let mut daemon = Daemon::start("nginx", &mut command, &dir.join("nginx.log")).unwrap();
        daemon.wait_for_port(port, START_LIMIT).unwrap();
        Self(daemon)
    }

    pub(crate) fn stop(mut self) {
        self.0.kill9().unwrap();
    }
}

/// Adds to the configuration of a node that does not run yet: sections in front, keys behind each `[[repository]]`.
pub(crate) fn configure(node: &Node, in_front: &str, change: impl Fn(String) -> String) {
    let text = std::fs::read_to_string(&node.config).unwrap();
    std::fs::write(&node.config, format!("{in_front}\n{}", change(text))).unwrap();
}

fn tree(dir: &TestDir, files: usize) -> PathBuf {
    let source = dir.folder("source").unwrap();
    for file in 0..files {
        std::fs::write(
            source.join(file.to_string()),
            [noise(2000 + file), vec![b'!'; file]].concat(),
        )
        .unwrap();
    }
    source
}

/// All that curl shows of an answer: header, body.
fn curl(url: &str, options: &[&str]) -> String {
    let mut command = clean_command("curl");
    command.args(["-sS", "-i", "--max-time", "60"]).args(options).arg(url);
    run_any(&mut command, LIMIT).unwrap().text()
}

#[test]
fn secrets_of_urls_and_hidden_masters_are_never_told() {
    let dir = TestDir::new("e2e-between-secrets").unwrap();
    let source = tree(&dir, 20);
    let mut master = Master::new(&dir, &[("r", &source)]);
    let snapshot = master.publish("r");
    master.serve();
    let (port, folder) = (free_port().unwrap(), dir.folder("nginx").unwrap());
    std::fs::write(folder.join("users"), "mirror:{PLAIN}Sesame-9\n").unwrap();
    let gate = format!(
        "server {{ listen 127.0.0.1:{port}; auth_basic gate; auth_basic_user_file {:?};\n\
         location / {{ proxy_pass {}; }} }}",
        folder.join("users"),
        master.url()
    );
    let nginx = Nginx::start(&folder, port, &gate);
    let url = format!("http://mirror:Sesame-9@127.0.0.1:{port}");
    let mut node = Node::configure(&dir, &url, &master.key, &["r"], "10 GiB");
    let trackers = "[peers]\nlisten = [\"127.0.0.1:0\"]\ntrackers = [\"http://me:Sesame-9@127.0.0.1:1/announce?passkey=Sesame-9\"]";
    configure(&node, trackers, |text| {
        text.replace("level = \"debug\"", "level = \"debug,hyper=info,h2=info,rustls=info\"")
    });
    node.run();
    node.wait_for("r", &snapshot);
    assert_eq!(node.get("/pub/r/3"), std::fs::read(source.join("3")).unwrap());
    nginx.stop();
    master.stop(true);
    let answers: Vec<String> = [
        (format!("/r/snap/{snapshot}/7"), vec![]),
        ("/pub/r/8".to_owned(), vec![]),
        ("/pub/r/9".to_owned(), vec!["-r", "1-2"]),
        ("/pub/r/9".to_owned(), vec!["-I"]),
        ("/pub/r/none".to_owned(), vec![]),
        ("/pub/r/".to_owned(), vec![]),
        ("/.im/status".to_owned(), vec![]),
        ("/.im/v1/r/head".to_owned(), vec![]),
        ("/".to_owned(), vec!["-X", "BREW"]),
    ]
    .iter()
    .map(|(path, options)| curl(&format!("{}{path}", node.url()), options))
    .collect();
    assert!(answers[1].contains(" 504 "), "{}", answers[1]);
    assert!(
        answers[1].contains("/8 of repository 'r' cannot be served now"),
        "{}",
        answers[1]
    );
    for answer in &answers {
        for secret in [
            "Sesame-9",
            "mirror:",
            &format!("127.0.0.1:{port}"),
            &port.to_string(),
            "refused",
        ] {
            assert!(!answer.contains(secret), "{secret}: {answer}");
        }
    }
    // The operator is told why, and of whom, and no password either.
    let refused = poll(LIMIT, || node.status_text().contains("TROUBLE").then_some(()));
    refused.expect("the follower notices");
    let told = [node.status_text(), node.status().to_string(), node.daemon().log()];
    for text in &told {
        assert!(text.contains(&format!("127.0.0.1:{port}")), "{text}");
        assert!(!text.contains("Sesame-9") && !text.contains("mirror:"), "{text}");
    }
    assert!(
        told[2].contains("cannot serve") && told[2].contains("refused"),
        "{}",
        told[2]
    );
    // Nor when the configuration is wrong.
    node.stop(false);
    let right = std::fs::read_to_string(&node.config).unwrap();
    for (good, wrong) in [
        ("http://mirror", "gopher://mirror"),
        ("http://me", "ftp://me"),
        (":Sesame-9@127.0.0.1:", ":Se/Sesame-9@x:y"),
    ] {
        assert!(right.contains(good));
        std::fs::write(&node.config, right.replace(good, wrong)).unwrap();
        let (code, said) = node.fail(&["--check-config"]);
        assert!(code == 2 && !said.contains("Sesame-9"), "{said}");
    }
}

#[test]
fn a_master_that_has_moved_is_followed_for_everything_and_named() {
    let dir = TestDir::new("e2e-between-moved").unwrap();
    let source = tree(&dir, 60);
    let names = ["r301", "r302", "r307", "r308", "loop"];
    let mut master = Master::new(&dir, &names.map(|name| (name, source.as_path())));
    let snapshots = names.map(|name| master.publish(name));
    master.serve();
    let folder = dir.folder("nginx").unwrap();
    let ports: Vec<u16> = names.iter().map(|_| free_port().unwrap()).collect();
    let servers: String = names
        .iter()
        .zip(&ports)
        .map(|(name, port)| match name.strip_prefix('r') {
            Some(status) => format!(
                "server {{ listen 127.0.0.1:{port}; location / {{ return {status} {}$request_uri; }} }}\n",
                master.url()
            ),
            // Heads and catalogs are proxied, what comes in batches is lost.
            None => format!(
                "server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass {}; }}\n\
                 location ~ /batch {{ return 302 http://127.0.0.1:{port}$request_uri; }} }}\n",
                master.url()
            ),
        })
        .collect();
    let _nginx = Nginx::start(&folder, ports[0], &servers);
    let mut node = Node::configure(&dir, "MASTER", &master.key, &names, "10 GiB");
    configure(&node, "[preseed]\nrest = true\n", |text| {
        names.iter().zip(&ports).fold(text, |text, (_, port)| {
            text.replacen("\"MASTER\"", &format!("\"http://127.0.0.1:{port}\""), 1)
        })
    });
    node.run();
    let here = |name: &str| {
        let status = node.status();
        let ahead = status["preseed"].as_array().unwrap().clone();
        ahead.into_iter().find(|one| one["repository"] == *name)
    };
    for (name, snapshot) in names.iter().zip(&snapshots) {
        node.wait_for(name, snapshot);
    }
    // One copy of the tree for all, so it is enough that one of them brings it.
    let all = poll(LIMIT, || {
        let used = node.status()["cache"]["used_bytes"].as_u64()?;
        let tree: u64 = (0..60_u64).map(|file| 2000 + 2 * file).sum();
        (used >= tree).then_some(())
    });
    assert!(all.is_some(), "{}", node.status_text());
    for name in names {
        assert!(here(name).is_some(), "{name}");
        assert_eq!(
            node.get(&format!("/pub/{name}/7")),
            std::fs::read(source.join("7")).unwrap()
        );
    }
    let log = node.daemon().log();
    for port in &ports[..4] {
        let said = format!("it sends us on from http://127.0.0.1:{port}/ to {}/", master.url());
        assert_eq!(log.matches(&said).count(), 1, "{said}\n{log}");
    }
    // And why a batch failed is in log and status.
    std::fs::write(source.join("new"), noise(5000)).unwrap();
    let newest = master.publish("loop");
    node.wait_for("loop", &newest);
    let why = "more than 4 redirects";
    let told = poll(LIMIT, || {
        (node.daemon_log().contains(why) && node.status_text().contains(why)).then_some(())
    });
    assert!(told.is_some(), "{}\n{}", node.status_text(), node.daemon_log());
    assert!(
        node.daemon_log().contains("could not be fetched ahead: "),
        "{}",
        node.daemon_log()
    );
}

#[test]
fn apt_keeps_what_it_has_while_a_mirror_has_nothing_yet() {
    let dir = TestDir::new("e2e-between-nothing").unwrap();
    let archive = Archive::build(&dir.folder("archive").unwrap()).unwrap();
    let mut master = Master::new(&dir, &[("debian", archive.root())]);
    let snapshot = master.publish("debian");
    master.serve();
    let node = Node::start(&dir, &master, &["debian"]);
    node.wait_for("debian", &snapshot);
    let client = AptClient::new(&dir.folder("client").unwrap(), &format!("{}/pub/debian", node.url())).unwrap();
    client.update().unwrap();
    let version = archive.version("hello").unwrap();
    assert_eq!(client.candidate("hello").unwrap(), Some(version.clone()));
    // Another mirror takes its place, which believes somebody else.
    let address = node.url();
    drop(node);
    let strangers = TestDir::new("e2e-between-stranger").unwrap();
    let stranger = Master::new(&strangers, &[("debian", archive.root())]);
    let own = TestDir::new("e2e-between-empty").unwrap();
    let mut empty = Node::configure(&own, &master.url(), &stranger.key, &["debian"], "10 GiB");
    configure(&empty, "", |text| {
        text.replace("127.0.0.1:0", address.trim_start_matches("http://"))
    });
    empty.run();
    let said = client.try_update().unwrap();
    assert!(
        said.contains("503") && !said.contains("does not have a Release file"),
        "{said}"
    );
    assert_eq!(client.candidate("hello").unwrap(), Some(version));
    for path in [
        "/pub/debian/dists/stable/InRelease",
        "/debian/snap/current/",
        "/debian/",
    ] {
        let answer = curl(&format!("{address}{path}"), &[]);
        assert!(
            answer.contains(" 503 ") && answer.to_ascii_lowercase().contains("retry-after: "),
            "{answer}"
        );
    }
}
