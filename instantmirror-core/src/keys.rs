//! Key lists: which keys a master signs with, so that a key can be replaced without touching a node
//! (docs/formats/keys.md).
//!
//! A node pins a key once. From then on each list says which keys come next, and counts only if a key of the list before
//! has signed it. Whoever has stolen no key can add nothing, and whoever takes an old key out ends its power with the
//! next list.
//!
//! Invariant: a [`KeyChain`] holds lists that were verified one by one, from a pinned key on.

use std::collections::BTreeSet;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::Timestamp;
use crate::sign::{self, PublicKey, SecretKey, SignError};

/// DSSE payload type of a key list; a new format version gets a new type.
pub const KEYS_TYPE: &str = "application/vnd.instantmirror.keys.v1+json";
/// Most keys of one list.
pub const KEYS_MAX: usize = 8;
/// Highest version of a list, and so the most lists of a chain: a key changed every month lasts 80 years, and nobody can
/// jump to where no next one is possible.
pub const KEY_LISTS_MAX: u64 = 1000;
/// Most bytes of a chain.
pub const KEY_CHAIN_BYTES_MAX: usize = 4 << 20;

/// The keys that a master signs with from some moment on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyList {
    /// 1 for the first list, and one more for each next one.
    pub version: u64,
    /// When it was signed.
    pub issued: Timestamp,
    /// The keys, the oldest first; a head that one of them signed is believed.
    pub keys: Vec<ListedKey>,
}

/// A key of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedKey {
    /// The key.
    pub key: PublicKey,
    /// When it was taken into use.
    pub since: Timestamp,
}

/// Why key lists were refused. Whatever the reason, the keys trusted so far stay the trusted ones.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeysError {
    /// Not signed by a key that was trusted before, or no envelope of a key list at all.
    #[error("key list {version} was refused: {source}")]
    Signature {
        /// The version that should come, 0 for the first one of all.
        version: u64,
        /// What is wrong.
        source: SignError,
    },
    /// Signed, but not a list that can be used.
    #[error("key list {version} is signed but unusable: {reason}")]
    Malformed {
        /// The version that should come, 0 for the first one of all.
        version: u64,
        /// The rule it breaks.
        reason: String,
    },
    /// An older state than the one held.
    #[error("rollback: the newest key list offered is not the newest one seen, which has version {held}")]
    Rollback {
        /// The version held.
        held: u64,
    },
    /// Another history than the one held.
    #[error("the key lists offered do not continue list {held}, which is trusted; look after the master's keys")]
    Diverged {
        /// The version held.
        held: u64,
    },
    /// None of the lists begins with a key that is pinned.
    #[error("none of the {lists} key lists offered is signed by a key that the configuration trusts")]
    Unknown {
        /// How many there were.
        lists: usize,
    },
    /// More than any chain may have.
    #[error("the key lists have more than {KEY_CHAIN_BYTES_MAX} bytes, or are more than {KEY_LISTS_MAX}")]
    TooLong,
}

impl KeyList {
    /// Signs the list with the keys that it lists and those that were trusted before. Returns the envelope.
    ///
    /// # Errors
    /// [`KeysError::Malformed`] if it breaks a rule that nodes enforce.
    pub fn sign(&self, keys: &[&SecretKey]) -> Result<Bytes, KeysError> {
        self.check()?;
        let signers: Vec<PublicKey> = keys.iter().map(|key| key.public()).collect();
        self.check_possession(&signers)?;
        // Plain strings, numbers and lists: serialising cannot fail.
        let payload = serde_json::to_vec(self).unwrap_or_default();
        Ok(sign::seal(KEYS_TYPE, &payload, keys).into())
    }

    /// The keys alone.
    #[must_use]
    pub fn public_keys(&self) -> Vec<PublicKey> {
        self.keys.iter().map(|listed| listed.key).collect()
    }

