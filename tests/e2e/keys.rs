//! Changing the master's key under running mirrors, and what a retired key is worth afterwards.

use instantmirror::core::{Head, PublicKey, SecretKey, SignedHead};
use instantmirror_testkit::http;
use instantmirror_testkit::process::{TestDir, poll};

use crate::world::{LIMIT, Master, Node};

/// A tree with one file of this content.
fn write(dir: &TestDir, content: &str) -> std::path::PathBuf {
    let source = dir.folder("source").unwrap();
    std::fs::write(source.join("file"), content).unwrap();
    source
}

/// The key in the output of `imserver key rotate`.
fn rotated(said: &str) -> String {
    said.split(' ')
        .find(|word| word.starts_with("ed25519:"))
        .unwrap()
        .to_owned()
}

fn wait_for_keys(node: &Node, keys: &[&str]) {
    let trusted = || -> Vec<String> {
        let status = node.status();
        let keys = status["repositories"][0]["keys"].as_array().unwrap().clone();
        keys.iter().map(|key| key["key"].as_str().unwrap().to_owned()).collect()
    };
    let seen = poll(LIMIT, || (trusted() == keys).then_some(()));
    seen.unwrap_or_else(|| panic!("{keys:?} are not trusted: {}", node.status_text()));
}

/// Forges the next head of the master, signed by whatever key is in this file alone.
fn forge(master: &Master, key_file: &str, change: impl FnOnce(&mut Head)) -> (u64, Vec<u8>) {
    let key: SecretKey = std::fs::read_to_string(master.dir.join(key_file))
        .unwrap()
        .parse()
        .unwrap();
    let keys = master.run(&["key", "list"]).text();
    let known: Vec<PublicKey> = keys
        .lines()
        .map(|line| line.split(' ').next().unwrap().parse().unwrap())
        .collect();
    let bytes = http::get(&format!("{}/.im/v1/r/head", master.url())).unwrap().body;
    let mut head = SignedHead::verify(bytes.into(), &"r".parse().unwrap(), &known)
        .unwrap()
        .head()
        .clone();
    head.sequence += 1;
    change(&mut head);
    (head.sequence, head.sign(&[&key]).unwrap().bytes().to_vec())
}

/// Puts a head into the master's store, as somebody who has taken it over could.
fn plant(master: &Master, (sequence, head): (u64, &[u8])) {
    // An object's id is its BLAKE3 hash, too.
    let hash = instantmirror::core::ObjectId::of(head);
    let file = [format!("instantmirror head 1 {sequence} {hash}\n").as_bytes(), head].concat();
    let path = master.dir.join("store/heads/r.head");
    let tmp = path.with_extension("planted");
    std::fs::write(&tmp, file).unwrap();
    std::fs::rename(tmp, path).unwrap();
}

fn a_retired_key_is_worth_nothing(master: &Master, node: &mut Node, current: &str) {
    // Whoever has the old key signs as it likes, and nobody believes it.
    let (sequence, forged) = forge(master, "store/key", |head| head.preseed.push("**".to_owned()));
    plant(master, (sequence, &forged));
    let refused = poll(LIMIT, || node.status_text().contains("TROUBLE").then_some(()));
    assert!(refused.is_some(), "{}", node.status_text());
    let said = node.daemon().log();
    assert!(
        said.contains("REFUSED") && said.contains("no signature by a trusted key"),
        "{said}"
    );
    node.wait_for("r", current);
    assert_eq!(node.get("/r/snap/current/file"), b"three");
}

