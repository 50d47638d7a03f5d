//! Programs that walk a mirror by its listings, and proxies and caches that stand in front of one.

use std::collections::BTreeMap;
use std::path::Path;

use instantmirror_testkit::command::{Finished, clean_command, run, run_any};
use instantmirror_testkit::http::{get, request};
use instantmirror_testkit::process::{Daemon, TestDir, free_port};
use instantmirror_testkit::tree::noise;

use crate::world::{LIMIT, Master, Node};

struct World {
    dir: TestDir,
    snapshot: String,
    _master: Master,
    node: Node,
}

/// A tree with names and symlinks that clients stumble over, published and mirrored.
fn world(name: &str) -> World {
    let dir = TestDir::new(name).unwrap();
    let source = dir.folder("source").unwrap();
    for (path, bytes) in [
        ("dists/sid/notes", 700),
        ("dists/sid/main/list", 70_000),
        ("pool/a:b/c d.deb", 3000),
        ("pool/100%/x?y#z", 10),
        ("pool/plus+and~tilde", 1),
        ("@scope/name", 500),
        ("large.iso", 3_000_000),
    ] {
        let file = source.join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, noise(bytes)).unwrap();
    }
    for (link, target) in [
        ("dists/stable", "sid"),
        ("dists/oldstable", "stable"),
        ("dists/latest", "oldstable/notes"),
        ("current", "dists/oldstable"),
    ] {
        std::os::unix::fs::symlink(target, source.join(link)).unwrap();
    }
    let touched = clean_command("touch")
        .args(["--date=2023-11-14T22:13:20Z"])
        .arg(source.join("large.iso"))
        .status();
    assert!(touched.unwrap().success());
    let mut master = Master::new(&dir, &[("r", &source)]);
    let snapshot = master.publish("r");
    master.serve();
    let node = Node::start(&dir, &master, &["r"]);
    node.wait_for("r", &snapshot);
    World {
        dir,
        snapshot,
        _master: master,
        node,
    }
}

/// Every file below a directory with its content, symlinks followed.
fn files(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut pending = vec![root.to_path_buf()];
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
            } else {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                found.insert(name, std::fs::read(path).unwrap());
            }
        }
    }
    found
}

#[test]
fn rclone_and_lftp_see_the_tree_as_it_is() {
    let world = world("e2e-walkers");
    let copy = world.dir.folder("copy").unwrap();
    let url = format!("{}/pub/r/", world.node.url());
    let mut rclone = clean_command("rclone");
    rclone
        .args(["--config", "/dev/null", "copy", "--http-url", &url, ":http:"])
        .arg(&copy);
    run(&mut rclone, LIMIT).unwrap();
    let (theirs, ours) = (files(&copy), files(&world.dir.path().join("source")));
    let names = |tree: &BTreeMap<String, Vec<u8>>| tree.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&theirs), names(&ours));
    assert!(theirs == ours, "rclone stored other content");

    let mut lftp = clean_command("lftp");
    lftp.env("HOME", copy.parent().unwrap()).env("TZ", "UTC");
    let listed = lftp.args([
        "--norc",
        "-c",
        &format!("open {url}; cls -l --time-style=%Y-%m-%dT%H:%M; quit"),
    ]);
    let listed = run(listed, LIMIT).unwrap().text();
    let line = |name: &str| {
        let line = listed.lines().find(|line| line.split_whitespace().last() == Some(name));
        line.unwrap_or_else(|| panic!("{name} is not listed:\n{listed}"))
            .to_owned()
    };
    for name in ["current/", "dists/", "pool/"] {
        assert!(line(name).starts_with('d'), "{listed}");
    }
    let large = line("large.iso");
    assert!(
        large.contains(" 3000000 ") && large.contains("2023-11-14T22:13"),
        "{listed}"
    );
}

/// nginx with one server block of this content.
fn nginx(dir: &TestDir, server: &str) -> (Daemon, String) {
    let home = dir.folder("nginx").unwrap();
    let port = free_port().unwrap();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {kind};\n"))
        .concat();
    let config = home.join("nginx.conf");
    let text = format!(
        "daemon off;\nmaster_process off;\npid pid;\nevents {{}}\nhttp {{\n{temporary}access_log off;\n\
         server {{ listen 127.0.0.1:{port}; {server} }}\n}}\n"
    );
    std::fs::write(&config, text).unwrap();
    let mut command = clean_command("nginx");
    command
        .arg("-p")
        .arg(&home)
        .arg("-c")
        .arg(&config)
        .arg("-e")
        .arg(home.join("error.log"));
    let mut daemon = Daemon::start("nginx", &mut command, &home.join("log")).unwrap();
    daemon.wait_for_port(port, LIMIT).unwrap();
    (daemon, format!("http://127.0.0.1:{port}"))
}

