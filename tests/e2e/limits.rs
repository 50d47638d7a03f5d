//! More clients than there are connections, addresses that want too much, and what the operator sees of it.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::time::Instant;

use instantmirror_testkit::command::{clean_command, run_any};
use instantmirror_testkit::process::{TestDir, poll};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::tls::certify;
use crate::world::{LIMIT, Master, Node};

const FILE: &str = "/pub/tree/file";

/// A node of a tree with one file, with `[http]` as given. Returns its URLs, plain and encrypted.
fn serve(dir: &TestDir, http: &str) -> (Master, Node, String) {
    let source = dir.folder("source").unwrap();
    std::fs::write(source.join("file"), "content\n").unwrap();
    let mut master = Master::new(dir, &[("tree", &source)]);
    let snapshot = master.publish("tree");
    master.serve();
    let mut node = Node::configure(dir, &master.url(), &master.key, &["tree"], "1 GiB");
    let (certificate, key) = (node.dir.join("certificate.pem"), node.dir.join("key.pem"));
    certify(&certificate, &key);
    let text = std::fs::read_to_string(&node.config).unwrap();
    let tls = format!("[http.tls]\nlisten = [\"127.0.0.1:0\"]\ncertificate = {certificate:?}\nkey = {key:?}\n");
    std::fs::write(
        &node.config,
        text.replace("[http]\n", &format!("[http]\n{http}\n")) + &tls,
    )
    .unwrap();
    node.run();
    let line = node.daemon().wait_for_line("serving on https://", LIMIT).unwrap();
    let https = line
        .split("https://")
        .nth(1)
        .unwrap()
        .trim()
        .trim_end_matches('/')
        .to_owned();
    node.wait_for("tree", &snapshot);
    (master, node, https)
}

fn connect(node: &Node) -> TcpStream {
    let stream = TcpStream::connect(node.url().trim_start_matches("http://")).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
}

