//! Delayed appearance: staged snapshots are for registered nodes only, until they appear everywhere at once.

use std::os::unix::fs::PermissionsExt as _;

use instantmirror::core::{ObjectId, Snapshot};
use instantmirror_testkit::http;
use instantmirror_testkit::process::{TestDir, poll};

use crate::world::{LIMIT, Master, Node};

/// A master with a first snapshot that serves, and a node that it knows and that shows it.
struct Staging {
    dir: TestDir,
    master: Master,
    node: Node,
    token: String,
    first: String,
}

impl Staging {
    fn new(name: &str) -> Self {
        let dir = TestDir::new(name).unwrap();
        let source = dir.folder("source").unwrap();
        std::fs::write(source.join("shared"), "shared").unwrap();
        std::fs::write(source.join("own"), "first").unwrap();
        let mut master = Master::new(&dir, &[("r", &source)]);
        let first = master.publish("r");
        master.serve();
        let token = master.run(&["node", "add", "alpha"]).text().trim().to_owned();
        let file = dir.path().join("token");
        std::fs::write(&file, format!("{token}\n")).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let mut node = Node::configure(&dir, &master.url(), &master.key, &["r"], "1 GiB");
        let text = std::fs::read_to_string(&node.config).unwrap();
        let line = format!("token_file = {file:?}\nname = \"r\"");
        std::fs::write(&node.config, text.replace("name = \"r\"", &line)).unwrap();
        node.run();
        node.wait_for("r", &first);
        Self {
            dir,
            master,
            node,
            token,
            first,
        }
    }

    /// Writes new content and stages it; returns the snapshot's id.
    fn stage(&self, content: &str, rule: &[&str]) -> String {
        std::fs::write(self.dir.path().join("source/own"), content).unwrap();
        self.master.run(&[&["publish", "r", "--stage"], rule].concat());
        self.master.live("r").pop().unwrap()
    }

    fn api(&self, path: &str, token: Option<&str>) -> http::Answer {
        let value = format!("Bearer {}", token.unwrap_or_default());
        let headers = [("Authorization", value.as_str())];
        let url = format!("{}/.im/v1/r/{path}", self.master.url());
        http::request("GET", &url, if token.is_some() { &headers } else { &[] }).unwrap()
    }

    /// What a node got, byte for byte.
    fn wait_until_whole(&mut self, snapshot: &str) {
        self.node
            .daemon()
            .wait_for_log(LIMIT, |log| {
                let said = |line: &str| line.contains("staged snapshot is whole here") && line.contains(snapshot);
                log.lines().any(said).then_some(())
            })
            .unwrap();
    }

    fn wait_until_reported(&mut self, snapshot: &str) {
        self.master
            .daemon()
            .wait_for_log(LIMIT, |log| {
                let said = |line: &str| line.contains("a node has all") && line.contains(snapshot);
                log.lines().any(said).then_some(())
            })
            .unwrap();
    }
}

fn status(url: &str) -> u16 {
    http::get(url).unwrap().status
}

#[test]
fn a_staged_snapshot_is_for_registered_nodes_only_and_appears_without_moving_data() {
    let mut world = Staging::new("e2e-staging");
    let staged = world.stage("embargoed", &[]);
    world.wait_until_whole(&staged);
    world.wait_until_reported(&staged);

    // Nobody sees it on any frontend, not even where a registered node has all of it.
    for server in [world.master.url(), world.node.url()] {
        assert_eq!(status(&format!("{server}/r/snap/{staged}/own")), 404);
        let listing = http::get(&format!("{server}/r/snap/")).unwrap().text();
        assert!(
            listing.contains(&world.first) && !listing.contains(&staged),
            "{listing}"
        );
    }
    assert_eq!(world.node.get("/r/snap/current/own"), b"first");

    // The API tells it to nodes with a token, and what is released to everybody.
    let token = world.token.clone();
    let record = world.api(&format!("snapshots/{staged}"), Some(&token));
    assert_eq!(
        (record.status, record.header("cache-control")),
        (200, Some("private, no-store"))
    );
    let record: Snapshot = serde_json::from_slice(&record.body).unwrap();
    let (secret, shared) = (ObjectId::of(b"embargoed"), ObjectId::of(b"shared"));
    for path in [
        format!("snapshots/{staged}"),
        format!("catalog/{}", record.root.node),
        format!("objects/{secret}"),
        format!("objects/{secret}/outboard"),
    ] {
        assert_eq!(world.api(&path, Some(&token)).status, 200, "{path}");
        assert_eq!(world.api(&path, None).status, 404, "{path}");
        assert_eq!(world.api(&path, Some("alpha:00")).status, 401, "{path}");
    }
    assert_eq!(world.api(&format!("objects/{shared}"), None).status, 200);
    assert_eq!(world.api(&format!("snapshots/{}", world.first), None).status, 200);

    // Released, it is there at once, and nothing more is needed from the master.
    let fetched = world.node.status()["fetch"]["bytes"].clone();
    world.master.run(&["snapshot", "release", "r", &staged]);
    world.node.wait_for("r", &staged);
    world.master.stop(true);
    assert_eq!(world.node.get("/r/snap/current/own"), b"embargoed");
    assert_eq!(world.node.get("/r/snap/current/shared"), b"shared");
    assert_eq!(world.node.status()["fetch"]["bytes"], fetched);
    world.master.serve();
    assert_eq!(world.api(&format!("objects/{secret}"), None).status, 200);
    let (_, said) = world.master.fail(&["snapshot", "release", "r", &staged]);
    assert!(said.contains("released already"), "{said}");
}

