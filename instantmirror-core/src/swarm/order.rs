//! In which order the spans of one urgency are begun.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

use super::bitfield::pieces_of;
use super::sparse::SparseSet;
use super::{PieceIndex, Pieces, Random};

/// Names a span of a picker; grows.
pub(super) type Serial = u64;

/// Hashes names that we give ourselves: nobody can choose them so that they collide.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct OwnHasher(u64);

impl Hasher for OwnHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        // Spread over the word by the golden ratio.
        self.0 = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }
}

/// A map by names that we give ourselves.
pub(super) type OwnMap<K, V> = HashMap<K, V, BuildHasherDefault<OwnHasher>>;

/// Where a span stands among those of its urgency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Nothing of it is free: it stands nowhere.
    None,
    /// Somebody has begun it, and some of it is free.
    Started,
    /// Nobody has begun it, and so many peers have it beside those that have everything.
    Waiting(u32),
}

/// Spans of one urgency with something free in them.
#[derive(Debug, Default)]
pub(super) struct Tier {
    started: BTreeSet<Serial>,
    /// The first pieces of those that nobody has begun, by how many peers have them.
    waiting: BTreeMap<u32, SparseSet>,
}

impl Tier {
    /// Files a span that begins with `piece`.
    pub(super) fn insert(&mut self, span: Serial, piece: PieceIndex, place: Place) {
        match place {
            Place::None => {}
            Place::Started => _ = self.started.insert(span),
            Place::Waiting(peers) => self.waiting.entry(peers).or_default().insert(piece),
        }
    }

    /// Of two spans that wait with the same piece, the last one is to be removed.
    pub(super) fn remove(&mut self, span: Serial, piece: PieceIndex, place: Place) {
        match place {
            Place::None => {}
            Place::Started => _ = self.started.remove(&span),
            Place::Waiting(peers) => {
                if let Some(bucket) = self.waiting.get_mut(&peers) {
                    bucket.remove(piece);
                    if bucket.is_empty() {
                        self.waiting.remove(&peers);
                    }
                }
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.started.is_empty() && self.waiting.is_empty()
    }

    /// What it was told: begun spans, and the pieces of the others with the number of peers that have them.
    #[cfg(test)]
    pub(super) fn filed(&self) -> (Vec<Serial>, Vec<(u32, PieceIndex)>) {
        let waiting = self.waiting.iter().flat_map(|(peers, bucket)| {
            let pieces = bucket.common_from(&Pieces::All, 0);
            pieces.map(|piece| (*peers, piece))
        });
        (self.started.iter().copied().collect(), waiting.collect())
    }

    /// The rarest that a peer has and that nobody has begun, and among equals one of them by chance: if all began with the
    /// same, all would need the same next. What no peer has but those that have everything is for such a one alone. `span_of`
    /// tells which span with that piece is good, `checks` how much may still be looked at.
    pub(super) fn rarest(
        &self,
        pieces: &Pieces,
        random: &mut Random,
        checks: &mut usize,
        span_of: &mut dyn FnMut(PieceIndex) -> Option<Serial>,
    ) -> Option<Serial> {
        let for_all = |peers: &u32| *peers > 0 || *pieces == Pieces::All;
        for (_, bucket) in self.waiting.iter().filter(|(peers, _)| for_all(peers)) {
            let Some(start) = bucket.draw(random) else { continue };
            for (at, word) in bucket.words_from(start) {
                if !take_check(checks) {
                    return None;
                }
                for piece in pieces_of(at, word & pieces.word(at)) {
                    let span = span_of(piece);
                    if span.is_some() || !take_check(checks) {
                        return span;
                    }
                }
            }
        }
        None
    }

    /// One by chance of those that were begun: they come last, so that each peer has pieces of its own to finish.
    pub(super) fn begun(
        &self,
        random: &mut Random,
        checks: &mut usize,
        is_good: &mut dyn FnMut(Serial) -> bool,
    ) -> Option<Serial> {
        let (first, last) = (*self.started.first()?, *self.started.last()?);
        let width = usize::try_from(last - first + 1).unwrap_or(usize::MAX);
        let start = first + random.below(width) as u64;
        let round = self.started.range(start..).chain(self.started.range(..start));
        round.copied().find(|&span| take_check(checks) && is_good(span))
    }

    /// The first begun one that is good, for somebody who reads from front to back: what clients wait for counts as begun.
    pub(super) fn first(&self, checks: &mut usize, is_good: &mut dyn FnMut(Serial) -> bool) -> Option<Serial> {
        self.started
            .iter()
            .copied()
            .find(|&span| take_check(checks) && is_good(span))
    }
}

fn take_check(checks: &mut usize) -> bool {
    let may = *checks > 0;
    *checks = checks.saturating_sub(1);
    may
}
