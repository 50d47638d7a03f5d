//! What stands between nodes and masters: gates that want a password, masters that have moved.

use std::os::unix::fs::PermissionsExt as _;
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
    // The gate passes on who somebody is to it. Whoever asks so does not say to be a node.
    let gone = "00000000-0000-4000-8000-000000000000";
    let record = |id: &str| {
        let url = format!("http://127.0.0.1:{port}/.im/v1/r/snapshots/{id}");
        curl(&url, &["-u", "mirror:Sesame-9"])
    };
    assert!(record(&snapshot).starts_with("HTTP/1.1 200 "), "{}", record(&snapshot));
    assert!(record(gone).starts_with("HTTP/1.1 404 "), "{}", record(gone));
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

/// A private authority, and a certificate by it for `subject`.
fn certify(dir: &Path, name: &str, extension: &str) -> (PathBuf, PathBuf) {
    let file = |end: &str| dir.join(format!("{name}.{end}"));
    let openssl = |arguments: &[&str]| {
        let mut command = clean_command("openssl");
        instantmirror_testkit::command::run(command.args(arguments).current_dir(dir), LIMIT)
            .unwrap()
            .text()
    };
    let new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    if !dir.join("ca.pem").exists() {
        let ca = [
            "req",
            "-x509",
            "-days",
            "2",
            "-subj",
            "/CN=private",
            "-keyout",
            "ca.key",
            "-out",
            "ca.pem",
        ];
        openssl(&[&ca[..], &new_key].concat());
    }
    std::fs::write(file("ext"), extension).unwrap();
    let (key, request, certificate) = (file("key"), file("csr"), file("pem"));
    let [key_text, request_text, certificate_text, ext] =
        [&key, &request, &certificate, &file("ext")].map(|path| path.to_str().unwrap().to_owned());
    let subject = format!("/CN={name}");
    let ask = ["req", "-subj", &subject, "-keyout", &key_text, "-out", &request_text];
    openssl(&[&ask[..], &new_key].concat());
    let sign = [
        "x509",
        "-req",
        "-days",
        "1",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
    ];
    openssl(
        &[
            &sign[..],
            &["-in", &request_text, "-out", &certificate_text, "-extfile", &ext],
        ]
        .concat(),
    );
    (certificate, key)
}

/// squid on a port of this machine, for whoever says that it is `mirror` with the password `Sesame-9`.
pub(crate) fn squid(dir: &TestDir, port: u16) -> (Daemon, PathBuf) {
    let folder = dir.folder("squid").unwrap();
    let hash = run_any(clean_command("openssl").args(["passwd", "-apr1", "Sesame-9"]), LIMIT).unwrap();
    std::fs::write(folder.join("users"), format!("mirror:{}\n", hash.text().trim())).unwrap();
    let config = folder.join("squid.conf");
    let text = format!(
        "http_port 127.0.0.1:{port}\npid_filename none\ncache deny all\ncache_log {0}/cache.log\n\
         logformat seen %un %rm %ru %>Hs\naccess_log stdio:{0}/access.log logformat=seen\ncoredump_dir {0}\n\
         pinger_enable off\nnetdb_filename none\nvisible_hostname localhost\nbuffered_logs off\n\
         auth_param basic program /usr/lib/squid/basic_ncsa_auth {0}/users\nauth_param basic children 1\n\
         acl known proxy_auth REQUIRED\nhttp_access allow known\nhttp_access deny all\n\
         shutdown_lifetime 0 seconds\n",
        folder.display()
    );
    std::fs::write(&config, text).unwrap();
    // squid will not be root: it drops to this user, who must reach the folder.
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    instantmirror_testkit::command::run(clean_command("chown").arg("-R").arg("proxy").arg(&folder), LIMIT).unwrap();
    let mut command = clean_command("squid");
    command.args(["-N", "-f"]).arg(&config);
    let mut daemon = Daemon::start("squid", &mut command, &folder.join("squid.log")).unwrap();
    daemon.wait_for_port(port, START_LIMIT).unwrap();
    (daemon, folder.join("access.log"))
}

