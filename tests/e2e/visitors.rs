//! Who asked, and what came of it: access logs, clients behind real proxies, the daemon's log as the journal wants it.

use std::path::{Path, PathBuf};

use instantmirror_testkit::command::{clean_command, run_any};
use instantmirror_testkit::process::{Daemon, TestDir, binary, free_port, poll};

use crate::world::{LIMIT, Master, Node};

/// A node with a log that says everything, and an address for proxies.
struct Logged {
    dir: TestDir,
    node: Node,
    log: PathBuf,
    proxied: u16,
    _master: Master,
}

fn serve(format: &str) -> Logged {
    let dir = TestDir::new("e2e-visitors").unwrap();
    let source = dir.folder("source").unwrap();
    std::fs::write(source.join("big"), vec![7; 300_000]).unwrap();
    std::fs::write(source.join("passing.iso"), vec![8; 300_000]).unwrap();
    let mut master = Master::new(&dir, &[("tree", &source)]);
    let snapshot = master.publish("tree");
    master.serve();
    let mut node = Node::configure(&dir, &master.url(), &master.key, &["tree"], "1 GiB");
    let (log, proxied) = (node.dir.join("access.log"), free_port().unwrap());
    let text = std::fs::read_to_string(&node.config).unwrap();
    let text = text
        .replace(
            "listen = [\"127.0.0.1:0\"]",
            &format!(
                "listen = [\"127.0.0.1:0\"]\naccess_log = \"access.log\"\naccess_log_format = {format:?}\n\
                 trusted_proxies = [\"127.0.0.1\"]\nlisten_proxy = [\"127.0.0.1:{proxied}\"]"
            ),
        )
        .replace("max_size", "never = [\"*.iso\"]\nmax_size");
    std::fs::write(&node.config, text).unwrap();
    node.run();
    node.wait_for("tree", &snapshot);
    Logged {
        dir,
        node,
        log,
        proxied,
        _master: master,
    }
}

impl Logged {
    /// The line about a request whose target ends so.
    fn line(&self, target: &str) -> String {
        let find = || {
            let text = std::fs::read_to_string(&self.log).ok()?;
            text.lines().find(|line| line.contains(target)).map(str::to_owned)
        };
        poll(LIMIT, find).unwrap_or_else(|| panic!("no line with {target}"))
    }

    fn curl(&self, arguments: &[&str], url: &str) -> bool {
        let mut curl = clean_command("curl");
        curl.args(["-sS", "-o", "/dev/null"]).args(arguments).arg(url);
        run_any(&mut curl, LIMIT).unwrap().status.success()
    }
}

/// haproxy in front: by version 1, by version 2, and by X-Forwarded-For.
fn haproxy(dir: &Path, node: &str, proxied: u16) -> (Daemon, [u16; 3]) {
    let ports = [(); 3].map(|()| free_port().unwrap());
    let plain = node.trim_start_matches("http://");
    let [one, two, three] = ports;
    let config = format!(
        "defaults\n timeout connect 20s\n timeout client 20s\n timeout server 20s\n\
         listen one\n mode tcp\n bind 127.0.0.1:{one}\n server node 127.0.0.1:{proxied} send-proxy\n\
         listen two\n mode tcp\n bind 127.0.0.1:{two}\n server node 127.0.0.1:{proxied} send-proxy-v2\n\
         listen three\n mode http\n option forwardfor\n bind 127.0.0.1:{three}\n server node {plain}\n"
    );
    let file = dir.join("haproxy.cfg");
    std::fs::write(&file, config).unwrap();
    let mut command = clean_command("haproxy");
    command.arg("-db").arg("-f").arg(&file);
    let mut daemon = Daemon::start("haproxy", &mut command, &dir.join("haproxy.log")).unwrap();
    for port in ports {
        daemon.wait_for_port(port, LIMIT).unwrap();
    }
    (daemon, ports)
}

