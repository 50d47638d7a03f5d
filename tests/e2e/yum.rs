//! A real yum repository, used by a real dnf through the node.

use std::path::Path;

use instantmirror_testkit::process::TestDir;
use instantmirror_testkit::yum::{DnfClient, Repository};

use crate::world::{Master, Node};

#[test]
fn dnf_reads_metadata_and_downloads_through_the_node_and_sees_the_next_snapshot() {
    let dir = TestDir::new("e2e-yum").unwrap();
    let repository = Repository::build(&dir.folder("repository").unwrap()).unwrap();
    let mut master = Master::new(&dir, &[("yum", repository.root())]);
    let first = master.publish("yum");
    master.serve();
    let node = Node::start(&dir, &master, &["yum"]);
    node.wait_for("yum", &first);

    let client = DnfClient::new(&dir.folder("client").unwrap(), &format!("{}/pub/yum", node.url())).unwrap();
    client.makecache().unwrap();
    let old = client.available("im-alpha").unwrap().expect("the package is there");
    let old_file = std::fs::read(repository.package_file("im-alpha").unwrap()).unwrap();
    assert_eq!(client.download("im-alpha").unwrap(), old_file);

    repository.publish("im-alpha", "9.9").unwrap();
    let second = master.publish("yum");
    node.wait_for("yum", &second);
    client.makecache().unwrap();
    assert_eq!(client.available("im-alpha").unwrap().as_deref(), Some("9.9-1"));
    assert_eq!(
        client.download("im-alpha").unwrap(),
        std::fs::read(repository.package_file("im-alpha").unwrap()).unwrap()
    );

    let synced = client.reposync(&dir.folder("synced").unwrap()).unwrap();
    let path = repository.package_file("im-alpha").unwrap();
    let path = path.strip_prefix(repository.root()).unwrap();
    for file in [path, Path::new("repodata/repomd.xml")] {
        let (theirs, ours) = (
            std::fs::read(synced.join(file)),
            std::fs::read(repository.root().join(file)),
        );
        assert_eq!(theirs.unwrap(), ours.unwrap(), "{}", file.display());
    }

    client.set_source(&format!("{}/yum/snap/{first}", node.url())).unwrap();
    client.makecache().unwrap();
    assert_eq!(client.available("im-alpha").unwrap(), Some(old));
    assert_eq!(client.download("im-alpha").unwrap(), old_file);
}
