//! The bytes of `checkpoint` and `journal`: what a restart knows of whole objects without reading them.
//!
//! The checkpoint lists all objects that were durable at one moment, sorted by id; the journal, batch by batch, those that
//! were added or used since. A checkpoint is searched where it lies in the map and checked block by block, so opening one
//! of millions of objects costs nothing. A journal belongs to the checkpoint of the same generation and is void beside
//! any other.
//!
//! Nothing is lost with either: what they do not list, or list with another size or time, is verified before it is served.
//! Nothing here does I/O.

use std::collections::HashMap;
use std::path::Path;

use bytes::Bytes;
use instantmirror_core::ObjectId;
use instantmirror_core::expiry::{PolicyKind, Remembered, Standing, fingerprint};

use super::table::Recorded;
use crate::error::{Result, StoreError};

/// Bytes of an entry: id 32, size 8, time of the last change 8, last use 7 and standing 1, memo of the policy 8.
pub(super) const ENTRY: usize = 64;
pub(super) const HEADER: usize = 64;
const VERSION: u32 = 2;
/// Checkpoints of the first version knew less; they are as good as none.
const FORMER_VERSION: u32 = 1;
const CHECKPOINT_MAGIC: &[u8; 8] = b"IMCACHEK";
const JOURNAL_MAGIC: &[u8; 8] = b"IMCACHEJ";
const BATCH_MAGIC: &[u8; 4] = b"IMJB";
const BATCH_HEADER: usize = 24;
/// Entries under one checksum.
pub(super) const BLOCK: usize = 64;
const ADVICE: &str = "nothing is lost: objects are verified again before they are served";
/// The highest byte of the last use is the standing.
const LAST_USE_BITS: u32 = 56;

/// What stands at the beginning of both files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    /// Grows with each checkpoint.
    pub(super) generation: u64,
    /// Entries of a checkpoint; 0 in a journal.
    pub(super) count: u64,
    /// The latest use in it.
    pub(super) last_use: u64,
    /// Whose memos they are.
    pub(super) policy: PolicyKind,
}

fn number(bytes: &[u8], at: usize) -> u64 {
    let found = bytes.get(at..at + 8).and_then(|found| found.try_into().ok());
    found.map_or(0, u64::from_le_bytes)
}

fn short(bytes: &[u8], at: usize) -> u32 {
    let found = bytes.get(at..at + 4).and_then(|found| found.try_into().ok());
    found.map_or(0, u32::from_le_bytes)
}

impl Header {
    fn encode(&self, magic: &[u8; 8]) -> Vec<u8> {
        let mut body = Vec::with_capacity(HEADER);
        for value in [self.generation, self.count, self.last_use] {
            body.extend_from_slice(&value.to_le_bytes());
        }
        body.extend_from_slice(self.policy.name().as_bytes());
        body.resize(HEADER - 16, 0);
        let crc = crc32fast::hash(&body);
        [magic.as_slice(), &VERSION.to_le_bytes(), &crc.to_le_bytes(), &body].concat()
    }

    pub(super) fn of_checkpoint(&self) -> Vec<u8> {
        self.encode(CHECKPOINT_MAGIC)
    }

    pub(super) fn of_journal(&self) -> Vec<u8> {
        self.encode(JOURNAL_MAGIC)
    }

    /// `None` if it is of the former version.
    fn decode(path: &Path, bytes: &[u8], magic: &[u8; 8]) -> Result<Option<Self>> {
        let damaged = |what: &str| StoreError::damaged(path, what, ADVICE);
        if bytes.get(..8) != Some(magic) {
            return Err(damaged("it does not begin as it must"));
        }
        match short(bytes, 8) {
            FORMER_VERSION => return Ok(None),
            VERSION => {}
            found => {
                return Err(StoreError::UnknownVersion {
                    path: path.to_path_buf(),
                    found,
                    supported: VERSION,
                });
            }
        }
        let body = bytes.get(16..HEADER).ok_or_else(|| damaged("it ends in its header"))?;
        if crc32fast::hash(body) != short(bytes, 12) {
            return Err(damaged("the checksum of its header is wrong"));
        }
        let name = body.get(24..).unwrap_or_default();
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        let policy = std::str::from_utf8(name).ok().and_then(|name| name.parse().ok());
        Ok(Some(Self {
            generation: number(body, 0),
            count: number(body, 8),
            last_use: number(body, 16),
            policy: policy.ok_or_else(|| damaged("it names no policy"))?,
        }))
    }
}