#[test]
fn rules_release_by_time_and_by_share_and_a_withdrawn_one_never_appears() {
    let mut world = Staging::new("e2e-staging-rules");
    let by_share = world.stage("by share", &["--when-synced", "100"]);
    world.node.wait_for("r", &by_share);
    assert_eq!(world.node.get("/r/snap/current/own"), b"by share");

    // Both conditions must hold: the time has come, but a second node has nothing.
    world.master.run(&["node", "add", "beta"]);
    let both = world.stage(
        "both",
        &["--when-synced", "100", "--release-at", "2026-01-01T00:00:00Z"],
    );
    world.wait_until_reported(&both);
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!(world.node.get("/r/snap/current/own"), b"by share");
    assert!(world.master.run(&["node", "list"]).text().contains("beta"));
    world.master.run(&["node", "remove", "beta"]);
    world.node.wait_for("r", &both);

    let withdrawn = world.stage("withdrawn", &["--release-at", "2999-01-01T00:00:00Z"]);
    world.wait_until_whole(&withdrawn);
    let listed = world.master.run(&["snapshot", "list", "r"]).text();
    assert!(listed.contains("staged"), "{listed}");
    world.master.run(&["snapshot", "withdraw", "r", &withdrawn]);
    assert!(!world.master.live("r").contains(&withdrawn));
    let gone = poll(LIMIT, || {
        let answer = world.api(&format!("snapshots/{withdrawn}"), Some(&world.token));
        (answer.status == 404).then_some(())
    });
    assert!(gone.is_some());

    // One that was overtaken is not released unasked: it would take back what came later.
    let overtaken = world.stage("overtaken", &[]);
    std::fs::write(world.dir.path().join("source/own"), "later").unwrap();
    let later = world.master.publish("r");
    let (_, said) = world.master.fail(&["snapshot", "release", "r", &overtaken]);
    assert!(said.contains("overtaken") && said.contains(&later), "{said}");
    world
        .master
        .run(&["snapshot", "release", "r", &overtaken, "--take-back"]);
    world.node.wait_for("r", &overtaken);
}

#[test]
fn a_revoked_token_and_a_denied_address_get_nothing() {
    let mut world = Staging::new("e2e-staging-deny");
    assert_eq!(world.node.get("/r/snap/current/own"), b"first");
    let staged = world.stage("embargoed", &[]);
    world.wait_until_whole(&staged);
    world.master.run(&["node", "remove", "alpha"]);
    let (_, said) = world.master.fail(&["node", "remove", "alpha"]);
    assert!(said.contains("there is no node 'alpha'"), "{said}");
    assert_eq!(
        world.api(&format!("snapshots/{staged}"), Some(&world.token)).status,
        401
    );
    world.master.stop(false);
    world.master.configure("[nodes]\ndeny = [\"127.0.0.0/8\"]\n");
    world.master.serve();
    assert_eq!(world.api("head", None).status, 403);
    assert_eq!(status(&format!("{}/r/snap/current/own", world.master.url())), 200);
    // What the node has it goes on serving.
    assert_eq!(world.node.get("/r/snap/current/own"), b"first");
}
