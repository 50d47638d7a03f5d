//! Torrents of ours, of others, and of people who mean harm.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::catalog::{Catalog, build_directory};
use crate::memory::MemoryStore;
use crate::{Directory, Entry, FileMeta, Kind, Meta, Name, ObjectId, RepoPath};

const PIECE: usize = 64;

fn sha1(bytes: &[u8]) -> [u8; 20] {
    Sha1::digest(bytes).into()
}

fn content(bytes: &[u8]) -> Content {
    let (full, rest) = bytes.as_chunks::<PIECE>();
    let mut padded = [0; PIECE];
    padded[..rest.len()].copy_from_slice(rest);
    Content {
        size: bytes.len() as u64,
        full_pieces: full.iter().flat_map(|piece| sha1(piece)).collect(),
        tail: (!rest.is_empty()).then(|| Tail {
            padded: sha1(&padded),
            bare: sha1(rest),
        }),
    }
}

fn file(path: &str, bytes: &[u8]) -> TorrentFile {
    TorrentFile {
        path: RepoPath::new(path).unwrap(),
        content: content(bytes),
    }
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn built(files: &[TorrentFile]) -> Vec<u8> {
    build(&name("n"), PIECE as u64, files, &Limits::default()).unwrap()
}

/// The SHA-1 of every piece of a torrent's files laid end to end, as a client computes them.
fn hash_laid_out(torrent: &Metainfo, contents: &BTreeMap<String, Vec<u8>>) -> Vec<u8> {
    let mut stream = Vec::new();
    for file in &torrent.files {
        match file.kind {
            FileKind::Pad => stream.resize(stream.len() + usize::try_from(file.size).unwrap(), 0),
            FileKind::Content => stream.extend_from_slice(&contents[file.path.as_str()]),
        }
    }
    stream
        .chunks(usize::try_from(torrent.piece_bytes).unwrap())
        .flat_map(sha1)
        .collect()
}

#[test]
fn a_single_file_is_what_bep_3_says() {
    let info = built(&[file("", b"hello")]);
    let mut expected = b"d6:lengthi5e4:name1:n12:piece lengthi64e6:pieces20:".to_vec();
    expected.extend_from_slice(&sha1(b"hello"));
    expected.push(b'e');
    assert_eq!(info, expected);
    assert_eq!(InfoHash::of(&info).as_bytes(), &sha1(&expected));
}

#[test]
fn every_file_but_the_last_is_followed_by_a_pad() {
    let info = built(&[
        file("a/x", &[1; 70]),
        file("b", &[2; 64]),
        file("c", &[3; 1]),
        file("empty", b""),
    ]);
    let text = String::from_utf8_lossy(&info).into_owned();
    assert!(
        text.starts_with(
            "d5:filesld6:lengthi70e4:pathl1:a1:xeed4:attr1:p6:lengthi58e4:pathl4:.pad2:58ee\
         d6:lengthi64e4:pathl1:beed6:lengthi1e4:pathl1:ceed6:lengthi0e4:pathl5:emptyeee4:name1:n"
        ),
        "{text}"
    );
}

#[test]
fn no_two_files_of_a_torrent_have_one_path() {
    let files: Vec<_> = (0..200)
        .map(|n| file(&format!("{n:03}"), &vec![1; n % 3 + 1]))
        .collect();
    let torrent = Metainfo::parse_bare(&built(&files)).unwrap();
    let paths: BTreeMap<&str, u64> = torrent
        .files
        .iter()
        .map(|file| (file.path.as_str(), file.size))
        .collect();
    assert_eq!(paths.len(), torrent.files.len());
    for (path, size) in [(".pad/63", 63), (".pad/63.2", 63), (".pad/62", 62), (".pad/61.66", 61)] {
        assert_eq!(paths.get(path), Some(&size), "{path}");
    }
}

#[test]
fn pads_make_way_for_a_directory_of_that_name() {
    let info = built(&[file(".pad/7", b"mine"), file(".pad_", b"too"), file("z", b"z")]);
    let torrent = Metainfo::parse_bare(&info).unwrap();
    assert_eq!(torrent.files[1].path.as_str(), ".pad__/60");
    assert_eq!(pad_size(".pad__/60"), Some(60));
}

#[test]
fn what_is_beyond_a_limit_is_refused_by_its_name() {
    let files = [file("a", b"1"), file("b", b"2")];
    let none = Limits::NONE;
    for (limits, said) in [
        (
            Limits { files: 2, ..none },
            "3 files (with pad files), and clients cope with 2",
        ),
        (Limits { pieces: 1, ..none }, "2 pieces, and clients cope with 1"),
        (Limits { bytes: 100, ..none }, "bytes, and clients cope with 100"),
    ] {
        let error = build(&name("n"), 64, &files, &limits).unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
    }
    for (piece_bytes, files) in [
        (63, &files[..]),
        (1 << 27, &files),
        (64, &[]),
        (64, &[file("e", b"")]),
        (128, &[file("f", &[0; 64])]),
    ] {
        assert!(matches!(
            build(&name("n"), piece_bytes, files, &none),
            Err(MetainfoError::Field(_))
        ));
    }
}

#[test]
fn what_stands_outside_changes_no_info_hash() {
    let info = built(&[file("a", b"1")]);
    let bare = Outside::default().around(&info);
    let outside = Outside {
        trackers: vec!["http://t/announce".into(), "udp://u:1".into()],
        web_seeds: vec!["http://w/".into(), "https://v/".into()],
        comment: Some("from here".into()),
    };
    let full = outside.around(&info);
    assert!(Value::decode(&full, crate::bencode::Strictness::All).is_ok());
    let (bare, full) = (Metainfo::parse(&bare).unwrap(), Metainfo::parse(&full).unwrap());
    assert_eq!(bare.hash, full.hash);
    assert_eq!(bare.hash, InfoHash::of(&info));
    assert_eq!(full.outside, outside);
    assert_eq!(
        outside.magnet(full.hash, "a b"),
        format!(
            "magnet:?xt=urn:btih:{}&dn=a%20b&tr=http%3A%2F%2Ft%2Fannounce&tr=udp%3A%2F%2Fu%3A1&ws=http%3A%2F%2Fw%2F&ws=https%3A%2F%2Fv%2F",
            full.hash
        )
    );
    assert_eq!(full.hash.to_string().parse(), Ok(full.hash));
    assert!("x".repeat(40).parse::<InfoHash>().is_err());
}

fn info_of(files: &str, pieces: usize) -> Vec<u8> {
    let mut info = format!("d{files}4:name1:n12:piece lengthi64e6:pieces{}:", 20 * pieces).into_bytes();
    info.resize(info.len() + 20 * pieces, b'#');
    info.push(b'e');
    info
}

#[test]
fn torrents_of_others_are_read() {
    // No pads, keys out of order, an unknown key, a private one.
    let info = info_of(
        "5:filesld4:pathl1:a1:be6:lengthi60eed3:foo3:bar6:lengthi10e4:pathl1:ceee7:privatei1e",
        2,
    );
    let torrent = Metainfo::parse_bare(&info).unwrap();
    let files: Vec<_> = torrent
        .files
        .iter()
        .map(|file| (file.path.as_str(), file.size, file.offset))
        .collect();
    assert_eq!(files, [("a/b", 60, 0), ("c", 10, 60)]);
    assert!(torrent.is_private);
    assert_eq!((torrent.total_bytes, torrent.piece_count()), (70, 2));
    let single = Metainfo::parse_bare(&info_of("6:lengthi0e", 0)).unwrap();
    assert!(single.files[0].path.is_root());
    // Sizes of pads may repeat, and url-list may be one text.
    let mut whole = b"d4:info".to_vec();
    whole.extend(info_of(
        "5:filesld4:attr1:p6:lengthi4e4:pathl4:.pad1:4eed4:attr2:xp6:lengthi4e4:pathl4:.pad1:4eee",
        1,
    ));
    whole.extend(b"8:url-list9:http://x/e");
    let torrent = Metainfo::parse(&whole).unwrap();
    assert!(torrent.files.iter().all(|file| file.kind == FileKind::Pad));
    assert_eq!(torrent.outside.web_seeds, ["http://x/"]);
}

#[test]
fn hostile_torrents_are_refused_with_the_reason() {
    let one = |path: &str| format!("5:filesld6:lengthi1e4:pathl{path}eee");
    for (info, said) in [
        (info_of(&one("2:.."), 1), "'.' or '..'"),
        (info_of(&one("1:a2:..1:b"), 1), "'.' or '..'"),
        (info_of(&one("1:a3:b/c"), 1), "a slash"),
        (info_of(&one("0:"), 1), "empty"),
        (info_of(&one("3:a\0b"), 1), "control"),
        (info_of(&one(""), 1), "without path"),
        (info_of("5:filesle", 0), "empty"),
        (info_of("5:filesld6:lengthi-1e4:pathl1:aeee", 1), "'length'"),
        (
            info_of("5:filesld6:lengthi9223372036854775807e4:pathl1:aeee", 1),
            "add up",
        ),
        (
            info_of(
                "5:filesld6:lengthi4611686018427387904e4:pathl1:aeed6:lengthi4611686018427387904e4:pathl1:beee",
                1,
            ),
            "add up",
        ),
        (
            info_of("5:filesld6:lengthi1e4:pathl1:aeed6:lengthi1e4:pathl1:aeee", 1),
            "two files at 'a'",
        ),
        (
            info_of("5:filesld6:lengthi1e4:pathl1:aeed6:lengthi1e4:pathl1:a1:beee", 1),
            "'a' is a file and a directory",
        ),
        (info_of("5:filesld4:attr1:l6:lengthi0e4:pathl1:aeee", 0), "symlink"),
        (info_of("6:lengthi65e", 1), "not those of 65 bytes"),
        (info_of("6:lengthi64e", 2), "not those of 64 bytes"),
        (
            b"d6:lengthi1e4:name2:..12:piece lengthi64e6:pieces0:e".to_vec(),
            "'.' or '..'",
        ),
        (
            b"d6:lengthi1e4:name1:n12:piece lengthi0e6:pieces0:e".to_vec(),
            "piece length of 0",
        ),
        (
            b"d6:lengthi1e4:name1:n12:piece lengthi134217728e6:pieces0:e".to_vec(),
            "piece length",
        ),
        (b"d9:file treede4:name1:n12:piece lengthi64ee".to_vec(), "version 2"),
        (b"le".to_vec(), "no dictionary"),
        (b"i1".to_vec(), "no bencode"),
    ] {
        let error = Metainfo::parse_bare(&info).unwrap_err().to_string();
        assert!(error.contains(said), "{error} ({said})");
    }
    assert!(
        Metainfo::parse(b"d8:announce1:xe")
            .unwrap_err()
            .to_string()
            .contains("no info")
    );
}

prop_compose! {
    fn trees()(files in prop::collection::btree_map("[a-c]{1,2}(/[d-f]{1,2}){0,2}", prop::collection::vec(any::<u8>(), 0..200), 1..12))
        -> BTreeMap<String, Vec<u8>>
    {
        // No file inside a file.
        let names: Vec<String> = files.keys().cloned().collect();
        let is_above = |path: &str| names.iter().any(|name| path.starts_with(&format!("{name}/")));
        files.into_iter().filter(|(path, _)| !is_above(path)).collect()
    }
}

proptest! {
    /// What is built is read by the parser, and its pieces are those of the content as clients lay it out.
    #[test]
    fn what_is_built_is_read_and_its_pieces_are_true(files in trees()) {
        prop_assume!(files.values().any(|bytes| !bytes.is_empty()));
        let list: Vec<_> = files.iter().map(|(path, bytes)| file(path, bytes)).collect();
        let torrent = Metainfo::parse_bare(&built(&list)).unwrap();
        prop_assert_eq!(&torrent.pieces[..], &hash_laid_out(&torrent, &files)[..]);
        let kept: Vec<_> = torrent.files.iter().filter(|file| file.kind == FileKind::Content).collect();
        prop_assert_eq!(kept.len(), files.len());
        for (kept, (path, bytes)) in kept.into_iter().zip(&files) {
            prop_assert_eq!((kept.path.as_str(), kept.size), (path.as_str(), bytes.len() as u64));
            prop_assert!(kept.size == 0 || kept.offset % PIECE as u64 == 0);
        }
        let mut taken = std::collections::BTreeSet::new();
        for pad in torrent.files.iter().filter(|file| file.kind == FileKind::Pad) {
            prop_assert!(taken.insert(pad.path.as_str()), "{}", pad.path);
            prop_assert_eq!(pad_size(pad.path.as_str()), Some(pad.size));
        }
    }
}

/// A tree of files by path; their content is their name.
struct Tree {
    store: MemoryStore,
    root: Directory,
}

#[derive(Default)]
struct Folder {
    files: BTreeMap<String, u64>,
    folders: BTreeMap<String, Folder>,
}

impl Folder {
    fn write(&self, store: &MemoryStore) -> Directory {
        let mut entries: BTreeMap<Name, Kind> = BTreeMap::new();
        for (file, size) in &self.files {
            let object = ObjectId::of(format!("{file}{size}").as_bytes());
            let meta = FileMeta {
                size: *size,
                object,
                first_piece: 0,
                link_group: None,
            };
            entries.insert(name(file), Kind::File(meta));
        }
        for (folder, below) in &self.folders {
            entries.insert(name(folder), Kind::Directory(below.write(store)));
        }
        let entries: Vec<Entry> = entries
            .into_iter()
            .map(|(name, kind)| Entry {
                name,
                meta: Meta {
                    mode: 0o644,
                    mtime: 0,
                    kind,
                },
            })
            .collect();
        build_directory(&entries, &mut |node| store.insert_node(node)).unwrap()
    }
}

impl Tree {
    fn new(files: &BTreeMap<String, u64>) -> Self {
        let (store, mut top) = (MemoryStore::new(), Folder::default());
        for (path, size) in files {
            let mut folder = &mut top;
            let (above, file) = path.rsplit_once('/').unwrap_or(("", path));
            for part in above.split('/').filter(|part| !part.is_empty()) {
                folder = folder.folders.entry(part.to_owned()).or_default();
            }
            folder.files.insert(file.to_owned(), *size);
        }
        let root = top.write(&store);
        Self { store, root }
    }

    fn catalog(&self) -> Catalog<&MemoryStore> {
        let root = Meta {
            mode: 0o755,
            mtime: 0,
            kind: Kind::Directory(self.root),
        };
        Catalog::new(&self.store, root)
    }

    /// The files of each shard, with a size that tells one content from another.
    fn shards(&self, limits: &Limits) -> BTreeMap<String, Vec<(String, u64)>> {
        let catalog = self.catalog();
        let plan = shards::plan(&catalog, &RepoPath::ROOT, PIECE as u64, limits).unwrap();
        let files = |shard: &shards::Shard| {
            let files = shards::files(&catalog, &RepoPath::ROOT, &shard.roots).unwrap();
            files
                .into_iter()
                .map(|(path, file)| (path.as_str().to_owned(), file.size))
                .collect()
        };
        let all: BTreeMap<_, _> = plan
            .shards
            .iter()
            .map(|shard| (shard.label.clone(), files(shard)))
            .collect();
        assert_eq!(all.len(), plan.shards.len(), "labels are unique");
        all
    }
}

fn archive() -> BTreeMap<String, u64> {
    let mut files = BTreeMap::new();
    for letter in 'a'..='z' {
        for package in 0..20 {
            files.insert(
                format!("pool/{letter}/{letter}{package}/{letter}{package}.deb"),
                65 + package,
            );
        }
    }
    files.insert("dists/stable/Release".into(), 100);
    files
}

const SMALL: Limits = Limits {
    files: 100,
    ..Limits::NONE
};

#[test]
fn a_tree_that_fits_is_one_shard_and_a_larger_one_is_cut_whole() {
    let files = archive();
    let tree = Tree::new(&files);
    let whole = tree.shards(&Limits::default());
    assert_eq!(whole.keys().collect::<Vec<_>>(), [""]);
    let shards = tree.shards(&SMALL);
    let mut all: Vec<_> = shards.values().flatten().cloned().collect();
    all.sort();
    assert_eq!(
        all,
        files.into_iter().collect::<Vec<_>>(),
        "every file is in exactly one shard"
    );
    for (label, files) in &shards {
        assert!(2 * files.len() <= 100, "{label}");
    }
    // Two letters fit into one, and they are neighbours.
    assert_eq!(shards["pool+b"].len(), 40);
    assert!(
        shards["pool+b"]
            .iter()
            .all(|(path, _)| path.starts_with("pool/b") || path.starts_with("pool/c"))
    );
    assert!(shards.contains_key("dists"));
}

#[test]
fn a_change_leaves_the_other_shards_as_they_are() {
    let before = Tree::new(&archive()).shards(&SMALL);
    let mut files = archive();
    // One changes, one is new, one directory grows beyond the limit, one goes.
    files.insert("pool/m/m3/m3.deb".into(), 1000);
    files.insert("pool/x/x99/x99.deb".into(), 3);
    (0..100).for_each(|n| _ = files.insert(format!("pool/e/big/{n:03}"), 3));
    files.retain(|path, _| !path.starts_with("dists/"));
    files.insert("News/today".into(), 7);
    let after = Tree::new(&files).shards(&SMALL);
    let same = before
        .iter()
        .filter(|(label, files)| after.get(*label) == Some(files))
        .count();
    for (label, files) in &before {
        let is_touched = files.iter().any(|(path, _)| {
            ["pool/m/", "pool/x/", "pool/e/", "dists/"]
                .iter()
                .any(|part| path.starts_with(part))
        });
        assert!(is_touched || after.get(label) == Some(files), "{label}");
    }
    assert!(same >= 9, "{same} of {}", before.len());
}

#[test]
fn a_file_too_large_for_any_torrent_is_named() {
    let files = [("a/b".to_owned(), 10_000_u64), ("a/c".to_owned(), 3)].into();
    let tree = Tree::new(&files);
    let limits = Limits {
        pieces: 100,
        ..Limits::NONE
    };
    let error = shards::plan(&tree.catalog(), &RepoPath::ROOT, 64, &limits).unwrap_err();
    let said = "'/a/b' alone is too large for a torrent: it would have 157 pieces";
    assert!(error.to_string().starts_with(said), "{error}");
    let missing = RepoPath::new("x").unwrap();
    assert!(matches!(
        shards::plan(&tree.catalog(), &missing, 64, &limits),
        Err(shards::ShardError::NotFound(_))
    ));
}

/// Shards fit: what planning says they cost is at least what building them comes to.
#[test]
fn costs_are_never_too_low() {
    let files: BTreeMap<String, u64> = (0..200)
        .map(|n| (format!("{}/{n}", "d".repeat(n % 50 + 1)), n as u64 * 7))
        .collect();
    let tree = Tree::new(&files);
    let limits = Limits {
        bytes: 4000,
        ..Limits::NONE
    };
    for (label, files) in tree.shards(&limits) {
        let files: Vec<_> = files
            .iter()
            .map(|(path, size)| file(path, &vec![1; usize::try_from(*size).unwrap()]))
            .collect();
        let info = build(&name("n"), PIECE as u64, &files, &Limits::NONE).unwrap();
        assert!(info.len() <= 4000, "{label}: {}", info.len());
    }
}
