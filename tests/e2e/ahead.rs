//! What a node fetches before anybody asks: by its rules, by the master's advice, by name, and metadata at once. The proof
//! is always the same: the master is gone, and a client gets it.

use std::path::Path;

use instantmirror_testkit::http;
use instantmirror_testkit::process::{TestDir, poll};
use instantmirror_testkit::tree::noise;
use instantmirror_testkit::yum::{DnfClient, Repository};

use crate::cache::configure;
use crate::world::{LIMIT, Master, Node};

const LARGE: usize = 3_000_000;

/// Files of some kinds, all different.
fn build(source: &Path, generation: usize) {
    let write = |path: &str, mut content: Vec<u8>| {
        let stamp = format!("{generation} {path}");
        content.splice(..0, stamp.into_bytes());
        let file = source.join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, content).unwrap();
    };
    (0..300).for_each(|i| write(&format!("small/{i:03}"), vec![b'x'; 100 + i]));
    (0..2).for_each(|i| write(&format!("large/{i}.iso"), noise(LARGE)));
    (0..20).for_each(|i| write(&format!("advised/{i}"), noise(10_000)));
    (0..20).for_each(|i| write(&format!("debug/{i}.small"), noise(10_000)));
    write("other", noise(1000));
}

fn is_over(node: &Node, snapshot: &str) -> bool {
    let status = node.status();
    let ahead = &status["preseed"][0];
    let steps = ahead["steps"].as_array();
    ahead["snapshot"] == snapshot && steps.is_some_and(|steps| steps.iter().all(|step| step["is_over"] == true))
}

fn wait_until_over(node: &Node, snapshot: &str) {
    let over = poll(LIMIT, || is_over(node, snapshot).then_some(()));
    over.unwrap_or_else(|| panic!("not all is here:\n{}", node.status_text()));
}

fn answer(node: &Node, path: &str) -> u16 {
    http::get(&format!("{}/r/snap/current/{path}", node.url()))
        .unwrap()
        .status
}

fn number(value: &serde_json::Value, class: &str, field: &str) -> u64 {
    let classes = value["queue"].as_array().unwrap();
    let class = classes.iter().find(|one| one["class"] == class).unwrap();
    class[field].as_u64().unwrap()
}

#[test]
fn rules_and_advice_bring_what_they_name_and_nothing_else() {
    let dir = TestDir::new("e2e-ahead").unwrap();
    let source = dir.folder("source").unwrap();
    build(&source, 1);
    let mut master = Master::with_options(&dir, &[("r", &source)], "preseed = [\"advised/\", \"debug/\"]");
    let first = master.publish("r");
    master.serve();
    let mut node = Node::configure(&dir, &master.url(), &master.key, &["r"], "10 GiB");
    configure(
        &node,
        "[http]",
        "[preseed]\nfirst = [\"small/\", \"*.iso\"]\nnever = [\"debug/\"]\nsuggested = true\n[http]",
    );
    node.run();
    wait_until_over(&node, &first);
    let status = node.status();
    assert!(number(&status, "preseed", "bytes") > 2 * LARGE as u64);
    assert!(number(&status, "suggested", "bytes") >= 200_000);
    assert_eq!(
        (number(&status, "demand", "bytes"), number(&status, "rest", "bytes")),
        (0, 0)
    );
    // A new snapshot: only what is new in it is fetched.
    build(&source, 2);
    std::fs::remove_dir_all(source.join("large")).unwrap();
    let second = master.publish("r");
    node.wait_for("r", &second);
    wait_until_over(&node, &second);
    master.stop(false);
    for path in ["small/000", "small/299", "advised/7"] {
        assert!(
            node.get(&format!("/r/snap/current/{path}")) == std::fs::read(source.join(path)).unwrap(),
            "{path}"
        );
    }
    assert_eq!(
        node.get(&format!("/r/snap/{first}/large/1.iso")).len(),
        LARGE + "1 large/1.iso".len()
    );
    for path in ["debug/3.small", "other"] {
        assert_ne!(answer(&node, path), 200, "{path} was not to be fetched");
    }
}

#[test]
fn the_rest_fills_what_is_free_and_drives_nothing_out() {
    let dir = TestDir::new("e2e-rest").unwrap();
    let source = dir.folder("source").unwrap();
    build(&source, 1);
    let mut master = Master::new(&dir, &[("r", &source)]);
    let first = master.publish("r");
    master.serve();
    let mut node = Node::configure(&dir, &master.url(), &master.key, &["r"], "4 MiB");
    configure(&node, "[http]", "[preseed]\nfirst = [\"debug/\"]\nrest = true\n[http]");
    node.run();
    wait_until_over(&node, &first);
    let cache = &node.status()["cache"];
    let used = cache["used_bytes"].as_u64().unwrap();
    assert!(used > 3 << 20 && used <= 4 << 20, "{used}");
    assert_eq!(cache["evicted"], 0);
    master.stop(false);
    assert_eq!(answer(&node, "debug/19.small"), 200);
}

