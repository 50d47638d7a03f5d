//! What to ask a peer for next.
//!
//! A *want* is a range of an object that somebody wants, a *span* one piece of it (several, where pieces are smaller than a
//! group), a *unit* one group of 64 KiB: what is asked of one peer and verified by itself, so that what is wrong has one
//! author. More urgent wants go first. What a client waits for is fetched from front to back, everything else rarest first,
//! and a peer finishes the piece that it has begun. Invariant: no unit is given out twice unless it was given back, and the
//! cost of a step depends neither on how much there is beside the wants nor, where it can be helped, on how much is wanted:
//! 64 pieces at a time are held against what a peer has.

use std::collections::BTreeMap;
use std::ops::Range;

use super::order::{OwnMap, Place, Serial, Tier};
use super::sparse::SparseSet;
use super::{PieceIndex, Pieces, Random};
use crate::outboard::GROUP_BYTES;
use crate::traits::Class;

/// Spans that one pick looks at, or 64 of them together that the peer lacks. The start is drawn, so the next one looks at
/// others.
const CHECKS_MAX: usize = 4096;

/// How urgent a want is; less goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Urgency {
    /// Why it is wanted.
    pub class: Class,
    /// Its rank inside the class.
    pub rank: u32,
}

/// A range of an object that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Want {
    /// The first piece of the object.
    pub first_piece: PieceIndex,
    /// The object's size in bytes.
    pub size: u64,
    /// Whole groups of it.
    pub range: Range<u64>,
    /// How urgent it is.
    pub urgency: Urgency,
}

/// Names a want.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WantId(pub u64);

/// Names a unit; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnitId {
    span: Serial,
    group: u32,
}

/// A group that a peer is to be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unit {
    /// Its name.
    pub id: UnitId,
    /// For whom.
    pub want: WantId,
    /// The first piece of the object.
    pub first_piece: PieceIndex,
    /// Where it begins in the object.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u32,
    /// Its class.
    pub class: Class,
}

#[derive(Debug)]
struct Span {
    want: WantId,
    urgency: Urgency,
    /// The first of its pieces, and how many they are.
    first: PieceIndex,
    pieces: u32,
    /// Where it begins in the object.
    start: u64,
    /// The groups that are free, from the lowest bit on.
    free: Vec<u64>,
    /// Groups that were given out and are not done.
    out: u32,
    peers: u32,
    place: Place,
}

impl Span {
    fn first_free(&self) -> Option<u32> {
        let (at, word) = self.free.iter().enumerate().find(|(_, word)| **word != 0)?;
        Some(u32::try_from(at).unwrap_or(0) * 64 + word.trailing_zeros())
    }

    fn set_free(&mut self, group: u32, is_free: bool) {
        if let Some(word) = self.free.get_mut(group as usize / 64) {
            let bit = 1 << (group % 64);
            *word = if is_free { *word | bit } else { *word & !bit };
        }
    }

    /// Whether all its pieces are such ones.
    fn is_all(&self, is_one: impl Fn(PieceIndex) -> bool) -> bool {
        (self.first..self.first.saturating_add(self.pieces)).all(is_one)
    }
}

#[derive(Debug)]
struct Held {
    want: Want,
    spans: Range<Serial>,
}

/// Decides which unit to ask a peer for.
#[derive(Debug)]
pub struct Picker {
    piece_bytes: u64,
    random: Random,
    wants: OwnMap<WantId, Held>,
    spans: OwnMap<Serial, Span>,
    /// Spans by their first pieces, and those pieces.
    by_piece: OwnMap<PieceIndex, Vec<Serial>>,
    firsts: SparseSet,
    tiers: BTreeMap<Urgency, Tier>,
    next: Serial,
    next_want: u64,
}

impl Picker {
    /// One for pieces of `piece_bytes` bytes, a power of two of at least 16 KiB.
    #[must_use]
    pub fn new(piece_bytes: u32, random: Random) -> Self {
        Self {
            piece_bytes: u64::from(piece_bytes),
            random,
            wants: OwnMap::default(),
            spans: OwnMap::default(),
            by_piece: OwnMap::default(),
            firsts: SparseSet::default(),
            tiers: BTreeMap::new(),
            next: 0,
            next_want: 0,
        }
    }

    fn span_bytes(&self) -> u64 {
        self.piece_bytes.max(GROUP_BYTES)
    }

