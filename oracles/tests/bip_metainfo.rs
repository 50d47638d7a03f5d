//! Export torrents as `bip_metainfo` reads them, and its torrents as core reads them.
//!
//! Core builds torrents from stored digests. The oracle gets the content: pieces are cut and hashed anew, with the
//! oracle's own SHA-1, from the files and zeros that it finds in the torrent.

use bip_metainfo::{DirectAccessor, Metainfo as Theirs, MetainfoBuilder, PieceLength};
use bip_util::sha::ShaHash;
use bytes::Bytes;
use instantmirror_core::metainfo::{self, Content, FileKind, Limits, Metainfo, Outside, Tail, TorrentFile};
use instantmirror_core::{Name, RepoPath};

const PIECE_BYTES: usize = 1024;

fn sha1(bytes: &[u8]) -> [u8; 20] {
    let mut hash = [0; 20];
    hash.copy_from_slice(ShaHash::from_bytes(bytes).as_ref());
    hash
}

/// Bytes that differ from file to file.
fn bytes_of(size: usize, seed: usize) -> Vec<u8> {
    (0..size).map(|at| ((at * 31 + seed * 17) % 251) as u8).collect()
}

/// The digests of a file, as the scanner stores them.
fn digests(bytes: &[u8]) -> Content {
    let (full, rest) = bytes.as_chunks::<PIECE_BYTES>();
    let mut padded = rest.to_vec();
    padded.resize(PIECE_BYTES, 0);
    let full_pieces: Vec<u8> = full.iter().flat_map(|piece| sha1(piece)).collect();
    Content {
        size: bytes.len() as u64,
        full_pieces: Bytes::from(full_pieces),
        tail: (!rest.is_empty()).then(|| Tail {
            padded: sha1(&padded),
            bare: sha1(rest),
        }),
    }
}

/// Builds the torrent of these files with core and holds what the oracle reads in it against the content.
fn check(name: &str, files: &[(&str, Vec<u8>)]) {
    let listed: Vec<TorrentFile> = files
        .iter()
        .map(|(path, bytes)| TorrentFile {
            path: RepoPath::new(path).expect("a path"),
            content: digests(bytes),
        })
        .collect();
    let name = Name::new(name).expect("a name");
    let info = metainfo::build(&name, PIECE_BYTES as u64, &listed, &Limits::default()).expect("a torrent");
    let outside = Outside {
        trackers: vec![
            "http://tracker.example/announce".to_owned(),
            "udp://other.example:1".to_owned(),
        ],
        web_seeds: vec!["http://mirror.example/seed/".to_owned()],
        comment: Some("a comment".to_owned()),
    };
    let theirs = Theirs::from_bytes(outside.around(&info)).expect("the oracle reads the torrent");

    assert_eq!(theirs.main_tracker(), Some("http://tracker.example/announce"));
    assert_eq!(theirs.comment(), Some("a comment"));
    let read = theirs.info();
    assert_eq!(read.info_hash().as_ref(), metainfo::InfoHash::of(&info).as_bytes());
    assert_eq!(read.piece_length(), PIECE_BYTES as u64);
    assert_eq!(read.is_private(), None);

    let mut content = files.iter().filter(|(path, _)| !path.is_empty());
    let mut laid_out = Vec::new();
    match files {
        [("", bytes)] => {
            assert_eq!(read.directory(), None);
            let found: Vec<_> = read
                .files()
                .map(|file| (file.path().to_owned(), file.length()))
                .collect();
            assert_eq!(found, [(name.as_str().into(), bytes.len() as u64)]);
            laid_out.extend_from_slice(bytes);
        }
        _ => {
            assert_eq!(read.directory(), Some(name.as_str().as_ref()));
            for file in read.files() {
                let zeros = laid_out.len().next_multiple_of(PIECE_BYTES) - laid_out.len();
                if file.path().starts_with(".pad") {
                    assert_eq!(file.length(), zeros as u64, "{}", file.path().display());
                    laid_out.resize(laid_out.len() + zeros, 0);
                    continue;
                }
                let (path, bytes) = content.next().expect("a file of ours");
                assert_eq!(file.path(), std::path::Path::new(path));
                assert_eq!(file.length(), bytes.len() as u64);
                assert!(bytes.is_empty() || zeros == 0, "{path} begins inside a piece");
                laid_out.extend_from_slice(bytes);
            }
            assert!(content.next().is_none(), "the oracle does not find every file");
        }
    }
    let hashes: Vec<[u8; 20]> = laid_out.chunks(PIECE_BYTES).map(sha1).collect();
    assert!(
        read.pieces().eq(hashes.iter().map(|hash| &hash[..])),
        "pieces of {name:?}"
    );
}

