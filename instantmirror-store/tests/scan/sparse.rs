//! Sparse files: their holes are not read, and stay holes in the store.

use std::fs::File;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use instantmirror_core::ObjectId;
use instantmirror_store::digest::ContentHasher;

use super::{PIECE, World, copying, file, linking};

const MIB: usize = 1 << 20;

/// Content with data at these places and zeros elsewhere.
fn content(len: usize, data: &[(usize, usize)]) -> Vec<u8> {
    let mut content = vec![0; len];
    for (start, end) in data {
        content[*start..*end].fill(b'd');
    }
    content
}

fn write_sparse(world: &World, name: &str, len: usize, data: &[(usize, usize)]) {
    let file = File::create(world.path(name)).unwrap();
    file.set_len(len as u64).unwrap();
    for (start, end) in data {
        file.write_all_at(&vec![b'd'; end - start], *start as u64).unwrap();
    }
    file.sync_all().unwrap();
}

#[test]
fn holes_are_hashed_as_zeros_and_stay_holes() {
    type Case = (&'static str, usize, &'static [(usize, usize)]);
    let cases: [Case; 5] = [
        ("ends", 16 * MIB, &[(0, 5000), (16 * MIB - 3, 16 * MIB)]),
        ("middle", 9 * MIB + 12345, &[(4 * MIB + 1, 4 * MIB + 70_000)]),
        ("all-hole", 8 * MIB + 1, &[]),
        ("front", 4 * MIB, &[(0, MIB)]),
        ("dense", 300_000, &[(0, 300_000)]),
    ];
    for import in [copying(), linking()] {
        let world = World::new();
        cases
            .iter()
            .for_each(|(name, len, data)| write_sparse(&world, name, *len, data));
        let scanned = world.try_scan(None, import, 3600).unwrap();
        for (name, len, data) in cases {
            let content = content(len, data);
            assert_eq!(
                file(&world, &scanned, name).object,
                ObjectId::of(&content),
                "{name} {import:?}"
            );
            let mut hasher = ContentHasher::new(PIECE).unwrap();
            hasher.update(&content);
            let digest = world.reader().digest(&ObjectId::of(&content)).unwrap().unwrap();
            assert_eq!(digest, hasher.finish(), "{name} {import:?}");
            let object = world.object_file(&content);
            assert!(std::fs::read(&object).unwrap() == content, "{name} {import:?}");
            let blocks = |path: &std::path::Path| std::fs::metadata(path).unwrap().blocks();
            // A file system may need some blocks for its own book-keeping.
            let most = blocks(&world.path(name)) + 256;
            assert!(
                blocks(&object) <= most,
                "{name} {import:?}: {} of {most}",
                blocks(&object)
            );
        }
    }
}

#[test]
fn zeros_hash_alike_however_they_come() {
    for (head, zeros, tail) in [
        (0, 0, 1),
        (1, 3 * MIB + 7, 0),
        (PIECE as usize, 70_000, 70_000),
        (70_000, 10, 5),
    ] {
        let mut whole = ContentHasher::new(PIECE).unwrap();
        whole.update(&[vec![b'h'; head], vec![0; zeros], vec![b't'; tail]].concat());
        let mut parts = ContentHasher::new(PIECE).unwrap();
        parts.update(&vec![b'h'; head]);
        let mut told = 0;
        parts.update_zeros(zeros as u64, &mut |bytes| told += bytes);
        parts.update(&vec![b't'; tail]);
        assert_eq!(
            (parts.finish(), told),
            (whole.finish(), zeros as u64),
            "{head} {zeros} {tail}"
        );
    }
}
