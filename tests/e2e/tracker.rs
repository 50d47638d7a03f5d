//! The tracker with the clients that people use, and with what nobody should send.

use std::net::SocketAddr;
use std::time::Duration;

use instantmirror::core::bencode::{Strictness, Value};
use instantmirror::trackerd::udp::Request;
use instantmirror::trackerd::{Announce, Event, InfoHash, PeerId};
use instantmirror_testkit::command::{clean_command, run};
use instantmirror_testkit::http;
use instantmirror_testkit::process::{Daemon, TestDir, poll};

use crate::tracker_world::{
    Torrent, Tracker, aria2, aria2_by_magnet, ask, connect, encode, imtracker, libtorrent, query, wait_for_content,
};
use crate::world::LIMIT;

/// Resident bytes of a process.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

fn reason(answer: &[u8]) -> Option<String> {
    let decoded = Value::decode(answer, Strictness::All).unwrap();
    decoded
        .get("failure reason")
        .and_then(Value::as_text)
        .map(str::to_owned)
}

/// As Ctrl-C does: at SIGTERM aria2 leaves without a word to its trackers.
fn interrupt(client: &mut Daemon) {
    let pid = client.pid().to_string();
    run(clean_command("kill").args(["-INT", &pid]), LIMIT).unwrap();
    client.wait(LIMIT).unwrap();
}

#[test]
fn aria2_seeds_and_libtorrent_finds_it_by_http() {
    let dir = TestDir::new("tracker-http").unwrap();
    let tracker = Tracker::start(&dir, "interval = \"5 s\"\nmin_interval = \"1 s\"");
    let torrent = Torrent::new("by-http", 700_000, &format!("http://{}/announce", tracker.http));
    let file = torrent.write(&tracker.torrents);
    poll(LIMIT, || tracker.scrape(torrent.hash)).expect("a new torrent file is noticed without being told");
    let (from, to) = (dir.folder("from").unwrap(), dir.folder("to").unwrap());
    std::fs::write(from.join(&torrent.name), &torrent.content).unwrap();
    let mut seeder = aria2(&file, &from, &[], &dir.path().join("aria2.log"));
    tracker.wait_for_counts(torrent.hash, (1, 0, 0));
    let mut leecher = libtorrent(&file, &to, &dir.path().join("libtorrent.log"));
    wait_for_content(&torrent, &to);
    tracker.wait_for_counts(torrent.hash, (2, 0, 1));
    // Who leaves says so.
    leecher.terminate(LIMIT).unwrap();
    tracker.wait_for_counts(torrent.hash, (1, 0, 1));
    interrupt(&mut seeder);
    tracker.wait_for_counts(torrent.hash, (0, 0, 1));
}

#[test]
fn libtorrent_seeds_and_aria2_finds_it_by_udp() {
    let dir = TestDir::new("tracker-udp").unwrap();
    let tracker = Tracker::start(&dir, "interval = \"5 s\"\nmin_interval = \"1 s\"");
    let torrent = Torrent::new("by-udp", 700_000, &format!("udp://{}/announce", tracker.udp));
    let file = torrent.write(&tracker.torrents);
    run(&mut tracker.command(&["reload"]), LIMIT).unwrap();
    let (from, to) = (dir.folder("from").unwrap(), dir.folder("to").unwrap());
    std::fs::write(from.join(&torrent.name), &torrent.content).unwrap();
    let mut seeder = libtorrent(&file, &from, &dir.path().join("libtorrent.log"));
    tracker.wait_for_counts(torrent.hash, (1, 0, 0));
    let mut leecher = aria2(&file, &to, &[], &dir.path().join("aria2.log"));
    wait_for_content(&torrent, &to);
    tracker.wait_for_counts(torrent.hash, (2, 0, 1));
    interrupt(&mut leecher);
    seeder.terminate(LIMIT).unwrap();
    tracker.wait_for_counts(torrent.hash, (0, 0, 1));
    assert_eq!(tracker.status()["completed"], 1);
}

