//! One tree, served by our server and by nginx under the same paths.
//!
//! nginx works in a folder of its own and never looks at the machine's configuration. Both are stopped when the world
//! is dropped.

use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use instantmirror::config::ServerConfig;
use instantmirror::{Master, MasterServer, NoProgress, PublishOptions};
use instantmirror_testkit::command::clean_command;
use instantmirror_testkit::http;
use instantmirror_testkit::process::{Daemon, TestDir, free_port};
use instantmirror_testkit::tree::noise;
use tokio::runtime::Runtime;

/// Where the last request of every connection leads, and what is there.
pub(crate) const CANARY: &str = "/pub/canary";
pub(crate) const CANARY_CONTENT: &str = "the canary's own content, found nowhere else\n";

/// A file of 1,000 bytes: the one that conditions and most ranges are about.
pub(crate) const KILO: &str = "/pub/kilo";
pub(crate) const KILO_BYTES: usize = 1000;

/// A file that takes more than one write of most servers.
pub(crate) const LARGE: &str = "/pub/large";
const LARGE_BYTES: usize = 300_000;

/// Every file's modification time.
pub(crate) const MODIFIED: &str = "Tue, 14 Nov 2023 22:13:20 GMT";
const MODIFIED_SECONDS: u64 = 1_700_000_000;

const START_LIMIT: Duration = Duration::from_secs(30);

/// Both servers, running.
pub(crate) struct World {
    pub(crate) our: Server,
    pub(crate) nginx: Server,
    _daemon: Daemon,
    /// Dropping it ends our server.
    _runtime: Runtime,
    _dir: TestDir,
}

/// Where one of them is, and what it calls [`KILO`].
#[derive(Debug, Clone)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) etag: String,
}

impl World {
    pub(crate) fn new() -> Self {
        let dir = TestDir::new("http-vs-nginx").unwrap();
        let root = dir.folder("root").unwrap();
        plant(&root.join("pub"));
        let (runtime, our) = serve_ours(dir.path(), &root.join("pub"));
        let (daemon, nginx) = start_nginx(&dir.folder("nginx").unwrap(), &root);
        Self {
            our: Server::at(our),
            nginx: Server::at(nginx),
            _daemon: daemon,
            _runtime: runtime,
            _dir: dir,
        }
    }
}

impl Server {
    fn at(address: SocketAddr) -> Self {
        let answer = http::get(&format!("http://{address}{KILO}")).unwrap();
        assert_eq!((answer.status, answer.body.len()), (200, KILO_BYTES));
        assert_eq!(answer.header("last-modified"), Some(MODIFIED));
        let etag = answer.header("etag").unwrap().to_owned();
        Self { address, etag }
    }
}

fn plant(tree: &Path) {
    for folder in ["dir/deep", "indexed", "with space", "a+b"] {
        std::fs::create_dir_all(tree.join(folder)).unwrap();
    }
    let files: &[(&str, Vec<u8>)] = &[
        ("canary", CANARY_CONTENT.into()),
        ("kilo", noise(KILO_BYTES)),
        ("large", noise(LARGE_BYTES)),
        ("empty", Vec::new()),
        ("one", b"1".to_vec()),
        ("smuggled", b"what a smuggler wants".to_vec()),
        ("dir/file", b"in a folder".to_vec()),
        ("dir/deep/file", b"in a deep folder".to_vec()),
        ("indexed/index.html", b"<p>an index".to_vec()),
        ("with space/a file", b"spaces".to_vec()),
        ("a+b/plus+plus", b"plus".to_vec()),
        ("100%", b"percent".to_vec()),
        ("a%20b", b"percent twenty".to_vec()),
        ("%2e%2e", b"escaped dots".to_vec()),
        ("\u{fc}n\u{ef}c\u{f6}de", b"accents".to_vec()),
        ("hash#tag", b"hash".to_vec()),
        ("what?", b"question".to_vec()),
        ("semi;colon", b"semicolon".to_vec()),
        ("back\\slash", b"backslash".to_vec()),
        ("quote\"quote", b"quote".to_vec()),
        ("~tilde", b"tilde".to_vec()),
        (".hidden", b"hidden".to_vec()),
        ("...", b"three dots".to_vec()),
        ("CASE", b"upper".to_vec()),
        ("case", b"lower".to_vec()),
        ("page.html", b"<p>page".to_vec()),
        ("archive.tar.gz", b"not really".to_vec()),
    ];
    let modified = UNIX_EPOCH + Duration::from_secs(MODIFIED_SECONDS);
    for (name, content) in files {
        let path = tree.join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::File::options()
            .write(true)
            .open(path)
            .unwrap()
            .set_modified(modified)
            .unwrap();
    }
    std::fs::write(tree.join("../outside"), "outside of what is published").unwrap();
    symlink("kilo", tree.join("link")).unwrap();
    symlink("dir", tree.join("dirlink")).unwrap();
    symlink("nowhere", tree.join("dangling")).unwrap();
    symlink("loop", tree.join("loop")).unwrap();
    symlink("../../outside", tree.join("dir/escape")).unwrap();
}

/// Publishes the tree and serves it in this process, so that a test always sees the code it was built with.
fn serve_ours(dir: &Path, tree: &Path) -> (Runtime, SocketAddr) {
    let text = format!(
        "[store]\ndir = {:?}\n[http]\nlisten = [\"127.0.0.1:0\"]\n[[repository]]\nname = \"tree\"\nsource = {tree:?}\n\
         mounts = [{{ path = \"/pub\", view = \"current\", index = true }}]\n",
        dir.join("store")
    );
    let config = ServerConfig::parse(Path::new("(test)"), &text).unwrap();
    Master::init(&config).unwrap();
    let master = Master::open(config).unwrap();
    let options = PublishOptions::default();
    master.publish(&"tree".parse().unwrap(), &options, &NoProgress).unwrap();
    let runtime = Runtime::new().unwrap();
    let server = runtime.block_on(MasterServer::bind(master)).unwrap();
    let address = server.addresses()[0];
    runtime.spawn(server.run(std::future::pending()));
    (runtime, address)
}

fn start_nginx(dir: &Path, root: &Path) -> (Daemon, SocketAddr) {
    let port = free_port().unwrap();
    let config = dir.join("nginx.conf");
    std::fs::write(&config, nginx_config(root, port)).unwrap();
    let mut command = clean_command("nginx");
    command
        .arg("-p")
        .arg(dir)
        .arg("-c")
        .arg(&config)
        .arg("-e")
        .arg(dir.join("error.log"));
    let mut daemon = Daemon::start("nginx", &mut command, &dir.join("log")).unwrap();
    daemon.wait_for_port(port, START_LIMIT).unwrap();
    (daemon, SocketAddr::from(([127, 0, 0, 1], port)))
}

/// A plain static server; relative paths lie in its folder. Where a number is a matter
/// of taste it is ours (256 ranges), or so large that ours is the stricter one (the header).
fn nginx_config(root: &Path, port: u16) -> String {
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {kind};\n"))
        .concat();
    format!(
        "daemon off;\nmaster_process off;\nworker_processes 1;\npid pid;\nevents {{ worker_connections 1024; }}\n\
         http {{\n{temporary}access_log off;\nsendfile on;\nkeepalive_timeout 60;\nlingering_timeout 1s;\n\
         client_header_buffer_size 64k;\nlarge_client_header_buffers 4 64k;\nmax_ranges 256;\nabsolute_redirect off;\n\
         server {{ listen 127.0.0.1:{port}; root {root:?}; autoindex on; index index.html; }}\n}}\n",
    )
}
