//! What a node shows where: hosts, files of one's own, header fields; as apt, skopeo, curl, nginx and Varnish see it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use instantmirror_testkit::command::{clean_command, run, run_any};
use instantmirror_testkit::debian::{AptClient, Archive};
use instantmirror_testkit::process::{Daemon, TestDir, poll};

use crate::tls::certify;
use crate::world::{LIMIT, Master, Node};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A Debian archive on one host, a registry of images on another, and a directory of one's own.
struct Sites {
    dir: TestDir,
    archive: Archive,
    node: Node,
    layer: Vec<u8>,
    https: String,
    master: Master,
}

fn sha256(file: &Path) -> String {
    let said = run(clean_command("sha256sum").arg(file), LIMIT).unwrap().text();
    said.split_whitespace().next().unwrap().to_owned()
}

/// An image of one layer as a registry shows it: `v2/NAME/blobs/sha256:...`, `v2/NAME/manifests/TAG`. Returns the layer.
fn registry(root: &Path) -> Vec<u8> {
    let (blobs, manifests) = (root.join("v2/app/blobs"), root.join("v2/app/manifests"));
    std::fs::create_dir_all(&blobs).unwrap();
    std::fs::create_dir_all(&manifests).unwrap();
    let put = |content: &[u8]| {
        let file = root.join("new");
        std::fs::write(&file, content).unwrap();
        let digest = format!("sha256:{}", sha256(&file));
        std::fs::rename(&file, blobs.join(&digest)).unwrap();
        digest
    };
    std::fs::write(root.join("hello"), "hello").unwrap();
    let tar = root.join("layer.tar");
    run(
        clean_command("tar")
            .arg("-cf")
            .arg(&tar)
            .arg("-C")
            .arg(root)
            .arg("hello"),
        LIMIT,
    )
    .unwrap();
    let layer = std::fs::read(&tar).unwrap();
    std::fs::remove_file(&tar).unwrap();
    let layer_digest = put(&layer);
    let config = format!(
        "{{\"architecture\":\"amd64\",\"os\":\"linux\",\"config\":{{}},\"rootfs\":{{\"type\":\"layers\",\"diff_ids\":[\"{layer_digest}\"]}}}}"
    );
    let config_digest = put(config.as_bytes());
    let manifest = format!(
        "{{\"schemaVersion\":2,\"mediaType\":\"{MANIFEST}\",\"config\":{{\"mediaType\":\"application/vnd.oci.image.config.v1+json\",\
         \"digest\":\"{config_digest}\",\"size\":{}}},\"layers\":[{{\"mediaType\":\"application/vnd.oci.image.layer.v1.tar\",\
         \"digest\":\"{layer_digest}\",\"size\":{}}}]}}",
        config.len(),
        layer.len()
    );
    std::fs::write(manifests.join("latest"), &manifest).unwrap();
    layer
}

fn serve() -> Sites {
    let dir = TestDir::new("e2e-sites").unwrap();
    let archive = Archive::build_of(&dir.folder("archive").unwrap(), &["hello"]).unwrap();
    let images = dir.folder("images").unwrap();
    let layer = registry(&images);
    let mut master = Master::new(&dir, &[("debian", archive.root()), ("images", &images)]);
    // Nodes go on reaching the API of a master whose root is mounted.
    master.configure("mounts = [{ path = \"/\" }]");
    let (debian, shown) = (master.publish("debian"), master.publish("images"));
    master.serve();
    let mut node = Node::configure(&dir, &master.url(), &master.key, &["debian", "images"], "1 GiB");
    let own = dir.folder("own/.well-known/acme-challenge").unwrap();
    std::fs::write(own.join("token"), "proof").unwrap();
    std::fs::write(dir.path().join("own/robots.txt"), "User-agent: *\nDisallow:\n").unwrap();
    let (certificate, key) = (node.dir.join("certificate.pem"), node.dir.join("key.pem"));
    certify(&certificate, &key);
    let mount = |name: &str| format!("[{{ path = \"/pub/{name}\", view = \"current\" }}]");
    let text = std::fs::read_to_string(&node.config).unwrap();
    let text = text
        .replace(
            "listen = [\"127.0.0.1:0\"]",
            "listen = [\"127.0.0.1:0\"]\nroot = \"../own\"\nheaders = { X-Mirror = \"ours\" }",
        )
        .replace(
            &mount("debian"),
            "[{ path = \"/\", host = \"localhost\" }, { path = \"/pub/debian\" }]",
        )
        .replace(&mount("images"), "[{ path = \"/\", host = \"127.0.0.1\" }]");
    let rules = format!(
        "[http.tls]\nlisten = [\"127.0.0.1:0\"]\ncertificate = \"certificate.pem\"\nkey = \"key.pem\"\nhsts = \"30 d\"\n\
         [[http.rule]]\npaths = [\"v2/*/manifests/\"]\nrepository = \"images\"\ntype = \"{MANIFEST}\"\n\
         [[http.rule]]\npaths = [\"Release\"]\ncache = \"public, max-age=60\"\nheaders = {{ X-Index = \"yes\" }}\n"
    );
    std::fs::write(&node.config, text + &rules).unwrap();
    node.run();
    let line = node.daemon().wait_for_line("serving on https://", LIMIT).unwrap();
    let https = line.split_whitespace().last().unwrap().trim_end_matches('/').to_owned();
    node.wait_for("debian", &debian);
    node.wait_for("images", &shown);
    Sites {
        dir,
        archive,
        node,
        layer,
        https,
        master,
    }
}

