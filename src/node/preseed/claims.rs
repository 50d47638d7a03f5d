//! Room that is about to be used by what may only have what is free.
//!
//! Between the look at what is free and the promise that the cache gives to each object by itself, other requests look as
//! well. So each claims what it will need first; whoever finds no room beside the claims of others waits until one ends.

use std::sync::{Mutex, MutexGuard, PoisonError};

use instantmirror_core::traits::Capacity;
use tokio::sync::Notify;

use super::super::parts::NodeCache;

/// All claims on one cache.
#[derive(Debug, Default)]
pub(super) struct Claims {
    sum: Mutex<Capacity>,
    ended: Notify,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(super) struct Claim<'a> {
    claims: &'a Claims,
    size: Capacity,
}

/// Whether so much is free. A disk that cannot be asked is not filled with what nobody asked for.
pub(super) fn has_room(cache: &NodeCache, size: Capacity) -> bool {
    cache.has_room(size).unwrap_or(false)
}

impl Claims {
    /// Waits for room beside the claims of others; `None` if there is none even without them.
    pub(super) async fn claim(&self, cache: &NodeCache, size: Capacity) -> Option<Claim<'_>> {
        loop {
            let ended = self.ended.notified();
            if !has_room(cache, size) {
                return None;
            }
            {
                let mut sum = self.sum();
                let all = Capacity {
                    objects: sum.objects + size.objects,
                    bytes: sum.bytes + size.bytes,
                };
                if has_room(cache, all) {
                    *sum = all;
                    return Some(Claim { claims: self, size });
                }
            }
            ended.await;
        }
    }

    fn sum(&self) -> MutexGuard<'_, Capacity> {
        self.sum.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut sum = self.claims.sum();
        sum.objects -= self.size.objects;
        sum.bytes -= self.size.bytes;
        drop(sum);
        self.claims.ended.notify_waiters();
    }
}
