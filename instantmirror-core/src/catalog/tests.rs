//! Catalogs against simple models, and against bytes that lie.

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;
use proptest::prelude::*;

use super::layout::HEADER_BYTES;
use super::*;
use crate::entry::{COUNT_MAX, Entry, FileMeta, Kind, MTIME_RANGE, Meta, SIZE_MAX};
use crate::memory::MemoryStore;
use crate::{Directory, Name, ObjectId, RepoPath};

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn file(text: &str, content: &[u8]) -> Entry {
    let size = content.len() as u64;
    let first_piece = if size == 0 { 0 } else { 7 };
    let file = FileMeta {
        size,
        object: ObjectId::of(content),
        first_piece,
        link_group: None,
    };
    Entry {
        name: name(text),
        meta: Meta {
            mode: 0o644,
            mtime: 1_700_000_000,
            kind: Kind::File(file),
        },
    }
}

fn directory(text: &str, directory: Directory) -> Entry {
    Entry {
        name: name(text),
        meta: Meta {
            mode: 0o755,
            mtime: 0,
            kind: Kind::Directory(directory),
        },
    }
}

fn symlink(text: &str, target: &str) -> Entry {
    Entry {
        name: name(text),
        meta: Meta {
            mode: 0o777,
            mtime: 0,
            kind: Kind::Symlink(target.into()),
        },
    }
}

fn root(directory: Directory) -> Meta {
    Meta {
        mode: 0o755,
        mtime: 0,
        kind: Kind::Directory(directory),
    }
}

fn build(store: &MemoryStore, entries: &[Entry]) -> Directory {
    build_directory(entries, &mut |node| store.insert_node(node)).unwrap()
}

fn numbered(count: usize) -> Vec<Entry> {
    (0..count)
        .map(|i| file(&format!("package-{i:06}.rpm"), &i.to_le_bytes()))
        .collect()
}

fn all_nodes(store: &MemoryStore, root: NodeId) -> HashSet<NodeId> {
    Delta::new(store, None, root).map(|node| node.unwrap().id()).collect()
}

fn any_name() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9%#é. ]{1,12}".prop_filter("dots", |text| text != "." && text != "..")
}