/// The bytes of an entry.
pub(super) fn encode_entry(object: &ObjectId, recorded: &Recorded) -> [u8; ENTRY] {
    let Remembered {
        last_use,
        standing,
        memo,
    } = recorded.remembered;
    let used = last_use & ((1 << LAST_USE_BITS) - 1) | u64::from(standing.code()) << LAST_USE_BITS;
    let mut entry = [0; ENTRY];
    entry[..32].copy_from_slice(object.as_bytes());
    for (place, value) in [recorded.size, recorded.mtime_ns.cast_unsigned(), used, memo]
        .into_iter()
        .enumerate()
    {
        entry[32 + place * 8..40 + place * 8].copy_from_slice(&value.to_le_bytes());
    }
    entry
}

fn decode_entry(entry: &[u8]) -> Option<(ObjectId, Recorded)> {
    let object = ObjectId::from_bytes(entry.get(..32)?.try_into().ok()?);
    let used = number(entry, 48);
    let standing = u8::try_from(used >> LAST_USE_BITS).unwrap_or_default();
    // What is kept is known anew after every start.
    let standing = match Standing::from_code(standing) {
        Standing::Kept => Standing::Live,
        other => other,
    };
    let recorded = Recorded {
        size: number(entry, 32),
        mtime_ns: number(entry, 40).cast_signed(),
        remembered: Remembered {
            last_use: used & ((1 << LAST_USE_BITS) - 1),
            standing,
            memo: number(entry, 56),
        },
    };
    Some((object, recorded))
}

/// Checksums of entries that are written one after the other.
#[derive(Debug, Default)]
pub(super) struct Checksums {
    open: Vec<u8>,
    sums: Vec<u8>,
}

impl Checksums {
    pub(super) fn add(&mut self, entry: &[u8]) {
        self.open.extend_from_slice(entry);
        if self.open.len() >= BLOCK * ENTRY {
            self.close();
        }
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            self.sums.extend_from_slice(&crc32fast::hash(&self.open).to_le_bytes());
            self.open.clear();
        }
    }

    /// What follows the last entry.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.close();
        self.sums
    }
}

/// A checkpoint in the map.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    pub(super) header: Header,
    bytes: Bytes,
}

impl Snapshot {
    /// Takes the bytes of a file; one of the former version is empty.
    pub(super) fn open(path: &Path, bytes: Bytes) -> Result<Self> {
        let Some(header) = Header::decode(path, &bytes, CHECKPOINT_MAGIC)? else {
            return Ok(Self::default());
        };
        let count = usize::try_from(header.count).unwrap_or(usize::MAX);
        let len = count
            .checked_mul(ENTRY)
            .and_then(|len| len.checked_add(HEADER + count.div_ceil(BLOCK) * 4));
        if len != Some(bytes.len()) {
            return Err(StoreError::damaged(
                path,
                "it has not the length that it states",
                ADVICE,
            ));
        }
        Ok(Self { header, bytes })
    }

    fn len(&self) -> usize {
        usize::try_from(self.header.count).unwrap_or(0)
    }

    fn entry(&self, number: usize) -> &[u8] {
        let start = HEADER + number * ENTRY;
        self.bytes.get(start..start + ENTRY).unwrap_or_default()
    }

