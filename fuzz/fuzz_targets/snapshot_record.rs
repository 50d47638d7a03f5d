//! A record that is taken is the one that was asked for, and what it says can be written and taken again.
#![no_main]

use instantmirror_core::{RecordId, RepoName, Snapshot, SnapshotId};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let repository: RepoName = "fedora".parse().expect("a name");
    let id: SnapshotId = "01010101-0101-4101-8101-010101010101".parse().expect("an id");
    assert!(Snapshot::decode(&repository, id, RecordId::of(b"other"), data).is_err());
    let Ok(snapshot) = Snapshot::decode(&repository, id, RecordId::of(data), data) else {
        return;
    };
    assert_eq!((&snapshot.repository, snapshot.id), (&repository, id));
    let (record, bytes) = snapshot.encode();
    let again = Snapshot::decode(&repository, id, record, &bytes).expect("what we write can be read");
    assert_eq!(again, snapshot);
});
