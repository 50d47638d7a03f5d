//! Read-ahead for those who ask for an object piece by piece: core's [`ReadAhead`], for the objects read last.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use instantmirror_core::entry::FileMeta;
use instantmirror_core::preseed::Step;
use instantmirror_core::readahead::ReadAhead;
use instantmirror_core::traits::{Class, ReadIntent};
use instantmirror_core::{ObjectId, RepoName};

use super::{Engine, lock};

/// Objects of which the last read is remembered; then all are forgotten, and their windows open anew.
const OBJECTS_MAX: usize = 4096;

/// What was read last, by object.
#[derive(Debug, Default)]
pub(super) struct ReadsAhead(Mutex<HashMap<ObjectId, ReadAhead>>);

impl Engine {
    /// Takes note of what a reader is going to read, and fetches what probably comes next. Files that are never kept are
    /// not: what nobody asked for would be thrown away.
    pub(super) fn read_ahead(self: &Arc<Self>, repository: &RepoName, file: &FileMeta, intent: &ReadIntent) {
        if intent.range.start == 0 && intent.range.end >= file.size {
            return;
        }
        let never_kept = Arc::clone(&lock(&self.never_kept));
        if intent.path.as_ref().is_some_and(|path| never_kept.matches(path)) {
            return;
        }
        let advised = {
            let mut reads = lock(&self.ahead.0);
            if reads.len() >= OBJECTS_MAX && !reads.contains_key(&file.object) {
                reads.clear();
            }
            reads
                .entry(file.object)
                .or_default()
                .read(intent.range.clone(), file.size)
        };
        let Some(range) = advised else { return };
        let (engine, repository, file) = (Arc::clone(self), repository.clone(), *file);
        tokio::spawn(async move {
            let held = engine.cache.open(&file.object).await.ok().flatten();
            if held.is_some_and(|held| held.present().contains(range.clone())) {
                return;
            }
            let intent = ReadIntent::of(range);
            // What cannot be had ahead is told to whoever comes to read it.
            if let Ok(reader) = engine.start_or_join(&repository, &file, &intent, Step::of(Class::Bundle)) {
                let _ = reader.covered(intent.range).await;
            }
        });
    }
}
