//! SHA-1 of last pieces with zeros behind them: the one thing about a torrent that takes time.

use std::collections::HashMap;
use std::num::NonZero;

use instantmirror_core::ObjectId;
use instantmirror_store::digest::{SHA1_BYTES, TailPiece};

/// Hashes of padded pieces, kept for whoever makes torrents of the same files again.
#[derive(Debug)]
pub struct PaddedPieces {
    threads: usize,
    known: HashMap<(ObjectId, u32), [u8; SHA1_BYTES]>,
    /// What was asked for since the last [`forget_others`](Self::forget_others).
    used: HashMap<(ObjectId, u32), [u8; SHA1_BYTES]>,
}

/// A last piece: for whom, of which object, and what is known of it.
pub(super) type Wanted = (usize, ObjectId, TailPiece);

impl Default for PaddedPieces {
    /// Hashes on all processors.
    fn default() -> Self {
        Self::with_threads(std::thread::available_parallelism().map_or(1, NonZero::get))
    }
}

impl PaddedPieces {
    /// Hashes on so many processors at a time.
    #[must_use]
    pub fn with_threads(threads: usize) -> Self {
        Self {
            threads,
            known: HashMap::new(),
            used: HashMap::new(),
        }
    }

    /// The hashes of these, in order, computed where they are not known. `done` hears how many more are known.
    pub(super) fn of(
        &mut self,
        wanted: &[Wanted],
        piece_bytes: u32,
        done: &(dyn Fn(u64) + Sync),
    ) -> Vec<[u8; SHA1_BYTES]> {
        let mut unknown: HashMap<ObjectId, &TailPiece> = HashMap::new();
        for (_, object, tail) in wanted {
            if !self.known.contains_key(&(*object, piece_bytes)) {
                unknown.insert(*object, tail);
            }
        }
        let unknown: Vec<_> = unknown.into_iter().collect();
        done((wanted.len() - unknown.len()) as u64);
        let hash = |part: &[(ObjectId, &TailPiece)]| -> Vec<_> {
            let one = |(object, tail): &(ObjectId, &TailPiece)| {
                let hash = tail.sha1_padded(piece_bytes);
                done(1);
                ((*object, piece_bytes), hash)
            };
            part.iter().map(one).collect()
        };
        let share = unknown.len().div_ceil(self.threads.max(1)).max(1);
        std::thread::scope(|scope| {
            let parts: Vec<_> = unknown
                .chunks(share)
                .map(|part| (part, scope.spawn(|| hash(part))))
                .collect();
            for (part, thread) in parts {
                // A thread that died leaves its part to this one.
                self.known.extend(thread.join().unwrap_or_else(|_| hash(part)));
            }
        });
        let found = wanted.iter().map(|(_, object, tail)| {
            let key = (*object, piece_bytes);
            let hash = self.known.get(&key).copied();
            let hash = hash.unwrap_or_else(|| tail.sha1_padded(piece_bytes));
            self.used.insert(key, hash);
            hash
        });
        found.collect()
    }

    /// Forgets what was not asked for since this was last called.
    pub(crate) fn forget_others(&mut self) {
        self.known = std::mem::take(&mut self.used);
    }
}

#[cfg(test)]
mod tests {
    use instantmirror_store::digest::{ContentHasher, PIECE_BYTES_MIN};

    use super::*;

    fn tail(content: &[u8]) -> Wanted {
        let mut hasher = ContentHasher::new(PIECE_BYTES_MIN).unwrap();
        hasher.update(content);
        let digest = hasher.finish();
        (0, digest.object(), digest.tail().unwrap().clone())
    }

    #[test]
    fn any_number_of_threads_gives_the_same_and_what_was_not_asked_for_is_forgotten() {
        let wanted: Vec<Wanted> = (1..30_u8).map(|n| tail(&vec![n; usize::from(n)])).collect();
        let expected: Vec<_> = wanted
            .iter()
            .map(|(_, _, tail)| tail.sha1_padded(PIECE_BYTES_MIN))
            .collect();
        for threads in [0, 1, 2, 7, 100] {
            let mut pieces = PaddedPieces::with_threads(threads);
            let done = std::sync::atomic::AtomicU64::new(0);
            let count = |more| _ = done.fetch_add(more, std::sync::atomic::Ordering::Relaxed);
            assert_eq!(pieces.of(&wanted, PIECE_BYTES_MIN, &count), expected);
            assert_eq!(pieces.of(&wanted[..2], PIECE_BYTES_MIN, &count), expected[..2]);
            assert_eq!(done.into_inner(), 29 + 2);
            pieces.forget_others();
            assert_eq!(pieces.known.len(), wanted.len());
            assert_eq!(pieces.of(&wanted[3..5], PIECE_BYTES_MIN, &|_| ()), expected[3..5]);
            pieces.forget_others();
            assert_eq!(pieces.known.len(), 2);
        }
    }
}
