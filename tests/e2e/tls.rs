//! Encrypted connections, the access log, and signals, as curl and an operator see them.

use std::path::{Path, PathBuf};

use instantmirror_testkit::command::{Finished, clean_command, run, run_any};
use instantmirror_testkit::process::{TestDir, poll};
use rustix::process::{Pid, Signal, kill_process};

use crate::world::{LIMIT, Master, Node};

/// A node with a certificate and an access log.
struct Served {
    _dir: TestDir,
    source: PathBuf,
    master: Master,
    node: Node,
    https: String,
    certificate: PathBuf,
    key: PathBuf,
    log: PathBuf,
    big: Vec<u8>,
}

/// Makes a certificate for 127.0.0.1 that is its own authority.
pub(crate) fn certify(certificate: &Path, key: &Path) {
    let mut openssl = clean_command("openssl");
    openssl
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
        ])
        .args([
            "-days",
            "1",
            "-subj",
            "/CN=mirror",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
        ])
        .arg("-keyout")
        .arg(key)
        .arg("-out")
        .arg(certificate);
    run(&mut openssl, LIMIT).unwrap();
}

fn serve() -> Served {
    serve_within("")
}

/// The same with limits of one's own.
fn serve_within(limits: &str) -> Served {
    let dir = TestDir::new("tls").unwrap();
    let source = dir.folder("source").unwrap();
    let big: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 251) as u8).collect();
    std::fs::write(source.join("big"), &big).unwrap();
    for number in 0..40 {
        std::fs::write(source.join(format!("small-{number}")), format!("content {number}\n")).unwrap();
    }
    let mut master = Master::new(&dir, &[("tree", &source)]);
    let snapshot = master.publish("tree");
    master.serve();
    let mut node = Node::configure(&dir, &master.url(), &master.key, &["tree"], "1 GiB");
    let (certificate, key, log) = (
        node.dir.join("certificate.pem"),
        node.dir.join("key.pem"),
        node.dir.join("access.log"),
    );
    certify(&certificate, &key);
    let text = std::fs::read_to_string(&node.config).unwrap();
    let text = text.replace(
        "listen = [\"127.0.0.1:0\"]",
        &format!("listen = [\"127.0.0.1:0\"]\naccess_log = {log:?}"),
    );
    let tls = format!("[http.tls]\nlisten = [\"127.0.0.1:0\"]\ncertificate = {certificate:?}\nkey = {key:?}\n");
    std::fs::write(&node.config, text + &tls + limits).unwrap();
    node.run();
    let line = node.daemon().wait_for_line("serving on https://", LIMIT).unwrap();
    let https = line.split_whitespace().last().unwrap().trim_end_matches('/').to_owned();
    node.wait_for("tree", &snapshot);
    Served {
        _dir: dir,
        source,
        master,
        node,
        https,
        certificate,
        key,
        log,
        big,
    }
}

impl Served {
    fn curl(&self, arguments: &[&str]) -> Finished {
        run_any(&mut self.curl_command(arguments), LIMIT).unwrap()
    }

    fn curl_command(&self, arguments: &[&str]) -> std::process::Command {
        let mut curl = clean_command("curl");
        curl.args(["-sS", "--cacert"]).arg(&self.certificate).args(arguments);
        curl
    }

    fn signal(&mut self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.node.daemon().pid()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }
}

