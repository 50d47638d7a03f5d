//! A set of pieces that costs what is in it, not what there is.

use std::collections::BTreeMap;

use super::bitfield::{pieces_of, place};
use super::{PieceIndex, Pieces, Random};

/// A set of pieces, in words as a [`Bitfield`](super::Bitfield) has them, so that 64 pieces are held against what a peer has
/// at a time.
#[derive(Debug, Default)]
pub(super) struct SparseSet {
    words: BTreeMap<usize, u64>,
}

impl SparseSet {
    pub(super) fn insert(&mut self, piece: PieceIndex) {
        let (at, bit) = place(piece);
        *self.words.entry(at).or_default() |= bit;
    }

    pub(super) fn remove(&mut self, piece: PieceIndex) {
        let (at, bit) = place(piece);
        if let Some(word) = self.words.get_mut(&at) {
            *word &= !bit;
            if *word == 0 {
                self.words.remove(&at);
            }
        }
    }

    pub(super) fn has(&self, piece: PieceIndex) -> bool {
        let (at, bit) = place(piece);
        self.words.get(&at).is_some_and(|word| word & bit != 0)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// A piece by chance from those between the first and the last of the set, in it or not.
    pub(super) fn draw(&self, random: &mut Random) -> Option<PieceIndex> {
        let (first, _) = self.words.first_key_value()?;
        let (last, _) = self.words.last_key_value()?;
        u32::try_from(first * 64 + random.below((last - first + 1) * 64)).ok()
    }

    /// Words of the set with their numbers, from that of a piece on and round to it again: those before the piece come last.
    pub(super) fn words_from(&self, start: PieceIndex) -> impl Iterator<Item = (usize, u64)> {
        let (at, _) = place(start);
        let behind = u64::MAX >> (start % 64);
        let first = self.words.get(&at).copied().unwrap_or(0);
        let rest = self.words.range(at + 1..).chain(self.words.range(..at));
        std::iter::once((at, first & behind))
            .chain(rest.map(|(at, word)| (*at, *word)))
            .chain(std::iter::once((at, first & !behind)))
    }

    /// Those of them that somebody has, in the order of [`words_from`](Self::words_from).
    pub(super) fn common_from(&self, pieces: &Pieces, start: PieceIndex) -> impl Iterator<Item = PieceIndex> {
        self.words_from(start)
            .flat_map(|(at, word)| pieces_of(at, word & pieces.word(at)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::super::Bitfield;
    use super::*;

    proptest! {
        #[test]
        fn it_holds_what_a_set_would_and_has_in_common_what_both_have(
            steps in prop::collection::vec((any::<bool>(), 0_u32..700), 0..300),
            theirs in prop::collection::btree_set(0_u32..700, 0..300),
            start in 0_u32..800,
        ) {
            let (mut set, mut model) = (SparseSet::default(), BTreeSet::new());
            for (add, piece) in steps {
                if add {
                    set.insert(piece);
                    model.insert(piece);
                } else {
                    set.remove(piece);
                    model.remove(&piece);
                }
            }
            prop_assert_eq!(set.is_empty(), model.is_empty());
            prop_assert_eq!(set.has(start), model.contains(&start));
            let mut bitfield = Bitfield::new();
            theirs.iter().for_each(|piece| _ = bitfield.insert(*piece));
            let in_turn = |pieces: &mut dyn Iterator<Item = PieceIndex>| {
                let (before, behind): (Vec<PieceIndex>, Vec<PieceIndex>) = pieces.partition(|piece| *piece < start);
                behind.into_iter().chain(before).collect::<Vec<_>>()
            };
            let common: Vec<PieceIndex> = set.common_from(&Pieces::Some(bitfield), start).collect();
            prop_assert_eq!(common, in_turn(&mut model.intersection(&theirs).copied()));
            let all: Vec<PieceIndex> = set.common_from(&Pieces::All, start).collect();
            prop_assert_eq!(all, in_turn(&mut model.iter().copied()));
            let drawn = set.draw(&mut Random::new(u64::from(start)));
            let near = |piece: PieceIndex| piece / 64;
            prop_assert_eq!(drawn.is_none(), model.is_empty());
            if let (Some(drawn), Some(first), Some(last)) = (drawn, model.first(), model.last()) {
                prop_assert!((near(*first)..=near(*last)).contains(&near(drawn)));
            }
        }
    }
}