/// Asks for the file, and leaves the connection open. False if the answer says that the server closes it, which it does
/// where others wait for a place and nobody is idle.
#[track_caller]
fn ask(stream: &mut TcpStream) -> bool {
    let request = format!("GET {FILE} HTTP/1.1\r\nHost: h\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"content\n") {
        let mut buffer = [0; 1024];
        let read = stream.read(&mut buffer).unwrap();
        assert!(read > 0, "closed behind {:?}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&buffer[..read]);
    }
    !String::from_utf8_lossy(&answer)
        .to_lowercase()
        .contains("connection: close")
}

/// OpenSSL as a client of HTTP/2 that takes leave of nobody: says hello, and then nothing.
struct Idle(Child);

impl Idle {
    fn connect(address: &str) -> Self {
        let mut command = clean_command("openssl");
        command.args(["s_client", "-quiet", "-alpn", "h2", "-connect", address]);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
        child.stdin.as_mut().unwrap().write_all(hello).unwrap();
        // The first frame of the server is its own hello.
        let mut frame = [0; 9];
        child.stdout.as_mut().unwrap().read_exact(&mut frame).unwrap();
        assert_eq!(frame[3], 4, "{frame:?}");
        Self(child)
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn curl(arguments: &[&str]) -> String {
    let mut curl = clean_command("curl");
    curl.args(["-sS", "-k", "--max-time", "60"]).args(arguments);
    let finished = run_any(&mut curl, LIMIT).unwrap();
    assert!(finished.status.success(), "{}", finished.transcript());
    finished.text()
}

fn hang_up(node: &mut Node) {
    let pid = Pid::from_raw(i32::try_from(node.daemon().pid()).unwrap()).unwrap();
    kill_process(pid, Signal::HUP).unwrap();
}

fn wait_for(node: &Node, is_so: impl Fn(&Value) -> bool) -> Value {
    let found = poll(LIMIT, || {
        let http = node.status()["http"].clone();
        is_so(&http).then_some(http)
    });
    found.unwrap_or_else(|| panic!("{}", node.status()["http"]))
}

#[test]
fn idle_clients_of_every_kind_make_room_and_the_operator_sees_it() {
    let dir = TestDir::new("e2e-limits").unwrap();
    let (_master, mut node, https) = serve(
        &dir,
        "max_connections = 64\nlimits = { header_timeout = \"10 min\", idle_timeout = \"10 min\" }",
    );
    let plain = format!("{}{FILE}", node.url());
    let encrypted = format!("https://{https}{FILE}");
    let mut http2: Vec<Idle> = (0..6).map(|_| Idle::connect(&https)).collect();
    // A handshake that was only begun, and half a request.
    let mut half = Vec::new();
    for (address, begun) in [
        (https.as_str(), &b"\x16\x03\x01"[..]),
        (&plain[7..plain.len() - FILE.len()], b"GET /"),
    ] {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(begun).unwrap();
        half.push(stream);
    }
    let mut kept: Vec<TcpStream> = (0..52).map(|_| connect(&node)).collect();
    assert!(kept.iter_mut().all(ask));
    // They fill all places that readers may have, and nobody who comes has to wait for their end.
    for url in [&plain, &encrypted, &plain, &encrypted] {
        for version in ["--http1.1", "--http2"] {
            assert_eq!(curl(&[version, url]), "content\n");
        }
    }
    let mut newcomers = Vec::new();
    half.iter().for_each(|stream| stream.set_nonblocking(true).unwrap());
    let mut are_gone = || {
        let have_ended = http2.iter_mut().all(|idle| idle.0.try_wait().unwrap().is_some());
        let is_open = |stream: &TcpStream| {
            let seen = stream.peek(&mut [0; 1]);
            seen.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
        };
        have_ended && !half.iter().any(is_open)
    };
    let begun = Instant::now();
    while newcomers.len() < 60 || !are_gone() {
        assert!(begun.elapsed() < LIMIT, "somebody idle still has a connection");
        let mut stream = connect(&node);
        if ask(&mut stream) {
            newcomers.push(stream);
        }
    }
    // The last newcomer that was not told to go is still there.
    assert!(ask(newcomers.last_mut().unwrap()));
    let http = wait_for(&node, |http| http["connections_closed_idle"].as_u64() >= Some(50));
    assert_eq!(http["connections_max"], 64, "{http}");
    assert!(http["connections_open"].as_u64().unwrap() <= 64, "{http}");
    let text = node.status_text();
    assert!(text.contains("of at most 64 connections open"), "{text}");
    assert!(text.contains("idle connections closed for others"), "{text}");
    let log = node.daemon_log();
    let warnings: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("nearly as many connections as"))
        .collect();
    assert!(
        warnings.len() == 1 && warnings[0].contains("WARN") && warnings[0].contains("max=64"),
        "{warnings:?}"
    );
    // More may be allowed while it runs.
    let text = std::fs::read_to_string(&node.config).unwrap();
    std::fs::write(
        &node.config,
        text.replace("max_connections = 64", "max_connections = 300"),
    )
    .unwrap();
    hang_up(&mut node);
    wait_for(&node, |http| http["connections_max"] == 300);
    let mut more: Vec<TcpStream> = (0..150).map(|_| connect(&node)).collect();
    assert!(more.iter_mut().all(ask));
    assert!(newcomers.iter_mut().rev().take(20).all(ask));
}

#[test]
fn one_address_limits_itself_alone() {
    let dir = TestDir::new("e2e-limits-address").unwrap();
    let limits =
        "max_connections = 400\nlimits = { connections_per_address = 40, exempt = [], idle_timeout = \"10 min\" }";
    let (_master, mut node, https) = serve(&dir, limits);
    let url = format!("{}{FILE}", node.url());
    // Some 2,000 connections of one address, which asks for nothing.
    let port = node.url().rsplit(':').next().unwrap().to_owned();
    let text = format!(
        "import resource, socket, time\n\
         resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))\n\
         all = [socket.socket() for number in range(2000)]\n\
         for one in all: one.bind(('127.0.0.2', 0)); one.connect(('127.0.0.1', {port}))\n\
         print('open', flush=True)\n\
         time.sleep(600)\n"
    );
    let mut crowd = clean_command("python3");
    let mut crowd = crowd.arg("-c").arg(text).stdout(Stdio::piped()).spawn().unwrap();
    let mut opened = [0; 4];
    let is_open = crowd.stdout.as_mut().unwrap().read_exact(&mut opened);
    let from = |address: &str, more: &[&str]| curl(&[&["--interface", address], more, &[&url]].concat());
    for _ in 0..20 {
        assert_eq!(from("127.0.0.3", &[]), "content\n");
    }
    let http = node.status()["http"].clone();
    crowd.kill().unwrap();
    crowd.wait().unwrap();
    is_open.unwrap();
    let refused =
        http["connections_refused_by_address"].as_u64().unwrap() + http["connections_closed_idle"].as_u64().unwrap();
    assert!(refused >= 1900, "{http}");
    assert!(http["connections_open"].as_u64().unwrap() <= 150, "{http}");

    // Now how often somebody may ask is limited.
    let text = std::fs::read_to_string(&node.config).unwrap();
    let rate = "exempt = [], requests_per_address = 1, requests_burst = 3";
    std::fs::write(&node.config, text.replace("exempt = []", rate)).unwrap();
    hang_up(&mut node);
    let header = ["-o", "/dev/null", "-w", "%{http_code} %header{retry-after}\n"];
    let limited = poll(LIMIT, || {
        let said: Vec<String> = (0..10).map(|_| from("127.0.0.2", &header)).collect();
        said.iter().any(|line| line == "429 1\n").then_some(said)
    });
    let said = limited.expect("never limited");
    assert!(
        said.iter().all(|line| line == "429 1\n" || line == "200 \n"),
        "{said:?}"
    );
    assert_eq!(from("127.0.0.3", &header), "200 \n");
    let encrypted = format!("https://{https}{FILE}");
    let http2 = poll(LIMIT, || {
        let said = curl(&[&["--http2", "--interface", "127.0.0.2"], &header[..], &[&encrypted]].concat());
        (said == "429 1\n").then_some(())
    });
    assert!(http2.is_some(), "never limited by HTTP/2");
    // curl takes that for what it is, and comes again.
    let retried = from("127.0.0.2", &["--retry", "20", "--fail"]);
    assert_eq!(retried, "content\n");
    let http = wait_for(&node, |http| http["requests_limited"].as_u64() > Some(0));
    assert!(
        http["answers"]["429"].as_u64() >= http["requests_limited"].as_u64(),
        "{http}"
    );
    assert!(
        node.status_text().contains("requests refused by address"),
        "{}",
        node.status_text()
    );
    assert!(node.daemon_log().contains("asks more often than [http.limits]"));
}

#[test]
fn mirrors_that_prove_who_they_are_may_ask_as_they_like() {
    let dir = TestDir::new("e2e-limits-nodes").unwrap();
    let source = dir.folder("source").unwrap();
    std::fs::write(source.join("file"), "content\n").unwrap();
    let mut master = Master::new(&dir, &[("tree", &source)]);
    master.publish("tree");
    master.configure("[http.limits]\nexempt = []\nrequests_per_address = 1\nrequests_burst = 1");
    let token = master.run(&["node", "add", "alpha"]).text().trim().to_owned();
    master.serve();
    let ask = |path: &str, token: &str| {
        let url = format!("{}/{path}", master.url());
        let field = format!("Authorization: Bearer {token}");
        curl(&["-o", "/dev/null", "-w", "%{http_code}", "-H", &field, &url])
    };
    let all: Vec<String> = (0..8).map(|_| ask(".im/v1/tree/head", &token)).collect();
    assert_eq!(all, vec!["200"; 8]);
    for (path, token) in [(".im/v1/tree/head", "nobody's"), ("tree/snap/current/file", &token)] {
        let all: Vec<String> = (0..8).map(|_| ask(path, token)).collect();
        assert!(all.contains(&"429".to_owned()), "{path}: {all:?}");
    }
    let mut check = clean_command(
        instantmirror_testkit::process::binary("imserver")
            .unwrap()
            .to_str()
            .unwrap(),
    );
    let text = std::fs::read_to_string(&master.config).unwrap();
    let wrong = master.dir.join("wrong.toml");
    std::fs::write(
        &wrong,
        text.replace("requests_burst = 1", "requests_burst = 0\nipv6_prefix = 129"),
    )
    .unwrap();
    check.arg("--config").arg(&wrong).arg("--check-config");
    let said = run_any(&mut check, LIMIT).unwrap();
    assert!(!said.status.success(), "{}", said.transcript());
    for expected in ["requests_burst = 0", "ipv6_prefix = 129: it must be from 1 to 128"] {
        assert!(said.transcript().contains(expected), "{}", said.transcript());
    }
}