fn any_meta() -> impl Strategy<Value = Meta> {
    let kind = prop_oneof![
        (
            1..=SIZE_MAX / 4096,
            any::<[u8; 32]>(),
            0..=COUNT_MAX,
            any::<Option<u64>>()
        )
            .prop_map(|(size, id, piece, group)| {
                Kind::File(FileMeta {
                    size,
                    object: ObjectId::from_bytes(id),
                    first_piece: piece,
                    link_group: group,
                })
            }),
        Just(Kind::File(FileMeta {
            size: 0,
            object: ObjectId::of(b""),
            first_piece: 0,
            link_group: None
        })),
        (any::<[u8; 32]>(), 0..1u64 << 20, 0..1u64 << 30).prop_map(|(id, files, bytes)| Kind::Directory(Directory {
            node: NodeId::from_bytes(id),
            files,
            bytes
        })),
        "[a-z./]{1,40}".prop_map(|target| Kind::Symlink(target.into())),
    ];
    (0u16..=0o7777, MTIME_RANGE, kind).prop_map(|(mode, mtime, kind)| Meta { mode, mtime, kind })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_built_is_found_and_listed(model in prop::collection::btree_map(any_name(), any_meta(), 0..700)) {
        let model: BTreeMap<String, Meta> = model;
        let entries: Vec<_> =
            model.iter().map(|(text, meta)| Entry { name: name(text), meta: meta.clone() }).collect();
        let store = MemoryStore::new();
        let top = build(&store, &entries);
        let catalog = Catalog::new(&store, root(top));
        for entry in &entries {
            prop_assert_eq!(catalog.entry(&top, entry.name.as_str()).unwrap(), Some(entry.meta.clone()));
        }
        for absent in ["", "\u{10ffff}", "nothing like it"] {
            prop_assert_eq!(catalog.entry(&top, absent).unwrap(), None);
        }
        let listed: Vec<_> = catalog.list(&top, None).map(Result::unwrap).collect();
        prop_assert_eq!(&listed, &entries);
        if let Some(middle) = entries.get(entries.len() / 2) {
            let rest: Vec<_> = catalog.list(&top, Some(&middle.name)).map(Result::unwrap).collect();
            prop_assert_eq!(&rest[..], &entries[entries.len() / 2 + 1..]);
        }
        // Every node decodes from its bytes alone, and no byte can be changed without notice.
        for id in all_nodes_of_directory(&store, top.node) {
            let bytes = store.node(&id).unwrap().unwrap();
            prop_assert!(bytes.len() <= NODE_BYTES_MAX);
            CatalogNode::decode(id, bytes).unwrap();
        }
    }

    /// Whatever the bytes are: an error or a node that can be read, never a panic, and what decodes is canonical.
    #[test]
    fn mutated_nodes_are_refused_or_consistent(
        count in 0usize..40, at in any::<prop::sample::Index>(), value in any::<u8>(), cut in any::<bool>(),
    ) {
        let mut nodes = Vec::new();
        let mut entries = numbered(count);
        entries.push(symlink("symlink", "target"));
        build_directory(&entries, &mut |node| nodes.push(node)).unwrap();
        let mut bytes = nodes[0].bytes().to_vec();
        let i = at.index(bytes.len());
        if cut { bytes.truncate(i) } else { bytes[i] = value }
        let id = NodeId::of(&bytes);
        if let Ok(node) = CatalogNode::open(id, Bytes::from(bytes.clone())) && !node.is_index() {
            (0..node.len()).for_each(|i| { let _ = (node.entry(i), node.name_bytes(i)); });
        }
        if let Ok(node) = CatalogNode::decode(id, Bytes::from(bytes)) {
            let entries: Vec<_> = (0..node.len()).map(|i| node.entry(i).unwrap()).collect();
            let mut again = Vec::new();
            build_directory(&entries, &mut |node| again.push(node)).unwrap();
            prop_assert_eq!(again[0].bytes(), node.bytes(), "two encodings of one directory");
        }
    }

    #[test]
    fn delta_is_the_set_difference(
        before in prop::collection::btree_set(0usize..3000, 0..2500),
        changes in prop::collection::btree_set(0usize..3000, 0..20),
    ) {
        let store = MemoryStore::new();
        let entries = |set: &std::collections::BTreeSet<usize>| -> Vec<Entry> {
            set.iter().map(|i| file(&format!("p{i:05}"), &i.to_le_bytes())).collect()
        };
        let after = before.symmetric_difference(&changes).copied().collect();
        let (have, want) = (build(&store, &entries(&before)), build(&store, &entries(&after)));
        let missing: HashSet<_> = Delta::new(&store, Some(have.node), want.node).map(|node| node.unwrap().id()).collect();
        let expected: HashSet<_> =
            all_nodes(&store, want.node).difference(&all_nodes(&store, have.node)).copied().collect();
        prop_assert_eq!(missing, expected);
    }
}

fn all_nodes_of_directory(store: &MemoryStore, top: NodeId) -> Vec<NodeId> {
    let (mut ids, mut open) = (Vec::new(), vec![top]);
    while let Some(id) = open.pop() {
        let node = CatalogNode::open(id, store.node(&id).unwrap().unwrap()).unwrap();
        if node.is_index() {
            open.extend((0..node.len()).map(|i| node.child(i).node));
        }
        ids.push(id);
    }
    ids
}

#[test]
fn a_change_in_a_huge_directory_rewrites_a_few_kilobytes() {
    let store = MemoryStore::new();
    let mut entries = numbered(150_000);
    let before = build(&store, &entries);
    assert_eq!(before.files, 150_000);
    for (what, edit) in [
        (
            "change",
            Box::new(|e: &mut Vec<Entry>| e[75_000] = file("package-075000.rpm", b"new"))
                as Box<dyn Fn(&mut Vec<Entry>)>,
        ),
        (
            "insert",
            Box::new(|e| e.insert(10, file("package-000009a.rpm", b"new"))),
        ),
        ("remove", Box::new(|e| drop(e.remove(149_000)))),
        ("append", Box::new(|e| e.push(file("zzz", b"new")))),
    ] {
        edit(&mut entries);
        let after = build(&store, &entries);
        let bytes: usize = Delta::new(&store, Some(before.node), after.node)
            .map(|n| n.unwrap().bytes().len())
            .sum();
        assert!(bytes < 120_000, "{what}: {bytes} bytes");
        entries = numbered(150_000);
    }
}

#[test]
fn small_directories_are_one_leaf_and_large_leaves_have_their_mean() {
    for (count, leaves) in [(0, 1..=1), (1, 1..=1), (128, 1..=1), (12_800, 70..=140)] {
        let mut nodes = Vec::new();
        build_directory(&numbered(count), &mut |node| nodes.push(node)).unwrap();
        let found = nodes.iter().filter(|node| !node.is_index()).count();
        assert!(leaves.contains(&found), "{count} entries: {found} leaves");
        assert!(
            nodes
                .iter()
                .all(|node| node.is_index() || node.len() <= LEAF_ENTRIES_MAX)
        );
    }
}

