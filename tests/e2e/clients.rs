//! The BitTorrent clients that people use, as peers of a swarm in a network of its own.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use instantmirror::core::bencode::Value;
use instantmirror::core::metainfo::{FileKind, Metainfo};
use instantmirror_testkit::command::{clean_command, run};
use instantmirror_testkit::process::{Daemon, TestDir, binary, poll};

use crate::world::LIMIT;

/// Where every peer of such a network listens.
pub(crate) const PORT: u16 = 6881;
/// Addresses of such a network, for peers.
const ADDRESSES: u8 = 12;
/// Says that a test runs in a network of its own.
const APART: &str = "INSTANTMIRROR_TEST_APART";

/// The address of a peer. It is not of 127.0.0.0/8: Transmission takes nobody there for a peer.
pub(crate) fn peer(number: u8) -> Ipv4Addr {
    assert!((1..=ADDRESSES).contains(&number));
    Ipv4Addr::new(198, 18, 0, number)
}

/// Runs the test `name` of this binary anew, in a network namespace that has nothing but loopback with some addresses more,
/// and ends with it. Returns whether this is that run.
pub(crate) fn is_apart(name: &str) -> bool {
    if std::env::var_os(APART).is_some() {
        return true;
    }
    // What has to be built is built where the network is.
    for program in ["imserver", "imnode", "imtracker"] {
        binary(program).unwrap();
    }
    let addresses: String = (1..=ADDRESSES)
        .map(|number| format!("ip address add {}/32 dev lo; ", peer(number)))
        .collect();
    let script = format!("set -e; ip link set lo up; {addresses} exec \"$0\" \"$@\"");
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", &script]);
    command
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(APART, "1");
    let ran = run(&mut command, 3 * LIMIT).unwrap();
    assert!(ran.text().contains("1 passed"), "{}", ran.transcript());
    false
}

/// Lets nobody connect to a peer from now on, which may connect to others: in the network of the test alone.
pub(crate) fn shut_out(number: u8) {
    let rules = format!(
        "add table ip firewall\n\
         add chain ip firewall input {{ type filter hook input priority 0; }}\n\
         add rule ip firewall input ip daddr {} tcp flags & (syn | ack) == syn drop\n",
        peer(number)
    );
    let dir = TestDir::new("firewall").unwrap();
    let file = dir.path().join("rules");
    std::fs::write(&file, rules).unwrap();
    run(clean_command("nft").arg("-f").arg(&file), LIMIT).unwrap();
}

/// A client that takes part in a swarm; stopped when this is dropped.
pub(crate) struct Client {
    pub(crate) daemon: Daemon,
    /// What it downloads, or seeds.
    pub(crate) content: PathBuf,
}

/// What a client is to do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Task<'a> {
    /// The address it has.
    pub(crate) number: u8,
    /// Peers that it is told of, if it can be.
    pub(crate) peers: &'a [u8],
    /// The files that it wants, by their paths in the torrent; all of them if there are none.
    pub(crate) chosen: &'a [&'a str],
    /// Seeds what it has without looking at it.
    pub(crate) lies: bool,
    /// Bytes per second that it takes at most, 0 for any number.
    pub(crate) rate: u32,
    /// Begins with uTP, as Transmission does unless it is told not to.
    pub(crate) utp: bool,
}

impl Task<'_> {
    /// Downloads everything, or seeds it if it is there.
    pub(crate) fn of(number: u8) -> Self {
        Self {
            number,
            peers: &[],
            chosen: &[],
            lies: false,
            rate: 0,
            utp: false,
        }
    }
}

fn folder(dir: &TestDir, name: &str, task: &Task<'_>) -> PathBuf {
    dir.folder(&format!("{name}-{}", task.number)).unwrap()
}

/// Lays the files of a torrent where a client looks for them, pads too: aria2 and Transmission take them for files.
pub(crate) fn lay(source: &Path, torrent: &Metainfo, dir: &Path) {
    let root = dir.join(torrent.name.as_str());
    for file in &torrent.files {
        let to = root.join(file.path.as_str());
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        if file.kind == FileKind::Pad {
            std::fs::write(&to, vec![0; usize::try_from(file.size).unwrap()]).unwrap();
        } else {
            std::fs::copy(source.join(file.path.as_str()), &to).unwrap();
        }
    }
}

