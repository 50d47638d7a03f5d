//! `imserver publish --dry-run`: it announces what the publish does, and leaves no trace.

use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use instantmirror_testkit::command::{clean_command, run, run_any};
use instantmirror_testkit::process::{TestDir, binary};
use serde_json::Value;

use crate::world::{LIMIT, Master};

/// All that can be seen of a directory: names, kinds, modes, inodes, times, and the content of each file.
fn everything(dir: &Path) -> String {
    let mut find = clean_command("find");
    find.arg(dir).args(["-printf", "%p %y %m %i %T@ %C@ %s\\n"]);
    let mut sums = clean_command("find");
    sums.arg(dir).args(["-type", "f", "-exec", "sha256sum", "{}", "+"]);
    let text = run(&mut find, LIMIT).unwrap().text() + &run(&mut sums, LIMIT).unwrap().text();
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines.join("\n")
}

/// Runs a dry run, which has to leave the store as it is, and returns its exit code and what it wrote.
fn dry_run(master: &Master, arguments: &[&str]) -> (i32, String) {
    let store = master.dir.join("store");
    let before = everything(&store);
    let mut command = clean_command(binary("imserver").unwrap().to_str().unwrap());
    command.arg("--config").arg(&master.config);
    command.args(["publish", "r", "--dry-run"]).args(arguments);
    let finished = run_any(&mut command, LIMIT).unwrap();
    assert!(everything(&store) == before, "a trace of {arguments:?} is in the store");
    let code = finished.status.code().unwrap();
    (code, String::from_utf8(finished.stdout).unwrap())
}

fn plan(master: &Master, arguments: &[&str]) -> Value {
    let (code, text) = dry_run(master, &[arguments, &["--json"]].concat());
    let plan: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!(code == 0, plan["outcome"] != "refused", "{plan}");
    plan
}

/// Differences by their paths.
fn differences(shown: &Value) -> BTreeMap<String, Value> {
    let all = shown["differences"].as_array().unwrap().iter();
    all.map(|one| (one["path"].as_str().unwrap().to_owned(), one.clone()))
        .collect()
}

/// The next publish does what was announced.
fn publish_as_announced(master: &Master, arguments: &[&str]) -> Value {
    let announced = plan(master, arguments);
    assert_eq!(announced["outcome"], "snapshot", "{announced}");
    master.run(&[&["publish", "r"], arguments].concat());
    let shown = master.run(&["snapshot", "diff", "r", "current~1", "current", "--json"]);
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(differences(&announced), differences(&shown));
    assert_eq!(announced["summary"], shown["summary"]);
    assert_eq!(announced["before"], shown["before"]);
    announced
}

/// A source tree of 30 files and a master of it, which leaves out what ends in `.part`.
struct World {
    dir: TestDir,
    source: PathBuf,
    master: Master,
}

impl World {
    fn new(name: &str) -> Self {
        let dir = TestDir::new(name).unwrap();
        let source = dir.folder("source").unwrap();
        let master = Master::with_options(&dir, &[("r", &source)], "exclude = [\"*.part\"]");
        let world = Self { dir, source, master };
        for n in 0..30 {
            world.write(&format!("d{}/f{n}", n % 3), &format!("content {n}"));
        }
        world
    }

