//! What a master tells its operator of its mirrors.

use std::os::unix::fs::PermissionsExt as _;

use instantmirror_testkit::command::clean_command;
use instantmirror_testkit::http;
use instantmirror_testkit::process::{TestDir, poll};
use serde_json::Value;

use crate::world::{LIMIT, Master, Node};

/// A node in a folder of its own, registered if it has a name.
fn mirror(dir: &TestDir, master: &Master, name: Option<&str>) -> Node {
    let mut node = Node::configure(dir, &master.url(), &master.key, &["r"], "1 GiB");
    if let Some(name) = name {
        let file = dir.path().join("token");
        std::fs::write(&file, master.run(&["node", "add", name]).text()).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let text = std::fs::read_to_string(&node.config).unwrap();
        let line = format!("token_file = {file:?}\nname = \"r\"");
        std::fs::write(&node.config, text.replace("name = \"r\"", &line)).unwrap();
    }
    node.run();
    node
}

fn mirrors(master: &Master) -> Vec<Value> {
    let told = master.run(&["mirrors", "r", "--json"]);
    let status: Value = serde_json::from_slice(&told.stdout).unwrap();
    status["mirrors"].as_array().unwrap().clone()
}

/// Waits until this is true of the mirror with this name, or of the only one without one.
fn wait_until(master: &Master, name: Option<&str>, is_so: impl Fn(&Value) -> bool) -> Value {
    let found = poll(LIMIT, || {
        let all = mirrors(master);
        let mut those = all.iter().filter(|mirror| mirror["name"].as_str() == name);
        let one = those.next().filter(|one| is_so(one)).cloned()?;
        those.next().is_none().then_some(one)
    });
    found.unwrap_or_else(|| panic!("{name:?}: {:#?}", mirrors(master)))
}

fn signal(node: &mut Node, signal: &str) {
    let pid = node.daemon().pid().to_string();
    assert!(clean_command("kill").args([signal, &pid]).status().unwrap().success());
}

#[test]
fn a_master_lists_its_mirrors_with_what_each_has_and_lacks() {
    let [dir, first_dir, second_dir] =
        ["master", "alpha", "stranger"].map(|of| TestDir::new(&format!("e2e-mirrors-{of}")).unwrap());
    let source = dir.folder("source").unwrap();
    std::fs::write(source.join("file"), "first").unwrap();
    let mut master = Master::new(&dir, &[("r", &source)]);
    let first = master.publish("r");
    assert!(master.fail(&["mirrors"]).1.contains("no daemon answers"));
    master.serve();
    let alpha = mirror(&first_dir, &master, Some("alpha"));
    let mut stranger = mirror(&second_dir, &master, None);
    master.run(&["node", "add", "silent"]);
    let has = |snapshot: &str, behind: u64| {
        let snapshot = snapshot.to_owned();
        move |mirror: &Value| {
            let r = &mirror["repositories"][0];
            r["snapshot"] == snapshot.as_str() && r["behind"] == behind && r["fetching"] == false
        }
    };
    for name in [Some("alpha"), None] {
        let mirror = wait_until(&master, name, has(&first, 0));
        assert_eq!(mirror["address"], "127.0.0.1");
        assert!(mirror["last_contact"].is_string() && mirror["repositories"][0]["lag_seconds"].is_null());
    }
    let silent = wait_until(&master, Some("silent"), |_| true);
    assert!(silent["last_contact"].is_null() && silent["repositories"].as_array().unwrap().is_empty());

    // One stands still while something is published.
    signal(&mut stranger, "-STOP");
    std::fs::write(source.join("file"), "second").unwrap();
    let second = master.publish("r");
    alpha.wait_for("r", &second);
    wait_until(&master, Some("alpha"), has(&second, 0));
    let late = wait_until(&master, None, has(&first, 1));
    assert!(late["repositories"][0]["lag_seconds"].is_u64(), "{late:#}");
    let text = master.run(&["mirrors"]).text();
    assert!(text.contains(&format!("r  {second} (head 2), up to date")), "{text}");
    assert!(
        text.contains("(head 1), 1 snapshot behind for ") && text.contains("silent  not heard of"),
        "{text}"
    );
    signal(&mut stranger, "-CONT");
    let id = wait_until(&master, None, has(&second, 0))["id"].clone();
    assert_eq!(id.as_str().unwrap().len(), 16);

    // What is staged is told of registered ones.
    std::fs::write(source.join("file"), "third").unwrap();
    master.run(&["publish", "r", "--stage"]);
    let staged = master.live("r").pop().unwrap();
    wait_until(&master, Some("alpha"), |mirror| {
        let at = &mirror["repositories"][0]["staged"][0];
        at["snapshot"] == staged.as_str() && at["complete"] == true
    });
    let list = master.run(&["snapshot", "list", "r"]).text();
    assert!(list.contains("all of it at 1 of 2 registered mirrors: alpha"), "{list}");
    let list: Value = serde_json::from_slice(&master.run(&["snapshot", "list", "r", "--json"]).stdout).unwrap();
    assert_eq!(list[2]["staged_at"], serde_json::json!(["alpha"]));
    assert!(list[1]["staged_at"].is_null());

    // A restart makes no other mirror of it, and the public is told nothing of all this.
    stranger.stop(false);
    stranger.run();
    stranger.wait_for("r", &second);
    assert_eq!(wait_until(&master, None, has(&second, 0))["id"], id);
    for path in ["/.im/mirrors", "/.im/v1/mirrors"] {
        let answer = http::get(&format!("{}{path}", master.url())).unwrap();
        assert!(
            answer.status >= 400 && !answer.text().contains("alpha"),
            "{path}: {}",
            answer.text()
        );
    }
    assert!(
        master
            .fail(&["mirrors", "ghost"])
            .1
            .contains("there is no repository 'ghost'")
    );
    master.stop(false);
    assert!(master.run(&["snapshot", "list", "r"]).text().contains("staged"));
}
