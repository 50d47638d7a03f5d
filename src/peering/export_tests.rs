//! Torrents as they are built, read as pieces.

use instantmirror_core::catalog::build_directory;
use instantmirror_core::conformance::WriteNow as _;
use instantmirror_core::memory::{MemoryCache, MemoryStore};
use instantmirror_core::metainfo::{Content, Limits, SHA1_BYTES, Tail, TorrentFile, build};
use instantmirror_core::outboard::ObjectHasher;
use instantmirror_core::traits::ObjectCache as _;
use instantmirror_core::{Entry, FileMeta, Kind, Meta, Name, Root, SnapshotId, Timestamp};

use super::*;

const PIECE: usize = 16 * 1024;

/// Files in the root of a snapshot, a torrent of them, and a cache that holds them.
struct World {
    nodes: MemoryStore,
    snapshot: Snapshot,
    torrent: Metainfo,
    objects: Arc<dyn Objects>,
}

/// No byte of it is a zero, as those of pads are.
fn content(size: usize) -> Vec<u8> {
    (0..size).map(|at| u8::try_from(at % 251).unwrap() + 1).collect()
}

/// `torrent` and `catalog` are names and sizes, in order.
fn world(torrent: &[(&str, usize)], catalog: &[(&str, usize)]) -> World {
    let (nodes, objects) = (MemoryStore::new(), MemoryCache::new(None));
    let entries: Vec<Entry> = catalog
        .iter()
        .map(|(name, size)| Entry {
            name: Name::new(name).unwrap(),
            meta: Meta {
                mode: 0o644,
                mtime: 0,
                kind: Kind::File(keep(&objects, &content(*size))),
            },
        })
        .collect();
    let top = build_directory(&entries, &mut |node| nodes.insert_node(node)).unwrap();
    let snapshot = Snapshot {
        id: SnapshotId::from_random([1; 16]),
        repository: "r".parse().unwrap(),
        created: Timestamp::from_millis(0),
        parent: None,
        note: String::new(),
        root: Root {
            node: top.node,
            mode: 0o755,
            mtime: 0,
            files: top.files,
            bytes: top.bytes,
        },
    };
    World {
        nodes,
        snapshot,
        torrent: torrent_of(torrent),
        objects: Arc::new(objects),
    }
}

/// Puts content into a cache.
fn keep(objects: &MemoryCache, bytes: &[u8]) -> FileMeta {
    let mut hasher = ObjectHasher::new();
    hasher.update(bytes);
    let outboard = hasher.finish();
    let (object, size) = (outboard.object(), bytes.len() as u64);
    let is_new = size > 0 && futures_executor::block_on(objects.open(&object)).unwrap().is_none();
    if is_new {
        let fill = futures_executor::block_on(objects.fill(&object, size)).unwrap();
        fill.set_outboard_now(outboard).unwrap();
        fill.write_now(0, bytes).unwrap();
        futures_executor::block_on(fill.finish()).unwrap();
    }
    FileMeta {
        size,
        object,
        first_piece: 0,
        link_group: None,
    }
}

fn torrent_of(files: &[(&str, usize)]) -> Metainfo {
    let hash = [7; SHA1_BYTES];
    let files: Vec<TorrentFile> = files
        .iter()
        .map(|(name, size)| TorrentFile {
            path: RepoPath::new(name).unwrap(),
            content: Content {
                size: *size as u64,
                full_pieces: hash.repeat(size / PIECE).into(),
                tail: (size % PIECE > 0).then_some(Tail {
                    padded: hash,
                    bare: hash,
                }),
            },
        })
        .collect();
    let info = build(&Name::new("t").unwrap(), PIECE as u64, &files, &Limits::default()).unwrap();
    Metainfo::parse_bare(&info).unwrap()
}

impl World {
    fn pieces(&self) -> Result<ExportPieces, ExportError> {
        let objects = Arc::clone(&self.objects);
        ExportPieces::new(&self.torrent, &self.nodes, &self.snapshot, &RepoPath::ROOT, objects)
    }
}

const FILES: [(&str, usize); 6] = [
    ("a", 2 * PIECE + 5),
    ("b", PIECE),
    ("c", 0),
    ("d", 1),
    ("e", 2 * PIECE + 5),
    ("f", PIECE + 100),
];

#[tokio::test]
async fn every_byte_of_the_torrent_is_read_as_its_file_or_as_a_zero() {
    let pieces = world(&FILES, &FILES).pieces().unwrap();
    let mut whole = Vec::new();
    for (name, size) in FILES {
        whole.extend(content(size));
        if name != "f" {
            whole.resize(whole.len().next_multiple_of(PIECE), 0);
        }
    }
    assert_eq!(pieces.extent(), (10, whole.len() as u64));
    // In steps that fit neither pieces nor files.
    for step in [1_usize, 5, 100, PIECE - 1, PIECE] {
        for piece in 0..10_u32 {
            let start = piece as usize * PIECE;
            let end = (start + PIECE).min(whole.len());
            let mut at = start;
            // Of small steps those around the ends of files.
            let near = |at: usize| step > 5 || at - start < 10 || (at - start) % 99 < 9 || end - at < 10;
            while at < end {
                let length = step.min(end - at);
                if near(at) {
                    let (begin, count) = (u32::try_from(at - start).unwrap(), u32::try_from(length).unwrap());
                    let read = pieces.read(piece, begin, count).await.unwrap();
                    assert!(read == whole[at..at + length], "{length} bytes at {begin} of {piece}");
                }
                at += length;
            }
        }
    }
    for (piece, begin, length) in [(9, 0, 101), (9, 100, 1), (10, 0, 1), (0, 1, PIECE), (u32::MAX, 0, 1)] {
        let refused = pieces.read(piece, begin, u32::try_from(length).unwrap()).await;
        assert!(refused.is_err(), "{length} bytes at {begin} of {piece}");
    }
}

#[test]
fn the_same_content_at_two_paths_has_two_places() {
    let world = world(&FILES, &FILES);
    let pieces = world.pieces().unwrap();
    let twice = ObjectId::of(&content(2 * PIECE + 5));
    let firsts: Vec<u32> = pieces.places_of(&twice).iter().map(|place| place.first_piece).collect();
    assert_eq!(firsts, [0, 5]);
    assert_eq!(pieces.place_of(&twice).unwrap().first_piece, 0);
    let once = ObjectId::of(&content(1));
    assert_eq!(
        pieces.places_of(&once),
        [ObjectPlace {
            first_piece: 4,
            size: 1
        }]
    );
    assert!(
        pieces.places_of(&ObjectId::of(b"")).is_empty(),
        "empty files have no pieces"
    );
    assert_eq!(pieces.objects().count(), 4);
}

#[test]
fn what_is_not_of_the_snapshot_is_refused() {
    let refused = |torrent: &[(&str, usize)]| world(torrent, &FILES).pieces().unwrap_err().to_string();
    assert_eq!(refused(&[("x", 1)]), "the catalog has no file '/x'");
    assert_eq!(refused(&[("d", 1), ("x", 0)]), "the catalog has no file '/x'");
    assert_eq!(
        refused(&[("b", PIECE), ("d", 2)]),
        "'/d' has 2 bytes in it, and 1 in the catalog"
    );
    // As others make them: one file after the other.
    let mut shared = world(&[("b", PIECE), ("d", 1)], &FILES);
    shared.torrent.files[1].offset -= 1;
    let error = shared.pieces().unwrap_err().to_string();
    assert!(error.starts_with("'/d' does not begin with a piece"), "{error}");
}