#[test]
fn it_reads_a_torrent_of_one_file() {
    for size in [1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 10 * PIECE_BYTES + 7] {
        check("one.iso", &[("", bytes_of(size, 1))]);
    }
}

#[test]
fn it_reads_a_torrent_of_a_directory() {
    let sizes = [
        0,
        1,
        5,
        5,
        PIECE_BYTES - 1,
        PIECE_BYTES,
        PIECE_BYTES + 5,
        3 * PIECE_BYTES,
        2 * PIECE_BYTES + 1,
    ];
    // Every size is once the last one with content, and once followed by an empty file.
    for turn in 0..sizes.len() {
        let mut files: Vec<(String, Vec<u8>)> = Vec::new();
        for at in 0..sizes.len() {
            let size = sizes[(at + turn) % sizes.len()];
            files.push((format!("d{}/f{at}", at % 3), bytes_of(size, at)));
        }
        files.push(("z".to_owned(), Vec::new()));
        let files: Vec<(&str, Vec<u8>)> = files
            .iter()
            .map(|(path, bytes)| (path.as_str(), bytes.clone()))
            .collect();
        check("tree", &files);
    }
}

#[test]
fn pads_give_way_to_a_directory_of_their_name() {
    let files = [
        (".pad/1019", bytes_of(5, 1)),
        ("a", bytes_of(5, 2)),
        ("b", bytes_of(PIECE_BYTES, 3)),
    ];
    let listed: Vec<TorrentFile> = files
        .iter()
        .map(|(path, bytes)| TorrentFile {
            path: RepoPath::new(path).expect("a path"),
            content: digests(bytes),
        })
        .collect();
    let name = Name::new("n").expect("a name");
    let info = metainfo::build(&name, PIECE_BYTES as u64, &listed, &Limits::default()).expect("a torrent");
    let theirs = Theirs::from_bytes(Outside::default().around(&info)).expect("the oracle reads the torrent");
    let paths: Vec<String> = theirs
        .info()
        .files()
        .map(|file| file.path().display().to_string())
        .collect();
    assert_eq!(paths, [".pad/1019", ".pad_/1019", "a", ".pad_/1019.2", "b"]);
}

#[test]
fn core_reads_a_torrent_that_it_built() {
    for size in [1, PIECE_BYTES, 5 * PIECE_BYTES + 3] {
        let content = bytes_of(size, 4);
        let torrent = MetainfoBuilder::new()
            .set_piece_length(PieceLength::Custom(PIECE_BYTES))
            .build(1, DirectAccessor::new("one.iso", &content), |_| ())
            .expect("the oracle builds a torrent");
        let theirs = Theirs::from_bytes(&torrent).expect("the oracle reads its own torrent");
        let ours = Metainfo::parse(&torrent).expect("core reads the torrent");
        assert_eq!(ours.hash.as_bytes(), theirs.info().info_hash().as_ref());
        assert_eq!((ours.name.as_str(), ours.total_bytes), ("one.iso", size as u64));
        assert_eq!(
            ours.files.iter().map(|file| file.kind).collect::<Vec<_>>(),
            [FileKind::Content]
        );
        // And the same content gives the same info dictionary, byte for byte.
        let file = TorrentFile {
            path: RepoPath::new("").expect("the root"),
            content: digests(&content),
        };
        let info = metainfo::build(&ours.name, PIECE_BYTES as u64, &[file], &Limits::default()).expect("a torrent");
        assert_eq!(metainfo::InfoHash::of(&info), ours.hash);
    }
}