impl Sites {
    /// What curl is told by `arguments`, header included.
    fn curl(&self, arguments: &[&str]) -> String {
        let mut curl = clean_command("curl");
        run(curl.args(["-sSk", "-i"]).args(arguments), LIMIT).unwrap().text()
    }

    fn port(&self) -> String {
        self.node.url().rsplit(':').next().unwrap().to_owned()
    }

    /// Publishes a file whose name says nothing of what is in it.
    fn publish_news(&self, text: &str) {
        std::fs::write(self.archive.root().join("news"), text).unwrap();
        let snapshot = self.master.publish("debian");
        self.node.wait_for("debian", &snapshot);
    }

    /// A caching proxy in front of the node that listens on a Unix socket.
    fn proxy(&self, name: &str, command: &mut Command, socket: &Path) -> Daemon {
        let daemon = Daemon::start(name, command, &self.dir.path().join(format!("{name}.log"))).unwrap();
        poll(LIMIT, || socket.exists().then_some(())).unwrap_or_else(|| panic!("{}", daemon.log()));
        daemon
    }
}

#[test]
fn each_host_is_an_archive_of_its_own_for_real_clients() {
    let sites = serve();
    let port = sites.port();
    // One archive per host name.
    let client = AptClient::new(&sites.dir.folder("apt").unwrap(), &format!("http://localhost:{port}")).unwrap();
    client.update().unwrap();
    let package = std::fs::read(sites.archive.package_file("hello").unwrap()).unwrap();
    assert_eq!(client.download("hello").unwrap(), package);
    // A registry of static files, with the type that only its operator knows.
    let out = sites.dir.path().join("image");
    let mut skopeo = clean_command("skopeo");
    skopeo.args(["--insecure-policy", "copy", "--src-tls-verify=false"]);
    skopeo
        .arg(format!("docker://127.0.0.1:{port}/app:latest"))
        .arg(format!("dir:{}", out.display()));
    run(&mut skopeo, LIMIT).unwrap();
    let has_layer =
        |entry: std::io::Result<std::fs::DirEntry>| std::fs::read(entry.unwrap().path()).unwrap() == sites.layer;
    assert!(std::fs::read_dir(&out).unwrap().any(has_layer));
    // HTTP/2 names the host otherwise; a case and a dot make no difference; an unknown host has what all have.
    let release = format!("{}/dists/stable/Release", sites.https);
    for (host, status) in [
        ("localhost", "200"),
        ("LOCALHOST.:443", "200"),
        ("other.example.org", "404"),
    ] {
        for version in ["--http1.1", "--http2"] {
            let said = sites.curl(&[version, "-H", &format!("Host: {host}"), &release]);
            assert!(
                said.lines().next().unwrap().contains(status),
                "{host} {version}: {said}"
            );
        }
    }
    let said = sites.curl(&[
        "-H",
        "Host: other.example.org",
        &format!("{}/pub/debian/dists/stable/Release", sites.node.url()),
    ]);
    assert!(said.starts_with("HTTP/1.1 200"), "{said}");
    // A challenge of ACME, as an authority asks for it.
    for host in ["localhost", "other.example.org"] {
        let url = format!("{}/.well-known/acme-challenge/token", sites.node.url());
        let said = sites.curl(&["-H", &format!("Host: {host}"), &url]);
        assert!(said.ends_with("proof"), "{said}");
        let said = sites.curl(&[
            "-H",
            &format!("Host: {host}"),
            &format!("{}/robots.txt", sites.node.url()),
        ]);
        assert!(said.contains("text/plain") && said.ends_with("Disallow:\n"), "{said}");
    }
}

