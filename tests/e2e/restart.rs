//! Nodes and masters that stop, are killed, or lose each other.

use instantmirror_testkit::command::{clean_command, run_any};
use instantmirror_testkit::http;
use instantmirror_testkit::process::{TestDir, poll};
use instantmirror_testkit::tree::noise;

use crate::link::Link;
use crate::world::{LIMIT, Master, Node};

#[test]
fn a_node_survives_restarts_and_serves_what_it_has_without_its_master() {
    let dir = TestDir::new("e2e-restart").unwrap();
    let source = dir.folder("source").unwrap();
    let large = noise(5 << 20);
    std::fs::write(source.join("large"), &large).unwrap();
    std::fs::write(source.join("small"), "small").unwrap();
    std::fs::write(source.join("cold"), "never read").unwrap();
    let mut master = Master::new(&dir, &[("r", &source)]);
    let snapshot = master.publish("r");
    master.serve();
    let mut node = Node::start(&dir, &master, &["r"]);
    node.wait_for("r", &snapshot);
    assert_eq!(node.get("/r/snap/current/large"), large);
    assert_eq!(node.get("/r/snap/current/small"), b"small");

    for kill in [false, true] {
        node.stop(kill);
        if kill {
            master.stop(true);
        }
        node.run();
        // No waiting: what was shown before the stop is shown from the first moment on.
        assert_eq!(node.get("/r/snap/current/small"), b"small", "killed: {kill}");
        assert_eq!(node.get("/r/snap/current/large"), large, "killed: {kill}");
        let listing = String::from_utf8(node.get("/r/snap/current/?json")).unwrap();
        assert!(listing.contains("cold"), "{listing}");
    }

    let answer = http::get(&format!("{}/r/snap/current/cold", node.url())).unwrap();
    assert_eq!(answer.status, 504, "{}", answer.text());
    assert!(answer.text().contains("not cached"), "{}", answer.text());
    node.daemon().wait_for_line("cold", LIMIT).unwrap();
    let status = node.status();
    assert!(
        status["repositories"][0]["last_error"]
            .as_str()
            .unwrap()
            .contains("refused"),
        "{status:#}"
    );
    assert!(node.status_text().contains("TROUBLE"), "{}", node.status_text());

    // The master comes back with something new.
    std::fs::write(source.join("new"), "new").unwrap();
    let second = master.publish("r");
    master.serve();
    node.wait_for("r", &second);
    assert_eq!(node.get("/r/snap/current/cold"), b"never read");
    assert_eq!(node.get("/r/snap/current/new"), b"new");
}

#[test]
fn a_master_that_dies_in_the_middle_of_an_object_is_taken_up_again_where_it_stopped() {
    let dir = TestDir::new("e2e-dies").unwrap();
    let source = dir.folder("source").unwrap();
    let content = noise(64 << 20);
    std::fs::write(source.join("image"), &content).unwrap();
    let mut master = Master::new(&dir, &[("d", &source)]);
    let snapshot = master.publish("d");
    master.serve();
    // Loopback is too fast to kill anybody in the middle: the link breaks there, and the master is killed then.
    let link = Link::breaking_after(&master.url(), 20 << 20);
    let mut node = Node::configure(&dir, &link.url, &master.key, &["d"], "10 GiB");
    node.run();
    node.wait_for("d", &snapshot);
    let partial = dir.path().join("partial");
    let mut curl = clean_command("curl");
    curl.args(["--silent", "--output"])
        .arg(&partial)
        .arg(format!("{}/d/snap/current/image", node.url()));
    let told = run_any(&mut curl, LIMIT).unwrap();
    assert!(!told.status.success(), "a broken transfer looked whole");
    assert!(link.is_broken());
    master.stop(true);
    let got = std::fs::read(&partial).unwrap();
    assert!(
        got.len() < content.len() && content.starts_with(&got),
        "wrong bytes were served"
    );
    let before = node.status()["fetch"]["bytes"].as_u64().unwrap();
    assert!(
        before > 10 << 20 && before <= 20 << 20,
        "{before} bytes before the break"
    );

    master.serve();
    link.mend();
    assert!(node.get("/d/snap/current/image") == content, "wrong bytes were served");
    let after = node.status()["fetch"]["bytes"].as_u64().unwrap();
    assert_eq!(
        after,
        content.len() as u64,
        "every byte once, {before} of them before the break"
    );
}

#[test]
fn a_second_node_on_one_cache_is_refused_with_the_process_id() {
    let dir = TestDir::new("e2e-second").unwrap();
    let source = dir.folder("source").unwrap();
    let mut master = Master::new(&dir, &[("s", &source)]);
    master.serve();
    let mut node = Node::start(&dir, &master, &["s"]);
    let mut second = instantmirror_testkit::command::clean_command(
        instantmirror_testkit::process::binary("imnode")
            .unwrap()
            .to_str()
            .unwrap(),
    );
    second.arg("--config").arg(&node.config).arg("run");
    let finished = instantmirror_testkit::command::run_any(&mut second, LIMIT).unwrap();
    let said = finished.transcript();
    assert_eq!(finished.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("process {}", node.daemon().pid())), "{said}");
    assert!(node.daemon().is_running());
}

#[test]
fn the_first_publish_of_a_served_repository_appears_at_once() {
    let dir = TestDir::new("e2e-first").unwrap();
    let source = dir.folder("source").unwrap();
    std::fs::write(source.join("f"), "x").unwrap();
    let mut master = Master::new(&dir, &[("f", &source)]);
    master.serve();
    let node = Node::start(&dir, &master, &["f"]);
    let snapshot = master.publish("f");
    node.wait_for("f", &snapshot);
    assert_eq!(node.get("/pub/f/f"), b"x");
}

/// `[cache] never`: streamed to whoever asks, and not kept.
#[test]
fn what_is_never_kept_comes_from_the_master_every_time() {
    let dir = TestDir::new("e2e-never").unwrap();
    let source = dir.folder("source").unwrap();
    let image = noise(3 << 20);
    std::fs::write(source.join("image.iso"), &image).unwrap();
    std::fs::write(source.join("small"), "small").unwrap();
    let mut master = Master::new(&dir, &[("r", &source)]);
    let snapshot = master.publish("r");
    master.serve();
    let mut node = Node::configure(&dir, &master.url(), &master.key, &["r"], "1 GiB");
    let text = std::fs::read_to_string(&node.config).unwrap();
    let text = text.replace("max_size =", "never = [\"*.iso\"]\nmax_size =");
    std::fs::write(&node.config, text).unwrap();
    node.run();
    node.wait_for("r", &snapshot);
    assert!(node.get("/pub/r/image.iso") == image && node.get("/pub/r/image.iso") == image);
    assert_eq!(node.get("/pub/r/small"), b"small");
    let kept = poll(LIMIT, || (node.status()["cache"]["objects"] == 1).then_some(()));
    kept.unwrap_or_else(|| panic!("{}", node.status()));
    assert!(node.status()["cache"]["used_bytes"].as_u64().unwrap() < 100);
}
