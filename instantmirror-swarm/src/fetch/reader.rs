//! The three kinds of readers: of nothing, of what is cached, of what is being filled.

use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use instantmirror_core::CacheError;
use instantmirror_core::fill::WantId;
use instantmirror_core::traits::{FetchError, ObjectHandle, ObjectReader, ReadIntent};

use super::fill::Fill;

/// Reads an empty object, which needs no cache.
#[derive(Debug)]
pub(super) struct EmptyReader;

#[async_trait]
impl ObjectReader for EmptyReader {
    fn size(&self) -> u64 {
        0
    }

    async fn ready(&self, _offset: u64) -> Result<u64, FetchError> {
        Ok(0)
    }

    fn read(&self, _range: Range<u64>) -> Result<Bytes, FetchError> {
        Ok(Bytes::new())
    }
}

/// Reads an object of which all that is wanted was in the cache when it was opened.
#[derive(Debug)]
pub(super) struct CachedReader {
    handle: Arc<dyn ObjectHandle>,
    end: u64,
}

impl CachedReader {
    pub(super) fn new(handle: Arc<dyn ObjectHandle>, range: Range<u64>) -> Self {
        let end = if handle.is_complete() { handle.size() } else { range.end };
        Self { handle, end }
    }
}

#[async_trait]
impl ObjectReader for CachedReader {
    fn size(&self) -> u64 {
        self.handle.size()
    }

    async fn ready(&self, offset: u64) -> Result<u64, FetchError> {
        if offset < self.end || offset >= self.size() {
            return Ok(self.end.max(offset.min(self.size())));
        }
        // A reader that announced less than it reads; nothing is on its way for it.
        let range = offset..self.size();
        Err(FetchError::Cache(CacheError::Absent {
            object: self.handle.object(),
            range,
        }))
    }

    fn read(&self, range: Range<u64>) -> Result<Bytes, FetchError> {
        self.handle.read(range).map_err(FetchError::Cache)
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.handle.descriptor()
    }
}

/// Reads an object that is being filled. Dropping it withdraws its interest.
#[derive(Debug)]
pub(super) struct FillReader {
    fill: Arc<Fill>,
    want: WantId,
}

impl FillReader {
    pub(super) fn attach(fill: &Arc<Fill>, intent: &ReadIntent) -> Self {
        Self {
            want: fill.attach(intent.range.clone()),
            fill: Arc::clone(fill),
        }
    }
}

#[async_trait]
impl ObjectReader for FillReader {
    fn size(&self) -> u64 {
        self.fill.size
    }

    async fn ready(&self, offset: u64) -> Result<u64, FetchError> {
        if offset >= self.fill.size {
            return Ok(self.fill.size);
        }
        self.fill.ready(self.want, offset).await
    }

    fn read(&self, range: Range<u64>) -> Result<Bytes, FetchError> {
        match self.fill.handle() {
            Some(handle) => handle.read(range).map_err(FetchError::Cache),
            None => Err(FetchError::Cache(CacheError::Absent {
                object: self.fill.object,
                range,
            })),
        }
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.fill.handle().and_then(|handle| handle.descriptor())
    }
}

impl Drop for FillReader {
    fn drop(&mut self) {
        self.fill.detach(self.want);
    }
}