    fn write(&self, path: &str, content: &str) {
        let path = self.source.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    fn chmod(&self, path: &str, mode: u32) {
        std::fs::set_permissions(self.source.join(path), std::fs::Permissions::from_mode(mode)).unwrap();
    }

    /// One of every kind of change.
    fn change(&self) {
        self.write("d0/f0", "another content, which is longer");
        std::fs::remove_file(self.source.join("d1/f1")).unwrap();
        self.write("new/file", "new");
        let link = |from: &str, to: &str| std::fs::hard_link(self.source.join(from), self.source.join(to)).unwrap();
        link("new/file", "new/name");
        link("d2/f2", "d2/name");
        symlink("new/file", self.source.join("link")).unwrap();
        self.chmod("d0/f3", 0o755);
        self.write("half.part", "half");
        self.write("key", "secret");
        self.chmod("key", 0o600);
    }
}

#[test]
fn a_dry_run_announces_what_the_publish_does_and_leaves_no_trace() {
    let world = World::new("e2e-dry-run");
    let master = &world.master;
    // A store that was never published to has nothing of the repository, and gets nothing.
    let first = plan(master, &[]);
    assert_eq!(
        (&first["before"], &first["outcome"]),
        (&Value::Null, &"snapshot".into())
    );
    let added = &first["summary"]["added"]["entries"];
    assert_eq!((&first["files"], added), (&30.into(), &30.into()));
    master.publish("r");
    let (code, text) = dry_run(master, &[]);
    assert!(code == 0 && text.contains("r: nothing has changed"), "{text}");

    world.change();
    let (code, text) = dry_run(master, &[]);
    for part in [
        "+ new/file  (3 B)",
        "- d1/f1  (9 B)",
        "* d0/f0  (9 B, now 32 B)",
        "+ link  (-> new/file)",
        ". d0/f3  (9 B)",
        "r: would be published: 32 files, ",
        "left out: 1 excluded, the first is half.part",
        "left out: 1 private, the first is key: closed to others (mode 0600)",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    assert_eq!(code, 0);
    let named = publish_as_announced(master, &["--changed", "new", "d0"]);
    let removed = |plan: &Value| plan["summary"]["removed"]["entries"].clone();
    assert_eq!((&named["full_scan"], removed(&named)), (&false.into(), 0.into()));
    let all = publish_as_announced(master, &[]);
    assert_eq!(
        (&all["left_out"]["private"]["count"], removed(&all)),
        (&1.into(), 1.into())
    );
    assert_eq!(all["left_out"]["excluded"]["examples"]["half.part"], "excluded");

    // A tree that was taken back is known as such.
    master.run(&["snapshot", "rollback", "r", "current~1"]);
    let back = plan(master, &[]);
    assert_eq!(back["outcome"], "taken back", "{back}");
    assert_eq!(plan(master, &["--again"])["outcome"], "snapshot");
}

#[test]
fn a_dry_run_says_what_would_be_refused_and_why() {
    let world = World::new("e2e-dry-run-refused");
    let master = &world.master;
    master.publish("r");
    // What would become of the rest is told as well.
    world.write("more", "more");
    world.write("bad\u{1}name", "x");
    let refused = plan(master, &[]);
    let reasons = refused["refused"].to_string();
    assert!(
        reasons.contains("1 path(s) cannot be published") && reasons.contains("bad"),
        "{reasons}"
    );
    assert!(differences(&refused).contains_key("more"));
    let (code, text) = dry_run(master, &[]);
    assert!(code == 1 && text.contains("r: would be refused: 1 path(s)"), "{text}");
    for entry in std::fs::read_dir(&world.source).unwrap() {
        let path = entry.unwrap().path();
        std::fs::remove_dir_all(&path)
            .or_else(|_| std::fs::remove_file(&path))
            .unwrap();
    }
    let emptied = plan(master, &[]);
    assert!(emptied["refused"].to_string().contains("is it mounted"), "{emptied}");
    assert_eq!(plan(master, &["--allow-empty"])["outcome"], "snapshot");
}

#[test]
fn a_dry_run_works_beside_whoever_writes_and_makes_nothing_where_nothing_is() {
    let mut world = World::new("e2e-dry-run-beside");
    world.master.publish("r");
    world.change();
    let dry = |config: &Path| {
        let mut command = clean_command(binary("imserver").unwrap().to_str().unwrap());
        command.arg("--config").arg(config).args(["publish", "r", "--dry-run"]);
        command
    };
    // A process that holds the store.
    let lock = world.master.dir.join("store/catalog/lock");
    let mut beside = clean_command("flock");
    beside.arg("--nonblock").arg(lock).arg(binary("imserver").unwrap());
    beside.arg("--config").arg(&world.master.config);
    beside.args(["publish", "r", "--dry-run", "--changed", "new"]);
    let text = run(&mut beside, LIMIT).unwrap().text();
    assert!(
        text.contains("2 entries added (6 B), 0 entries removed") && text.contains("only what was named"),
        "{text}"
    );
    // A store that nobody has initialised.
    let (store, absent) = (world.master.dir.join("store"), world.dir.path().join("absent"));
    let text = std::fs::read_to_string(&world.master.config).unwrap();
    let bare = world.dir.path().join("bare.toml");
    std::fs::write(&bare, text.replace(store.to_str().unwrap(), absent.to_str().unwrap())).unwrap();
    let said = run_any(&mut dry(&bare), LIMIT).unwrap().transcript();
    assert!(said.contains("imserver init") && !absent.exists(), "{said}");
    // A running master, which writes to its store itself.
    world.master.serve();
    let said = run(&mut dry(&world.master.config), LIMIT).unwrap().text();
    assert!(said.contains("would be published: 32 files"), "{said}");
}
