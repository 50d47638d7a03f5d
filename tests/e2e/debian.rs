//! A real Debian archive, used by a real apt through the node.

use instantmirror_testkit::debian::{AptClient, Archive};
use instantmirror_testkit::process::TestDir;

use crate::world::{Master, Node};

#[test]
fn apt_updates_and_downloads_through_the_node_and_sees_the_next_snapshot() {
    let dir = TestDir::new("e2e-debian").unwrap();
    let archive = Archive::build(&dir.folder("archive").unwrap()).unwrap();
    let mut master = Master::new(&dir, &[("debian", archive.root())]);
    let first = master.publish("debian");
    master.serve();
    let node = Node::start(&dir, &master, &["debian"]);
    node.wait_for("debian", &first);

    let client = AptClient::new(&dir.folder("client").unwrap(), &format!("{}/pub/debian", node.url())).unwrap();
    client.update().unwrap();
    let old = archive.version("hello").unwrap();
    assert_eq!(client.candidate("hello").unwrap().as_deref(), Some(old.as_str()));
    let old_file = std::fs::read(archive.package_file("hello").unwrap()).unwrap();
    assert_eq!(client.download("hello").unwrap(), old_file);

    let new = archive.upgrade("hello").unwrap();
    let second = master.publish("debian");
    node.wait_for("debian", &second);
    client.update().unwrap();
    assert_eq!(client.candidate("hello").unwrap().as_deref(), Some(new.as_str()));
    assert_eq!(
        client.download("hello").unwrap(),
        std::fs::read(archive.package_file("hello").unwrap()).unwrap()
    );

    // The old snapshot's URL still gives the old archive, whole.
    let frozen = format!("{}/debian/snap/{first}", node.url());
    let client = AptClient::new(&dir.folder("frozen").unwrap(), &frozen).unwrap();
    client.update().unwrap();
    assert_eq!(client.candidate("hello").unwrap().as_deref(), Some(old.as_str()));
    assert_eq!(client.download("hello").unwrap(), old_file);
}