#[test]
fn a_node_reaches_its_master_by_a_proxy_with_a_private_authority_and_a_certificate_of_its_own() {
    let dir = TestDir::new("e2e-between-proxy").unwrap();
    let source = tree(&dir, 10);
    let mut master = Master::new(&dir, &[("r", &source), ("plain", &source)]);
    let snapshots = ["r", "plain"].map(|name| master.publish(name));
    master.serve();
    let keys = dir.folder("keys").unwrap();
    let (server, server_key) = certify(&keys, "server", "subjectAltName=IP:127.0.0.1\n");
    let (client, client_key) = certify(&keys, "client", "extendedKeyUsage=clientAuth\n");
    let gate = free_port().unwrap();
    let servers = format!(
        "server {{ listen 127.0.0.1:{gate} ssl; ssl_certificate {server:?}; ssl_certificate_key {server_key:?};\n\
         ssl_client_certificate {:?}; ssl_verify_client on; location / {{ proxy_pass {}; }} }}",
        keys.join("ca.pem"),
        master.url()
    );
    let _nginx = Nginx::start(&dir.folder("nginx").unwrap(), gate, &servers);
    let port = free_port().unwrap();
    let (_squid, access_log) = squid(&dir, port);
    // A CONNECT is logged when it is over.
    let seen = |what: &str| {
        let read = || std::fs::read_to_string(&access_log).unwrap_or_default();
        let found = poll(LIMIT, || read().contains(what).then_some(()));
        assert!(found.is_some(), "{what}: {}", read());
    };
    let credentials = keys.join("credentials");
    std::fs::write(&credentials, "mirror:Sesame-9\n").unwrap();
    let mut node = Node::configure(&dir, &master.url(), &master.key, &["r", "plain"], "10 GiB");
    let outgoing = format!(
        "[outgoing]\nproxy = \"http://127.0.0.1:{port}\"\nproxy_credentials_file = {credentials:?}\nca_file = {:?}\n\
         client_certificate = {client:?}\nclient_key = {client_key:?}\n",
        keys.join("ca.pem")
    );
    configure(&node, &outgoing, |text| {
        text.replacen(
            &format!("{:?}", master.url()),
            &format!("\"https://127.0.0.1:{gate}\""),
            1,
        )
    });
    let (code, said) = node.fail(&["--check-config"]);
    assert!(
        code == 2 && said.contains("chmod 600") && !said.contains("Sesame-9"),
        "{said}"
    );
    std::fs::set_permissions(&credentials, std::fs::Permissions::from_mode(0o600)).unwrap();
    node.run();
    for (name, snapshot) in ["r", "plain"].iter().zip(&snapshots) {
        node.wait_for(name, snapshot);
        assert_eq!(
            node.get(&format!("/pub/{name}/3")),
            std::fs::read(source.join("3")).unwrap()
        );
    }
    seen(&format!("mirror POST {}/.im/v1/heads", master.url()));
    assert!(!node.daemon_log().contains("Sesame-9"));
    node.stop(false);
    seen(&format!("mirror CONNECT 127.0.0.1:{gate} 200"));
    // Without a word in the configuration the environment counts, as for curl.
    let text = std::fs::read_to_string(&node.config).unwrap();
    let text = text
        .replace(&outgoing, "")
        .replace(&format!("https://127.0.0.1:{gate}"), &master.url());
    std::fs::write(&node.config, text).unwrap();
    std::fs::write(&access_log, "").unwrap();
    let proxy = format!("http://mirror:Sesame-9@127.0.0.1:{port}");
    node.run_with(&[
        ("http_proxy", &proxy),
        ("HTTP_PROXY", "http://127.0.0.1:1"),
        ("no_proxy", "example.org"),
    ]);
    seen(&format!("mirror POST {}/.im/v1/heads", master.url()));
    let reached = poll(LIMIT, || {
        node.status()["repositories"][0]["last_contact"]
            .is_string()
            .then_some(())
    });
    assert!(reached.is_some(), "{}", node.status_text());
    assert!(!node.daemon_log().contains("Sesame-9"));
}

