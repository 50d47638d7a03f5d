//! The reader of an object that is being filled.

use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use instantmirror_core::CacheError;
use instantmirror_core::fill::WantId;
use instantmirror_core::traits::{FetchError, ObjectReader, ReadIntent};

use super::fill::Fill;

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