/// aria2 announces that it lacks nothing until it has the metadata, and knows nobody but the tracker.
#[test]
fn a_magnet_link_and_the_tracker_are_enough_for_aria2() {
    let dir = TestDir::new("tracker-magnet").unwrap();
    let tracker = Tracker::start(&dir, "interval = \"5 s\"\nmin_interval = \"1 s\"");
    let http = format!("http://{}/announce", tracker.http);
    let torrent = Torrent::new("by-magnet", 700_000, &http);
    let file = torrent.write(&tracker.torrents);
    run(&mut tracker.command(&["reload"]), LIMIT).unwrap();
    let from = dir.folder("from").unwrap();
    std::fs::write(from.join(&torrent.name), &torrent.content).unwrap();
    let _seeder = libtorrent(&file, &from, &dir.path().join("libtorrent.log"));
    tracker.wait_for_counts(torrent.hash, (1, 0, 0));
    for (scheme, url) in [("http", http), ("udp", format!("udp://{}/announce", tracker.udp))] {
        let to = dir.folder(scheme).unwrap();
        let link = format!("magnet:?xt=urn:btih:{}&tr={}", torrent.hash, encode(url.as_bytes()));
        let mut leecher = aria2_by_magnet(&link, &to, &to.join("aria2.log"));
        wait_for_content(&torrent, &to);
        interrupt(&mut leecher);
        tracker.wait_for_counts(torrent.hash, (1, 0, if scheme == "http" { 1 } else { 2 }));
    }
}

#[test]
fn a_refused_torrent_is_said_to_the_people_at_the_clients() {
    let dir = TestDir::new("tracker-refused").unwrap();
    let tracker = Tracker::start(&dir, "");
    let said = "this tracker does not serve this torrent";
    for (name, url) in [
        ("http", format!("http://{}/announce", tracker.http)),
        ("udp", format!("udp://{}/announce", tracker.udp)),
    ] {
        let elsewhere = dir.folder(name).unwrap();
        let file = Torrent::new(&format!("not-{name}"), 40_000, &url).write(&elsewhere);
        let mut client = libtorrent(&file, &elsewhere, &elsewhere.join("libtorrent.log"));
        // Of an error by UDP libtorrent 2.0.8 shows only that there was one.
        let shown = if name == "http" {
            said
        } else {
            "tracker sent a failure message"
        };
        client.wait_for_line(shown, LIMIT).unwrap();
        let log = elsewhere.join("aria2.log");
        let mut client = aria2(&file, &elsewhere, &["--log-level=info", "--log=-"], &log);
        client.wait_for_line(said, LIMIT).unwrap();
    }
    assert!(tracker.status()["refused"][said].as_u64().unwrap() >= 4);
}

#[test]
fn a_tracker_that_was_killed_knows_its_peers_again_after_an_interval() {
    let dir = TestDir::new("tracker-restart").unwrap();
    let mut tracker = Tracker::start(&dir, "interval = \"5 s\"\nmin_interval = \"1 s\"");
    let torrent = Torrent::new("restart", 100_000, &format!("http://{}/announce", tracker.http));
    let file = torrent.write(&tracker.torrents);
    run(&mut tracker.command(&["reload"]), LIMIT).unwrap();
    let from = dir.folder("from").unwrap();
    std::fs::write(from.join(&torrent.name), &torrent.content).unwrap();
    let _seeder = libtorrent(&file, &from, &dir.path().join("libtorrent.log"));
    tracker.wait_for_counts(torrent.hash, (1, 0, 0));
    let (socket, old) = tracker.connect();
    let scrape = |connection| Request::Scrape {
        connection,
        transaction: 3,
        torrents: vec![torrent.hash],
    };
    assert_eq!(ask(&socket, &scrape(old).encode()).len(), 20);
    tracker.daemon().kill9().unwrap();
    tracker.run();
    tracker.wait_for_counts(torrent.hash, (1, 0, 0));
    // Connection ids end with the tracker that made them; clients time out and connect anew.
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    socket.send(&scrape(old).encode()).unwrap();
    assert!(socket.recv(&mut [0; 100]).is_err());
    let (socket, new) = tracker.connect();
    assert_eq!(ask(&socket, &scrape(new).encode()).len(), 20);
    assert!(
        tracker.daemon().terminate(LIMIT).unwrap().success(),
        "SIGTERM ends it in order"
    );
}

