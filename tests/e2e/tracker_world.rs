//! A tracker as an operator would run it, a small torrent, and real clients of both.

use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use instantmirror::core::bencode::{Strictness, Value};
use instantmirror::trackerd::{InfoHash, info_hashes};
use instantmirror_testkit::command::{Finished, clean_command, run, run_any};
use instantmirror_testkit::http;
use instantmirror_testkit::process::{Daemon, TestDir, binary, poll};
use instantmirror_testkit::tree::noise;

use crate::world::LIMIT;

const PIECE: usize = 32 << 10;

/// `imtracker run` and its files.
pub(crate) struct Tracker {
    pub(crate) config: PathBuf,
    pub(crate) torrents: PathBuf,
    dir: PathBuf,
    /// `127.0.0.1:PORT` for HTTP and UDP.
    pub(crate) http: String,
    pub(crate) udp: String,
    daemon: Option<Daemon>,
    runs: u32,
}

impl Tracker {
    /// Configures and starts a tracker of what lies in its directory of torrents.
    pub(crate) fn start(dir: &TestDir, limits: &str) -> Self {
        let mut tracker = Self {
            config: dir.path().join("imtracker.toml"),
            torrents: dir.folder("torrents").unwrap(),
            dir: dir.path().to_path_buf(),
            http: "127.0.0.1:0".to_owned(),
            udp: "127.0.0.1:0".to_owned(),
            daemon: None,
            runs: 0,
        };
        tracker.configure(limits);
        tracker.run();
        tracker
    }

    /// Writes the configuration, with the addresses that it has.
    pub(crate) fn configure(&self, limits: &str) {
        let text = format!(
            "[torrents]\ndir = {:?}\nrescan = \"1 s\"\n[http]\nlisten = [{:?}]\n[udp]\nlisten = [{:?}]\n[limits]\n{limits}\n\
             [control]\nsocket = {:?}\n",
            self.torrents,
            self.http,
            self.udp,
            self.dir.join("tracker.sock")
        );
        std::fs::write(&self.config, text).unwrap();
    }

    /// Serves what this master's repository offers, and nothing else.
    pub(crate) fn ask_master(&self, url: &str) {
        let text = std::fs::read_to_string(&self.config).unwrap();
        let (_, rest) = text.split_once("[http]").unwrap();
        std::fs::write(&self.config, format!("[torrents]\nmasters = [{url:?}]\n[http]{rest}")).unwrap();
        run(&mut self.command(&["reload"]), LIMIT).unwrap();
    }

    /// Starts it, at the addresses that it had before.
    pub(crate) fn run(&mut self) {
        self.runs += 1;
        let log = self.dir.join(format!("tracker-{}.log", self.runs));
        let mut daemon = Daemon::start("imtracker", &mut self.command(&["run"]), &log).unwrap();
        let mut address = |scheme: &str| {
            let line = daemon
                .wait_for_line(&format!("announce at {scheme}://"), LIMIT)
                .unwrap();
            let url = line.rsplit("://").next().unwrap();
            url.strip_suffix("/announce").unwrap().to_owned()
        };
        let (http, udp) = (address("http"), address("udp"));
        let text = std::fs::read_to_string(&self.config).unwrap();
        let text = text
            .replacen(
                &format!("listen = [{:?}]", self.http),
                &format!("listen = [{http:?}]"),
                1,
            )
            .replacen(
                &format!("[udp]\nlisten = [{:?}]", self.udp),
                &format!("[udp]\nlisten = [{udp:?}]"),
                1,
            );
        std::fs::write(&self.config, text).unwrap();
        (self.http, self.udp) = (http, udp);
        self.daemon = Some(daemon);
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = clean_command(binary("imtracker").unwrap().to_str().unwrap());
        command.arg("--config").arg(&self.config).args(arguments);
        command
    }

    pub(crate) fn daemon(&mut self) -> &mut Daemon {
        self.daemon.as_mut().expect("the tracker runs")
    }

    pub(crate) fn status(&self) -> serde_json::Value {
        let said = run(&mut self.command(&["status", "--json"]), LIMIT).unwrap();
        serde_json::from_slice(&said.stdout).unwrap()
    }

    /// The answer to a query, as it is.
    pub(crate) fn get(&self, path_and_query: &str) -> http::Answer {
        http::get(&format!("http://{}/{path_and_query}", self.http)).unwrap()
    }