#[test]
fn who_we_are_is_shown_to_the_masters_host_alone_wherever_it_sends_us() {
    let dir = TestDir::new("e2e-between-identity").unwrap();
    let source = tree(&dir, 3);
    let mut master = Master::new(&dir, &[("r", &source)]);
    let snapshot = master.publish("r");
    master.serve();
    let keys = dir.folder("keys").unwrap();
    let (server, server_key) = certify(&keys, "server", "subjectAltName=IP:127.0.0.1,IP:127.0.0.2\n");
    let (client, client_key) = certify(&keys, "client", "extendedKeyUsage=clientAuth\n");
    let ca = keys.join("ca.pem");
    let tls = format!(
        "ssl_certificate {server:?}; ssl_certificate_key {server_key:?}; ssl_client_certificate {ca:?}; ssl_verify_client"
    );
    // A redirect for now and one for good to another host, and one to another port of the same host.
    for (status, host, is_told) in [
        (307, "127.0.0.2", false),
        (308, "127.0.0.2", false),
        (307, "127.0.0.1", true),
    ] {
        let round = TestDir::new("e2e-between-identity-round").unwrap();
        let (gate, other) = (free_port().unwrap(), free_port().unwrap());
        let seen = round.path().join("seen.log");
        let servers = format!(
            "log_format seen '$ssl_client_verify [$http_authorization] $uri';\n\
             server {{ listen 127.0.0.1:{gate} ssl; {tls} on; return {status} https://{host}:{other}$request_uri; }}\n\
             server {{ listen {host}:{other} ssl; {tls} optional; access_log {seen:?} seen; location / {{ proxy_pass {}; }} }}",
            master.url()
        );
        let _nginx = Nginx::start(&round.folder("nginx").unwrap(), gate, &servers);
        let url = format!("https://mirror:Sesame-9@127.0.0.1:{gate}");
        let mut node = Node::configure(&round, &url, &master.key, &["r"], "10 GiB");
        let outgoing =
            format!("[outgoing]\nca_file = {ca:?}\nclient_certificate = {client:?}\nclient_key = {client_key:?}\n");
        configure(&node, &outgoing, |text| text);
        node.run();
        node.wait_for("r", &snapshot);
        for file in ["0", "1", "2"] {
            assert_eq!(
                node.get(&format!("/pub/r/{file}")),
                std::fs::read(source.join(file)).unwrap()
            );
        }
        node.stop(false);
        let seen = std::fs::read_to_string(seen).unwrap();
        assert!(seen.contains("/r/objects/"), "{seen}");
        let (certificate, password) = if is_told {
            ("SUCCESS ", "[Basic ")
        } else {
            ("NONE ", "[-]")
        };
        for line in seen.lines() {
            assert!(
                line.starts_with(certificate) && line.contains(password),
                "{status} {host}: {line}"
            );
        }
    }
    // A key that others can read is refused before anything is sent.
    std::fs::set_permissions(&client_key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let node = Node::configure(&dir, "https://127.0.0.1:1", &master.key, &["r"], "10 GiB");
    let outgoing = format!("[outgoing]\nclient_certificate = {client:?}\nclient_key = {client_key:?}\n");
    configure(&node, &outgoing, |text| text);
    let (code, said) = node.fail(&["--check-config"]);
    assert!(
        code == 2 && said.contains("client.key holds a private key") && said.contains("chmod 600"),
        "{said}"
    );
}

#[test]
fn a_proxy_that_cuts_long_polls_is_no_trouble() {
    let dir = TestDir::new("e2e-between-cut").unwrap();
    let source = tree(&dir, 3);
    let mut master = Master::new(&dir, &[("r", &source)]);
    let first = master.publish("r");
    master.serve();
    let (folder, port) = (dir.folder("nginx").unwrap(), free_port().unwrap());
    let gate = format!(
        "server {{ listen 127.0.0.1:{port}; location / {{ proxy_read_timeout 2s; proxy_pass {}; }} }}",
        master.url()
    );
    let _nginx = Nginx::start(&folder, port, &gate);
    let mut node = Node::configure(&dir, &format!("http://127.0.0.1:{port}"), &master.key, &["r"], "10 GiB");
    node.run();
    node.wait_for("r", &first);
    let answers = |status: &str| {
        let log = std::fs::read_to_string(folder.join("access.log")).unwrap_or_default();
        let polls = log
            .lines()
            .filter(|line| line.contains("/.im/v1/heads?wait=") && !line.contains("wait=0 "));
        polls
            .filter(|line| line.contains(&format!("HTTP/1.1\" {status}")))
            .count()
    };
    // One is cut; those after it are over before they would be.
    let learned = poll(LIMIT, || (answers("204") >= 3).then_some(()));
    assert!(learned.is_some(), "{}", node.daemon_log());
    assert_eq!(answers("504"), 1);
    let status = node.status_text();
    assert!(!status.contains("TROUBLE"), "{status}");
    let log = node.daemon_log();
    assert!(
        !log.contains("is served on") && log.contains("are cut on the way"),
        "{log}"
    );
    std::fs::write(source.join("new"), "new").unwrap();
    let second = master.publish("r");
    node.wait_for("r", &second);
}
