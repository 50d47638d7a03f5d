//! `imnode routes`, `imserver routes`, `imtracker routes`: what they list is there, for those who may ask and for nobody else.

use std::path::PathBuf;

use instantmirror::core::ObjectId;
use instantmirror_testkit::command::{clean_command, run};
use instantmirror_testkit::http;
use instantmirror_testkit::process::{TestDir, poll};
use serde_json::Value;

use crate::tracker_world::Tracker;
use crate::world::{LIMIT, Master, Node};

const CONTENT: &[u8] = b"content of a file that is in a torrent";
const SECTIONS: &str = "[torrents]\nweb_seeds = [\"http://127.0.0.1:1/\"]\n[peers]\nlisten = [\"127.0.0.1:0\"]\n";
const OPTIONS: &str = "torrents = [{ path = \"images\", name = \"images\" }]";

/// A daemon that runs, and what it lists.
struct Listed {
    name: &'static str,
    url: String,
    socket: PathBuf,
    routes: Vec<Value>,
}

impl Listed {
    fn new(name: &'static str, url: String, socket: PathBuf, json: &str) -> Self {
        let routes: Vec<Value> = serde_json::from_str(json).unwrap();
        assert!(!routes.is_empty());
        Self {
            name,
            url,
            socket,
            routes,
        }
    }

    /// Status, the field Allow and content of an answer to curl.
    fn ask(&self, options: &[&str], path: &str, by_socket: bool) -> (u16, String, String) {
        let mut command = clean_command("curl");
        command.args(["--silent", "--show-error", "--include", "--globoff", "--http1.1"]);
        command.args(options);
        if by_socket {
            command.arg("--unix-socket").arg(&self.socket);
        }
        let url = if by_socket { "http://control" } else { &self.url };
        let said = run(command.arg(format!("{url}{path}")), LIMIT).unwrap().text();
        let (head, body) = said.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{path}: {said}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let allow = head
            .lines()
            .find_map(|line| line.strip_prefix("allow: ").or(line.strip_prefix("Allow: ")));
        (status, allow.unwrap_or_default().to_owned(), body.to_owned())
    }

    /// Asks each route; `path` makes a path of a pattern.
    fn check(&self, path: &dyn Fn(&str) -> String) {
        for route in &self.routes {
            let [method, pattern, access] = ["method", "path", "access"].map(|key| route[key].as_str().unwrap());
            let (path, by_socket) = (path(pattern), access == "control");
            let place = format!("{} {method} {pattern}", self.name);
            let (status, allow, _) = self.ask(&["--request", "OPTIONS"], &path, by_socket);
            assert_eq!(status, 204, "{place}");
            assert!(allow.split(", ").any(|allowed| allowed == method), "{place}: {allow}");
            if method == "POST" {
                let (status, allow, _) = self.ask(&[], &path, by_socket);
                assert_eq!((status, allow.as_str()), (405, "POST, OPTIONS"), "{place}");
            } else {
                let (status, _, body) = self.ask(&[], &path, by_socket);
                assert_eq!(status, 200, "{place}: {body}");
                assert_eq!(self.ask(&["--head"], &path, by_socket).0, 200, "{place}");
            }
            if by_socket && pattern.starts_with("/.im/") && !pattern.contains("webseed") {
                let (status, ..) = self.ask(&["--request", method], &path, false);
                assert!(matches!(status, 404 | 405), "{place}: {status} for the public");
            }
        }
    }
}

/// A master with a torrent, a swarm, and a key that it has changed, so that nothing it lists is missing for want of it.
fn master(dir: &TestDir) -> (Master, String) {
    let source = dir.folder("source").unwrap();
    std::fs::create_dir(source.join("images")).unwrap();
    std::fs::write(source.join("images/a"), CONTENT).unwrap();
    let mut master = Master::new(dir, &[("r", &source)]);
    let text = std::fs::read_to_string(&master.config).unwrap();
    let text = text.replace("[log]", &format!("{SECTIONS}[log]"));
    std::fs::write(&master.config, format!("{text}{OPTIONS}\n")).unwrap();
    // No store, no daemon: the configuration is enough.
    let before = master.run(&["routes"]).text();
    assert!(before.contains("GET   /.im/v1/{repository}/head  "), "{before}");
    assert!(before.contains("  control socket  Publishes a repository"), "{before}");
    let snapshot = master.publish("r");
    master.run(&["key", "rotate"]);
    master.serve();
    (master, snapshot)
}

#[test]
fn whatever_is_listed_is_answered() {
    let dir = TestDir::new("e2e-routes").unwrap();
    let (master, snapshot) = master(&dir);
    let node = Node::start(&dir, &master, &["r"]);
    node.wait_for("r", &snapshot);
    let tracker = Tracker::start(&dir, "");
    let list: Value = serde_json::from_slice(&offered(&master.url())).unwrap();
    offered(&node.url());
    let record = http::get(&format!("{}/.im/v1/r/snapshots/{snapshot}", master.url())).unwrap();
    let record: Value = serde_json::from_slice(&record.body).unwrap();
    let path = |pattern: &str| {
        let below = match pattern {
            "/.im/webseed/{*path}" => format!("r/{snapshot}/0/name/images/a"),
            "/pub/r/{*path}" => "images/a".to_owned(),
            _ => "snap/current/images/a".to_owned(),
        };
        let values = [
            ("{repository}", "r"),
            ("{snapshot}", &snapshot),
            ("{node}", record["root"]["node"].as_str().unwrap()),
            ("{object}", &ObjectId::of(CONTENT).to_string()),
            ("{file}", list["torrents"][0]["file"].as_str().unwrap()),
            ("{tag}", "stable"),
            ("{*path}", &below),
        ];
        let fill = |path: String, (name, value): (&str, &str)| path.replace(name, value);
        values.into_iter().fold(pattern.to_owned(), fill)
    };
    let json = ["routes", "--json"];
    let socket = master.dir.join("store/control.sock");
    Listed::new("imserver", master.url(), socket, &master.run(&json).text()).check(&path);
    let socket = node.dir.join("cache/control.sock");
    Listed::new("imnode", node.url(), socket, &node.succeed(&json)).check(&path);
    let said = run(&mut tracker.command(&json), LIMIT).unwrap().text();
    let (url, socket) = (format!("http://{}", tracker.http), dir.path().join("tracker.sock"));
    Listed::new("imtracker", url, socket, &said).check(&path);
}

/// The list of the torrents of a server, once it has one.
fn offered(server: &str) -> Vec<u8> {
    let url = format!("{server}/.im/torrent/r");
    let found = poll(LIMIT, || http::get(&url).ok().filter(|answer| answer.status == 200));
    found.unwrap_or_else(|| panic!("{url} does not appear")).body
}
