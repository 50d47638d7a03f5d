//! [`VerifiedObjects`]: a storage of objects that is not believed. All that it returns is held against what the publish that
//! stored it has noted, before anybody has it.
//!
//! Invariant: no byte leaves that the outboard of its object does not prove, and the outboard is the master's own. The log names
//! the storage when it returned something else, and when it does not have an object any more that a snapshot needs; once a minute
//! for each of both. Nothing is removed: a master has no other place to fetch it from.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use instantmirror_core::log_limit::LogLimit;
use instantmirror_core::outboard::{Outboard, group_cover};
use instantmirror_core::traits::{CacheError, ObjectHandle, Objects};
use instantmirror_core::{ObjectId, RangeSet};

use super::parts::Notes;
use crate::blocking::threads;
use crate::verifying_store::proved_part;

/// How often it is looked up whether a snapshot needs an object that is missed.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Objects of a storage that may be wrong.
#[derive(Debug)]
pub(super) struct VerifiedObjects {
    inner: Arc<dyn Objects>,
    notes: Notes,
    blame: Arc<Blame>,
}

/// The line of the log about the storage.
#[derive(Debug)]
struct Blame {
    /// Its name in the log.
    name: &'static str,
    wrong: LogLimit,
    forgot: LogLimit,
    /// Admits looks into the counts of what snapshots refer to: not one for each request for what is not here.
    looks: LogLimit,
}

impl Blame {
    fn wrong(&self, object: ObjectId, reason: &str) -> CacheError {
        let storage = self.name;
        match self.wrong.admit(Instant::now()) {
            Some(line) => tracing::error!(
                suppressed = line.suppressed(), storage, %object,
                "the storage of objects is wrong: {reason}; it is not served. Put the object back into the storage, or remove it there, \
                 touch the file in the source tree (unchanged files are not read again), then publish"
            ),
            None => tracing::debug!(storage, %object, "wrong: {reason}"),
        }
        CacheError::Damaged {
            object,
            reason: format!("the storage of objects {storage} {reason}"),
        }
    }
}

impl VerifiedObjects {
    pub(super) fn new(inner: Arc<dyn Objects>, notes: Notes, name: &'static str) -> Self {
        let blame = Arc::new(Blame {
            name,
            wrong: LogLimit::per_minute(),
            forgot: LogLimit::per_minute(),
            looks: LogLimit::every(LOOK_INTERVAL),
        });
        Self { inner, notes, blame }
    }

    /// Reads a table on the disk, so not on the thread that polls this.
    async fn noted(&self, object: &ObjectId) -> Result<Option<Outboard>, CacheError> {
        let (notes, object) = (self.notes.clone(), *object);
        let failed = |source| CacheError::Io {
            what: format!("object {object}"),
            source,
        };
        let threads = threads();
        let digest = match threads.run(move || notes.digest(&object)).await {
            Ok(Ok(digest)) => digest,
            Ok(Err(error)) => return Err(failed(Arc::new(error))),
            Err(lost) => return Err(failed(Arc::new(lost))),
        };
        Ok(digest.map(|digest| digest.outboard().clone()))
    }

    /// Says so if an object that is not here should be: one that a snapshot refers to.
    async fn missed(&self, object: ObjectId) {
        if self.blame.looks.admit(Instant::now()).is_none() {
            return;
        }
        let (notes, storage) = (self.notes.clone(), self.blame.name);
        let threads = threads();
        let look = threads.run(move || notes.references().and_then(|references| references.uses(&object)));
        let Ok(Ok(true)) = look.await else {
            return;
        };
        // Only now, so that a request for an object that nothing needs any more does not take the line of one that is needed.
        if let Some(line) = self.blame.forgot.admit(Instant::now()) {
            tracing::error!(
                suppressed = line.suppressed(), storage, %object,
                "the storage of objects has forgotten an object that a snapshot needs; readers are told that it is not here. Put it back \
                 into the storage, or touch its file in the source tree (unchanged files are not read again), then publish"
            );
        }
    }
}

#[async_trait]
impl Objects for VerifiedObjects {
    async fn open(&self, object: &ObjectId) -> Result<Option<Arc<dyn ObjectHandle>>, CacheError> {
        let (opened, noted) = (self.inner.open(object).await?, self.noted(object).await?);
        match (opened, noted) {
            (Some(inner), Some(outboard)) if inner.size() == outboard.size() => Ok(Some(Arc::new(VerifiedHandle {
                inner,
                outboard,
                blame: Arc::clone(&self.blame),
            }))),
            (Some(_), Some(_)) => Err(self.blame.wrong(*object, "returned an object of another size")),
            (None, Some(_)) => {
                self.missed(*object).await;
                Ok(None)
            }
            // Of a publish that has not come to its end.
            (_, None) => Ok(None),
        }
    }

    async fn outboard(&self, object: &ObjectId) -> Result<Option<Outboard>, CacheError> {
        self.noted(object).await
    }
}

#[derive(Debug)]
struct VerifiedHandle {
    inner: Arc<dyn ObjectHandle>,
    outboard: Outboard,
    blame: Arc<Blame>,
}

#[async_trait]
impl ObjectHandle for VerifiedHandle {
    fn object(&self) -> ObjectId {
        self.outboard.object()
    }

    fn size(&self) -> u64 {
        self.outboard.size()
    }

    fn present(&self) -> RangeSet {
        let mut all = RangeSet::new();
        all.insert(0..self.size());
        all
    }

    async fn read(&self, range: Range<u64>) -> Result<Bytes, CacheError> {
        if range.end > self.size() || range.start > range.end {
            let object = self.object();
            return Err(CacheError::Absent { object, range });
        }
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let cover = group_cover(range.clone(), self.size());
        let data = self.inner.read(cover.clone()).await?;
        let part = proved_part(&self.outboard, &cover, &data, &range);
        part.ok_or_else(|| {
            self.blame
                .wrong(self.object(), "returned other bytes than the object's")
        })
    }
}

#[cfg(test)]
mod tests {
    use instantmirror_core::log_limit::AdmittedLine;
    use instantmirror_core::memory::MemoryStorage;

    use super::super::tests::World;
    use super::*;

    #[tokio::test]
    async fn a_missed_object_that_nothing_needs_takes_no_line_of_the_log() {
        let world = World::with_options("");
        world.publish("a", "needed");
        let blame = Arc::new(Blame {
            name: "forgetful",
            wrong: LogLimit::per_minute(),
            forgot: LogLimit::per_minute(),
            looks: LogLimit::every(Duration::ZERO),
        });
        let objects = VerifiedObjects {
            inner: Arc::new(MemoryStorage::new()),
            notes: world.master.parts.notes.clone(),
            blame: Arc::clone(&blame),
        };
        let needed = ObjectId::of(b"needed");
        assert!(objects.outboard(&needed).await.unwrap().is_some());
        objects.missed(ObjectId::of(b"of no snapshot")).await;
        objects.open(&needed).await.unwrap();
        let next = blame.forgot.admit(Instant::now() + Duration::from_secs(61));
        let suppressed = next.map(AdmittedLine::suppressed);
        assert_eq!(
            suppressed,
            Some(None),
            "the needed one has the line, and none else asked for it"
        );
    }
}