#[test]
fn a_key_is_changed_under_running_mirrors_and_the_old_one_is_worth_nothing_then() {
    let dir = TestDir::new("e2e-keys").unwrap();
    let source = write(&dir, "one");
    let mut master = Master::new(&dir, &[("r", &source)]);
    let first = master.publish("r");
    master.serve();
    let mut node = Node::start(&dir, &master, &["r"]);
    node.wait_for("r", &first);
    wait_for_keys(&node, &[&master.key.clone()]);
    assert!(
        node.status_text().contains("from the configuration"),
        "{}",
        node.status_text()
    );
    let none = http::get(&format!("{}/.im/v1/r/keys", master.url())).unwrap();
    assert_eq!(none.status, 404);

    // All without a restart of either, and without a word in the mirror's configuration.
    let old = master.key.clone();
    let new = rotated(&master.run(&["key", "rotate"]).text());
    wait_for_keys(&node, &[&old, &new]);
    write(&dir, "two");
    node.wait_for("r", &master.publish("r"));
    master.run(&["key", "retire", &old]);
    wait_for_keys(&node, &[&new]);
    write(&dir, "three");
    let third = master.publish("r");
    node.wait_for("r", &third);
    assert!(
        node.status_text().contains(&format!("{new}, in use since 20")),
        "{}",
        node.status_text()
    );
    let listed = master.run(&["key", "list"]).text();
    let lines: Vec<&str> = listed.lines().collect();
    assert!(
        lines[0].starts_with(&format!("{old}  retired")) && lines[1].starts_with(&format!("{new}  signs since")),
        "{listed}"
    );

    // A mirror that learned it knows it after kill -9, although its configuration names the old key.
    node.stop(true);
    node.run();
    wait_for_keys(&node, &[&new]);
    node.wait_for("r", &third);
    // One that is set up now trusts the new key, or finds the way from the old one.
    for (name, key) in [("late-old", &old), ("late-new", &new)] {
        let late = TestDir::new(name).unwrap();
        let mut late = Node::configure(&late, &master.url(), key, &["r"], "1 GiB");
        late.run();
        late.wait_for("r", &third);
        wait_for_keys(&late, &[&new]);
        late.stop(false);
    }

    a_retired_key_is_worth_nothing(&master, &mut node, &third);
    let (code, said) = master.fail(&["key", "retire", &new]);
    assert!(code == 1 && said.contains("this is the only key"), "{said}");
    let (_, said) = master.fail(&["key", "retire", &old]);
    assert!(said.contains("is not in use; in use are: "), "{said}");
}

#[test]
fn a_head_of_a_stolen_key_that_none_could_follow_is_overcome_by_changing_the_key() {
    let dir = TestDir::new("e2e-keys-stolen").unwrap();
    let source = write(&dir, "one");
    let mut master = Master::new(&dir, &[("r", &source)]);
    let first = master.publish("r");
    master.serve();
    let mut node = Node::start(&dir, &master, &["r"]);
    node.wait_for("r", &first);
    // The thief signs the highest number that any node takes.
    let good = std::fs::read(master.dir.join("store/heads/r.head")).unwrap();
    let (sequence, stolen) = forge(&master, "store/key", |head| {
        head.sequence = u64::try_from(head.issued.as_millis()).unwrap();
    });
    plant(&master, (sequence, &stolen));
    let highest = poll(LIMIT, || {
        (node.status()["repositories"][0]["sequence"].as_u64()? > 1_000_000).then_some(())
    });
    highest.unwrap_or_else(|| panic!("{}", node.status_text()));
    // The master comes back from its backup, and is refused.
    master.stop(false);
    std::fs::write(master.dir.join("store/heads/r.head"), good).unwrap();
    master.serve();
    let refused = poll(LIMIT, || node.status_text().contains("rollback").then_some(()));
    refused.unwrap_or_else(|| panic!("{}", node.status_text()));
    assert_eq!(node.get("/r/snap/current/file"), b"one", "what is here is served on");
    let said = master.run(&["key", "rotate", "--retire-old"]).text();
    wait_for_keys(&node, &[&rotated(&said)]);
    write(&dir, "two");
    node.wait_for("r", &master.publish("r"));
    assert_eq!(node.get("/r/snap/current/file"), b"two");
    // And so it is after a restart.
    node.stop(true);
    node.run();
    assert_eq!(node.get("/r/snap/current/file"), b"two");
}

#[test]
fn after_a_lost_key_mirrors_that_pin_a_new_one_go_on() {
    let dir = TestDir::new("e2e-keys-lost").unwrap();
    let source = write(&dir, "one");
    let mut master = Master::new(&dir, &[("r", &source)]);
    master.publish("r");
    // There are lists that only the lost keys have signed, and higher numbers than the new store will have.
    let lost = rotated(&master.run(&["key", "rotate", "--retire-old"]).text());
    write(&dir, "two");
    let last = master.publish("r");
    master.serve();
    let mut node = Node::start(&dir, &master, &["r"]);
    node.wait_for("r", &last);
    node.stop(false);
    master.stop(false);
    std::fs::remove_dir_all(master.dir.join("store")).unwrap();
    let said = master.run(&["init"]).text();
    let new = said
        .split('"')
        .find(|part| part.starts_with("ed25519:"))
        .unwrap()
        .to_owned();
    let published = master.publish("r");
    master.serve();
    let config = std::fs::read_to_string(&node.config).unwrap();
    std::fs::write(&node.config, config.replace(&master.key, &new)).unwrap();
    node.run();
    node.wait_for("r", &published);
    wait_for_keys(&node, &[&new]);
    assert_ne!(lost, new);
    assert_eq!(node.get("/r/snap/current/file"), b"two");
    assert_eq!(node.status()["repositories"][0]["sequence"], 1);
}