#[test]
fn the_rest_drives_nothing_out_where_objects_are_counted_either() {
    let dir = TestDir::new("e2e-rest-objects").unwrap();
    let source = dir.folder("source").unwrap();
    build(&source, 1);
    let mut master = Master::new(&dir, &[("r", &source)]);
    let first = master.publish("r");
    master.serve();
    let mut node = Node::configure(&dir, &master.url(), &master.key, &["r"], "10 GiB");
    configure(&node, "[http]", "[preseed]\nfirst = [\"debug/\"]\nrest = true\n[http]");
    configure(&node, "max_size", "max_objects = 60\nmax_size");
    node.run();
    wait_until_over(&node, &first);
    let cache = &node.status()["cache"];
    assert_eq!(cache["evicted"], 0, "{cache}");
    let objects = cache["objects"].as_u64().unwrap();
    assert!((20..=60).contains(&objects), "{cache}");
    master.stop(false);
    assert_eq!(answer(&node, "debug/19.small"), 200);
}

#[test]
fn dnf_finds_the_metadata_of_a_new_snapshot_on_a_node_whose_master_is_gone() {
    let dir = TestDir::new("e2e-bundle").unwrap();
    let repository = Repository::build(&dir.folder("repository").unwrap()).unwrap();
    let mut master = Master::new(&dir, &[("yum", repository.root())]);
    let first = master.publish("yum");
    master.serve();
    let node = Node::start(&dir, &master, &["yum"]);
    node.wait_for("yum", &first);
    let client = DnfClient::new(&dir.folder("client").unwrap(), &format!("{}/pub/yum", node.url())).unwrap();
    client.makecache().unwrap();
    repository.publish("im-alpha", "9.9").unwrap();
    let second = master.publish("yum");
    node.wait_for("yum", &second);
    let repomd = || {
        let status = node.status();
        let quiet = status["transfers"].as_array().unwrap().is_empty();
        (quiet && number(&status, "bundle", "bytes") > 0 && number(&status, "bundle", "running") == 0).then_some(())
    };
    poll(LIMIT, repomd).unwrap_or_else(|| panic!("no metadata came:\n{}", node.status_text()));
    master.stop(false);
    client.makecache().unwrap();
    assert_eq!(client.available("im-alpha").unwrap().as_deref(), Some("9.9-1"));
}

#[test]
fn prefetch_brings_what_an_operator_names_and_says_what_it_could_not() {
    let dir = TestDir::new("e2e-prefetch").unwrap();
    let source = dir.folder("source").unwrap();
    build(&source, 1);
    let mut master = Master::new(&dir, &[("r", &source)]);
    let first = master.publish("r");
    master.serve();
    let node = Node::start(&dir, &master, &["r"]);
    node.wait_for("r", &first);
    let said = node.succeed(&["prefetch", "r", "small", "*.iso"]);
    assert!(said.contains("over, 302 of 302 files"), "{said}");
    let (code, said) = node.fail(&["prefetch", "r", "nothing/like/it"]);
    assert!(
        code == 1 && said.contains("no file of snapshot") && said.contains("nothing/like/it"),
        "{said}"
    );
    let (_, said) = node.fail(&["prefetch", "q", "small"]);
    assert!(said.contains("follows no repository 'q'; it has r"), "{said}");
    let (_, said) = node.fail(&["prefetch", "r", "[a"]);
    assert!(said.contains("'[a' is not a glob"), "{said}");
    // What is never kept does not come by name either.
    configure(&node, "[http]", "never = [\"debug/\"]\n[http]");
    node.succeed(&["reload"]);
    let (_, said) = node.fail(&["prefetch", "r", "debug"]);
    assert!(said.contains("what [cache] never names is left out"), "{said}");
    let said = node.succeed(&["prefetch", "r", "debug", "other"]);
    assert!(said.contains("over, 1 of 1 files"), "{said}");
    master.stop(false);
    assert_eq!((answer(&node, "small/123"), answer(&node, "large/0.iso")), (200, 200));
    let (code, said) = node.fail(&["prefetch", "r", "advised"]);
    assert!(code == 1 && said.contains("20 files could not be had"), "{said}");
}

#[test]
fn a_reload_by_the_api_says_what_holds_now_and_what_takes_a_restart() {
    let dir = TestDir::new("e2e-reload-api").unwrap();
    let source = dir.folder("source").unwrap();
    build(&source, 1);
    let mut master = Master::new(&dir, &[("r", &source)]);
    let first = master.publish("r");
    master.serve();
    let node = Node::start(&dir, &master, &["r"]);
    node.wait_for("r", &first);
    assert!(node.succeed(&["reload"]).contains("nothing has changed"));
    configure(
        &node,
        "[http]",
        "[preseed]\nfirst = [\"small/\"]\n[fetch]\nbackground = 4\n[peers]\ndeny = [\"203.0.113.0/24\"]\n\
         [http]\ncors = false\nmax_connections = 500\nheaders = { X-Mirror = \"ours\" }",
    );
    let said = node.succeed(&["reload"]);
    for line in [
        "changed: [preseed]",
        "changed: [fetch]",
        "changed: [http] cors",
        "changed: [http] max_connections",
        "changed: [http] headers",
        "takes a restart: [peers] deny",
    ] {
        assert!(said.contains(line), "{line} is not in:\n{said}");
    }
    assert!(!node.succeed(&["reload"]).contains("[http] cors"), "it is told once");
    wait_until_over(&node, &first);
    configure(&node, "background = 4", "background = 0");
    let (code, said) = node.fail(&["reload"]);
    assert!(code == 2 && said.contains("[fetch] background is 0"), "{said}");
    configure(&node, "background = 0", "background = 4");
    master.stop(false);
    assert_eq!(answer(&node, "small/123"), 200);
}

