//! Reading an object that is held already: what frontends get where nothing has to be fetched.

use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::traits::{CacheError, FetchError, ObjectHandle, ObjectReader};

/// An [`ObjectReader`] over an open object, of which some or all is present. It waits for nothing: what is not
/// present is an error.
#[derive(Debug)]
pub struct HandleReader(Arc<dyn ObjectHandle>);

impl HandleReader {
    /// A reader of what `handle` has.
    #[must_use]
    pub fn new(handle: Arc<dyn ObjectHandle>) -> Self {
        Self(handle)
    }
}

#[async_trait]
impl ObjectReader for HandleReader {
    fn size(&self) -> u64 {
        self.0.size()
    }

    async fn ready(&self, offset: u64) -> Result<u64, FetchError> {
        let size = self.size();
        let end = self.0.present().run_from(offset);
        if end > offset || offset >= size {
            return Ok(end.min(size));
        }
        // A reader that announced less than it reads; nothing is on its way for it.
        Err(FetchError::Cache(CacheError::Absent {
            object: self.0.object(),
            range: offset..size,
        }))
    }

    async fn read(&self, range: Range<u64>) -> Result<Bytes, FetchError> {
        self.0.read(range).await.map_err(FetchError::Cache)
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.0.descriptor()
    }

    fn is_settled(&self) -> bool {
        self.0.is_complete()
    }
}

/// An [`ObjectReader`] of an empty object, which needs no storage.
#[derive(Debug)]
pub struct EmptyReader;

#[async_trait]
impl ObjectReader for EmptyReader {
    fn size(&self) -> u64 {
        0
    }

    async fn ready(&self, _offset: u64) -> Result<u64, FetchError> {
        Ok(0)
    }

    async fn read(&self, _range: Range<u64>) -> Result<Bytes, FetchError> {
        Ok(Bytes::new())
    }
}