    fn is_right(&self, block: usize) -> bool {
        let first = block * BLOCK;
        let last = (first + BLOCK).min(self.len());
        let entries = self.bytes.get(HEADER + first * ENTRY..HEADER + last * ENTRY);
        let sum = short(&self.bytes, HEADER + self.len() * ENTRY + block * 4);
        entries.is_some_and(|entries| crc32fast::hash(entries) == sum)
    }

    /// What it says of an object; nothing if that part of it is damaged.
    pub(super) fn find(&self, object: &ObjectId) -> Option<Recorded> {
        let key = object.as_bytes().as_slice();
        let key_of = |number: usize| self.entry(number).get(..32).unwrap_or_default();
        let (mut low, mut high) = self.surroundings(object);
        if low > 0 && key_of(low) > key || high < self.len() && key_of(high) <= key {
            (low, high) = (0, self.len());
        }
        while low < high {
            let middle = low + (high - low) / 2;
            match key_of(middle).cmp(key) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => {
                    let found = decode_entry(self.entry(middle)).map(|(_, recorded)| recorded);
                    return found.filter(|_| self.is_right(middle / BLOCK));
                }
            }
        }
        None
    }

    /// Ids are hashes, so where one stands can nearly be told by its value: few pages are read.
    fn surroundings(&self, object: &ObjectId) -> (usize, usize) {
        let len = self.len();
        let guess = (u128::from(fingerprint(object)) * len as u128) >> 64;
        let guess = usize::try_from(guess).unwrap_or(0);
        let reach = 64 + 2 * len.isqrt();
        (guess.saturating_sub(reach), (guess + reach).min(len))
    }
}

/// One batch of a journal.
pub(super) fn encode_batch(entries: &[u8], last_use: u64) -> Vec<u8> {
    let mut body = Vec::with_capacity(BATCH_HEADER + entries.len());
    body.extend_from_slice(&last_use.to_le_bytes());
    body.extend_from_slice(&(entries.len() as u64).to_le_bytes());
    body.extend_from_slice(entries);
    let crc = crc32fast::hash(&body);
    [BATCH_MAGIC.as_slice(), &crc.to_le_bytes(), &body].concat()
}

/// What a journal says.
#[derive(Debug, Default)]
pub(super) struct Journal {
    pub(super) generation: u64,
    pub(super) last_use: u64,
    /// Entries in all its batches.
    pub(super) entries: usize,
    /// Bytes up to the end of the last batch that is whole.
    pub(super) end: u64,
    pub(super) found: HashMap<ObjectId, Recorded>,
}

impl Journal {
    /// Reads as far as it is right: what follows a torn batch was never acknowledged.
    pub(super) fn open(path: &Path, bytes: &[u8]) -> Result<Self> {
        let Some(header) = Header::decode(path, bytes, JOURNAL_MAGIC)? else {
            return Ok(Self::default());
        };
        let mut journal = Self {
            generation: header.generation,
            last_use: header.last_use,
            end: HEADER as u64,
            ..Self::default()
        };
        let mut at = HEADER;
        while let Some(entries) = batch_at(bytes, at) {
            journal.last_use = journal.last_use.max(number(bytes, at + 8));
            journal
                .found
                .extend(entries.chunks_exact(ENTRY).filter_map(decode_entry));
            journal.entries += entries.len() / ENTRY;
            at += BATCH_HEADER + entries.len();
            journal.end = at as u64;
        }
        Ok(journal)
    }
}