fn curl(arguments: &[&str]) -> Finished {
    let mut command = clean_command("curl");
    command.args(["--disable", "--silent", "--show-error", "--fail", "--noproxy", "*"]);
    run(command.args(arguments), LIMIT).unwrap()
}

/// A proxy shows the node below a path of its own, of which the node knows nothing.
#[test]
fn redirects_and_links_lead_right_behind_a_prefix() {
    let world = world("e2e-prefix");
    let location = format!("location /mirror/ {{ proxy_pass {}/; }}", world.node.url());
    let (_nginx, front) = nginx(&world.dir, &location);
    for (from, to) in [
        ("pub", "pub/"),
        ("pub/r", "pub/r/"),
        ("pub/r/dists/stable", "pub/r/dists/stable/"),
        ("pub/r/dists?C=S&O=D", "pub/r/dists/?C=S&O=D"),
        ("pub/r/pool/a:b", "pub/r/pool/a%3Ab/"),
        ("pub/r/pool/100%25", "pub/r/pool/100%25/"),
        ("r/snap", "r/snap/"),
    ] {
        let url = format!("{front}/mirror/{from}");
        let told = curl(&[
            "--location",
            "--globoff",
            "--output",
            "/dev/null",
            "--write-out",
            "%{url_effective}",
            &url,
        ]);
        assert_eq!(told.text(), format!("{front}/mirror/{to}"));
    }
    let target = "pub/r/pool/plus+and~tilde";
    let answer = get(&format!("{front}/mirror/{target}")).unwrap();
    let permanent = format!("../../../r/snap/{}/pool/plus+and~tilde", world.snapshot);
    assert_eq!(answer.header("content-location"), Some(permanent.as_str()));
    let permanent = format!("{front}/mirror/pub/r/pool/{permanent}");
    assert_eq!(curl(&[&permanent]).stdout, answer.body);

    // As npm asks for scoped packages; a proxy that passes on what it got.
    let asked = format!("{}/pub/r/@scope%2fname", world.node.url());
    assert_eq!(get(&asked).unwrap().body, noise(500));

    let copy = world.dir.folder("copy").unwrap();
    let mut wget = clean_command("wget");
    wget.current_dir(&copy)
        .args(["--no-config", "--quiet", "--recursive", "--level=inf", "--no-parent"]);
    wget.args([
        "--no-host-directories",
        "--cut-dirs=3",
        "--execute",
        "robots=off",
        "--reject",
        "index.html*",
    ]);
    run(wget.arg(format!("{front}/mirror/pub/r/pool/")), LIMIT).unwrap();
    let published = files(&world.dir.path().join("source/pool"));
    let fetched = files(&copy.join("pool"));
    assert!(published == fetched, "wget stored {:?}", fetched.keys());
}

/// Apache's mod_cache and nginx's cache keep what one client got for all others.
#[test]
fn what_one_client_asks_for_is_not_kept_for_others() {
    let world = world("e2e-shared-cache");
    let cache = format!(
        "location / {{ proxy_pass {}; proxy_cache_key $uri; proxy_cache z; \
         proxy_set_header If-Match $http_if_match; proxy_set_header Range $http_range; }} }} \
         proxy_cache_path cached keys_zone=z:1m; server {{ listen unix:unused",
        world.node.url()
    );
    let (_nginx, by_nginx) = nginx(&world.dir, &format!("{cache};"));
    let (_apache, by_apache) = apache(&world.dir, &world.node.url());
    for front in [by_apache, by_nginx] {
        for (number, (name, value, status)) in [
            ("If-Match", "\"another\"", 412),
            ("If-Unmodified-Since", "Thu, 14 Nov 1991 22:13:20 GMT", 412),
            ("Range", "bytes=99999999-", 416),
        ]
        .into_iter()
        .enumerate()
        {
            let file = ["dists/sid/notes", "dists/sid/main/list", "large.iso"][number];
            let url = format!("{front}/r/snap/{}/{file}", world.snapshot);
            let refused = request("GET", &url, &[(name, value)]).unwrap();
            assert!(
                refused.status == status || refused.status == 200,
                "{url} {name}: {}",
                refused.status
            );
            for _ in 0..2 {
                let answer = get(&url).unwrap();
                assert_eq!(answer.status, 200, "{url} after {name}: {}", answer.text());
                assert!(answer.body == std::fs::read(world.dir.path().join("source").join(file)).unwrap());
            }
        }
    }
}

