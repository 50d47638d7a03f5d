//! Sockets on `[::]` are the same on every machine, whatever `net.ipv6.bindv6only` says.

use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

use instantmirror_testkit::command::{clean_command, run};
use instantmirror_testkit::process::{Daemon, TestDir, binary};

use crate::clients::is_apart;
use crate::world::LIMIT;

/// Which addresses are listened on, in what order, and whether IPv4 is answered.
const LISTEN: &[&[&str]] = &[&["[::]"], &["0.0.0.0", "[::]"], &["[::]", "0.0.0.0"]];

/// In a network of its own: ports are free there, and the sysctl is nobody else's.
#[test]
fn a_wildcard_answers_both_families_whatever_the_sysctl_says() {
    if !is_apart("families::a_wildcard_answers_both_families_whatever_the_sysctl_says") {
        return;
    }
    for bindv6only in ["0", "1"] {
        std::fs::write("/proc/sys/net/ipv6/bindv6only", bindv6only).unwrap();
        for hosts in LISTEN {
            let dir = TestDir::new("families").unwrap();
            let listen = |port: u16| {
                format!(
                    "{:?}",
                    hosts.iter().map(|host| format!("{host}:{port}")).collect::<Vec<_>>()
                )
            };
            let at = format!("{hosts:?} with bindv6only={bindv6only}");
            tracker(dir.path(), &listen, &at);
            master(dir.path(), &listen, &at);
        }
    }
}

fn tracker(dir: &Path, listen: &dyn Fn(u16) -> String, at: &str) {
    let text = format!(
        "[torrents]\ndir = {dir:?}\n[http]\nlisten = {}\n[udp]\nlisten = {}\n[control]\nsocket = {:?}\n",
        listen(6969),
        listen(6970),
        dir.join("tracker.sock")
    );
    let _daemon = start("imtracker", "run", dir, &text);
    for host in ["127.0.0.1", "[::1]"] {
        assert!(takes_connections(host, 6969), "{host} of {at}");
        assert!(answers_datagrams(host, 6970), "{host} of {at}");
    }
}

fn master(dir: &Path, listen: &dyn Fn(u16) -> String, at: &str) {
    let text = format!(
        "[store]\ndir = {:?}\n[http]\nlisten = {}\n[peers]\nlisten = {}\n[[repository]]\nname = \"tree\"\nsource = {:?}\n",
        dir.join("store"),
        listen(8080),
        listen(6881),
        dir.join("source"),
    );
    std::fs::create_dir(dir.join("source")).unwrap();
    let config = dir.join("imserver.toml");
    std::fs::write(&config, &text).unwrap();
    run(
        clean_command(binary("imserver").unwrap().to_str().unwrap())
            .arg("--config")
            .arg(&config)
            .arg("init"),
        LIMIT,
    )
    .unwrap();
    let _daemon = start("imserver", "serve", dir, &text);
    for (host, port) in [
        ("127.0.0.1", 8080),
        ("[::1]", 8080),
        ("127.0.0.1", 6881),
        ("[::1]", 6881),
    ] {
        assert!(takes_connections(host, port), "{host}:{port} of {at}");
    }
}

/// Checks the configuration and starts the daemon: both have to take it.
fn start(name: &str, command: &str, dir: &Path, text: &str) -> Daemon {
    let config = dir.join(format!("{name}.toml"));
    std::fs::write(&config, text).unwrap();
    let program = binary(name).unwrap();
    let with_config = |arguments: &[&str]| {
        let mut with = clean_command(program.to_str().unwrap());
        with.arg("--config").arg(&config).args(arguments);
        with
    };
    run(&mut with_config(&["--check-config"]), LIMIT).unwrap();
    let log = dir.join(format!("{name}.log"));
    let mut daemon = Daemon::start(name, &mut with_config(&[command]), &log).unwrap();
    daemon.wait_for_line("http://", LIMIT).unwrap();
    daemon
}

fn takes_connections(host: &str, port: u16) -> bool {
    let address: SocketAddr = format!("{host}:{port}").parse().unwrap();
    TcpStream::connect_timeout(&address, Duration::from_secs(5)).is_ok()
}

/// Whether a request to connect (BEP 15) is answered.
fn answers_datagrams(host: &str, port: u16) -> bool {
    let socket = UdpSocket::bind(if host.starts_with('[') {
        "[::1]:0"
    } else {
        "127.0.0.1:0"
    })
    .unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut request = 0x0417_2710_1980_u64.to_be_bytes().to_vec();
    request.extend([0, 0, 0, 0, 1, 2, 3, 4]);
    socket.send_to(&request, format!("{host}:{port}")).unwrap();
    let mut answer = [0; 64];
    matches!(socket.recv_from(&mut answer), Ok((16, _))) && answer[4..8] == [1, 2, 3, 4]
}