#[test]
fn long_names_and_targets_cut_a_leaf_before_it_overflows() {
    let store = MemoryStore::new();
    let long = |i: usize| symlink(&format!("{i:0>255}"), &"t".repeat(4095));
    let entries: Vec<_> = (0..100).map(long).collect();
    let top = build(&store, &entries);
    let listed: Vec<_> = Catalog::new(&store, root(top))
        .list(&top, None)
        .map(Result::unwrap)
        .collect();
    assert_eq!(listed, entries);
}

#[test]
fn entries_out_of_order_or_range_are_refused() {
    let refused = |entries: &[Entry]| build_directory(entries, &mut |_| ()).unwrap_err();
    assert!(matches!(
        refused(&[file("b", b""), file("a", b"")]),
        CatalogError::Order(_)
    ));
    assert!(matches!(
        refused(&[file("a", b""), file("a", b"")]),
        CatalogError::Order(_)
    ));
    let mut huge = file("a", b"x");
    if let Kind::File(meta) = &mut huge.meta.kind {
        meta.size = SIZE_MAX + 1;
    }
    assert!(matches!(refused(&[huge]), CatalogError::Range { .. }));
    let late = Entry {
        meta: Meta {
            mtime: MTIME_RANGE.end() + 1,
            ..file("a", b"").meta
        },
        ..file("a", b"")
    };
    assert!(matches!(refused(&[late]), CatalogError::Range { .. }));
}

#[test]
fn symlinks_resolve_inside_the_tree_only() {
    let store = MemoryStore::new();
    let pool = build(
        &store,
        &[symlink("out", "../../etc"), symlink("up", "../a"), file("x", b"x")],
    );
    let top = build(
        &store,
        &[
            symlink("a", "pool/x"),
            symlink("abs", "/pool/x"),
            symlink("dir", "pool/"),
            symlink("loop", "loop2"),
            symlink("loop2", "./loop"),
            directory("pool", pool),
            symlink("through", "a/x"),
        ],
    );
    let catalog = Catalog::new(&store, root(top));
    let resolve = |path: &str| catalog.resolve(&RepoPath::new(path).unwrap()).unwrap();
    let found = |path: &str| match resolve(path) {
        Resolution::Found(real, _) => real.to_string(),
        other => format!("{other:?}"),
    };
    for (path, real) in [
        ("", ""),
        ("a", "pool/x"),
        ("pool/up", "pool/x"),
        ("dir", "pool"),
        ("dir/x", "pool/x"),
        ("dir/up", "pool/x"),
        ("abs", "NotFound"),
        ("pool/out", "NotFound"),
        ("through", "NotFound"),
        ("a/x", "NotFound"),
        ("loop", "Loop"),
    ] {
        assert_eq!(found(path), real, "{path}");
    }
    assert!(matches!(
        catalog.lookup(&RepoPath::new("a").unwrap()).unwrap().unwrap().kind,
        Kind::Symlink(_)
    ));
    assert_eq!(catalog.lookup(&RepoPath::new("dir/x").unwrap()).unwrap(), None);
}

#[test]
fn closure_finds_every_missing_node_and_every_lie() {
    let whole = MemoryStore::new();
    let sub = build(&whole, &numbered(2_000));
    let top = build(&whole, &[directory("pool", sub), file("z", b"z")]);
    let closure = check_closure(&whole, None, &top).unwrap();
    let ids = all_nodes(&whole, top.node);
    assert_eq!(closure.nodes, ids.len() as u64);
    for gone in &ids {
        let holed = MemoryStore::new();
        for id in ids.iter().filter(|id| *id != gone) {
            holed.insert_node(CatalogNode::open(*id, whole.node(id).unwrap().unwrap()).unwrap());
        }
        let error = check_closure(&holed, None, &top).unwrap_err();
        assert!(matches!(error, CatalogError::Missing(id) if id == *gone), "{error}");
    }
    let lying = [
        build(
            &whole,
            &[directory(
                "pool",
                Directory {
                    files: sub.files + 1,
                    ..sub
                },
            )],
        ),
        build(
            &whole,
            &[directory(
                "pool",
                Directory {
                    bytes: sub.bytes - 1,
                    ..sub
                },
            )],
        ),
    ];
    for top in lying {
        let error = check_closure(&whole, None, &top).unwrap_err();
        assert!(matches!(error, CatalogError::Inconsistent { .. }), "{error}");
    }
    let error = check_closure(&whole, None, &Directory { files: 1, ..top }).unwrap_err();
    assert!(matches!(error, CatalogError::Inconsistent { .. }), "{error}");
}

