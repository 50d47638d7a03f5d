//! What all swarms of a node look like from outside.

use instantmirror_core::metainfo::InfoHash;

use super::{Swarms, lock};
use crate::session::SessionStatus;

/// One swarm.
#[derive(Debug, Clone, PartialEq)]
pub struct SwarmStatus {
    /// Which.
    pub info_hash: InfoHash,
    /// Addresses that are known.
    pub known: usize,
    /// The rest.
    pub session: SessionStatus,
}

impl Swarms {
    /// All swarms as they are now.
    #[must_use]
    pub fn status(&self) -> Vec<SwarmStatus> {
        let status = |swarm: std::sync::Arc<super::Swarm>| SwarmStatus {
            info_hash: swarm.info_hash(),
            known: lock(&swarm.book).len(),
            session: swarm.session_status(),
        };
        let mut all: Vec<SwarmStatus> = self.all().into_iter().map(status).collect();
        all.sort_by_key(|status| status.info_hash);
        all
    }
}
