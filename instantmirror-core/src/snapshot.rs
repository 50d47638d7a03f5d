//! The snapshot record: what a snapshot is, apart from its place in the head (docs/formats/head.md).

use serde::{Deserialize, Serialize};

use crate::entry::{Directory, Kind, Meta};
use crate::{NodeId, RecordId, RepoName, SnapshotId, Timestamp};

/// One published state of a tree. Immutable; encoded as JSON and named by the hash of those bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its name, everywhere.
    pub id: SnapshotId,
    /// The repository it belongs to.
    pub repository: RepoName,
    /// When its scan ended, by the master's clock.
    pub created: Timestamp,
    /// The snapshot that was current when it was made.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub parent: Option<SnapshotId>,
    /// The operator's remark.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub note: String,
    /// The tree.
    pub root: Root,
}

/// The root directory of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// Its top catalog node.
    pub node: NodeId,
    /// Its permission bits.
    pub mode: u16,
    /// Its modification time, seconds since 1970.
    pub mtime: i64,
    /// Regular files in the tree.
    pub files: u64,
    /// Bytes in them, each name counted.
    pub bytes: u64,
}

impl Root {
    /// The root as a catalog entry.
    #[must_use]
    pub fn meta(&self) -> Meta {
        let directory = Directory {
            node: self.node,
            files: self.files,
            bytes: self.bytes,
        };
        Meta {
            mode: self.mode,
            mtime: self.mtime,
            kind: Kind::Directory(directory),
        }
    }
}

/// Why a snapshot record was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The bytes are not the ones that the signed head names.
    #[error("the record of snapshot {snapshot} is not the one that the signed head names")]
    Forged {
        /// The snapshot asked for.
        snapshot: SnapshotId,
    },
    /// The bytes are signed for but cannot be understood.
    #[error("the record of snapshot {snapshot} cannot be read: {reason}")]
    Malformed {
        /// The snapshot asked for.
        snapshot: SnapshotId,
        /// What is wrong.
        reason: String,
    },
}

impl Snapshot {
    /// The record's bytes and the id that a head binds it by.
    #[must_use]
    pub fn encode(&self) -> (RecordId, Vec<u8>) {
        // Every field is a plain string or number, so serialising cannot fail.
        let mut bytes = serde_json::to_vec_pretty(self).unwrap_or_default();
        bytes.push(b'\n');
        (RecordId::of(&bytes), bytes)
    }

    /// Takes a record that came from outside, as the head of `repository` names it.
    ///
    /// # Errors
    /// [`RecordError::Forged`] if the bytes have another hash, [`RecordError::Malformed`] if they are no
    /// record of that snapshot and repository.
    pub fn decode(
        repository: &RepoName,
        snapshot: SnapshotId,
        record: RecordId,
        bytes: &[u8],
    ) -> Result<Self, RecordError> {
        if RecordId::of(bytes) != record {
            return Err(RecordError::Forged { snapshot });
        }
        let malformed = |reason| RecordError::Malformed { snapshot, reason };
        let decoded: Self = serde_json::from_slice(bytes).map_err(|error| malformed(error.to_string()))?;
        if decoded.id != snapshot || decoded.repository != *repository {
            return Err(malformed(format!(
                "it describes {} of '{}'",
                decoded.id, decoded.repository
            )));
        }
        Ok(decoded)
    }
}