#[test]
fn a_delta_stream_is_never_taken_for_whole_when_it_is_cut() {
    let store = MemoryStore::new();
    let top = build(&store, &numbered(600));
    let mut stream = Vec::new();
    let nodes: Vec<_> = Delta::new(&store, None, top.node).map(Result::unwrap).collect();
    nodes
        .iter()
        .for_each(|node| frame::put_frame(&mut stream, node.bytes()));
    frame::put_end(&mut stream);
    for cut in (0..stream.len()).step_by(997).chain([stream.len() - 1, stream.len()]) {
        let mut decoder = frame::FrameDecoder::default();
        let mut seen = 0;
        for part in stream[..cut].chunks(1000) {
            decoder.push(part);
            while let Some(bytes) = decoder.next_frame().unwrap() {
                assert_eq!(&bytes, nodes[seen].bytes());
                seen += 1;
            }
        }
        assert_eq!(decoder.finish().is_ok(), cut == stream.len(), "cut at {cut}");
    }
    let mut decoder = frame::FrameDecoder::default();
    decoder.push(&u32::MAX.to_le_bytes());
    assert!(decoder.next_frame().is_err());
    let mut decoder = frame::FrameDecoder::default();
    decoder.push(&[0, 0, 0, 0, 1]);
    assert!(decoder.next_frame().is_err());
}

/// The vectors of docs/formats/catalog.md. They never change; a new format gets a new version.
#[test]
fn documented_vectors() {
    let vectors = include_str!("../../../docs/formats/vectors/catalog.txt");
    let built = [vec![], vec![file("hello", b"hello\n"), symlink("link", "hello")], {
        let mut linked = file("a", b"x");
        if let Kind::File(meta) = &mut linked.meta.kind {
            meta.link_group = Some(0x0102_0304_0506_0708);
        }
        vec![
            linked,
            directory(
                "sub",
                Directory {
                    node: NodeId::of(b"node"),
                    files: 3,
                    bytes: 1 << 40,
                },
            ),
        ]
    }];
    for (i, entries) in built.iter().enumerate() {
        let mut nodes = Vec::new();
        let top = build_directory(entries, &mut |node| nodes.push(node)).unwrap();
        let hex: String = nodes[0].bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        let expected = format!("leaf {i}\nid {}\nbytes {hex}\n", top.node);
        assert!(vectors.contains(&expected), "not in the vectors:\n{expected}");
    }
    let large = build_directory(&numbered(1_000), &mut |_| ()).unwrap();
    let expected = format!("numbered 1000\nid {}\n", large.node);
    assert!(vectors.contains(&expected), "not in the vectors:\n{expected}");
    assert_eq!(HEADER_BYTES, 16);
}

/// Files by path, to a content number; the directories follow from the paths.
type Model = BTreeMap<String, u8>;

fn build_model(store: &MemoryStore, model: &Model) -> Directory {
    let mut entries = Vec::new();
    let mut below: BTreeMap<&str, Model> = BTreeMap::new();
    for (path, content) in model {
        match path.split_once('/') {
            None => entries.push(file(path, &[*content])),
            Some((dir, rest)) => _ = below.entry(dir).or_default().insert(rest.to_owned(), *content),
        }
    }
    for (dir, model) in below {
        entries.push(directory(dir, build_model(store, &model)));
    }
    entries.sort_by(|one, other| one.name.cmp(&other.name));
    build(store, &entries)
}

fn content(meta: Option<&Meta>) -> Option<ObjectId> {
    meta.map(|meta| meta.as_file().unwrap().object)
}

proptest! {
    #[test]
    fn differences_are_what_two_models_differ_in(
        one in prop::collection::btree_map("d[a-c]/(e[a-b]/)?[a-d]|f[a-c]|g[a-b]/[0-9]{3}", any::<u8>(), 0..60),
        other in prop::collection::btree_map("d[a-c]/(e[a-b]/)?[a-d]|f[a-c]|g[a-b]/[0-9]{3}", any::<u8>(), 0..60),
        common in prop::collection::btree_map("h/[0-9]{4}", any::<u8>(), 0..300),
    ) {
        let store = MemoryStore::new();
        let with_common = |model: &Model| model.clone().into_iter().chain(common.clone()).collect::<Model>();
        let (one, other) = (with_common(&one), with_common(&other));
        let roots = (build_model(&store, &one).node, build_model(&store, &other).node);
        let mut found = BTreeMap::new();
        for difference in Differences::new(&store, Some(roots.0), roots.1) {
            let Difference { path, before, after } = difference.unwrap();
            let pair = (content(before.as_ref()), content(after.as_ref()));
            prop_assert!(found.insert(path.to_string(), pair).is_none(), "{path} is told twice");
        }
        let object = |model: &Model, path: &str| model.get(path).map(|content| ObjectId::of(&[*content]));
        let mut wanted = BTreeMap::new();
        for path in one.keys().chain(other.keys()) {
            let pair = (object(&one, path), object(&other, path));
            if pair.0 != pair.1 {
                wanted.insert(path.clone(), pair);
            }
        }
        prop_assert_eq!(found, wanted);
    }
}