#[test]
fn curl_speaks_both_versions_over_tls() {
    let served = serve();
    let big = format!("{}/pub/tree/big", served.https);
    for (option, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let fetched = served.curl(&[option, "-w", "%{stderr}%{http_version} %{http_code}", &big]);
        assert_eq!(fetched.stdout, served.big, "{}", fetched.transcript());
        assert_eq!(String::from_utf8_lossy(&fetched.stderr), format!("{version} 200"));
        let part = served.curl(&[option, "-r", "100-199", &big]);
        assert_eq!(part.stdout, served.big[100..200]);
        let head = served.curl(&[option, "-I", &big]).text();
        assert!(
            head.contains("content-length: 3000000") && head.contains("etag: "),
            "{head}"
        );
        let missing = format!("{}/pub/tree/none", served.https);
        let missing = served.curl(&[option, "-w", "%{http_code}", &missing]).text();
        assert!(missing.ends_with("404"), "{missing}");
        let page = format!("{}/pub/tree/", served.https);
        assert!(served.curl(&[option, &page]).text().contains("small-39"));
    }
    // Many at once on one connection of HTTP/2.
    let all = format!("{}/pub/tree/small-[0-39]", served.https);
    let out = served.node.dir.join("parallel");
    std::fs::create_dir(&out).unwrap();
    let pattern = out.join("#1");
    let fetched = served.curl(&["--http2", "--parallel", &all, "-o", pattern.to_str().unwrap()]);
    assert!(fetched.status.success(), "{}", fetched.transcript());
    for number in 0..40 {
        let content = std::fs::read_to_string(out.join(number.to_string())).unwrap();
        assert_eq!(content, format!("content {number}\n"));
    }
    // Resumed where it was cut.
    let cut = served.node.dir.join("cut");
    std::fs::write(&cut, &served.big[..1_234_567]).unwrap();
    let resumed = served.curl(&["--http2", "-C", "-", "-o", cut.to_str().unwrap(), &big]);
    assert!(resumed.status.success(), "{}", resumed.transcript());
    assert_eq!(std::fs::read(&cut).unwrap(), served.big);
}

/// Larger than what lies in the buffers of both sockets.
const LARGE_BYTES: usize = 32 << 20;

#[test]
fn slow_clients_of_both_versions_get_everything_and_those_that_stop_are_cut() {
    let served = serve_within("[http.limits]\nwrite_timeout = \"2 s\"\n");
    let large: Vec<u8> = (0..=252).cycle().take(LARGE_BYTES).collect();
    std::fs::write(served.source.join("large"), &large).unwrap();
    let snapshot = served.master.publish("tree");
    served.node.wait_for("tree", &snapshot);
    let url = format!("{}/pub/tree/large", served.https);
    let get = |option: &str, rate: &str| served.curl(&[option, "--limit-rate", rate, &url]);
    // So that it is here, and sent as what is here is.
    assert!(get("--http1.1", "1G").stdout == large);

    // Each takes longer than twice the timeout.
    let (mut of_1, mut of_2, mut many) = (Vec::new(), Vec::new(), String::new());
    std::thread::scope(|scope| {
        scope.spawn(|| of_1 = get("--http1.1", "6M").stdout);
        scope.spawn(|| of_2 = get("--http2", "6M").stdout);
        // Windows of 4 KiB a stream and 16 KiB a connection.
        scope.spawn(|| {
            let mut h2load = clean_command("h2load");
            h2load.args(["-n20", "-c2", "-m10", "-w12", "-W14"]);
            h2load.arg(format!("{}/pub/tree/big", served.https));
            many = run_any(&mut h2load, LIMIT).unwrap().transcript();
        });
    });
    assert!(of_1 == large && of_2 == large);
    assert!(many.contains("20 succeeded, 0 failed"), "{many}");
    let http = &served.node.status()["http"];
    assert_eq!([&http["connections_timed_out"], &http["streams_timed_out"]], [0, 0]);

    let (stop, go_on) = (Signal::STOP, Signal::CONT);
    let stopped = ["--http1.1", "--http2"].map(|option| {
        let out = served.node.dir.join(option);
        let mut curl = served.curl_command(&[option, "--limit-rate", "1M", "-o", out.to_str().unwrap(), &url]);
        let child = curl.spawn().unwrap();
        poll(LIMIT, || out.metadata().is_ok_and(|out| out.len() > 0).then_some(())).expect("it begins");
        kill_process(Pid::from_child(&child), stop).unwrap();
        child
    });
    let counted = poll(LIMIT, || {
        (served.node.status()["http"]["connections_timed_out"] == 2).then_some(())
    });
    for mut child in stopped {
        kill_process(Pid::from_child(&child), go_on).unwrap();
        // What it got is not whole, and it knows.
        assert!(!child.wait().unwrap().success());
    }
    counted.unwrap_or_else(|| panic!("{}", served.node.status()));
}