    /// Adds a want. `peers_with` counts the peers that have a piece, but not those that have everything: they make nothing
    /// less rare than the rest.
    pub fn want(&mut self, want: Want, peers_with: &dyn Fn(PieceIndex) -> u32) -> WantId {
        let id = WantId(self.next_want);
        self.next_want += 1;
        let (bytes, first_serial) = (self.span_bytes(), self.next);
        let numbers = want.range.start / bytes..want.range.end.div_ceil(bytes);
        for number in numbers {
            let start = number * bytes;
            let end = (start + bytes).min(want.size);
            let wanted = want.range.start.max(start)..want.range.end.min(end);
            if wanted.is_empty() {
                continue;
            }
            let (Ok(before), Ok(pieces)) = (
                u32::try_from(start / self.piece_bytes),
                u32::try_from((end - start).div_ceil(self.piece_bytes)),
            ) else {
                break;
            };
            let Some(first) = want.first_piece.checked_add(before) else {
                break;
            };
            let groups = (wanted.start - start) / GROUP_BYTES..(wanted.end - start).div_ceil(GROUP_BYTES);
            let mut span = Span {
                want: id,
                urgency: want.urgency,
                first,
                pieces,
                start,
                free: vec![0; usize::try_from(groups.end.div_ceil(64)).unwrap_or(0)],
                out: 0,
                peers: peers_with(first),
                place: Place::None,
            };
            groups.for_each(|group| span.set_free(u32::try_from(group).unwrap_or(u32::MAX), true));
            let serial = self.next;
            self.next += 1;
            self.by_piece.entry(first).or_default().push(serial);
            self.firsts.insert(first);
            self.spans.insert(serial, span);
            self.replace(serial);
        }
        let spans = first_serial..self.next;
        self.wants.insert(id, Held { want, spans });
        id
    }

    /// Puts a span where it belongs.
    fn replace(&mut self, serial: Serial) {
        let Some(span) = self.spans.get_mut(&serial) else {
            return;
        };
        let in_order = span.urgency.class == Class::Demand;
        let place = match (span.first_free(), span.place, span.out) {
            (None, ..) => Place::None,
            (Some(_), ..) if in_order => Place::Started,
            (Some(_), Place::None, 0) | (Some(_), Place::Waiting(_), 0) => Place::Waiting(span.peers),
            _ => Place::Started,
        };
        if place == span.place {
            return;
        }
        let before = std::mem::replace(&mut span.place, place);
        let (urgency, piece) = (span.urgency, span.first);
        let tier = self.tiers.entry(urgency).or_default();
        tier.insert(serial, piece, place);
        self.leave(serial, piece, urgency, before);
    }

    /// Takes a span away from where it stood.
    fn leave(&mut self, serial: Serial, piece: PieceIndex, urgency: Urgency, place: Place) {
        let stands_there = |other: &Serial| {
            let span = self.spans.get(other);
            *other != serial && span.is_some_and(|span| span.urgency == urgency && span.place == place)
        };
        let with_piece = self.by_piece.get(&piece).into_iter().flatten();
        // Another one that waits with the same piece keeps it there.
        if matches!(place, Place::Waiting(_)) && with_piece.into_iter().any(stands_there) {
            return;
        }
        if let Some(tier) = self.tiers.get_mut(&urgency) {
            tier.remove(serial, piece, place);
            if tier.is_empty() {
                self.tiers.remove(&urgency);
            }
        }
    }

    /// Withdraws a want; its units may still come and are nobody's.
    pub fn forget(&mut self, want: WantId) {
        let Some(held) = self.wants.remove(&want) else { return };
        for serial in held.spans {
            self.drop_span(serial);
        }
    }

    fn drop_span(&mut self, serial: Serial) {
        let Some(span) = self.spans.remove(&serial) else { return };
        self.leave(serial, span.first, span.urgency, span.place);
        if let Some(serials) = self.by_piece.get_mut(&span.first) {
            serials.retain(|held| *held != serial);
            if serials.is_empty() {
                self.by_piece.remove(&span.first);
                self.firsts.remove(span.first);
            }
        }
    }

