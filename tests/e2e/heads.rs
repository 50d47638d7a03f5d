//! One poll for all repositories of a master: what an idle node costs, and what stands in its way.

use std::path::Path;

use instantmirror_testkit::process::{TestDir, free_port, poll};

use crate::between::Nginx;
use crate::world::{LIMIT, Master, Node};

/// Established TCP connections to a port of this machine.
fn connections_to(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    // The columns: number, local and remote address, state; 01 is an established one.
    let is_one = |line: &&str| {
        let columns: Vec<&str> = line.split_ascii_whitespace().take(4).collect();
        columns.len() == 4 && columns[2].ends_with(&format!(":{port:04X}")) && columns[3] == "01"
    };
    table.lines().filter(is_one).count()
}

fn port_of(url: &str) -> u16 {
    url.rsplit_once(':').unwrap().1.parse().unwrap()
}

/// A repository of the node's status.
fn repository(node: &Node, name: &str) -> serde_json::Value {
    let status = node.status();
    let all = status["repositories"].as_array().unwrap();
    all.iter().find(|one| one["name"] == name).cloned().unwrap()
}

#[test]
fn two_hundred_repositories_are_followed_on_three_connections() {
    let dir = TestDir::new("e2e-heads-many").unwrap();
    let names: Vec<String> = (0..200).map(|i| format!("r{i}")).collect();
    let sources: Vec<_> = names
        .iter()
        .map(|name| {
            let source = dir.folder(&format!("source-{name}")).unwrap();
            std::fs::write(source.join("file"), name).unwrap();
            source
        })
        .collect();
    let repositories: Vec<(&str, &Path)> = names
        .iter()
        .map(String::as_str)
        .zip(sources.iter().map(AsRef::as_ref))
        .collect();
    let mut master = Master::new(&dir, &repositories);
    master.run(&["publish"]);
    master.serve();
    let port = port_of(&master.url());
    let mut followed: Vec<&str> = names.iter().map(String::as_str).collect();
    // One that the master does not have.
    followed.push("ghost");
    let mut node = Node::configure(&dir, &master.url(), &master.key, &followed, "10 GiB");
    node.run();
    let whole = || {
        let status = node.status();
        let all = status["repositories"].as_array().unwrap();
        all.iter().filter(|one| one["current"].is_string()).count()
    };
    let all = poll(LIMIT, || (whole() == 200).then_some(()));
    assert!(all.is_some(), "{} of 200", whole());
    let few = poll(LIMIT, || (connections_to(port) <= 3).then_some(()));
    assert!(few.is_some(), "{} connections", connections_to(port));
    let error = poll(LIMIT, || {
        repository(&node, "ghost")["last_error"].as_str().map(str::to_owned)
    });
    let error = error.expect("a repository that is not there is named");
    assert!(error.contains("does not have repository 'ghost'"), "{error}");
    for changed in [3, 77, 199] {
        std::fs::write(sources[changed].join("new"), "new").unwrap();
        let snapshot = master.publish(&names[changed]);
        node.wait_for(&names[changed], &snapshot);
        assert_eq!(node.get(&format!("/pub/{}/new", names[changed])), b"new");
    }
    let few = poll(LIMIT, || (connections_to(port) <= 3).then_some(()));
    assert!(few.is_some(), "{} connections", connections_to(port));
    // All notice that the master is away, and that it is back.
    master.stop(true);
    let troubled = || {
        let status = node.status();
        let all = status["repositories"].as_array().unwrap();
        all.iter().filter(|one| one["last_error"].is_string()).count()
    };
    let noticed = poll(LIMIT, || (troubled() == 201).then_some(()));
    assert!(noticed.is_some(), "{}", troubled());
    std::fs::write(sources[5].join("new"), "new").unwrap();
    let snapshot = master.publish("r5");
    master.serve();
    node.wait_for("r5", &snapshot);
    let well = poll(LIMIT, || (troubled() == 1).then_some(()));
    assert!(well.is_some(), "{}", troubled());
    let few = poll(LIMIT, || (connections_to(port) <= 3).then_some(()));
    assert!(few.is_some(), "{} connections", connections_to(port));
}