#[test]
fn a_certificate_is_replaced_and_mounts_change_without_a_restart() {
    let mut served = serve();
    let url = format!("{}/pub/tree/small-1", served.https);
    assert_eq!(served.curl(&[&url]).text(), "content 1\n");
    // A key that is not the certificate's: said, and the old pair stays in use.
    let (old, other) = (std::fs::read(&served.key).unwrap(), served.node.dir.join("other.pem"));
    certify(&other, &served.key);
    served.signal(Signal::HUP);
    let refused = |log: &str| log.contains("cannot be used with the key").then_some(());
    served.node.daemon().wait_for_log(LIMIT, refused).unwrap();
    assert_eq!(served.curl(&[&url]).text(), "content 1\n");
    // Both new, and another mount.
    std::fs::write(&served.key, old).unwrap();
    certify(&served.certificate, &served.key);
    let text = std::fs::read_to_string(&served.node.config).unwrap();
    std::fs::write(&served.node.config, text.replace("/pub/tree", "/elsewhere")).unwrap();
    served.signal(Signal::HUP);
    let moved = format!("{}/elsewhere/small-1", served.https);
    let found = poll(LIMIT, || {
        let answer = served.curl(&[&moved]);
        (answer.status.success() && answer.text() == "content 1\n").then_some(())
    });
    found.expect("the new certificate and the new mount are in use");
    assert!(served.curl(&["-w", "%{http_code}", &url]).text().ends_with("404"));
    // A file with a mistake changes nothing.
    std::fs::write(&served.node.config, "[cache\n").unwrap();
    served.signal(Signal::HUP);
    let unchanged = |log: &str| log.contains("nothing was changed").then_some(());
    served.node.daemon().wait_for_log(LIMIT, unchanged).unwrap();
    assert_eq!(served.curl(&[&moved]).text(), "content 1\n");
}

#[test]
fn the_access_log_is_combined_and_rotated() {
    let mut served = serve();
    let lines = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    let wait = |path: &Path, part: &str| {
        let found = poll(LIMIT, || lines(path).contains(part).then_some(()));
        found.unwrap_or_else(|| panic!("no {part} in {}", lines(path)));
    };
    let (plain, https) = (
        format!("{}/pub/tree", served.node.url()),
        format!("{}/pub/tree", served.https),
    );
    served.curl(&["-A", "one", "-e", "http://from/", &format!("{plain}/small-1")]);
    wait(
        &served.log,
        "\"GET /pub/tree/small-1 HTTP/1.1\" 200 10 \"http://from/\" \"one\"",
    );
    served.curl(&["-A", "two", "-r", "0-99", &format!("{plain}/big")]);
    wait(&served.log, "\"GET /pub/tree/big HTTP/1.1\" 206 100 \"-\" \"two\"");
    served.curl(&["-A", "three", "--http2", &format!("{https}/big")]);
    wait(
        &served.log,
        "\"GET /pub/tree/big HTTP/2.0\" 200 3000000 \"-\" \"three\"",
    );
    assert!(lines(&served.log).starts_with("127.0.0.1 - - ["));
    let rotated = served.log.with_extension("1");
    std::fs::rename(&served.log, &rotated).unwrap();
    served.signal(Signal::USR1);
    let reopened = |log: &str| log.contains("access log was opened anew").then_some(());
    served.node.daemon().wait_for_log(LIMIT, reopened).unwrap();
    served.curl(&["-A", "four", &format!("{plain}/none")]);
    wait(&served.log, "\"GET /pub/tree/none HTTP/1.1\" 404 ");
    assert!(!lines(&rotated).contains("four"));
    let mut stream = std::net::TcpStream::connect(served.node.url().trim_start_matches("http://")).unwrap();
    std::io::Write::write_all(&mut stream, b"no \"request\"\r\n\r\n").unwrap();
    wait(&served.log, "] \"no \\x22request\\x22\" 400 ");
    let status = served.node.status();
    let answers = &status["http"]["answers"];
    assert!(answers["206"] == 1 && answers["404"].as_u64().unwrap() >= 1, "{status}");
    assert!(served.node.status_text().contains("answers: 200: "));
}

#[test]
fn who_speaks_plainly_to_the_encrypted_port_is_told_so() {
    let served = serve();
    let url = format!("{}/pub/tree/big", served.https.replace("https://", "http://"));
    let answer = instantmirror_testkit::http::get(&url).unwrap();
    assert!(
        answer.status == 400 && answer.text().contains("https://"),
        "{}",
        answer.text()
    );
    assert_eq!(
        served.curl(&[&format!("{}/pub/tree/big", served.https)]).stdout,
        served.big
    );
}
