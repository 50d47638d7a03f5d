//! Many clients at once: 10,000 that do nothing, 2,000 that do it slowly, and some that want something.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use instantmirror_testkit::http;
use instantmirror_testkit::process::{TestDir, poll};
use rustix::process::{Resource, getrlimit, setrlimit};

use crate::world::{LIMIT, Master, Node};

const IDLE: usize = 10_000;
const SLOW: usize = 2_000;
/// What a connection that waits may cost.
const IDLE_BYTES_MAX: usize = 4096;
const HEADER_TIMEOUT: Duration = Duration::from_secs(4);

fn connect(url: &str) -> TcpStream {
    let stream = TcpStream::connect(url.trim_start_matches("http://")).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
}

/// Resident memory of a process in bytes.
fn resident(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

fn ask(stream: &mut TcpStream) {
    stream
        .write_all(b"GET /pub/tree/file HTTP/1.1\r\nHost: h\r\n\r\n")
        .unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"content\n") {
        let mut buffer = [0; 1024];
        let read = stream.read(&mut buffer).unwrap();
        assert!(read > 0, "closed behind {:?}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&buffer[..read]);
    }
}

/// Raises the limit of open files for this process and those that it starts.
fn allow_connections(wanted: u64) {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
    let too_few = limit.maximum.is_some_and(|maximum| maximum < wanted);
    assert!(
        !too_few,
        "this test needs {wanted} open files; the hard limit is {:?}",
        limit.maximum
    );
}

#[test]
fn ten_thousand_idle_and_two_thousand_slow_clients_keep_nobody_from_anything() {
    allow_connections((IDLE + SLOW + 1000) as u64);
    let dir = TestDir::new("crowd").unwrap();
    let source = dir.folder("source").unwrap();
    std::fs::write(source.join("file"), "content\n").unwrap();
    let mut master = Master::new(&dir, &[("tree", &source)]);
    let snapshot = master.publish("tree");
    master.serve();
    let mut node = Node::configure(&dir, &master.url(), &master.key, &["tree"], "1 GiB");
    let text = std::fs::read_to_string(&node.config).unwrap();
    let limits = format!(
        "[http.limits]\nheader_timeout = \"{} s\"\nidle_timeout = \"10 min\"\n",
        HEADER_TIMEOUT.as_secs()
    );
    let text = text.replace("[http]\n", "[http]\nmax_connections = 20000\n");
    std::fs::write(&node.config, text + &limits).unwrap();
    node.run();
    node.wait_for("tree", &snapshot);
    let (url, pid) = (node.url(), node.daemon().pid());
    ask(&mut connect(&url));

    let before = resident(pid);
    let mut idle: Vec<TcpStream> = (0..IDLE).map(|_| connect(&url)).collect();
    idle.iter_mut().for_each(ask);
    let grown = resident(pid).saturating_sub(before) / IDLE;
    assert!(grown <= IDLE_BYTES_MAX, "an idle connection takes {grown} bytes");

    // Each sends a byte a second of a request that would be long.
    let mut slow: Vec<TcpStream> = (0..SLOW).map(|_| connect(&url)).collect();
    let begun = Instant::now();
    let dripping = thread::spawn(move || {
        let request = format!("GET /pub/tree/file HTTP/1.1\r\nHost: h\r\nX: {}", "x".repeat(1000));
        for byte in request.bytes().take(3) {
            slow.iter_mut().for_each(|stream| stream.write_all(&[byte]).unwrap());
            thread::sleep(Duration::from_secs(1));
        }
        slow
    });
    let clean: Vec<_> = (0..50)
        .map(|_| {
            let mut stream = connect(&url);
            thread::spawn(move || (0..40).for_each(|_| ask(&mut stream)))
        })
        .collect();
    clean.into_iter().for_each(|client| client.join().unwrap());
    assert_eq!(http::get(&format!("{url}/pub/tree/")).unwrap().status, 200);

    // Whoever drips is told that it took too long; nobody else is.
    let slow = dripping.join().unwrap();
    for mut stream in slow {
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(
            answer.starts_with(b"HTTP/1.1 408 "),
            "{}",
            String::from_utf8_lossy(&answer)
        );
    }
    assert!(begun.elapsed() >= HEADER_TIMEOUT);
    idle.iter_mut().step_by(10).for_each(ask);
    let counted = poll(LIMIT, || {
        let status = node.status();
        (status["http"]["connections_timed_out"].as_u64() == Some(SLOW as u64)).then_some(())
    });
    counted.unwrap_or_else(|| panic!("{}", node.status()));
}