#[test]
fn header_fields_are_as_told_and_caches_in_front_keep_what_may_be_kept() {
    let sites = serve();
    let plain = format!("http://localhost:{}", sites.port());
    let package = sites.archive.package_file("hello").unwrap();
    let package = package
        .strip_prefix(sites.archive.root())
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned();
    // The second answer is one that was kept ready.
    for _ in 0..2 {
        let said = sites.curl(&[&format!("{plain}/dists/stable/Release")]).to_lowercase();
        for field in [
            "x-mirror: ours",
            "x-index: yes",
            "cache-control: public, max-age=60\r",
            "access-control-allow-origin: *",
            "access-control-expose-headers: *",
        ] {
            assert!(said.contains(field), "{field}: {said}");
        }
        assert!(!said.contains("strict-transport-security"), "{said}");
        for version in ["--http1.1", "--http2"] {
            let url = format!("{}/{package}", sites.https);
            let mut curl = clean_command("curl");
            curl.args([
                "-sSk",
                "-o",
                "/dev/null",
                "-D",
                "-",
                version,
                "-H",
                "Host: localhost",
                &url,
            ]);
            let said = run(&mut curl, LIMIT).unwrap().text();
            assert!(said.contains("strict-transport-security: max-age=2592000\r"), "{said}");
            assert!(said.contains("cache-control: public, max-age=2592000\r"), "{said}");
        }
    }
    let mut curl = clean_command("curl");
    curl.args(["-sSk", "-i", "--http1.1", "--request-target", "no-path", &sites.https]);
    let said = run(&mut curl, LIMIT).unwrap().text().to_lowercase();
    for field in ["400", "strict-transport-security: max-age=2592000\r", "x-mirror: ours"] {
        assert!(said.contains(field), "{field}: {said}");
    }
    let asks = [
        "-X",
        "OPTIONS",
        "-H",
        "Origin: https://a.example",
        "-H",
        "Access-Control-Request-Method: GET",
    ];
    let said = sites
        .curl(&[&asks[..], &[&format!("{plain}/{package}")]].concat())
        .to_lowercase();
    for field in [
        "204",
        "access-control-allow-origin: *",
        "access-control-allow-headers: *",
        "access-control-max-age: 86400",
    ] {
        assert!(said.contains(field), "{field}: {said}");
    }

    let dir = sites.dir.folder("nginx").unwrap();
    let socket = dir.join("socket");
    let config = format!(
        "daemon off; user root; pid {0}/pid; error_log {0}/error; events {{}} http {{ access_log off; proxy_temp_path {0}/tmp; proxy_cache_path {0}/cache \
         keys_zone=c:1m; server {{ listen unix:{0}/socket; location / {{ proxy_pass {1}; proxy_set_header Host localhost; \
         proxy_cache c; add_header X-Cache $upstream_cache_status; }} }} }}",
        dir.display(),
        sites.node.url()
    );
    std::fs::write(dir.join("conf"), config).unwrap();
    let mut command = clean_command("nginx");
    command.arg("-p").arg(&dir).arg("-c").arg(dir.join("conf"));
    let _nginx = sites.proxy("nginx", &mut command, &socket);
    ask_twice(&sites, &socket, &package, "x-cache: hit");

    let dir = sites.dir.folder("varnish").unwrap();
    let socket = PathBuf::from(format!("{}/socket", dir.display()));
    let backend = sites.node.url().trim_start_matches("http://").to_owned();
    let mut command = clean_command("varnishd");
    command.arg("-F").arg("-a").arg(&socket).args([
        "-j",
        "none",
        "-b",
        &backend,
        "-s",
        "malloc,64m",
        "-p",
        "vcc_allow_inline_c=off",
    ]);
    command.arg("-n").arg(dir.join("work"));
    let _varnish = sites.proxy("varnishd", &mut command, &socket);
    // A hit names two transactions: its own and the one that brought it.
    let url = format!("http://localhost/{package}");
    let ask = || {
        let mut curl = clean_command("curl");
        curl.args(["-sS", "-o", "/dev/null", "-D", "-", "--unix-socket"])
            .arg(&socket)
            .arg(&url);
        run_any(&mut curl, LIMIT).unwrap().text()
    };
    let hit = poll(LIMIT, || {
        let said = ask();
        let line = said.lines().find(|line| line.starts_with("X-Varnish:"))?.to_owned();
        (said.starts_with("HTTP/1.1 200") && line.split_whitespace().count() == 3).then_some(())
    });
    assert!(hit.is_some(), "{}", ask());

    // What may change is never older than its 5 s: Varnish would go on with the old one for its ten seconds of grace.
    let url = "http://localhost/news";
    let read = || {
        let mut curl = clean_command("curl");
        curl.args(["-sS", "--unix-socket"]).arg(&socket).arg(url);
        run(&mut curl, LIMIT).unwrap().text()
    };
    sites.publish_news("old");
    assert!(poll(LIMIT, || (read() == "old").then_some(())).is_some(), "{}", read());
    sites.publish_news("new");
    std::thread::sleep(Duration::from_secs(6));
    assert_eq!(read(), "new");
}

/// Asks a proxy twice for what may be kept long and for what may be kept shortly: the second answer is its own.
fn ask_twice(sites: &Sites, socket: &Path, package: &str, is_hit: &str) {
    for path in [package, "dists/stable/Release"] {
        let url = format!("http://localhost/{path}");
        let ask = || {
            let mut curl = clean_command("curl");
            curl.args(["-sS", "-o", "/dev/null", "-D", "-", "--unix-socket"])
                .arg(socket)
                .arg(&url);
            run(&mut curl, LIMIT).unwrap().text().to_lowercase()
        };
        let hit = poll(LIMIT, || ask().contains(is_hit).then_some(()));
        assert!(hit.is_some(), "{path}: {}\n{}", ask(), sites.node.url());
    }
}
