//! Whatever stands where repository metadata is expected, reading it ends: with an answer, or with a fault that names the
//! file, and the same bytes always with the same.
#![no_main]

use std::collections::BTreeMap;
use std::io::Read;

use instantmirror_core::{FileMeta, ObjectId, RepoPath};
use instantmirror_store::metadata::{MetadataError, Tree, check};
use libfuzzer_sys::fuzz_target;

struct Memory(BTreeMap<RepoPath, Vec<u8>>);

impl Memory {
    fn meta(content: &[u8]) -> FileMeta {
        FileMeta {
            size: content.len() as u64,
            object: ObjectId::of(content),
            first_piece: 0,
            link_group: None,
        }
    }
}

impl Tree for Memory {
    fn file(&self, path: &RepoPath) -> Result<Option<(RepoPath, FileMeta)>, MetadataError> {
        Ok(self.0.get(path).map(|content| (path.clone(), Self::meta(content))))
    }

    fn is_directory(&self, path: &RepoPath) -> Result<bool, MetadataError> {
        let prefix = format!("{path}/");
        Ok(path.is_root() || self.0.keys().any(|file| file.as_str().starts_with(&prefix)))
    }

    fn open(&self, _: &RepoPath, file: &FileMeta) -> Result<Box<dyn Read + '_>, MetadataError> {
        let found = self.0.values().find(|content| ObjectId::of(content) == file.object);
        Ok(Box::new(found.expect("only what is there is opened").as_slice()))
    }

    fn sha256(&self, _: &ObjectId) -> Result<Option<[u8; 32]>, MetadataError> {
        Ok(None)
    }
}

/// Where the bytes stand, beside a good file that they may name.
const PLACES: [&str; 6] = [
    "repodata/repomd.xml",
    "dists/s/Release",
    "dists/s/InRelease",
    "dists/s/main/binary-amd64/Packages",
    "dists/s/main/source/Sources",
    "Release",
];

fuzz_target!(|data: &[u8]| {
    let Some((place, data)) = data.split_first() else { return };
    let path = |text: &str| RepoPath::new(text).expect("a path");
    let place = path(PLACES[usize::from(*place) % PLACES.len()]);
    let mut files = BTreeMap::from([(path("pool/a"), b"a".to_vec()), (path("repodata/p.xml"), data.to_vec())]);
    files.insert(place.clone(), data.to_vec());
    let tree = Memory(files);
    let first = check(&tree, [place.clone()]).expect("nothing fails to be read");
    let again = check(&tree, [place]).expect("nothing fails to be read");
    assert_eq!(format!("{first:?}"), format!("{again:?}"), "the same bytes, the same answer");
});