/// libtorrent by Python, with a `.torrent` file or a magnet link.
pub(crate) fn libtorrent(dir: &TestDir, torrent: &str, task: Task<'_>) -> Client {
    let home = folder(dir, "libtorrent", &task);
    let kind = if torrent.starts_with("magnet:") {
        "magnet"
    } else {
        "torrent"
    };
    let peers: Vec<String> = task
        .peers
        .iter()
        .map(|number| format!("{}:{PORT}", peer(*number)))
        .collect();
    let options = serde_json::json!({
        kind: torrent, "dir": home, "address": peer(task.number).to_string(), "peers": peers, "chosen": task.chosen,
        "lies": task.lies, "rate": task.rate,
    });
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/swarm_client.py");
    // The system's Python, for which Debian builds the module.
    let mut command = clean_command("/usr/bin/python3");
    command.arg(script).arg(options.to_string());
    let daemon = Daemon::start("libtorrent", &mut command, &home.join("log")).unwrap();
    Client { daemon, content: home }
}

/// aria2, which learns of peers from trackers and other peers alone.
pub(crate) fn aria2(dir: &TestDir, file: &Path, torrent: &Metainfo, task: Task<'_>) -> Client {
    let home = folder(dir, "aria2", &task);
    let number = |path: &&str| {
        torrent
            .files
            .iter()
            .position(|file| file.path.as_str() == *path)
            .unwrap()
            + 1
    };
    let chosen: Vec<String> = task.chosen.iter().map(|path| number(path).to_string()).collect();
    let mut command = clean_command("aria2c");
    command.args([
        "--no-conf",
        "--enable-dht=false",
        "--enable-dht6=false",
        "--bt-enable-lpd=false",
        "--disable-ipv6=true",
        "--async-dns=false",
        "--file-allocation=none",
        "--check-integrity=true",
        "--seed-ratio=0.0",
        "--bt-tracker-interval=2",
        "--console-log-level=info",
        "--summary-interval=0",
    ]);
    if !chosen.is_empty() {
        command.arg(format!("--select-file={}", chosen.join(",")));
    }
    command
        .arg(format!("--interface={}", peer(task.number)))
        .arg(format!("--listen-port={PORT}"))
        .arg(format!("--dir={}", home.display()))
        .arg(file);
    let daemon = Daemon::start("aria2c", &mut command, &home.join("log")).unwrap();
    Client { daemon, content: home }
}

/// Transmission. What it does not want it finds among what it remembers of the torrent: told later, it would have begun.
pub(crate) fn transmission(dir: &TestDir, file: &Path, torrent: &Metainfo, task: Task<'_>) -> Client {
    let (home, config) = (
        folder(dir, "transmission", &task),
        folder(dir, "transmission-home", &task),
    );
    let settings = serde_json::json!({
        "dht-enabled": false, "lpd-enabled": false, "utp-enabled": task.utp, "port-forwarding-enabled": false,
        "bind-address-ipv4": peer(task.number).to_string(), "bind-address-ipv6": "::1",
        "peer-port": PORT, "peer-port-random-on-start": false,
    });
    std::fs::write(config.join("settings.json"), settings.to_string()).unwrap();
    if !task.chosen.is_empty() {
        let is_unwanted = |path: &str| i64::from(!task.chosen.contains(&path));
        let files = torrent
            .files
            .iter()
            .map(|file| Value::Int(is_unwanted(file.path.as_str())));
        let remembered = Value::dict([("dnd".as_bytes(), Value::List(files.collect()))]).encode();
        std::fs::create_dir(config.join("resume")).unwrap();
        std::fs::write(config.join(format!("resume/{}.resume", torrent.hash)), remembered).unwrap();
    }
    let mut command = clean_command("transmission-cli");
    command
        .arg("--config-dir")
        .arg(&config)
        .arg("--download-dir")
        .arg(&home);
    command
        .arg("--no-portmap")
        .arg("--port")
        .arg(PORT.to_string())
        .arg(file);
    let daemon = Daemon::start("transmission-cli", &mut command, &config.join("log")).unwrap();
    Client { daemon, content: home }
}