    /// The unit to ask a peer for that has `pieces`, if there is one; `refuses` says which of them it does not give now.
    /// `begun` is the unit that it was asked for last: the rest of that piece goes first. Nothing less urgent than `least` is
    /// picked. What nobody but those has who have everything is not even looked for at others.
    pub fn pick(
        &mut self,
        pieces: &Pieces,
        refuses: &dyn Fn(PieceIndex) -> bool,
        begun: Option<UnitId>,
        least: Class,
    ) -> Option<Unit> {
        let found = self.find(pieces, refuses, begun, least);
        self.take(found?)
    }

    fn find(
        &mut self,
        pieces: &Pieces,
        refuses: &dyn Fn(PieceIndex) -> bool,
        begun: Option<UnitId>,
        least: Class,
    ) -> Option<Serial> {
        let mut checks = CHECKS_MAX;
        let (spans, by_piece) = (&self.spans, &self.by_piece);
        let is_given = |span: &Span| span.is_all(|piece| pieces.has(piece) && !refuses(piece));
        let mut is_good = |serial: Serial| spans.get(&serial).is_some_and(is_given);
        let begun = begun.and_then(|unit| {
            let span = spans.get(&unit.span)?;
            (span.place == Place::Started).then_some((unit.span, span.urgency))
        });
        for (urgency, tier) in self.tiers.iter().filter(|(urgency, _)| urgency.class <= least) {
            let mut span_of = |piece: PieceIndex| {
                let is_one = |serial: &&Serial| {
                    let span = spans.get(serial);
                    span.is_some_and(|span| {
                        let is_here = span.urgency == *urgency && matches!(span.place, Place::Waiting(_));
                        is_here && is_given(span)
                    })
                };
                by_piece.get(&piece)?.iter().find(is_one).copied()
            };
            let picked = match begun {
                _ if urgency.class == Class::Demand => tier.first(&mut checks, &mut is_good),
                Some((serial, of)) if of == *urgency && is_good(serial) => Some(serial),
                _ => tier
                    .rarest(pieces, &mut self.random, &mut checks, &mut span_of)
                    .or_else(|| tier.begun(&mut self.random, &mut checks, &mut is_good)),
            };
            if picked.is_some() || checks == 0 {
                return picked;
            }
        }
        None
    }

    /// The same of one piece alone, which the peer has come to have when it had nothing else to be asked for: not to be looked
    /// for among all that is wanted.
    pub fn pick_piece(
        &mut self,
        piece: PieceIndex,
        pieces: &Pieces,
        refuses: &dyn Fn(PieceIndex) -> bool,
        least: Class,
    ) -> Option<Unit> {
        let good = |serial: &Serial| {
            let span = self.spans.get(serial)?;
            let is_free = span.urgency.class <= least && span.first_free().is_some();
            let is_good = is_free && span.is_all(|piece| pieces.has(piece) && !refuses(piece));
            is_good.then_some((span.urgency, *serial))
        };
        let (_, serial) = self.by_piece.get(&piece)?.iter().filter_map(good).min()?;
        self.take(serial)
    }

    fn take(&mut self, serial: Serial) -> Option<Unit> {
        let span = self.spans.get_mut(&serial)?;
        let group = span.first_free()?;
        span.set_free(group, false);
        span.out += 1;
        self.replace(serial);
        self.unit(UnitId { span: serial, group })
    }

    /// What is known of a unit that is still wanted.
    #[must_use]
    pub fn unit(&self, id: UnitId) -> Option<Unit> {
        let span = self.spans.get(&id.span)?;
        let held = self.wants.get(&span.want)?;
        let offset = span.start + u64::from(id.group) * GROUP_BYTES;
        let length = GROUP_BYTES.min(held.want.size.checked_sub(offset)?);
        Some(Unit {
            id,
            want: span.want,
            first_piece: held.want.first_piece,
            offset,
            length: u32::try_from(length).ok()?,
            class: held.want.urgency.class,
        })
    }

    /// A unit that was given out will not come, or came wrong: somebody else may be asked.
    pub fn give_back(&mut self, id: UnitId) {
        if let Some(span) = self.spans.get_mut(&id.span) {
            span.out = span.out.saturating_sub(1);
            span.set_free(id.group, true);
            self.replace(id.span);
        }
    }

