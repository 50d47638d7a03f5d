//! Shared caches in front of a mirror: never more than five seconds behind, and hits where a URL never changes.
//! nginx, Varnish and Apache stand in `sites` and `mirror_clients`.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use instantmirror_testkit::command::{clean_command, run};
use instantmirror_testkit::debian::{AptClient, Archive};
use instantmirror_testkit::process::{Daemon, TestDir, free_port, poll};

use crate::many_clients::world;
use crate::world::{LIMIT, Master, Node};

/// A cache that listens on a port of this machine.
struct Cache {
    name: &'static str,
    port: u16,
    _daemon: Daemon,
}

impl Cache {
    /// The head of an answer, and its body.
    fn ask(&self, path: &str) -> (String, String) {
        let url = format!("http://127.0.0.1:{}{path}", self.port);
        let said = run(clean_command("curl").args(["-sS", "-i", &url]), LIMIT)
            .unwrap()
            .text();
        let (head, body) = said.split_once("\r\n\r\n").unwrap();
        (head.to_lowercase(), body.to_owned())
    }
}

/// Squid as an accelerator: it drops to the user `proxy`, who has to reach the folder.
fn squid(dir: &TestDir, node: &str) -> Cache {
    let (folder, port) = (dir.folder("squid").unwrap(), free_port().unwrap());
    let (host, node_port) = node.split_once(':').unwrap();
    let text = format!(
        "http_port 127.0.0.1:{port} accel defaultsite=localhost no-vhost\n\
         cache_peer {host} parent {node_port} 0 no-query no-digest originserver\nnever_direct allow all\nhttp_access allow all\n\
         pid_filename none\ncache_log {0}/cache.log\naccess_log none\ncoredump_dir {0}\ncache_mem 16 MB\n\
         pinger_enable off\nnetdb_filename none\nvisible_hostname localhost\nshutdown_lifetime 0 seconds\n",
        folder.display()
    );
    let config = folder.join("squid.conf");
    std::fs::write(&config, text).unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    run(clean_command("chown").arg("-R").arg("proxy").arg(&folder), LIMIT).unwrap();
    let mut command = clean_command("squid");
    command.args(["-N", "-f"]).arg(&config);
    start("squid", command, port, &folder)
}

fn haproxy(dir: &TestDir, node: &str) -> Cache {
    let (folder, port) = (dir.folder("haproxy").unwrap(), free_port().unwrap());
    let text = format!(
        "defaults\n mode http\n timeout connect 20s\n timeout client 20s\n timeout server 20s\n\
         cache files\n total-max-size 16\n max-object-size 1000000\n max-age 3600\n\
         frontend readers\n bind 127.0.0.1:{port}\n http-request cache-use files\n http-response cache-store files\n \
         http-response set-header X-Cache HIT if {{ res.cache_hit }}\n default_backend mirror\n\
         backend mirror\n server node {node}\n"
    );
    let config = folder.join("haproxy.cfg");
    std::fs::write(&config, text).unwrap();
    let mut command = clean_command("haproxy");
    command.arg("-db").arg("-f").arg(&config);
    start("haproxy", command, port, &folder)
}

fn start(name: &'static str, mut command: std::process::Command, port: u16, folder: &Path) -> Cache {
    let mut daemon = Daemon::start(name, &mut command, &folder.join("output")).unwrap();
    daemon.wait_for_port(port, LIMIT).unwrap();
    Cache {
        name,
        port,
        _daemon: daemon,
    }
}

#[test]
fn squid_and_haproxy_are_never_far_behind_and_keep_what_never_changes() {
    let world = world("e2e-caches", |source, _| {
        std::fs::write(source.join("news"), "old").unwrap();
    });
    let node = world.node.url().replace("http://", "");
    let caches = [squid(&world.dir, &node), haproxy(&world.dir, &node)];
    let first = world.node.status()["repositories"][0]["current"]
        .as_str()
        .unwrap()
        .to_owned();
    for cache in &caches {
        for _ in 0..2 {
            assert_eq!(cache.ask("/pub/r/news").1, "old", "{}", cache.name);
        }
        let frozen = format!("/r/snap/{first}/news");
        let hit = poll(LIMIT, || cache.ask(&frozen).0.contains("x-cache: hit").then_some(()));
        assert!(hit.is_some(), "{}: {}", cache.name, cache.ask(&frozen).0);
    }
    std::fs::write(world.source.join("news"), "new").unwrap();
    let second = world.master.publish("r");
    world.node.wait_for("r", &second);
    std::thread::sleep(Duration::from_secs(6));
    for cache in &caches {
        assert_eq!(cache.ask("/pub/r/news").1, "new", "{}", cache.name);
        assert_eq!(cache.ask(&format!("/r/snap/{first}/news")).1, "old", "{}", cache.name);
    }
}

/// A free port of the 2,000 from `first` on. apt-cacher-ng neither listens on nor asks one above 32767, as a finding tells.
fn low_port(first: u16) -> u16 {
    let begin = u16::try_from(std::process::id() % 2_000).unwrap();
    let mut ports = (0..2_000).map(|step| first + (begin + step) % 2_000);
    let is_free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    ports.find(is_free).unwrap()
}

#[test]
fn apt_updates_and_downloads_by_apt_cacher_ng() {
    let dir = TestDir::new("e2e-apt-cacher-ng").unwrap();
    let archive = Archive::build_of(&dir.folder("archive").unwrap(), &["hello"]).unwrap();
    let mut master = Master::new(&dir, &[("debian", archive.root())]);
    let first = master.publish("debian");
    master.serve();
    let mut node = Node::configure(&dir, &master.url(), &master.key, &["debian"], "10 GiB");
    let text = std::fs::read_to_string(&node.config).unwrap();
    let listen = format!("listen = [\"127.0.0.1:{}\"]", low_port(25_000));
    std::fs::write(&node.config, text.replace("listen = [\"127.0.0.1:0\"]", &listen)).unwrap();
    node.run();
    node.wait_for("debian", &first);

    let (folder, port) = (dir.folder("cacher").unwrap(), low_port(30_000));
    // A mirror on a port of its own has to be allowed.
    let text = format!(
        "CacheDir: {0}/cache\nLogDir: {0}/log\nPort: {port}\nBindAddress: 127.0.0.1\nForeGround: 1\nAllowUserPorts: 0\n\
         SocketPath: {0}/socket\nSupportDir: /usr/lib/apt-cacher-ng\n",
        folder.display()
    );
    std::fs::write(folder.join("acng.conf"), text).unwrap();
    let mut command = clean_command("apt-cacher-ng");
    command.arg("-c").arg(&folder);
    let _cacher = start("apt-cacher-ng", command, port, &folder);

    let base = format!(
        "http://127.0.0.1:{port}/{}/pub/debian",
        node.url().replace("http://", "")
    );
    let client = AptClient::new(&dir.folder("client").unwrap(), &base).unwrap();
    for upgrade in [false, true] {
        if upgrade {
            archive.upgrade("hello").unwrap();
            let second = master.publish("debian");
            node.wait_for("debian", &second);
        }
        client.update().unwrap();
        let version = archive.version("hello").unwrap();
        assert_eq!(client.candidate("hello").unwrap().as_deref(), Some(version.as_str()));
        let package = std::fs::read(archive.package_file("hello").unwrap()).unwrap();
        assert!(client.download("hello").unwrap() == package, "{version}");
    }
}