fn batch_at(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let len = usize::try_from(number(bytes.get(..at + BATCH_HEADER)?, at + 16)).ok()?;
    let body = bytes.get(at + 8..at.checked_add(BATCH_HEADER)?.checked_add(len)?)?;
    let right = bytes.get(at..at + 4)? == BATCH_MAGIC && crc32fast::hash(body) == short(bytes, at + 4);
    body.get(16..).filter(|entries| right && entries.len() % ENTRY == 0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn object(number: u64) -> ObjectId {
        ObjectId::of(&number.to_le_bytes())
    }

    fn recorded(number: u64) -> Recorded {
        Recorded {
            size: number,
            mtime_ns: -1,
            remembered: Remembered {
                last_use: number * 2,
                standing: [Standing::Garbage, Standing::Old, Standing::Live][usize::try_from(number % 3).unwrap()],
                memo: u64::MAX - number,
            },
        }
    }

    fn checkpoint(count: u64) -> Vec<u8> {
        let mut objects: Vec<_> = (0..count).map(|number| (object(number), recorded(number))).collect();
        objects.sort_by_key(|(object, _)| *object);
        let header = Header {
            generation: 7,
            count,
            last_use: 2 * count,
            policy: PolicyKind::Gdsf,
        };
        let (mut bytes, mut sums) = (header.of_checkpoint(), Checksums::default());
        for (object, recorded) in &objects {
            let entry = encode_entry(object, recorded);
            sums.add(&entry);
            bytes.extend_from_slice(&entry);
        }
        bytes.extend(sums.finish());
        bytes
    }

    #[test]
    fn a_checkpoint_finds_what_was_put_in_and_nothing_else() {
        for count in [0, 1, 63, 64, 65, 1000, 20_000] {
            let snapshot = Snapshot::open(Path::new("c"), checkpoint(count).into()).unwrap();
            assert_eq!(
                (snapshot.header.policy, snapshot.header.generation),
                (PolicyKind::Gdsf, 7)
            );
            for number in 0..count {
                assert_eq!(snapshot.find(&object(number)), Some(recorded(number)));
            }
            for number in count..count + 100 {
                assert_eq!(snapshot.find(&object(number)), None);
            }
        }
    }

    #[test]
    fn damage_of_a_checkpoint_is_never_believed() {
        let bytes = checkpoint(130);
        for at in 0..bytes.len() {
            let mut wrong = bytes.clone();
            wrong[at] ^= 1;
            if let Ok(snapshot) = Snapshot::open(Path::new("c"), wrong.into()) {
                let wrong = (0..130).filter(|number| snapshot.find(&object(*number)) != Some(recorded(*number)));
                let lost = wrong
                    .inspect(|number| assert_eq!(snapshot.find(&object(*number)), None))
                    .count();
                assert!((1..=BLOCK).contains(&lost), "{at}: {lost}");
            }
            assert!(
                Snapshot::open(Path::new("c"), bytes[..at].to_vec().into()).is_err(),
                "{at}"
            );
        }
    }

    #[test]
    fn a_journal_is_read_as_far_as_it_is_right() {
        let header = Header {
            generation: 3,
            ..Header::default()
        };
        let mut bytes = header.of_journal();
        let mut ends = vec![bytes.len()];
        for batch in 0..3 {
            let entries: Vec<u8> = (0..5)
                .flat_map(|i| encode_entry(&object(batch * 3 + i), &recorded(batch * 3 + i)))
                .collect();
            bytes.extend(encode_batch(&entries, 100 + batch));
            ends.push(bytes.len());
        }
        for cut in HEADER..=bytes.len() {
            let journal = Journal::open(Path::new("j"), &bytes[..cut]).unwrap();
            let whole = ends.iter().filter(|end| **end <= cut).count() - 1;
            assert_eq!((journal.entries, journal.end), (whole * 5, ends[whole] as u64), "{cut}");
        }
        for at in 0..bytes.len() {
            let mut wrong = bytes.clone();
            wrong[at] ^= 1;
            let Ok(journal) = Journal::open(Path::new("j"), &wrong) else {
                continue;
            };
            assert!(at >= HEADER && journal.entries < 15, "{at}");
            assert!(
                journal
                    .found
                    .iter()
                    .all(|(found, right)| (0..11).any(|n| object(n) == *found && recorded(n) == *right))
            );
        }
    }

    #[test]
    fn other_versions_are_told_apart() {
        for (version, expected) in [(1, true), (3, false)] {
            let mut bytes = checkpoint(3);
            bytes[8] = version;
            assert_eq!(Snapshot::open(Path::new("c"), bytes.into()).is_ok(), expected);
        }
    }
}