#[test]
fn answers_come_in_the_form_that_was_asked_for() {
    let dir = TestDir::new("tracker-forms").unwrap();
    let tracker = Tracker::start(&dir, "");
    let torrent = Torrent::new("forms", 1000, "http://127.0.0.1/");
    torrent.write(&tracker.torrents);
    run(&mut tracker.command(&["reload"]), LIMIT).unwrap();
    tracker.get(&query(torrent.hash, 1000, "&event=started&ip=192.0.2.1"));
    let compact = tracker.get(&query(torrent.hash, 1001, "&event=started").replace("left=0", "left=5"));
    assert_eq!(compact.header("cache-control"), Some("no-store"));
    let decoded = Value::decode(&compact.body, Strictness::All).unwrap();
    assert_eq!(
        decoded.get("peers").unwrap().as_bytes().unwrap(),
        [127, 0, 0, 1, 3, 232],
        "`ip` is not believed"
    );
    assert_eq!(decoded.get("interval").unwrap().as_int(), Some(1800));
    assert_eq!(decoded.get("min interval").unwrap().as_int(), Some(60));
    let words = tracker.get(&query(torrent.hash, 1001, "&compact=0").replace("left=0", "left=5"));
    let decoded = Value::decode(&words.body, Strictness::All).unwrap();
    let peer = &decoded.get("peers").unwrap().as_list().unwrap()[0];
    assert_eq!(peer.get("ip").unwrap().as_text(), Some("127.0.0.1"));
    assert_eq!(peer.get("port").unwrap().as_int(), Some(1000));
    assert_eq!(
        peer.get("peer id").unwrap().as_bytes(),
        Some(&b"-XX0000-abcdefghijkl"[..])
    );
    let short = tracker.get(&query(torrent.hash, 1001, "&compact=0&no_peer_id=1").replace("left=0", "left=5"));
    let decoded = Value::decode(&short.body, Strictness::All).unwrap();
    assert!(
        decoded.get("peers").unwrap().as_list().unwrap()[0]
            .get("peer id")
            .is_none()
    );
}

#[test]
fn both_address_families_are_served_and_kept_apart() {
    let dir = TestDir::new("tracker-v6").unwrap();
    let mut tracker = Tracker::start(&dir, "");
    let torrent = Torrent::new("families", 1000, "http://127.0.0.1/");
    torrent.write(&tracker.torrents);
    assert!(tracker.daemon().terminate(LIMIT).unwrap().success());
    let text = std::fs::read_to_string(&tracker.config).unwrap();
    let both = |address: &str| format!("[{address:?}, \"[::1]:0\"]");
    let text = text.replace(&format!("[{:?}]", tracker.http), &both(&tracker.http));
    let text = text.replace(&format!("[{:?}]", tracker.udp), &both(&tracker.udp));
    std::fs::write(&tracker.config, text).unwrap();
    tracker.run();
    let six = |log: &str, scheme: &str| {
        let line = log.lines().find(|line| line.contains(&format!("{scheme}://[::1]:")));
        let url = line.unwrap().rsplit("://").next().unwrap();
        url.trim_end_matches("/announce").to_owned()
    };
    tracker.daemon().wait_for_line("udp://[::1]:", LIMIT).unwrap();
    let log = tracker.daemon().log();
    tracker.get(&query(torrent.hash, 1000, ""));
    let url = format!("http://{}/{}", six(&log, "http"), query(torrent.hash, 2000, ""));
    let answer = http::get(&url.replace("left=0", "left=5")).unwrap();
    let decoded = Value::decode(&answer.body, Strictness::All).unwrap();
    assert_eq!(
        decoded.get("peers").unwrap().as_bytes().unwrap(),
        [127, 0, 0, 1, 3, 232]
    );
    let (socket, connection) = connect(six(&log, "udp").parse::<SocketAddr>().unwrap());
    let announce = Announce {
        info_hash: torrent.hash,
        peer_id: PeerId([b'x'; 20]),
        port: 3000,
        left: Some(5),
        event: Event::Started,
        wanted: None,
        key: 0,
    };
    let packet = Request::Announce {
        connection,
        transaction: 9,
        announce,
    };
    let answer = ask(&socket, &packet.encode());
    let mut expected = vec![0; 16];
    expected[15] = 1;
    expected.extend(2000u16.to_be_bytes());
    assert_eq!(answer[20..], expected, "the peer of IPv6 and no other");
    assert_eq!(
        (
            tracker.status()["peers_v4"].as_u64(),
            tracker.status()["peers_v6"].as_u64()
        ),
        (Some(1), Some(2))
    );
}