/// nginx before the master, without access to one repository.
fn gate(folder: &Path, port: u16, master: &Master, more: &str) -> Nginx {
    let server = format!(
        "server {{ listen 127.0.0.1:{port}; {more} location /.im/v1/guarded/ {{ return 403; }}\n\
         location / {{ proxy_pass {}; }} }}",
        master.url()
    );
    Nginx::start(folder, port, &server)
}

#[test]
fn an_older_master_and_a_guarded_repository_keep_nobody_from_the_others() {
    let dir = TestDir::new("e2e-heads-gate").unwrap();
    let names = ["a", "b", "guarded"];
    let sources = names.map(|name| {
        let source = dir.folder(name).unwrap();
        std::fs::write(source.join("file"), name).unwrap();
        source
    });
    let repositories: Vec<(&str, &Path)> = names.into_iter().zip(sources.iter().map(AsRef::as_ref)).collect();
    let mut master = Master::new(&dir, &repositories);
    let [mut a, mut b, _] = names.map(|name| master.publish(name));
    master.serve();
    let (port, old, new) = (
        free_port().unwrap(),
        dir.folder("old").unwrap(),
        dir.folder("new").unwrap(),
    );
    let lines = |folder: &Path, wanted: &dyn Fn(&str) -> bool| {
        let log = std::fs::read_to_string(folder.join("access.log")).unwrap_or_default();
        log.lines().filter(|line| wanted(line)).count()
    };
    // So does a master that knows nothing of it.
    let nginx = gate(&old, port, &master, "location = /.im/v1/heads { return 405; }");
    let mut node = Node::configure(&dir, &format!("http://127.0.0.1:{port}"), &master.key, &names, "10 GiB");
    node.run();
    node.wait_for("a", &a);
    node.wait_for("b", &b);
    let refused = poll(LIMIT, || {
        repository(&node, "guarded")["last_error"].as_str().map(str::to_owned)
    });
    assert!(
        refused.as_ref().is_some_and(|error| error.contains("403")),
        "{refused:?}"
    );
    std::fs::write(sources[0].join("new"), "new").unwrap();
    a = master.publish("a");
    node.wait_for("a", &a);
    let alone = lines(&old, &|line| {
        line.contains("GET /.im/v1/a/head?after=") && line.contains("\" 200 ")
    });
    assert!(alone >= 1, "{}", node.daemon_log());
    // Once for those who look, once for those who wait, and once more if they start one after the other.
    let tried = lines(&old, &|line| {
        line.contains("POST /.im/v1/heads") && line.contains("\" 405 ")
    });
    assert!((1..=3).contains(&tried), "{tried}");
    assert_eq!(node.daemon_log().matches("each is asked for by itself").count(), 1);
    // It is another one after a while without an answer.
    nginx.stop();
    let away = poll(LIMIT, || {
        let is_away = |name| repository(&node, name)["last_error"].is_string();
        (is_away("a") && is_away("b")).then_some(())
    });
    away.expect("the node notices");
    let _nginx = gate(&new, port, &master, "");
    let well = poll(LIMIT, || {
        let is_well = |name| repository(&node, name)["last_error"].is_null();
        (is_well("a") && is_well("b")).then_some(())
    });
    well.expect("the node notices");
    std::fs::write(sources[0].join("newer"), "newer").unwrap();
    std::fs::write(sources[1].join("new"), "new").unwrap();
    (a, b) = (master.publish("a"), master.publish("b"));
    node.wait_for("a", &a);
    node.wait_for("b", &b);
    let waited = |line: &str| line.contains("POST /.im/v1/heads?wait=") && !line.contains("wait=0 ");
    let told = lines(&new, &|line| waited(line) && line.contains("\" 200 "));
    assert!(told >= 1, "the poll that waited is told: {}", node.daemon_log());
    let alone = lines(&new, &|line| line.contains("/head?after="));
    assert_eq!(alone, 0, "nobody is asked for alone");
    let refused = repository(&node, "guarded")["last_error"].to_string();
    assert!(refused.contains("403"), "{refused}");
}