    /// Seeds, others and completions that a scrape by HTTP tells; `None` if the tracker does not know the torrent.
    pub(crate) fn scrape(&self, torrent: InfoHash) -> Option<(i64, i64, i64)> {
        let answer = self.get(&format!("scrape?info_hash={}", encode(&torrent.0)));
        let decoded = Value::decode(&answer.body, Strictness::All).unwrap();
        let files = decoded.get("files").unwrap().as_dict().unwrap();
        let counts = files.get(&torrent.0[..])?;
        let count = |name| counts.get(name).unwrap().as_int().unwrap();
        Some((count("complete"), count("incomplete"), count("downloaded")))
    }

    /// Waits until a scrape tells these counts.
    pub(crate) fn wait_for_counts(&self, torrent: InfoHash, wanted: (i64, i64, i64)) {
        let mut last = None;
        let found = poll(LIMIT, || {
            last = self.scrape(torrent);
            (last == Some(wanted)).then_some(())
        });
        assert!(found.is_some(), "scraped {last:?} instead of {wanted:?}");
    }

    /// A socket that has a connection id of the tracker.
    pub(crate) fn connect(&self) -> (UdpSocket, u64) {
        connect(self.udp.parse().unwrap())
    }
}

/// A socket that has a connection id of the tracker there.
pub(crate) fn connect(tracker: SocketAddr) -> (UdpSocket, u64) {
    let own = if tracker.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
    let socket = UdpSocket::bind(own).unwrap();
    socket.connect(tracker).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let answer = ask(
        &socket,
        &instantmirror::trackerd::udp::Request::Connect { transaction: 1 }.encode(),
    );
    assert_eq!(answer.len(), 16);
    (socket, u64::from_be_bytes(answer[8..].try_into().unwrap()))
}

/// The answer to a datagram.
pub(crate) fn ask(socket: &UdpSocket, packet: &[u8]) -> Vec<u8> {
    socket.send(packet).unwrap();
    let mut answer = vec![0; 4096];
    let length = socket.recv(&mut answer).expect("the tracker answers");
    answer.truncate(length);
    answer
}

/// Percent-encoded, every byte.
pub(crate) fn encode(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("%{byte:02x}")).collect()
}

/// An announce's query.
pub(crate) fn query(torrent: InfoHash, port: u16, more: &str) -> String {
    let hash = encode(&torrent.0);
    format!("announce?info_hash={hash}&peer_id=-XX0000-abcdefghijkl&port={port}&left=0{more}")
}

/// A torrent of one file.
pub(crate) struct Torrent {
    pub(crate) hash: InfoHash,
    pub(crate) content: Vec<u8>,
    pub(crate) name: String,
    bytes: Vec<u8>,
}

impl Torrent {
    /// Of some noise, announced at these trackers.
    pub(crate) fn new(name: &str, length: usize, tracker: &str) -> Self {
        let content = noise(length);
        let mut pieces = Vec::new();
        content.chunks(PIECE).for_each(|piece| pieces.extend(sha1(piece)));
        let info = Value::dict([
            ("length".as_bytes(), Value::Int(i64::try_from(length).unwrap())),
            (b"name", Value::text(name)),
            (b"piece length", Value::Int(PIECE as i64)),
            (b"pieces", Value::bytes(pieces)),
        ]);
        let bytes = Value::dict([("announce".as_bytes(), Value::text(tracker)), (b"info", info)]).encode();
        Self {
            hash: info_hashes(&bytes).unwrap()[0],
            content,
            name: name.to_owned(),
            bytes,
        }
    }

    /// Writes the torrent file, whole at once.
    pub(crate) fn write(&self, dir: &Path) -> PathBuf {
        let file = dir.join(format!("{}.torrent", self.name));
        std::fs::write(dir.join("being-written"), &self.bytes).unwrap();
        std::fs::rename(dir.join("being-written"), &file).unwrap();
        file
    }
}

/// By the hasher of the torrents themselves: the info-hash of a dictionary is the SHA-1 of its bytes; of other bytes, ask
/// the system.
fn sha1(bytes: &[u8]) -> [u8; 20] {
    let dir = TestDir::new("piece").unwrap();
    let file = dir.path().join("piece");
    std::fs::write(&file, bytes).unwrap();
    let said = run(clean_command("sha1sum").arg(&file), LIMIT).unwrap().text();
    let hash: InfoHash = said.split_whitespace().next().unwrap().parse().unwrap();
    hash.0
}