#[test]
fn hostile_requests_get_an_error_and_leave_nothing() {
    let dir = TestDir::new("tracker-hostile").unwrap();
    let mut tracker = Tracker::start(&dir, "requests_per_minute = 1000000");
    let torrent = Torrent::new("hostile", 1000, "http://127.0.0.1/");
    torrent.write(&tracker.torrents);
    run(&mut tracker.command(&["reload"]), LIMIT).unwrap();
    let good = query(torrent.hash, 1000, "&event=started");
    let hash = encode(&torrent.hash.0);
    for (sent, said) in [
        ("announce".to_owned(), "no port"),
        ("announce?".to_owned(), "no port"),
        (good.replace("info_hash", "info_hush"), "no info_hash"),
        (good.replace(&hash, &torrent.hash.to_string()), "40 bytes instead of 20"),
        (good.replace("port=1000", "port=-1"), "port is no number"),
        (good.replace("port=1000", "port=0"), "port is no number"),
        (good.replace("left=0", "left=1e9"), "left is no number"),
        (format!("{good}&info_hash={hash}"), "more than one info_hash"),
        (format!("{good}&key=%zz"), "percent-encoded"),
        ("scrape".to_owned(), "no info_hash"),
        (
            format!("scrape?{}", vec![format!("info_hash={hash}"); 75].join("&")),
            "74 torrents at most",
        ),
    ] {
        let answer = tracker.get(&sent);
        assert_eq!(answer.status, 200, "{sent}");
        let reason = reason(&answer.body);
        assert!(
            reason.as_ref().is_some_and(|reason| reason.contains(said)),
            "{sent}: {reason:?}"
        );
    }
    for giant in [9_000, 30_000, 2_000_000] {
        let request = format!(
            "GET /{good}&x={} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n",
            "x".repeat(giant)
        );
        // A server that has read enough of it may close before all is sent.
        let answer = http::exchange(&tracker.http, request.as_bytes()).unwrap_or_default();
        let text = String::from_utf8_lossy(&answer);
        let refused = text.contains("failure reason") || text.starts_with("HTTP/1.1 4") || text.is_empty();
        assert!(refused, "{giant}: {text}");
    }
    let posted = http::request(
        "POST",
        &format!("http://{}/{good}", tracker.http),
        &[("Content-Length", "0")],
    );
    assert_eq!(posted.unwrap().status, 405);
    assert_eq!((tracker.get("").status, tracker.get("etc/passwd").status), (200, 404));
    assert_eq!(tracker.status()["peers_v4"], 0, "nothing of that was taken in");

    let (socket, connection) = tracker.connect();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut packet = vec![0; 2048];
    packet[..8].copy_from_slice(&connection.to_be_bytes());
    packet[11] = 9;
    for length in (0..2048).filter(|length| *length != 98) {
        socket.send(&packet[..length]).unwrap();
        let mut answer = [0; 4096];
        if length >= 16 {
            let got = socket.recv(&mut answer).unwrap();
            assert_eq!(&answer[..4], [0, 0, 0, 3], "{length}");
            assert!(got < 100);
        }
    }
    many_torrents(&mut tracker);
}

