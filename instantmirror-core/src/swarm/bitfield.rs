//! Which pieces somebody has: a set of piece indices that grows with the piece space.

use bytes::Bytes;

use super::PieceIndex;

/// In which word of a bitfield a piece is, and its bit there.
pub(super) fn place(piece: PieceIndex) -> (usize, u64) {
    (piece as usize / 64, 1 << (63 - piece % 64))
}

/// The pieces that the bits of a word stand for, in order.
pub(super) fn pieces_of(at: usize, mut word: u64) -> impl Iterator<Item = PieceIndex> {
    let first = u32::try_from(at).unwrap_or(u32::MAX / 64) * 64;
    std::iter::from_fn(move || {
        let bit = word.leading_zeros();
        word &= !(1_u64 << 63).checked_shr(bit)?;
        Some(first + bit)
    })
}

/// A set of piece indices.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bitfield {
    words: Vec<u64>,
    count: u64,
}

impl Bitfield {
    /// Nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What the payload of a bitfield message says (BEP 3: the first piece is the highest bit of the first byte).
    #[must_use]
    pub fn from_wire(bytes: &[u8]) -> Self {
        let words: Vec<u64> = bytes
            .chunks(8)
            .map(|chunk| {
                let mut word = [0_u8; 8];
                word[..chunk.len()].copy_from_slice(chunk);
                u64::from_be_bytes(word)
            })
            .collect();
        let count = words.iter().map(|word| u64::from(word.count_ones())).sum();
        Self { words, count }
    }

    /// The payload of a bitfield message about `pieces` pieces; what lies beyond is left out.
    #[must_use]
    pub fn to_wire(&self, pieces: PieceIndex) -> Bytes {
        let length = pieces.div_ceil(8) as usize;
        let mut bytes: Vec<u8> = self
            .words
            .iter()
            .flat_map(|word| word.to_be_bytes())
            .take(length)
            .collect();
        bytes.resize(length, 0);
        if let (Some(last), used @ 1..) = (bytes.last_mut(), pieces % 8) {
            *last &= 0xff << (8 - used);
        }
        bytes.into()
    }

    /// Whether a piece is in it.
    #[must_use]
    pub fn has(&self, piece: PieceIndex) -> bool {
        let (word, bit) = place(piece);
        self.words.get(word).is_some_and(|word| word & bit != 0)
    }

    /// Adds a piece. Whether it was not in it.
    pub fn insert(&mut self, piece: PieceIndex) -> bool {
        let (at, bit) = place(piece);
        if at >= self.words.len() {
            self.words.resize(at + 1, 0);
        }
        let is_new = self.words[at] & bit == 0;
        self.words[at] |= bit;
        self.count += u64::from(is_new);
        is_new
    }

    /// Takes a piece out. Whether it was in it.
    pub fn remove(&mut self, piece: PieceIndex) -> bool {
        let (at, bit) = place(piece);
        let Some(word) = self.words.get_mut(at) else {
            return false;
        };
        let was = *word & bit != 0;
        *word &= !bit;
        self.count -= u64::from(was);
        was
    }

    /// Number of pieces in it.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.count
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// One behind the highest piece in it.
    #[must_use]
    pub fn end(&self) -> PieceIndex {
        let last = self.words.iter().enumerate().rev().find(|(_, word)| **word != 0);
        last.map_or(0, |(at, word)| {
            u32::try_from(at).unwrap_or(u32::MAX / 64) * 64 + 64 - word.trailing_zeros()
        })
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = PieceIndex> {
        let words = self.words.iter().enumerate();
        words.flat_map(|(at, &word)| pieces_of(at, word))
    }
}

/// What a peer has: all there is and will be, or a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pieces {
    /// Everything, also what comes to the piece space later.
    All,
    /// These.
    Some(Bitfield),
}

impl Default for Pieces {
    fn default() -> Self {
        Self::Some(Bitfield::new())
    }
}

impl Pieces {
    /// Whether a piece is among them.
    #[must_use]
    pub fn has(&self, piece: PieceIndex) -> bool {
        match self {
            Self::All => true,
            Self::Some(pieces) => pieces.has(piece),
        }
    }

    /// 64 of them, the first one as the highest bit.
    pub(super) fn word(&self, at: usize) -> u64 {
        match self {
            Self::All => u64::MAX,
            Self::Some(pieces) => pieces.words.get(at).copied().unwrap_or(0),
        }
    }

    /// Whether none is.
    #[must_use]
    pub fn is_none(&self) -> bool {
        matches!(self, Self::Some(pieces) if pieces.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_piece_is_the_highest_bit_of_the_first_byte() {
        let pieces = Bitfield::from_wire(&[0b1000_0001, 0, 0, 0, 0, 0, 0, 0, 0b0100_0000]);
        assert_eq!(pieces.iter().collect::<Vec<_>>(), [0, 7, 65]);
        assert_eq!((pieces.len(), pieces.end()), (3, 66));
        assert_eq!(pieces.to_wire(66)[..], [0b1000_0001, 0, 0, 0, 0, 0, 0, 0, 0b0100_0000]);
        assert_eq!(
            pieces.to_wire(7)[..],
            [0b1000_0000],
            "bits that stand for no piece are 0"
        );
        assert_eq!(Bitfield::new().end(), 0);
    }

    proptest! {
        #[test]
        fn it_is_a_set(steps in prop::collection::vec((any::<bool>(), 0_u32..500), 0..200)) {
            let (mut bitfield, mut model) = (Bitfield::new(), std::collections::BTreeSet::new());
            for (add, piece) in steps {
                if add {
                    prop_assert_eq!(bitfield.insert(piece), model.insert(piece));
                } else {
                    prop_assert_eq!(bitfield.remove(piece), model.remove(&piece));
                }
            }
            prop_assert!(bitfield.iter().eq(model.iter().copied()));
            prop_assert_eq!(bitfield.len(), model.len() as u64);
            prop_assert_eq!(bitfield.end(), model.last().map_or(0, |last| last + 1));
            let again = Bitfield::from_wire(&bitfield.to_wire(500));
            prop_assert!(again.iter().eq(model.iter().copied()));
        }
    }
}