/// A client that downloads or seeds, for a while.
pub(crate) fn aria2(torrent: &Path, dir: &Path, more: &[&str], log: &Path) -> Daemon {
    let mut command = aria2_command(dir);
    command.args(more).arg(format!("--torrent-file={}", torrent.display()));
    Daemon::start("aria2c", &mut command, log).unwrap()
}

/// A client that has no more than a link.
pub(crate) fn aria2_by_magnet(link: &str, dir: &Path, log: &Path) -> Daemon {
    let mut command = aria2_command(dir);
    command.arg(link);
    Daemon::start("aria2c", &mut command, log).unwrap()
}

fn aria2_command(dir: &Path) -> std::process::Command {
    let mut command = clean_command("aria2c");
    command
        .args([
            "--no-conf",
            "--enable-dht6=false",
            "--bt-enable-lpd=false",
            "--enable-peer-exchange=false",
        ])
        .args([
            "--listen-port=20000-32000",
            "--dht-listen-port=20000-32000",
            "--file-allocation=none",
        ])
        .args([
            "--check-integrity=true",
            "--seed-ratio=0.0",
            "--console-log-level=info",
            "--summary-interval=0",
        ])
        .args([
            "--bt-tracker-connect-timeout=10",
            "--follow-torrent=false",
            "--async-dns=false",
            "--disable-ipv6=true",
        ])
        // aria2 asks UDP trackers only if it may use the DHT, which knows nobody here.
        .arg("--enable-dht=true")
        .arg(format!("--dht-file-path={}", dir.join("dht.dat").display()))
        .arg(format!("--dir={}", dir.display()));
    command
}

/// libtorrent by Python: takes part until it is stopped; says what its trackers say.
const LIBTORRENT: &str = r#"
import sys, time, libtorrent as lt
session = lt.session({
    'listen_interfaces': '127.0.0.1:0', 'enable_dht': False, 'enable_lsd': False, 'enable_upnp': False,
    'enable_natpmp': False, 'allow_multiple_connections_per_ip': True, 'ssrf_mitigation': False,
    'min_announce_interval': 1, 'stop_tracker_timeout': 5, 'alert_mask': lt.alert.category_t.all_categories,
})
handle = session.add_torrent({'ti': lt.torrent_info(sys.argv[1]), 'save_path': sys.argv[2]})
handle.resume()
import signal
def stop(*_):
    raise SystemExit
signal.signal(signal.SIGTERM, stop)
was_seeding = False
try:
    while True:
        session.wait_for_alert(200)
        for alert in session.pop_alerts():
            if 'tracker' in type(alert).__name__ or 'listen' in type(alert).__name__:
                print(type(alert).__name__, alert.message(), flush=True)
        if handle.status().is_seeding and not was_seeding:
            was_seeding = True
            print('seeding', flush=True)
finally:
    session.remove_torrent(handle)
    end = time.time() + 5
    while time.time() < end:
        session.wait_for_alert(200)
        names = [type(alert).__name__ for alert in session.pop_alerts()]
        if 'tracker_reply_alert' in names:
            break
"#;

pub(crate) fn libtorrent(torrent: &Path, dir: &Path, log: &Path) -> Daemon {
    // The system's own: packages of Debian are for no other Python.
    let mut command = clean_command("/usr/bin/python3");
    command.args(["-c", LIBTORRENT]).arg(torrent).arg(dir);
    Daemon::start("libtorrent", &mut command, log).unwrap()
}

/// Waits until the file is there as it should be.
pub(crate) fn wait_for_content(torrent: &Torrent, dir: &Path) {
    let file = dir.join(&torrent.name);
    let is_whole = || std::fs::read(&file).ok().filter(|bytes| *bytes == torrent.content);
    assert!(poll(LIMIT, is_whole).is_some(), "{} did not arrive", file.display());
}

/// Runs `imtracker` to its end.
pub(crate) fn imtracker(arguments: &[&str]) -> Finished {
    let mut command = clean_command(binary("imtracker").unwrap().to_str().unwrap());
    run_any(command.args(arguments), LIMIT).unwrap()
}
