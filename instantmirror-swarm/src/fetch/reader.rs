//! The reader of an object that is being filled, or streamed past a cache without room.

use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use bytes::Bytes;
use instantmirror_core::CacheError;
use instantmirror_core::fill::WantId;
use instantmirror_core::traits::{FetchError, ObjectReader, Provenance, ReadIntent};

use super::Engine;
use super::fill::Fill;
use super::passing::Passing;

/// Reads an object that is being filled. Dropping it withdraws its interest.
#[derive(Debug)]
pub(super) struct FillReader {
    engine: Arc<Engine>,
    fill: Arc<Fill>,
    want: WantId,
    range: Range<u64>,
    /// Set if the cache has no room for the object.
    passing: OnceLock<Passing>,
}

impl FillReader {
    pub(super) fn attach(engine: &Arc<Engine>, fill: &Arc<Fill>, intent: &ReadIntent) -> Self {
        Self {
            want: fill.attach(intent.range.clone()),
            fill: Arc::clone(fill),
            engine: Arc::clone(engine),
            range: intent.range.clone(),
            passing: OnceLock::new(),
        }
    }
}

impl FillReader {
    /// Waits until all of the object is in the cache; what the cache has no room for is an error here.
    pub(super) async fn kept(&self) -> Result<(), FetchError> {
        self.covered(0..self.fill.size).await
    }

    /// The same for a range.
    pub(super) async fn covered(&self, range: Range<u64>) -> Result<(), FetchError> {
        let mut end = range.start;
        while end < range.end {
            end = self.fill.kept(self.want, end).await?;
        }
        Ok(())
    }

    /// A reader that does not wait for the fill, which nobody drives.
    pub(super) fn pass(engine: &Arc<Engine>, fill: &Arc<Fill>, intent: &ReadIntent) -> Self {
        let reader = Self::attach(engine, fill, intent);
        reader
            .passing
            .get_or_init(|| Passing::new(engine, fill, intent.range.clone()));
        reader
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
        if let Some(passing) = self.passing.get() {
            return passing.ready(offset).await;
        }
        match self.fill.ready(self.want, offset).await {
            Err(failure) if self.fill.is_passed_by(&failure) => {
                let passing = || Passing::new(&self.engine, &self.fill, self.range.clone());
                self.passing.get_or_init(passing).ready(offset).await
            }
            ready => ready,
        }
    }

    fn held(&self, offset: u64) -> Option<Bytes> {
        self.fill.held(offset)
    }

    async fn read(&self, range: Range<u64>) -> Result<Bytes, FetchError> {
        if let Some(bytes) = self.passing.get().and_then(|passing| passing.read(range.clone())) {
            return Ok(bytes);
        }
        let len = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX);
        if let Some(held) = self.held(range.start).filter(|held| held.len() >= len) {
            return Ok(held.slice(..len));
        }
        match self.fill.handle() {
            Some(handle) => handle.read(range).await.map_err(FetchError::Cache),
            None => Err(FetchError::Cache(CacheError::Absent {
                object: self.fill.object,
                range,
            })),
        }
    }

    fn provenance(&self) -> Provenance {
        let [masters, peers] = self.fill.came();
        if let Some(passing) = self.passing.get() {
            let masters = masters + passing.came();
            return Provenance::Streamed { masters, peers };
        }
        if masters + peers == 0 && self.fill.has(&self.range) {
            // A batch brought it meanwhile.
            return Provenance::Kept;
        }
        Provenance::Fetched { masters, peers }
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        if self.passing.get().is_some() {
            // A later fill of the object may make the file, in which what passes by is not.
            return None;
        }
        self.fill.handle().and_then(|handle| handle.descriptor())
    }
}

impl Drop for FillReader {
    fn drop(&mut self) {
        self.fill.detach(self.want);
    }
}