    fn verify(envelope: &[u8], trusted: &[PublicKey], version: u64) -> Result<Self, KeysError> {
        let refused = |source| KeysError::Signature { version, source };
        let payload = sign::open_sealed(KEYS_TYPE, envelope, trusted).map_err(refused)?;
        let list: Self = serde_json::from_slice(&payload).map_err(|error| KeysError::Malformed {
            version,
            reason: error.to_string(),
        })?;
        list.check()?;
        let signers = sign::signers(KEYS_TYPE, envelope, &list.public_keys()).map_err(refused)?;
        list.check_possession(&signers)?;
        Ok(list)
    }

    fn broken(&self, reason: String) -> KeysError {
        let version = self.version;
        KeysError::Malformed { version, reason }
    }

    fn check(&self) -> Result<(), KeysError> {
        if !(1..=KEY_LISTS_MAX).contains(&self.version) {
            return Err(self.broken(format!("its version is not from 1 to {KEY_LISTS_MAX}")));
        }
        if self.keys.is_empty() || self.keys.len() > KEYS_MAX {
            return Err(self.broken(format!("it has {} keys, not 1 to {KEYS_MAX}", self.keys.len())));
        }
        let distinct: BTreeSet<String> = self.keys.iter().map(|listed| listed.key.to_string()).collect();
        if distinct.len() != self.keys.len() {
            return Err(self.broken("a key is listed twice".to_owned()));
        }
        Ok(())
    }

    /// Whoever lists a key has to have it: nobody can make a master answer for the key of somebody else.
    fn check_possession(&self, signers: &[PublicKey]) -> Result<(), KeysError> {
        match self.keys.iter().find(|listed| !signers.contains(&listed.key)) {
            None => Ok(()),
            Some(listed) => Err(self.broken(format!("{} is listed and has not signed it", listed.key))),
        }
    }
}

/// Lists that follow each other, each verified, from the first one that a pinned key has signed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyChain(Vec<(Bytes, KeyList)>);

impl KeyChain {
    /// Reads lists that came from anywhere, one envelope a line, and follows them from the pinned keys on.
    ///
    /// # Errors
    /// As [`follow`](Self::follow).
    pub fn read(bytes: &Bytes, pinned: &[PublicKey]) -> Result<Self, KeysError> {
        Self::default().follow(bytes, pinned)
    }

    /// This chain, continued by what is offered; unchanged if there is nothing new. The lists offered may begin before
    /// the first one held here.
    ///
    /// # Errors
    /// [`KeysError`]: nothing of what was offered counts then.
    pub fn follow(&self, offered: &Bytes, pinned: &[PublicKey]) -> Result<Self, KeysError> {
        let lines = lines(offered)?;
        let mut chain = self.clone();
        let new = match self.0.last() {
            Some((last, list)) => match lines.iter().position(|line| line == last) {
                Some(at) => &lines[at + 1..],
                None if lines.iter().all(|line| self.0.iter().any(|(held, _)| held == line)) => {
                    return Err(KeysError::Rollback { held: list.version });
                }
                None => return Err(KeysError::Diverged { held: list.version }),
            },
            None if lines.is_empty() => return Ok(chain),
            None => chain.begin(&lines, pinned)?,
        };
        for envelope in new {
            chain.append(envelope.clone())?;
        }
        Ok(chain)
    }