/// Apache httpd with mod_cache in front of a node.
fn apache(dir: &TestDir, node: &str) -> (Daemon, String) {
    let home = dir.folder("apache").unwrap();
    let cache = dir.folder("apache/cache").unwrap();
    let port = free_port().unwrap();
    let modules: String = ["mpm_event", "authz_core", "proxy", "proxy_http", "cache", "cache_disk"]
        .map(|name| format!("LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n"))
        .concat();
    let text = format!(
        "{modules}ServerRoot {home:?}\nServerName test\nListen 127.0.0.1:{port}\nPidFile pid\nErrorLog error.log\n\
         User www-data\nGroup www-data\nCacheRoot {cache:?}\nCacheEnable disk /\nCacheQuickHandler on\n\
         ProxyPass / {node}/\n"
    );
    let config = home.join("apache.conf");
    std::fs::write(&config, text).unwrap();
    // Its workers are other users where root starts it, and write to the cache.
    for directory in [dir.path(), &home, &cache] {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(directory, mode).unwrap();
    }
    let mut command = clean_command("/usr/sbin/apache2");
    command.arg("-f").arg(&config).args(["-D", "FOREGROUND"]);
    let mut daemon = Daemon::start("apache2", &mut command, &home.join("log")).unwrap();
    daemon.wait_for_port(port, LIMIT).unwrap();
    let url = format!("http://127.0.0.1:{port}");
    let probe = run_any(
        clean_command("curl").args(["--silent", "--fail", &format!("{url}/")]),
        LIMIT,
    );
    assert!(probe.unwrap().status.success(), "{}", daemon.log());
    (daemon, url)
}

/// Where our types are others than those of Debian's table, and why.
const OTHER_TYPES: &[(&str, &[&str])] = &[
    (
        "shown as text, not stored",
        &[
            "c", "conf", "diff", "dsc", "h", "ini", "list", "log", "manifest", "md", "patch", "pl", "pm", "py", "rs",
            "rst", "sh", "spec",
        ],
    ),
    ("a detached signature far more often than a key", &["asc"]),
    ("as dnf's mirrors send it", &["rpm"]),
    ("what everybody else calls it", &["rss", "tgz"]),
    ("nothing that a browser should start", &["dll", "exe", "msi"]),
];

/// Every file name extension that Debian has a type for is sent with that type or with none.
#[test]
fn types_are_those_that_debian_has() {
    let table = std::fs::read_to_string("/etc/mime.types").expect("the package media-types is installed");
    let lines = table.lines().filter(|line| !line.starts_with('#'));
    let types: Vec<(&str, &str)> = lines
        .filter_map(|line| line.split_once(char::is_whitespace))
        .flat_map(|(media, extensions)| extensions.split_whitespace().map(move |extension| (extension, media)))
        .filter(|(extension, _)| extension.bytes().all(|byte| byte.is_ascii_alphanumeric()))
        .collect();
    assert!(types.len() > 1000, "{}", types.len());
    let dir = TestDir::new("e2e-types").unwrap();
    let source = dir.folder("source").unwrap();
    for (extension, _) in &types {
        std::fs::write(source.join(format!("x.{extension}")), "x").unwrap();
    }
    let mut master = Master::new(&dir, &[("r", &source)]);
    master.publish("r");
    master.serve();
    let explained = |extension: &str| {
        OTHER_TYPES
            .iter()
            .any(|(_, extensions)| extensions.contains(&extension))
    };
    let mut others = Vec::new();
    for (extension, media) in types {
        let url = format!("{}/r/snap/current/x.{extension}", master.url());
        let answer = request("HEAD", &url, &[]).unwrap();
        let ours = answer
            .header("content-type")
            .expect("files have types")
            .split(';')
            .next()
            .unwrap()
            .to_owned();
        let is_same = ours == media || (ours == "application/octet-stream" && !explained(extension));
        if is_same == explained(extension) {
            others.push(format!("{extension}: {ours}, Debian {media}"));
        }
    }
    assert!(others.is_empty(), "{others:#?}");
}