#[test]
fn clients_behind_a_real_proxy_are_known_and_nobody_else_is_believed() {
    let logged = serve("extended");
    let url = logged.node.url();
    let (_proxy, ports) = haproxy(logged.dir.path(), &url, logged.proxied);
    for (number, port) in ports.iter().enumerate() {
        let target = format!("/pub/tree/?by={number}");
        assert!(logged.curl(
            &["--interface", "127.0.0.5"],
            &format!("http://127.0.0.1:{port}{target}")
        ));
        let line = logged.line(&target);
        assert!(line.starts_with("127.0.0.5 - - "), "{line}");
    }
    // Of a list that the client has begun only the end counts, and of others nothing.
    for (number, (from, field, client)) in [
        ("127.0.0.1", "X-Forwarded-For: 198.51.100.1, 203.0.113.9", "203.0.113.9"),
        ("127.0.0.1", "Forwarded: for=198.51.100.1", "127.0.0.1"),
        ("127.0.0.9", "X-Forwarded-For: 198.51.100.1", "127.0.0.9"),
    ]
    .into_iter()
    .enumerate()
    {
        let target = format!("/pub/tree/?field={number}");
        assert!(logged.curl(&["--interface", from, "-H", field], &format!("{url}{target}")));
        let line = logged.line(&target);
        assert!(line.starts_with(&format!("{client} - - ")), "{line}");
    }
    let own = format!("http://127.0.0.1:{}/pub/tree/", logged.proxied);
    assert!(!logged.curl(&["--interface", "127.0.0.9", "--haproxy-protocol"], &own));
    assert!(!logged.curl(&[], &own), "without its header nothing is answered there");
    assert!(logged.curl(&["--haproxy-protocol"], &own));
}

#[test]
fn the_access_log_says_where_it_came_from_and_how_long_it_took() {
    let logged = serve("json");
    let url = logged.node.url();
    for number in 0..2 {
        assert!(logged.curl(&[], &format!("{url}/pub/tree/big?number={number}")));
    }
    assert!(logged.curl(&[], &format!("{url}/pub/tree/passing.iso")));
    assert!(logged.curl(&[], &format!("{url}/pub/tree/none")));
    for (target, cache, bytes, masters) in [
        ("big?number=0", "miss", 300_000, Some(300_000)),
        ("big?number=1", "hit", 300_000, None),
        ("passing.iso", "streamed", 300_000, Some(300_000)),
        ("/none", "-", 0, None),
    ] {
        let line: serde_json::Value = serde_json::from_str(&logged.line(target)).unwrap();
        assert_eq!(line["cache"], cache, "{line}");
        assert!(line["bytes"].as_u64().unwrap() >= bytes, "{line}");
        assert_eq!(line["from_masters"].as_u64(), masters, "{line}");
        assert_eq!(line["client"], "127.0.0.1");
        assert!(line["seconds"].as_f64().unwrap() > 0.0 && line["agent"].as_str().unwrap().starts_with("curl/"));
    }
}

#[test]
fn the_journal_gets_priorities_and_machines_get_json() {
    let dir = TestDir::new("e2e-journal").unwrap();
    let config = dir.path().join("imtracker.toml");
    let text = "[torrents]\nallow = [\"0123456789abcdef0123456789abcdef01234567\"]\n[http]\nlisten = [\"127.0.0.1:0\"]\n\
                max_connections = 1000000\n[log]\nformat = \"FORMAT\"\n";
    // The limit of open files is too low for that many connections, which is worth a warning.
    let script = "ulimit -n 1000; JOURNAL_STREAM=$(stat -Lc %d:%i /proc/self/fd/2) exec \"$0\" --config \"$1\" run";
    for (format, said) in [("text", "<4>"), ("json", "{\"timestamp\":")] {
        std::fs::write(&config, text.replace("FORMAT", format)).unwrap();
        let mut command = clean_command("sh");
        command
            .args(["-c", script])
            .arg(binary("imtracker").unwrap())
            .arg(&config);
        let log = dir.path().join(format!("{format}.log"));
        let mut daemon = Daemon::start("imtracker", &mut command, &log).unwrap();
        let line = daemon.wait_for_line("limit of open files", LIMIT).unwrap();
        assert!(line.starts_with(said), "{line}");
        if format == "json" {
            let line: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert_eq!(line["level"], "WARN");
            let line = daemon.wait_for_line("announce at http", LIMIT).unwrap();
            let line: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert!(
                line["message"].as_str().unwrap().starts_with("announce at http://"),
                "{line}"
            );
        }
        // Before it serves, a signal ends it as the system does.
        daemon.wait_for_line("announce at http", LIMIT).unwrap();
        assert!(daemon.terminate(LIMIT).unwrap().success());
    }
}