    /// Takes the first list that a pinned key has signed, and returns those behind it.
    fn begin<'a>(&mut self, lines: &'a [Bytes], pinned: &[PublicKey]) -> Result<&'a [Bytes], KeysError> {
        for (at, envelope) in lines.iter().enumerate() {
            match KeyList::verify(envelope, pinned, 0) {
                // The lists before may have been signed with keys that this node never knew.
                Err(KeysError::Signature {
                    source: SignError::Untrusted(_),
                    ..
                }) => {}
                Err(error) => return Err(error),
                Ok(list) => {
                    self.0.push((envelope.clone(), list));
                    return Ok(&lines[at + 1..]);
                }
            }
        }
        Err(KeysError::Unknown { lists: lines.len() })
    }

    /// Adds the next list to one that is not empty.
    ///
    /// # Errors
    /// [`KeysError`] unless it is the next one, signed by a key that is trusted now.
    pub fn append(&mut self, envelope: Bytes) -> Result<(), KeysError> {
        let version = self.version() + 1;
        let list = KeyList::verify(&envelope, &self.keys(), version)?;
        if list.version != version {
            let reason = format!("it says that it is {}", list.version);
            return Err(KeysError::Malformed { version, reason });
        }
        self.0.push((envelope, list));
        Ok(())
    }

    /// The lines that [`read`](Self::read) takes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::new();
        for (envelope, _) in &self.0 {
            out.extend_from_slice(envelope);
            out.push(b'\n');
        }
        out.into()
    }

    /// The version of the newest list; 0 if there is none.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.newest().map_or(0, |list| list.version)
    }

    /// The newest list.
    #[must_use]
    pub fn newest(&self) -> Option<&KeyList> {
        self.0.last().map(|(_, list)| list)
    }

    /// The keys of the newest list; without any there are none.
    fn keys(&self) -> Vec<PublicKey> {
        self.newest().map(KeyList::public_keys).unwrap_or_default()
    }

    /// Keys whose heads are believed: those of the newest list, or the pinned ones as long as there is none.
    #[must_use]
    pub fn trusted(&self, pinned: &[PublicKey]) -> Vec<PublicKey> {
        if self.0.is_empty() {
            pinned.to_vec()
        } else {
            self.keys()
        }
    }

    /// Keys that were trusted at some time: for what was verified then, and lies on a disk.
    #[must_use]
    pub fn ever_trusted(&self, pinned: &[PublicKey]) -> Vec<PublicKey> {
        let mut keys = pinned.to_vec();
        for key in self.0.iter().flat_map(|(_, list)| list.public_keys()) {
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        keys
    }
}