#[test]
fn differences_read_only_what_differs_and_tell_of_what_changes_its_kind() {
    let store = MemoryStore::new();
    let mut entries = numbered(50_000);
    let before = build(&store, &entries);
    entries[777] = file("package-000777.rpm", b"changed");
    let kept = build(&store, &[file("kept", b"x")]);
    let after = build(&store, &entries);
    let counting = Counting(&store, std::sync::atomic::AtomicUsize::new(0));
    let found: Vec<_> = Differences::new(&counting, Some(before.node), after.node)
        .collect::<Result<_, _>>()
        .unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].path.as_str(), "package-000777.rpm");
    let read = counting.1.load(std::sync::atomic::Ordering::Relaxed);
    assert!(
        read < 60,
        "{read} nodes of {} were read",
        all_nodes(&store, after.node).len()
    );

    // A directory, then a symlink, then a file of the same name.
    let trees = [
        build(&store, &[directory("thing", kept)]),
        build(&store, &[symlink("thing", "kept")]),
        build(&store, &[file("thing", b"y")]),
    ];
    let paths = |one: usize, other: usize| -> Vec<String> {
        let found = Differences::new(&store, Some(trees[one].node), trees[other].node);
        let mut paths: Vec<_> = found.map(|found| found.unwrap().path.to_string()).collect();
        paths.sort();
        paths
    };
    assert_eq!(paths(0, 1), ["thing", "thing/kept"]);
    assert_eq!(paths(1, 2), ["thing"]);
    assert_eq!(paths(2, 0), ["thing", "thing/kept"]);
    assert!(paths(1, 1).is_empty());
    let lost = Differences::new(&store, Some(NodeId::from_bytes([9; 32])), after.node).collect::<Vec<_>>();
    assert!(matches!(lost[..], [Err(CatalogError::Missing(_))]), "{lost:?}");
}

struct Counting<'a>(&'a MemoryStore, std::sync::atomic::AtomicUsize);

impl NodeSource for Counting<'_> {
    fn node(&self, id: &NodeId) -> Result<Option<Bytes>, StoreError> {
        self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.0.node(id)
    }
}

#[test]
fn places_and_names_are_found_by_one_descent() {
    /// Counts how many nodes are read.
    struct Counting(MemoryStore, std::sync::atomic::AtomicUsize);
    impl NodeSource for Counting {
        fn node(&self, id: &crate::NodeId) -> Result<Option<Bytes>, crate::StoreError> {
            self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            self.0.node(id)
        }
    }
    let store = Counting(MemoryStore::default(), Default::default());
    for count in [0, 1, 128, 513, 30_000] {
        let entries = numbered(count);
        let top = build(&store.0, &entries);
        let catalog = Catalog::new(&store, root(top));
        let step = (count / 97).max(1);
        for (place, entry) in entries.iter().enumerate().step_by(step) {
            store.1.store(0, std::sync::atomic::Ordering::Relaxed);
            let found = catalog.position(&top, entry.name.as_str()).unwrap();
            assert_eq!(found, Some((place as u64, entry.meta.clone())));
            assert_eq!(catalog.entry_at(&top, place as u64).unwrap().as_ref(), Some(entry));
            assert!(
                store.1.load(std::sync::atomic::Ordering::Relaxed) <= 10,
                "{count} entries"
            );
            let rest = catalog.list_from(&top, place as u64).take(600);
            let rest: Vec<Entry> = rest.collect::<Result<_, _>>().unwrap();
            assert_eq!(rest, entries[place..(place + 600).min(count)]);
        }
        assert_eq!(catalog.position(&top, "zzz").unwrap(), None);
        assert_eq!(catalog.position(&top, "a").unwrap(), None);
        for place in [count as u64, count as u64 + 7, u64::MAX] {
            assert_eq!(catalog.entry_at(&top, place).unwrap(), None);
        }
    }
}