/// Ten thousand torrents that nobody allowed, by UDP and by HTTP.
fn many_torrents(tracker: &mut Tracker) {
    let (socket, connection) = tracker.connect();
    let pid = tracker.daemon().pid();
    let other = |number: u32| {
        let mut hash = [0x55; 20];
        hash[..4].copy_from_slice(&number.to_be_bytes());
        InfoHash(hash)
    };
    let mut before = 0;
    for number in 0..11_000 {
        if number == 1_000 {
            before = resident(pid);
        }
        let announce = Announce {
            info_hash: other(number),
            peer_id: PeerId([b'x'; 20]),
            port: 1,
            left: Some(0),
            event: Event::Started,
            wanted: None,
            key: number,
        };
        let packet = Request::Announce {
            connection,
            transaction: number,
            announce,
        };
        let answer = ask(&socket, &packet.encode());
        assert_eq!(answer[..4], [0, 0, 0, 3]);
        assert!(answer.ends_with(b"does not serve this torrent"));
    }
    for number in 0..200 {
        let answer = tracker.get(&query(other(number), 1, ""));
        assert!(reason(&answer.body).unwrap().contains("does not serve this torrent"));
    }
    let grown = resident(pid).saturating_sub(before);
    assert!(
        grown < 4 << 20,
        "10,000 torrents that are not served cost {grown} bytes"
    );
    assert_eq!(tracker.status()["torrents"]["allowed"], 1);
}

#[test]
fn a_changed_configuration_is_taken_up_and_what_is_wrong_is_said() {
    let dir = TestDir::new("tracker-reload").unwrap();
    let mut tracker = Tracker::start(&dir, "");
    let torrent = Torrent::new("reloaded", 1000, "http://127.0.0.1/");
    torrent.write(&tracker.torrents);
    std::fs::write(tracker.torrents.join("bad.torrent"), "<html>").unwrap();
    // Now its addresses are those of the configuration.
    assert!(tracker.daemon().terminate(LIMIT).unwrap().success());
    tracker.run();
    tracker.configure("requests_per_minute = 30");
    let said = run(&mut tracker.command(&["reload"]), LIMIT).unwrap().text();
    assert!(
        said.contains("changed: [limits]") && !said.contains("restart"),
        "{said}"
    );
    tracker
        .daemon()
        .wait_for_line("bad.torrent: this is no torrent", LIMIT)
        .unwrap();
    let answers: Vec<_> = (0..40)
        .map(|_| reason(&tracker.get(&query(torrent.hash, 1000, "")).body))
        .collect();
    assert!(answers[0].is_none());
    assert!(
        answers[39]
            .as_ref()
            .is_some_and(|reason| reason.contains("too many requests"))
    );
    let shown = run(&mut tracker.command(&["status"]), LIMIT).unwrap().text();
    for part in [
        "torrents: 1 served (1 of files), 1 with peers",
        "left out: ",
        "peers: 1 (1 by IPv4",
        "refused: ",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    // SIGHUP with a configuration that cannot be used: said, and nothing changes.
    tracker.configure("intervall = 1");
    let refused = tracker.command(&["reload"]);
    assert!(
        instantmirror_testkit::command::run_any(&mut { refused }, LIMIT)
            .unwrap()
            .status
            .code()
            == Some(2)
    );
    let pid = tracker.daemon().pid().to_string();
    run(
        instantmirror_testkit::command::clean_command("kill").args(["-HUP", &pid]),
        LIMIT,
    )
    .unwrap();
    tracker
        .daemon()
        .wait_for_line("did you mean `interval`?", LIMIT)
        .unwrap();
    assert!(tracker.daemon().is_running());
}

#[test]
fn two_trackers_on_one_port_are_refused_and_a_status_without_one_says_so() {
    let dir = TestDir::new("tracker-twice").unwrap();
    let tracker = Tracker::start(&dir, "");
    let file = dir.path().join("second.toml");
    let text = std::fs::read_to_string(&tracker.config).unwrap();
    let path = file.to_str().unwrap();
    std::fs::write(
        &file,
        text.replace("tracker.sock", "second.sock")
            .replace(&tracker.http, "127.0.0.1:0"),
    )
    .unwrap();
    let finished = imtracker(&["--config", path, "run"]);
    assert_eq!(finished.status.code(), Some(1));
    let said = finished.transcript();
    assert!(said.contains(&format!("udp://{}: it is in use", tracker.udp)), "{said}");
    let finished = imtracker(&["--config", path, "status"]);
    assert!(
        finished.transcript().contains("no daemon answers at"),
        "{}",
        finished.transcript()
    );
}