    /// A unit is here and verified. A want all of whose units are done is over. Says of which pieces nothing is wanted any more
    /// that was until now.
    pub fn done(&mut self, id: UnitId) -> Range<PieceIndex> {
        let Some(span) = self.spans.get_mut(&id.span) else {
            return 0..0;
        };
        span.out = span.out.saturating_sub(1);
        if span.out > 0 || span.first_free().is_some() {
            return 0..0;
        }
        let pieces = span.first..span.first.saturating_add(span.pieces);
        self.drop_span(id.span);
        if self.by_piece.contains_key(&pieces.start) {
            0..0
        } else {
            pieces
        }
    }

    /// A peer has come to have a piece, or has it no longer.
    pub fn peer_changed(&mut self, piece: PieceIndex, has: bool) {
        let count = self.by_piece.get(&piece).map_or(0, Vec::len);
        for at in 0..count {
            let serial = self.by_piece.get(&piece).and_then(|serials| serials.get(at));
            if let Some(&serial) = serial {
                self.count(serial, has);
            }
        }
    }

    /// A peer has come with what it has, or has gone with it; not to be told of those that have everything.
    pub fn peer_came(&mut self, pieces: &Pieces, came: bool) {
        let held: Vec<PieceIndex> = self.firsts.common_from(pieces, 0).collect();
        for piece in held {
            self.peer_changed(piece, came);
        }
    }

    fn count(&mut self, serial: Serial, more: bool) {
        if let Some(span) = self.spans.get_mut(&serial) {
            span.peers = if more {
                span.peers + 1
            } else {
                span.peers.saturating_sub(1)
            };
            self.replace(serial);
        }
    }

    /// Whether anything of a piece is wanted and not here.
    #[must_use]
    pub fn wants_piece(&self, piece: PieceIndex) -> bool {
        self.spans_of(piece).next().is_some()
    }

    /// Whether anything of a piece is wanted and nobody was asked for it.
    #[must_use]
    pub fn has_free(&self, piece: PieceIndex) -> bool {
        self.spans_of(piece).any(|span| span.first_free().is_some())
    }

    /// Spans that are wanted and of which a piece is part.
    fn spans_of(&self, piece: PieceIndex) -> impl Iterator<Item = &Span> {
        // A span of several pieces is known by its first.
        let reach = u32::try_from(self.span_bytes() / self.piece_bytes).unwrap_or(1);
        let of_first = move |before: u32| {
            let serials = piece.checked_sub(before).and_then(|first| self.by_piece.get(&first));
            let spans = serials
                .into_iter()
                .flatten()
                .filter_map(|serial| self.spans.get(serial));
            spans.filter(move |span| before < span.pieces)
        };
        (0..reach).flat_map(of_first)
    }

    /// Whether all of a want is done.
    #[must_use]
    pub fn is_over(&self, want: WantId) -> bool {
        let spans = self.wants.get(&want).map_or(0..0, |held| held.spans.clone());
        spans.into_iter().all(|serial| !self.spans.contains_key(&serial))
    }

    /// A piece that is wanted of somebody who has these, if there is any; where that was found last is looked first.
    #[must_use]
    pub fn wanted_of(&self, pieces: &Pieces, last: PieceIndex) -> Option<PieceIndex> {
        let is_one_enough = self.piece_bytes >= GROUP_BYTES;
        if is_one_enough && pieces.has(last) && self.firsts.has(last) {
            return Some(last);
        }
        self.firsts.common_from(pieces, last).find(|piece| {
            if is_one_enough {
                return true;
            }
            let serials = self.by_piece.get(piece).into_iter().flatten();
            let mut spans = serials.filter_map(|serial| self.spans.get(serial));
            spans.any(|span| span.is_all(|piece| pieces.has(piece)))
        })
    }

    /// Whether a peer that has these pieces has all or some of a want.
    #[must_use]
    pub fn wants_of(&self, want: WantId, pieces: &Pieces) -> bool {
        let spans = self.wants.get(&want).map_or(0..0, |held| held.spans.clone());
        spans
            .filter_map(|serial| self.spans.get(&serial))
            .any(|span| span.is_all(|piece| pieces.has(piece)))
    }

    /// Whether nothing is free: all that is wanted was asked of somebody.
    #[must_use]
    pub fn all_given_out(&self) -> bool {
        self.tiers.is_empty()
    }

    /// Spans that are wanted.
    #[must_use]
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether nothing is wanted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }
}

#[cfg(test)]
#[path = "picker_tests.rs"]
mod tests;