#[test]
fn nothing_is_asked_of_who_is_denied_whatever_its_name() {
    let dir = TestDir::new("e2e-peers").unwrap();
    let source = dir.folder("source").unwrap();
    build(&source, 1);
    let mut master = Master::new(&dir, &[("r", &source)]);
    master.publish("r");
    master.serve();
    let port = master.url().rsplit(':').next().unwrap().to_owned();
    let mut node = Node::configure(&dir, &format!("http://localhost:{port}"), &master.key, &["r"], "10 GiB");
    configure(&node, "[http]", "[peers]\ndeny = [\"127.0.0.0/8\", \"::1\"]\n[http]");
    node.run();
    let said = poll(LIMIT, || {
        let text = node.status_text();
        text.contains("admits none of").then_some(text)
    });
    assert!(said.is_some(), "{}", node.status_text());
    node.stop(false);
    configure(&node, "http://localhost", "http://127.0.0.1");
    let (code, said) = node.fail(&["--check-config"]);
    assert!(
        code == 2 && said.contains("[peers] allow and deny leave out its master"),
        "{said}"
    );
}

/// What did not fit, or was left out, is looked for again when the configuration lets it in.
#[test]
fn what_a_changed_configuration_has_room_for_is_fetched_ahead() {
    let dir = TestDir::new("e2e-ahead-reload").unwrap();
    let source = dir.folder("source").unwrap();
    build(&source, 1);
    let mut master = Master::new(&dir, &[("r", &source)]);
    let first = master.publish("r");
    master.serve();
    let mut node = Node::configure(&dir, &master.url(), &master.key, &["r"], "2 MiB");
    configure(
        &node,
        "[http]",
        "[preseed]\nfirst = [\"large/\", \"debug/\"]\nrest = true\n[http]",
    );
    configure(&node, "max_size", "never = [\"debug/\"]\nmax_size");
    node.run();
    wait_until_over(&node, &first);
    configure(&node, "never = [\"debug/\"]", "max_objects = 20");
    node.succeed(&["reload"]);
    wait_until_over(&node, &first);
    configure(&node, "max_objects = 20", "");
    configure(&node, "2 MiB", "100 MiB");
    let said = node.succeed(&["reload"]);
    assert!(said.contains("[cache] limits"), "{said}");
    let here = || (node.status()["cache"]["objects"].as_u64() >= Some(343)).then_some(());
    poll(LIMIT, here).unwrap_or_else(|| panic!("not all came:\n{}", node.status_text()));
    wait_until_over(&node, &first);
    master.stop(false);
    assert_eq!(answer(&node, "large/1.iso"), 200);
    assert_eq!(answer(&node, "debug/7.small"), 200);
}

/// A cache is full sooner or later. What the snapshots have left behind must not keep out what the newest one brings.
#[test]
fn what_no_snapshot_needs_makes_room_for_the_rest() {
    let dir = TestDir::new("e2e-rest-garbage").unwrap();
    let source = dir.folder("source").unwrap();
    build(&source, 1);
    let mut master = Master::new(&dir, &[("r", &source)]);
    master.configure("[retention]\nkeep_last = 1\ndelete_after = \"1 s\"\n[snapshots]\ngrace = \"1 s\"");
    let first = master.publish("r");
    master.serve();
    let mut node = Node::configure(&dir, &master.url(), &master.key, &["r"], "10 MiB");
    configure(
        &node,
        "[http]",
        "[snapshots]\ngrace = \"1 s\"\n[preseed]\nrest = true\n[http]",
    );
    node.run();
    wait_until_over(&node, &first);
    build(&source, 2);
    let second = master.publish("r");
    node.wait_for("r", &second);
    std::thread::sleep(std::time::Duration::from_secs(2));
    master.run(&["retention", "r", "--now"]);
    let both = 4 * LARGE as u64;
    let here = || (number(&node.status(), "rest", "bytes") > both && is_over(&node, &second)).then_some(());
    poll(LIMIT, here).unwrap_or_else(|| panic!("not all came:\n{}", node.status_text()));
    master.stop(false);
    for path in ["large/0.iso", "large/1.iso", "small/299", "debug/7.small"] {
        assert_eq!(answer(&node, path), 200, "{path}");
    }
}
