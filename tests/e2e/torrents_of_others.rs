//! Torrents that other programs made of one tree, read by us, with libtorrent to say which info-hashes are right.

use std::collections::BTreeMap;
use std::path::Path;

use instantmirror::core::metainfo::{FileKind, Metainfo, MetainfoError};
use instantmirror_testkit::command::{clean_command, run};
use instantmirror_testkit::process::TestDir;
use instantmirror_testkit::tree::noise;

use crate::world::LIMIT;

/// Makes a torrent of a tree with libtorrent, and prints info-hashes of version 1 of torrents.
const LIBTORRENT: &str = "
import sys, libtorrent as lt
def make(flags, tree, above, out):
    storage = lt.file_storage()
    lt.add_files(storage, tree)
    made = lt.create_torrent(storage, 16384, flags=flags)
    made.add_tracker('http://tracker.invalid/announce')
    made.add_url_seed('http://seed.invalid/')
    made.set_comment('a comment')
    lt.set_piece_hashes(made, above)
    open(out, 'wb').write(lt.bencode(made.generate()))
kinds = lt.create_torrent
tree, above, out = sys.argv[1:4]
make(kinds.v1_only, tree, above, out + '/v1.torrent')
make(kinds.v1_only | kinds.canonical_files, tree, above, out + '/pads.torrent')
make(0, tree, above, out + '/hybrid.torrent')
make(kinds.v2_only, tree, above, out + '/v2.torrent')
make(kinds.v1_only, tree + '/large', above + '/tree', out + '/single.torrent')
for name in sys.argv[4:]:
    print(name, lt.torrent_info(out + '/' + name).info_hashes().v1)
";

#[test]
fn torrents_that_other_programs_made_are_read_and_have_their_info_hash() {
    let dir = TestDir::new("e2e-torrents-of-others").unwrap();
    let (tree, out) = (dir.folder("tree").unwrap(), dir.folder("out").unwrap());
    let mut sizes = BTreeMap::new();
    for (path, size) in [
        ("large", 100_000_usize),
        ("a/b c/ü", 5),
        ("a/exact", 16384),
        ("z", 20_001),
    ] {
        std::fs::create_dir_all(tree.join(path).parent().unwrap()).unwrap();
        std::fs::write(tree.join(path), noise(size)).unwrap();
        sizes.insert(path.to_owned(), size as u64);
    }
    let make = |program: &str, arguments: &[&str], file: &str| {
        let mut command = clean_command(program);
        command.args(arguments).arg("-o").arg(out.join(file)).arg(&tree);
        run(&mut command, LIMIT).unwrap();
    };
    make(
        "mktorrent",
        &["-l", "15", "-p", "-a", "http://tracker.invalid/announce"],
        "mktorrent.torrent",
    );
    make(
        "transmission-create",
        &["-t", "http://tracker.invalid/announce"],
        "transmission.torrent",
    );
    let readable =
        ["mktorrent", "transmission", "v1", "pads", "hybrid", "single"].map(|name| format!("{name}.torrent"));
    let mut command = clean_command("/usr/bin/python3");
    command
        .args(["-c", LIBTORRENT])
        .arg(&tree)
        .arg(dir.path())
        .arg(&out)
        .args(&readable);
    let said = run(&mut command, LIMIT).unwrap().text();
    let hashes: BTreeMap<&str, &str> = said.lines().filter_map(|line| line.split_once(' ')).collect();
    assert_eq!(hashes.len(), readable.len(), "{said}");

    let read = |file: &Path| Metainfo::parse(&std::fs::read(file).unwrap());
    for name in &readable {
        let torrent = read(&out.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(torrent.hash.to_string(), hashes[name.as_str()], "{name}");
        assert_eq!(torrent.outside.trackers, ["http://tracker.invalid/announce"], "{name}");
        let content = torrent.files.iter().filter(|file| file.kind == FileKind::Content);
        let content: BTreeMap<_, _> = content.map(|file| (file.path.as_str().to_owned(), file.size)).collect();
        if name == "single.torrent" {
            assert_eq!(content, [(String::new(), 100_000)].into());
            assert_eq!(torrent.name.as_str(), "large");
        } else {
            assert_eq!(content, sizes, "{name}");
            assert_eq!(torrent.name.as_str(), "tree");
        }
        assert_eq!(torrent.is_private, name == "mktorrent.torrent", "{name}");
        let has_pads = torrent.files.iter().any(|file| file.kind == FileKind::Pad);
        assert_eq!(has_pads, name == "pads.torrent" || name == "hybrid.torrent", "{name}");
    }
    let version_2 = read(&out.join("v2.torrent")).unwrap_err();
    assert!(
        matches!(&version_2, MetainfoError::Field(text) if text.contains("version 2")),
        "{version_2}"
    );
}