/// rTorrent, without a screen. It makes a file of every pad.
pub(crate) fn rtorrent(dir: &TestDir, file: &Path, task: Task<'_>) -> Client {
    let (home, session) = (folder(dir, "rtorrent", &task), folder(dir, "rtorrent-session", &task));
    let shown = |path: &Path| path.display().to_string();
    let rc = format!(
        "system.daemon.set = true\n\
         log.open_file = \"log\", \"{log}\"\nlog.add_output = \"info\", \"log\"\nlog.add_output = \"torrent_info\", \"log\"\n\
         directory.default.set = {home}\nsession.path.set = {session}\n\
         network.bind_address.set = {address}\nnetwork.port_range.set = {PORT}-{PORT}\nnetwork.port_random.set = no\n\
         dht.mode.set = disable\nprotocol.pex.set = no\ntrackers.use_udp.set = no\n\
         schedule2 = load, 0, 0, \"load.start=\\\"{file}\\\"\"\n",
        log = shown(&session.join("rtorrent.log")),
        home = shown(&home),
        session = shown(&session),
        address = peer(task.number),
        file = shown(file),
    );
    let config = session.join("rtorrent.rc");
    std::fs::write(&config, rc).unwrap();
    let mut command = clean_command("rtorrent");
    command.arg("-n").arg("-o").arg(format!("import={}", shown(&config)));
    let daemon = Daemon::start("rtorrent", &mut command, &session.join("output")).unwrap();
    Client { daemon, content: home }
}

/// CTorrent, which takes pads for files.
pub(crate) fn ctorrent(dir: &TestDir, file: &Path, torrent: &Metainfo, task: Task<'_>) -> Client {
    let home = folder(dir, "ctorrent", &task);
    let mut command = clean_command("ctorrent");
    command.arg("-s").arg(home.join(torrent.name.as_str()));
    command.args(["-i", &peer(task.number).to_string(), "-p", &PORT.to_string(), "-e", "1"]);
    let daemon = Daemon::start("ctorrent", command.arg(file), &home.join("log")).unwrap();
    Client { daemon, content: home }
}

/// qBittorrent without a window.
pub(crate) fn qbittorrent(dir: &TestDir, file: &Path, task: Task<'_>) -> Client {
    let (home, profile) = (
        folder(dir, "qbittorrent", &task),
        folder(dir, "qbittorrent-profile", &task),
    );
    let config = profile.join("qBittorrent/config");
    std::fs::create_dir_all(&config).unwrap();
    let address = peer(task.number);
    let text = format!(
        "[LegalNotice]\nAccepted=true\n\
         [BitTorrent]\nSession\\DHTEnabled=false\nSession\\LSDEnabled=false\nSession\\PeXEnabled=false\n\
         Session\\Port={PORT}\nSession\\Interface=lo\nSession\\InterfaceName=lo\nSession\\InterfaceAddress={address}\n\
         [Preferences]\nWebUI\\Address={address}\nWebUI\\Port=8080\n"
    );
    std::fs::write(config.join("qBittorrent.conf"), text).unwrap();
    let mut command = clean_command("qbittorrent-nox");
    command.arg(format!("--profile={}", profile.display()));
    command.arg(format!("--save-path={}", home.display()));
    command
        .env("HOME", &profile)
        .args(["--skip-dialog=true", "--add-paused=false"]);
    let daemon = Daemon::start("qbittorrent-nox", command.arg(file), &profile.join("log")).unwrap();
    Client { daemon, content: home }
}

impl Client {
    /// Waits until files (by their paths in the torrent) are there as they should be.
    pub(crate) fn wait_for(&mut self, source: &Path, torrent: &Metainfo, paths: &[&str]) {
        let root = self.content.join(torrent.name.as_str());
        for path in paths {
            let expected = std::fs::read(source.join(path)).unwrap();
            let arrived = poll(LIMIT, || {
                let found = std::fs::read(root.join(path)).ok()?;
                (found == expected).then_some(())
            });
            assert!(arrived.is_some(), "{path} did not arrive:\n{}", self.daemon.log());
        }
    }

    /// Files that were not chosen: nothing of them has come.
    pub(crate) fn assert_nothing_of(&self, torrent: &Metainfo, paths: &[&str]) {
        let root = self.content.join(torrent.name.as_str());
        for path in paths {
            let blocks = std::fs::read(root.join(path)).unwrap_or_default();
            assert!(blocks.iter().all(|byte| *byte == 0), "{path} was not chosen");
        }
    }
}