/// The envelopes of a chain.
fn lines(bytes: &Bytes) -> Result<Vec<Bytes>, KeysError> {
    if bytes.len() > KEY_CHAIN_BYTES_MAX {
        return Err(KeysError::TooLong);
    }
    let parts = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let lines: Vec<Bytes> = parts.map(|line| bytes.slice_ref(line)).collect();
    if lines.len() as u64 > KEY_LISTS_MAX {
        return Err(KeysError::TooLong);
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    fn key(seed: u8) -> SecretKey {
        SecretKey::from_random([seed; 32])
    }

    fn list(version: u64, keys: &[u8]) -> KeyList {
        let listed = |seed: &u8| ListedKey {
            key: key(*seed).public(),
            since: TIME,
        };
        KeyList {
            version,
            issued: TIME,
            keys: keys.iter().map(listed).collect(),
        }
    }

    /// Sealed without a look at the rules.
    fn sealed(list: &KeyList, signers: &[u8]) -> Bytes {
        let keys: Vec<SecretKey> = signers.iter().map(|seed| key(*seed)).collect();
        let payload = serde_json::to_vec(list).unwrap();
        sign::seal(KEYS_TYPE, &payload, &keys.iter().collect::<Vec<_>>()).into()
    }

    fn offered(lists: &[Bytes]) -> Bytes {
        lists.iter().flat_map(|list| [list.as_ref(), b"\n"].concat()).collect()
    }

    fn pinned(seed: u8) -> Vec<PublicKey> {
        vec![key(seed).public()]
    }

    /// A key is added, the first one retired, another one added, the second one retired.
    fn history() -> Vec<Bytes> {
        vec![
            sealed(&list(1, &[1, 2]), &[1, 2]),
            sealed(&list(2, &[2]), &[2]),
            sealed(&list(3, &[2, 3]), &[2, 3]),
            sealed(&list(4, &[3]), &[3]),
        ]
    }

    #[test]
    fn a_chain_leads_from_any_key_that_was_pinned_to_the_newest_ones() {
        for (seed, lists) in [(1, 4), (2, 4), (3, 2)] {
            let chain = KeyChain::read(&offered(&history()), &pinned(seed)).unwrap();
            assert_eq!((chain.version(), chain.0.len()), (4, lists));
            assert_eq!(chain.trusted(&pinned(seed)), pinned(3));
            assert_eq!(KeyChain::read(&chain.encode(), &pinned(seed)).as_ref(), Ok(&chain));
            assert!(chain.ever_trusted(&pinned(seed)).contains(&key(seed).public()));
        }
        let none = KeyChain::read(&Bytes::new(), &pinned(1)).unwrap();
        assert_eq!((none.version(), none.trusted(&pinned(1))), (0, pinned(1)));
        let stranger = KeyChain::read(&offered(&history()), &pinned(9));
        assert_eq!(stranger, Err(KeysError::Unknown { lists: 4 }));
    }

    #[test]
    fn a_chain_is_continued_and_never_goes_back() {
        let history = history();
        let held = KeyChain::read(&offered(&history[..2]), &pinned(1)).unwrap();
        let longer = held.follow(&offered(&history), &pinned(1)).unwrap();
        assert_eq!((longer.version(), longer.0.len()), (4, 4));
        assert_eq!(longer.follow(&offered(&history), &pinned(1)).as_ref(), Ok(&longer));
        for older in [&history[..0], &history[..1], &history[..3]] {
            let refused = longer.follow(&offered(older), &pinned(1));
            assert_eq!(refused, Err(KeysError::Rollback { held: 4 }), "{} lists", older.len());
        }
        // Whoever has the first key, which is retired, makes another history.
        let theirs = [history[0].clone(), sealed(&list(2, &[1]), &[1])];
        assert_eq!(
            held.follow(&offered(&theirs), &pinned(1)),
            Err(KeysError::Diverged { held: 2 })
        );
        // The configuration pins it still; a list behind those held does not count.
        let forked = [history[0].clone(), history[1].clone(), sealed(&list(3, &[1]), &[1])];
        let refused = held.follow(&offered(&forked), &pinned(1));
        assert!(
            matches!(refused, Err(KeysError::Signature { version: 3, .. })),
            "{refused:?}"
        );
    }

    #[test]
    fn lists_that_break_a_rule_are_neither_signed_nor_believed() {
        let first = history().remove(0);
        let many: Vec<u8> = (1..=9).collect();
        for (broken, signers, word) in [
            (list(3, &[2]), &[2][..], "says that it is 3"),
            (list(1, &[2]), &[2], "says that it is 1"),
            (list(0, &[2]), &[2], "its version is not"),
            (list(u64::MAX, &[2]), &[2], "its version is not"),
            (list(2, &[]), &[2], "it has 0 keys"),
            (list(2, &many), &many, "it has 9 keys"),
            (list(2, &[2, 2]), &[2], "twice"),
            (list(2, &[2, 5]), &[2], "has not signed it"),
            (list(2, &[5]), &[5], "no signature by a trusted key"),
        ] {
            let refused = KeyChain::read(&offered(&[first.clone(), sealed(&broken, signers)]), &pinned(1));
            let error = refused.unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        let unsigned = list(2, &[2, 5]).sign(&[&key(2)]).unwrap_err();
        assert!(unsigned.to_string().contains("has not signed it"));
        // Neither a head nor a version of the future is taken for a list.
        let other: Bytes = sign::seal("application/vnd.instantmirror.keys.v2+json", b"{}", &[&key(1)]).into();
        let refused = KeyChain::read(&other, &pinned(1));
        assert!(
            matches!(
                &refused,
                Err(KeysError::Signature {
                    source: SignError::Type { .. },
                    ..
                })
            ),
            "{refused:?}"
        );
    }

    #[test]
    fn a_chain_has_an_end() {
        let endless = Bytes::from(vec![b'{'; KEY_CHAIN_BYTES_MAX + 1]);
        assert_eq!(KeyChain::read(&endless, &pinned(1)), Err(KeysError::TooLong));
        let many = Bytes::from(b"x\n".repeat(1001));
        assert_eq!(KeyChain::read(&many, &pinned(1)), Err(KeysError::TooLong));
        let cut = history()[0].slice(..100);
        assert!(KeyChain::read(&cut, &pinned(1)).is_err());
    }
}
