//! A torrent that is taken has good paths, files that lie end to end, as many pieces as its bytes need, and the info-hash
//! of the bytes that stand there; and what it says survives being written again by us.
#![no_main]

use std::collections::HashSet;

use instantmirror_core::metainfo::{FileKind, InfoHash, Metainfo, SHA1_BYTES};
use instantmirror_core::RepoPath;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(bare) = Metainfo::parse_bare(data) {
        assert_eq!(bare.hash, InfoHash::of(data));
        let whole = bare.outside.around(data);
        assert_eq!(Metainfo::parse(&whole).as_ref(), Ok(&bare), "alone or in a file");
    }
    let Ok(torrent) = Metainfo::parse(data) else { return };
    let (mut end, mut places) = (0, HashSet::new());
    for file in &torrent.files {
        assert_eq!(file.offset, end);
        end += file.size;
        assert_eq!(RepoPath::new(file.path.as_str()).as_ref(), Ok(&file.path));
        if file.kind == FileKind::Content {
            assert!(places.insert(file.path.clone()), "two files at one place");
        }
    }
    for place in &places {
        let path = place.as_str();
        for (at, _) in path.match_indices('/') {
            let parent = RepoPath::new(&path[..at]).expect("a part of a path is a path");
            assert!(!places.contains(&parent), "a file inside a file");
        }
    }
    assert_eq!(end, torrent.total_bytes);
    assert_eq!(torrent.piece_count(), end.div_ceil(torrent.piece_bytes));
    assert_eq!(torrent.pieces.len() % SHA1_BYTES, 0);
    let magnet = torrent.outside.magnet(torrent.hash, torrent.name.as_str());
    assert!(magnet.is_ascii() && !magnet.contains([' ', '"', '<']), "{magnet}");
});
