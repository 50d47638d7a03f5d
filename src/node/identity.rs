//! The numbers by which masters tell this node from others at its address (docs/formats/api.md).
//!
//! One is drawn when the node first starts and kept beside its snapshots; each master is told another one that follows from
//! it, so that two masters cannot find out that they serve the same node.

use std::path::Path;

use instantmirror_core::url::SecretUrl;
use instantmirror_store::disk::{Disk, read_file, write_privately};

use crate::peering::drawn;

const FILE: &str = "node-id";
const FILE_BYTES_MAX: u64 = 256;
const CONTEXT: &str = "instantmirror 2026-11 number of a node for a master";

/// What all numbers of a node follow from.
#[derive(Debug, Clone, Copy)]
pub(super) struct NodeNumbers(Option<[u8; 32]>);

impl NodeNumbers {
    /// Reads what is kept, or draws it. Without a disk that keeps it the numbers are good until the node stops; without
    /// randomness there are none.
    pub(super) fn open(disk: &dyn Disk) -> Self {
        let path = Path::new(FILE);
        let kept = read_file(disk, path, FILE_BYTES_MAX).ok().and_then(|text| {
            let text = std::str::from_utf8(&text).ok()?;
            Some(*blake3::Hash::from_hex(text.trim()).ok()?.as_bytes())
        });
        if kept.is_some() {
            return Self(kept);
        }
        let seed = drawn().ok();
        if let Some(seed) = seed {
            let text = format!("{}\n", blake3::Hash::from_bytes(seed).to_hex());
            if let Err(error) = write_privately(disk, path, text.as_bytes()) {
                tracing::warn!("masters will take this node for another one after a restart: {error}");
            }
        }
        Self(seed)
    }

    /// The number for the master at a URL.
    pub(super) fn for_master(self, url: &SecretUrl) -> Option<u64> {
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        hasher
            .update(&self.0?)
            .update(url.exposed().trim_end_matches('/').as_bytes());
        let mut number = [0; 8];
        hasher.finalize_xof().fill(&mut number);
        Some(u64::from_le_bytes(number))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use instantmirror_store::disk::RealDisk;

    use super::*;

    #[test]
    fn a_node_keeps_its_numbers_and_tells_each_master_another_one() {
        let dir = tempfile::tempdir().unwrap();
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(dir.path()).unwrap());
        let [one, other] = ["https://one.example/", "https://other.example"].map(SecretUrl::from);
        let numbers = NodeNumbers::open(disk.as_ref());
        let first = numbers.for_master(&one);
        assert!(first.is_some());
        assert_ne!(first, numbers.for_master(&other));
        let again = NodeNumbers::open(disk.as_ref());
        assert_eq!(again.for_master(&"https://one.example".into()), first);
        // What is damaged is drawn anew.
        std::fs::write(dir.path().join(FILE), "x").unwrap();
        let anew = NodeNumbers::open(disk.as_ref()).for_master(&one);
        assert!(anew.is_some() && anew != first);
        assert_eq!(NodeNumbers::open(disk.as_ref()).for_master(&one), anew);
    }
}
