//! Catalogs without a repository.

use std::sync::Arc;

use async_trait::async_trait;

use super::MemoryStore;
use crate::catalog::NodeSource;
use crate::traits::{Annotations, Catalogs, FetchError, NodeApi, ObjectReader, ObjectSource, ReadIntent};
use crate::view::RepositoryState;
use crate::{CacheError, FileMeta, HeadMark, RepoName, SignedHead};

/// Has no repository: for servers that answer only what stands beside repositories, as a tracker's does, and for those
/// without annotations.
#[derive(Debug, Clone, Copy, Default)]
pub struct Nothing;

impl Catalogs for Nothing {
    fn repositories(&self) -> Vec<RepoName> {
        Vec::new()
    }

    fn state(&self, _: &RepoName) -> Option<Arc<RepositoryState>> {
        None
    }

    fn nodes(&self) -> Arc<dyn NodeSource> {
        Arc::new(MemoryStore::new())
    }

    fn objects(&self) -> Arc<dyn ObjectSource> {
        Arc::new(Self)
    }
}

#[async_trait]
impl NodeApi for Nothing {
    async fn head_after(&self, _: &RepoName, _: u64) -> Option<Arc<SignedHead>> {
        None
    }

    fn head_mark(&self, _: &RepoName) -> HeadMark {
        HeadMark::Absent
    }
}

impl Annotations for Nothing {}

#[async_trait]
impl ObjectSource for Nothing {
    async fn open(&self, _: &RepoName, file: &FileMeta, _: ReadIntent) -> Result<Arc<dyn ObjectReader>, FetchError> {
        Err(FetchError::Cache(CacheError::Busy(file.object)))
    }
}
