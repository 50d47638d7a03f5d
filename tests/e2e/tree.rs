//! A large real tree with every name that breaks mirrors, fetched whole from the node and compared byte for byte.

use std::path::Path;

use instantmirror_testkit::compare::{self, Comparison};
use instantmirror_testkit::fetch::{aria2, aria2_takes, wget_tree};
use instantmirror_testkit::http::{self, encode_path};
use instantmirror_testkit::process::TestDir;
use instantmirror_testkit::tree::TreeSpec;
use std::os::unix::ffi::OsStrExt as _;

use crate::world::{LIMIT, Master, Node};

fn published(dir: &TestDir, spec: &TreeSpec) -> (Master, Node, String) {
    let source = dir.folder("source").unwrap();
    let facts = spec.build(&source).unwrap();
    let mut master = Master::new(dir, &[("tree", &source)]);
    let snapshot = master.publish("tree");
    let shown = master.run(&["snapshot", "show", "tree", "--json"]);
    let record: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(record["root"]["files"], facts.files, "{facts:?}");
    master.serve();
    let node = Node::start(dir, &master, &["tree"]);
    node.wait_for("tree", &snapshot);
    (master, node, snapshot)
}

#[test]
fn wget_mirrors_thousands_of_files_byte_for_byte() {
    let dir = TestDir::new("e2e-wget").unwrap();
    let (_master, node, snapshot) = published(&dir, &TreeSpec::large().for_wget());
    let copy = dir.folder("copy").unwrap();
    let fetched = wget_tree(&format!("{}/tree/snap/{snapshot}/", node.url()), &copy, LIMIT * 5).unwrap();
    let source = dir.path().join("source");
    let differences = Comparison::symlinks_followed().differences(&source, &copy).unwrap();
    assert!(
        differences.is_empty(),
        "{}\n{}",
        differences.join("\n"),
        fetched.transcript
    );
    let status = node.status();
    assert_eq!(status["fetch"]["corrupt"], 0);
    assert_eq!(status["fetch"]["failures"], 0);
}

#[test]
fn aria2_fetches_every_odd_name_byte_for_byte() {
    let dir = TestDir::new("e2e-aria2").unwrap();
    let (_master, node, _) = published(&dir, &TreeSpec::small());
    let (source, copy) = (dir.path().join("source"), dir.folder("copy").unwrap());
    let files = compare::files(&source).unwrap();
    let fetched: Vec<&Path> = files
        .iter()
        .map(AsRef::as_ref)
        .filter(|file| aria2_takes(file))
        .collect();
    aria2(
        &format!("{}/pub/tree/", node.url()),
        fetched.iter().copied(),
        &copy,
        LIMIT,
    )
    .unwrap();
    for file in &fetched {
        let (expected, found) = (
            std::fs::read(source.join(file)).unwrap(),
            std::fs::read(copy.join(file)).unwrap(),
        );
        assert!(expected == found, "{} differs", file.display());
    }
    // What aria2's list cannot name, a plain request can.
    for file in files.iter().filter(|file| !aria2_takes(file)) {
        let url = format!("{}/pub/tree/{}", node.url(), encode_path(file.as_os_str().as_bytes()));
        assert_eq!(
            http::get(&url).unwrap().body,
            std::fs::read(source.join(file)).unwrap(),
            "{}",
            file.display()
        );
    }
}

#[test]
fn hard_links_are_stored_once_and_unchanged_files_are_not_read_again() {
    let dir = TestDir::new("e2e-links").unwrap();
    let source = dir.folder("source").unwrap();
    std::fs::write(source.join("a"), vec![b'x'; 300_000]).unwrap();
    std::fs::hard_link(source.join("a"), source.join("b")).unwrap();
    let master = Master::new(&dir, &[("links", &source)]);
    let said = master.run(&["publish", "links"]).text();
    assert!(
        said.contains("2 files") && said.contains("1 new or changed file "),
        "{said}"
    );
    assert!(master.object_file(&vec![b'x'; 300_000]).is_file());
    // Old enough that the file system's clock leaves no doubt.
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    std::fs::File::open(source.join("a"))
        .unwrap()
        .set_modified(old)
        .unwrap();
    std::fs::write(source.join("c"), "new").unwrap();
    let said = master.run(&["publish", "links"]).text();
    assert!(said.contains("3 files"), "{said}");
    let said = master.run(&["publish", "links"]).text();
    assert!(said.contains("nothing has changed"), "{said}");
}
