//! The head: the one mutable, signed statement about a repository (docs/formats/head.md).
//!
//! A head is checked in two steps that nothing can skip: [`SignedHead::verify`] looks at signature and
//! content and is the only constructor; [`SignedHead::succeeds`] decides whether it may replace the head
//! held so far. Only then is it persisted and acted upon.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::sign::{self, PublicKey, SecretKey, SignError};
use crate::{RecordId, RepoName, SnapshotId, TagName, Timestamp};

/// DSSE payload type of a head; a new format version gets a new type.
pub const HEAD_TYPE: &str = "application/vnd.instantmirror.head.v1+json";
/// Longest validity of a head.
pub const HEAD_VALIDITY_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// Most removed snapshots that a head lists; of more, the latest.
pub const REMOVED_MAX: usize = 1_000;
/// Longest reason of a removal, in bytes.
pub const REASON_BYTES_MAX: usize = 500;
/// How far a master's clock may be ahead of a node's.
pub const CLOCK_SKEW_MAX: Duration = Duration::from_secs(24 * 3600);

/// What the master says of a repository at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The repository.
    pub repository: RepoName,
    /// Grows with every head; a node never goes back.
    pub sequence: u64,
    /// When it was signed.
    pub issued: Timestamp,
    /// When nodes stop believing that it is recent; at most [`HEAD_VALIDITY_MAX`] after `issued`.
    pub expires: Timestamp,
    /// The repository's piece length in bytes (a power of two, fixed for the repository's life).
    pub piece_length: u32,
    /// The released snapshot that `snap/current` shows.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub current: Option<SnapshotId>,
    /// All live snapshots, oldest first.
    pub snapshots: Vec<LiveSnapshot>,
    /// Names given to snapshots by the master (`master-snap/<tag>/`).
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub tags: BTreeMap<TagName, SnapshotId>,
    /// Version of the newest key list ([`crate::keys`]) when it was signed; 0 if there is none. Whoever holds an older one
    /// asks for it.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub key_list: u64,
    /// What nodes are advised to fetch ahead of demand: globs, most urgent first.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub preseed: Vec<String>,
    /// Globs of paths that are never found by [grace](crate::grace), besides those of [`companion`](crate::companion).
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub grace_never: Vec<String>,
    /// Snapshots that the master took away for good, the latest last, at most [`REMOVED_MAX`]. Nodes show and keep none of
    /// them, not even for tags of their own.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub removed: Vec<RemovedSnapshot>,
}

/// A snapshot that was taken away for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedSnapshot {
    /// The snapshot.
    pub id: SnapshotId,
    /// When it was removed.
    pub removed: Timestamp,
    /// The operator's reason, for the logs of nodes; at most [`REASON_BYTES_MAX`].
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub reason: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde calls")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A snapshot that exists on the master.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveSnapshot {
    /// The snapshot.
    pub id: SnapshotId,
    /// The hash of its record: this binds the whole tree to the signature.
    pub record: RecordId,
    /// Whether the public may see it.
    #[serde(flatten)]
    pub state: SnapshotState,
}

/// Whether the public may see a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum SnapshotState {
    /// Only authorised nodes have it, and show it to nobody, until its rule is met.
    Staged {
        /// Not before this time.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        release_at: Option<Timestamp>,
        /// Not before this share of nodes, in percent, is complete.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        when_synced_percent: Option<u8>,
    },
    /// Everybody may see it.
    Released {
        /// When it became current last; grace times are counted from here.
        released: Timestamp,
        /// Sequence of the head that made it current last: the [order](crate::order) of snapshots. Absent in heads of
        /// older masters.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        since: Option<u64>,
        /// The master went back to an older snapshot: what this one has is found under its own name alone, never by
        /// [grace](crate::grace).
        #[serde(skip_serializing_if = "std::ops::Not::not", default)]
        withdrawn: bool,
    },
}

impl SnapshotState {
    /// Released by the head with this sequence number.
    #[must_use]
    pub const fn released(released: Timestamp, sequence: u64) -> Self {
        Self::Released {
            released,
            since: Some(sequence),
            withdrawn: false,
        }
    }

    /// Whether the public may see it.
    #[must_use]
    pub fn is_released(&self) -> bool {
        matches!(self, Self::Released { .. })
    }
}

/// Why a head was refused. Whatever the reason, the head held so far stays in force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeadError {
    /// Not signed by a trusted key, or no envelope of a head at all.
    #[error("the head of '{repository}' was refused: {source}")]
    Signature {
        /// The repository asked for.
        repository: RepoName,
        /// What is wrong.
        source: SignError,
    },
    /// Signed, but not a head that can be used.
    #[error("the head of '{repository}' is signed but unusable: {reason}")]
    Malformed {
        /// The repository asked for.
        repository: RepoName,
        /// The rule it breaks.
        reason: String,
    },
    /// Older than the head held so far.
    #[error("rollback: the head of '{repository}' has sequence {offered}, but {held} was seen before")]
    Rollback {
        /// The repository.
        repository: RepoName,
        /// Sequence of the refused head.
        offered: u64,
        /// Sequence held.
        held: u64,
    },
    /// Same sequence, other content: the key has signed two truths.
    #[error("two different heads of '{repository}' have sequence {sequence}; look after the master's key")]
    Equivocation {
        /// The repository.
        repository: RepoName,
        /// Their sequence.
        sequence: u64,
    },
    /// No longer valid.
    #[error("the head of '{repository}' expired at {expires}; is the master still publishing heads?")]
    Expired {
        /// The repository.
        repository: RepoName,
        /// When.
        expires: Timestamp,
    },
    /// From the future.
    #[error("the head of '{repository}' was issued at {issued}, which lies ahead; check both clocks")]
    Future {
        /// The repository.
        repository: RepoName,
        /// When it says it was signed.
        issued: Timestamp,
    },
}

/// What a verified head is to the one held so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Succession {
    /// The same head again.
    Same,
    /// A newer one: persist it, then act on it.
    Newer,
}

impl Head {
    /// The head of a repository that has no snapshot yet: sequence 0, signed and expired at `now`. `piece_length` in bytes.
    #[must_use]
    pub fn first(repository: RepoName, piece_length: u32, now: Timestamp) -> Self {
        Self {
            repository,
            sequence: 0,
            issued: now,
            expires: now,
            piece_length,
            current: None,
            snapshots: Vec::new(),
            tags: BTreeMap::new(),
            key_list: 0,
            preseed: Vec::new(),
            grace_never: Vec::new(),
            removed: Vec::new(),
        }
    }

    /// Signs the head.
    ///
    /// # Errors
    /// [`HeadError::Malformed`] if it breaks a rule that [`SignedHead::verify`] enforces: a master never
    /// signs what nodes would refuse.
    pub fn sign(&self, keys: &[&SecretKey]) -> Result<SignedHead, HeadError> {
        self.check()?;
        // Plain strings, numbers and lists: serialising cannot fail.
        let payload = serde_json::to_vec(self).unwrap_or_default();
        let bytes: Bytes = sign::seal(HEAD_TYPE, &payload, keys).into();
        // Nobody would read it: neither a node nor this master.
        if bytes.len() > sign::ENVELOPE_BYTES_MAX {
            return Err(HeadError::Malformed {
                repository: self.repository.clone(),
                reason: format!(
                    "it would have {} bytes, the limit is {}: it lists too many snapshots ({})",
                    bytes.len(),
                    sign::ENVELOPE_BYTES_MAX,
                    self.snapshots.len()
                ),
            });
        }
        Ok(SignedHead {
            bytes,
            head: self.clone(),
        })
    }

    /// The live snapshot with this id.
    #[must_use]
    pub fn snapshot(&self, id: &SnapshotId) -> Option<&LiveSnapshot> {
        self.snapshots.iter().find(|live| live.id == *id)
    }

    /// Whether the master took this snapshot away for good.
    #[must_use]
    pub fn has_removed(&self, id: &SnapshotId) -> bool {
        self.removed.iter().any(|removed| removed.id == *id)
    }

    fn check(&self) -> Result<(), HeadError> {
        let broken = |reason: String| HeadError::Malformed {
            repository: self.repository.clone(),
            reason,
        };
        if self.expires < self.issued || self.expires.since(self.issued) > HEAD_VALIDITY_MAX {
            return Err(broken(format!(
                "valid from {} to {}: more than 30 days, or none",
                self.issued, self.expires
            )));
        }
        // Nobody signs heads faster. Whoever has stolen a key cannot sign one that no later head could follow.
        if self.sequence > u64::try_from(self.issued.as_millis()).unwrap_or(0) {
            return Err(broken(format!(
                "sequence {} is more than the milliseconds from 1970 to {}",
                self.sequence, self.issued
            )));
        }
        if !self.piece_length.is_power_of_two() || self.piece_length < 16 * 1024 {
            return Err(broken(format!(
                "piece length {} is not a power of two from 16 KiB",
                self.piece_length
            )));
        }
        let ids: BTreeSet<_> = self.snapshots.iter().map(|live| live.id).collect();
        if ids.len() != self.snapshots.len() {
            return Err(broken("a snapshot is listed twice".to_owned()));
        }
        if let Some(current) = self.current
            && !self.snapshot(&current).is_some_and(|live| live.state.is_released())
        {
            return Err(broken(format!(
                "current is {current}, which is not a released snapshot"
            )));
        }
        if let Some(removed) = self.removed.iter().find(|removed| ids.contains(&removed.id)) {
            return Err(broken(format!("snapshot {} is listed, and removed too", removed.id)));
        }
        match self.tags.iter().find(|(_, id)| !ids.contains(id)) {
            Some((tag, id)) => Err(broken(format!("tag '{tag}' names {id}, which is not live"))),
            None => Ok(()),
        }
    }
}

/// A head whose signature and content have been verified, with the bytes that prove it to others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedHead {
    bytes: Bytes,
    head: Head,
}

impl SignedHead {
    /// Verifies a head that came from anywhere: wire, disk or a friend.
    ///
    /// # Errors
    /// [`HeadError::Signature`] unless a key of `trusted` signed it, [`HeadError::Malformed`] if it is
    /// for another repository or breaks a rule of the format.
    pub fn verify(bytes: Bytes, repository: &RepoName, trusted: &[PublicKey]) -> Result<Self, HeadError> {
        let payload = sign::open_sealed(HEAD_TYPE, &bytes, trusted).map_err(|source| HeadError::Signature {
            repository: repository.clone(),
            source,
        })?;
        let malformed = |reason| HeadError::Malformed {
            repository: repository.clone(),
            reason,
        };
        let head: Head = serde_json::from_slice(&payload).map_err(|error| malformed(error.to_string()))?;
        if head.repository != *repository {
            return Err(malformed(format!("it is the head of '{}'", head.repository)));
        }
        head.check()?;
        Ok(Self { bytes, head })
    }

    /// Whether this head may follow `held` at time `now`.
    ///
    /// # Errors
    /// [`HeadError::Rollback`], [`HeadError::Equivocation`], [`HeadError::Expired`] or
    /// [`HeadError::Future`]; keep the held head then, and say so.
    pub fn succeeds(&self, held: Option<&Self>, now: Timestamp) -> Result<Succession, HeadError> {
        let repository = self.head.repository.clone();
        if let Some(held) = held {
            let (offered, held_sequence) = (self.head.sequence, held.head.sequence);
            if offered < held_sequence {
                return Err(HeadError::Rollback {
                    repository,
                    offered,
                    held: held_sequence,
                });
            }
            if offered == held_sequence {
                if self.head != held.head {
                    return Err(HeadError::Equivocation {
                        repository,
                        sequence: offered,
                    });
                }
                return Ok(Succession::Same);
            }
        }
        if self.is_expired(now) {
            return Err(HeadError::Expired {
                repository,
                expires: self.head.expires,
            });
        }
        if self.head.issued > now.plus(CLOCK_SKEW_MAX) {
            return Err(HeadError::Future {
                repository,
                issued: self.head.issued,
            });
        }
        Ok(Succession::Newer)
    }

    /// Whether `now` is past the head's validity. What it named keeps being served, loudly.
    #[must_use]
    pub fn is_expired(&self, now: Timestamp) -> bool {
        now > self.head.expires
    }

    /// What it says.
    #[must_use]
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The signed bytes, to be stored and passed on unchanged.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{NodeId, Root, Snapshot};

    const ISSUED: Timestamp = Timestamp::from_millis(1_700_000_000_000);
    /// The highest sequence number that a head of that time may have.
    const HIGHEST: u64 = 1_700_000_000_000;
    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn key(seed: u8) -> SecretKey {
        SecretKey::from_random([seed; 32])
    }

    fn fedora() -> RepoName {
        "fedora".parse().unwrap()
    }

    fn live(seed: u8, state: SnapshotState) -> LiveSnapshot {
        LiveSnapshot {
            id: SnapshotId::from_random([seed; 16]),
            record: RecordId::of(&[seed]),
            state,
        }
    }

    fn released(seed: u8) -> LiveSnapshot {
        // As masters wrote it before there were `since` and `withdrawn`: the vectors have it so.
        let state = SnapshotState::Released {
            released: ISSUED,
            since: None,
            withdrawn: false,
        };
        live(seed, state)
    }

    fn staged(seed: u8) -> LiveSnapshot {
        let state = SnapshotState::Staged {
            release_at: Some(ISSUED.plus(DAY)),
            when_synced_percent: Some(80),
        };
        live(seed, state)
    }

    fn head(sequence: u64) -> Head {
        Head {
            repository: fedora(),
            sequence,
            issued: ISSUED,
            expires: ISSUED.plus(DAY * 7),
            piece_length: 1 << 20,
            current: Some(released(1).id),
            snapshots: vec![released(1), staged(2)],
            tags: BTreeMap::from([("stable".parse().unwrap(), released(1).id)]),
            key_list: 0,
            preseed: vec!["repodata/**".to_owned()],
            grace_never: Vec::new(),
            removed: Vec::new(),
        }
    }

    fn sealed(payload: &[u8]) -> Bytes {
        sign::seal(HEAD_TYPE, payload, &[&key(1)]).into()
    }

    fn verify(bytes: Bytes) -> Result<SignedHead, HeadError> {
        SignedHead::verify(bytes, &fedora(), &[key(1).public()])
    }

    #[test]
    fn a_signed_head_verifies_to_what_was_signed() {
        let signed = head(7).sign(&[&key(2), &key(1)]).unwrap();
        let again = verify(signed.bytes().clone()).unwrap();
        assert_eq!((again.head(), again.bytes()), (&head(7), signed.bytes()));
        assert_eq!(head(7).snapshot(&staged(2).id), Some(&staged(2)));
    }

    /// A change to a good head, and a word of the reason for which it is refused.
    type Broken = (fn(&mut Head), &'static str);

    #[test]
    fn unusable_heads_are_neither_signed_nor_believed() {
        let cases: [Broken; 13] = [
            (|head| head.sequence = u64::MAX, "milliseconds"),
            (|head| head.sequence = HIGHEST + 1, "milliseconds"),
            (
                |head| head.expires = head.issued.plus(HEAD_VALIDITY_MAX + DAY),
                "30 days",
            ),
            (|head| head.expires = Timestamp::from_millis(0), "30 days"),
            (|head| head.piece_length = 0, "piece length"),
            (|head| head.piece_length = 3 << 20, "piece length"),
            (|head| head.piece_length = 8 * 1024, "piece length"),
            (|head| head.snapshots.push(released(1)), "twice"),
            (|head| head.current = Some(staged(2).id), "not a released"),
            (|head| head.current = Some(released(9).id), "not a released"),
            (|head| head.snapshots.clear(), "current"),
            (
                |head| {
                    head.removed.push(RemovedSnapshot {
                        id: released(1).id,
                        removed: ISSUED,
                        reason: String::new(),
                    });
                },
                "removed too",
            ),
            (
                |head| {
                    head.tags.insert("gone".parse().unwrap(), released(9).id);
                },
                "not live",
            ),
        ];
        for (change, word) in cases {
            let mut broken = head(1);
            change(&mut broken);
            let unsigned = broken.sign(&[&key(1)]).unwrap_err();
            let refused = verify(sealed(&serde_json::to_vec(&broken).unwrap())).unwrap_err();
            for error in [unsigned, refused] {
                assert!(matches!(error, HeadError::Malformed { .. }), "{error}");
                assert!(error.to_string().contains(word), "{error}");
            }
        }
    }

    #[test]
    fn a_head_that_nobody_would_read_is_not_signed() {
        let mut head = head(1);
        let live = released(1);
        head.snapshots = (0..90_000_u128)
            .map(|number| LiveSnapshot {
                id: SnapshotId::from_random(number.to_be_bytes()),
                ..live.clone()
            })
            .collect();
        head.current = None;
        head.tags.clear();
        let refused = head.sign(&[&key(1)]);
        assert!(
            matches!(&refused, Err(HeadError::Malformed { reason, .. }) if reason.contains("too many snapshots")),
            "{:?}",
            refused.err()
        );
        head.snapshots.truncate(1000);
        assert!(head.sign(&[&key(1)]).unwrap().bytes().len() < sign::ENVELOPE_BYTES_MAX);
    }

    #[test]
    fn what_is_no_head_of_ours_is_refused() {
        let good = head(1).sign(&[&key(1)]).unwrap();
        let theirs = Head {
            repository: "debian".parse().unwrap(),
            ..head(1)
        };
        for (bytes, malformed) in [
            (Bytes::from_static(b"{}"), false),
            (Bytes::new(), false),
            (head(1).sign(&[&key(2)]).unwrap().bytes().clone(), false),
            (head(1).sign(&[]).unwrap().bytes().clone(), false),
            (sign::seal("text/plain", b"{}", &[&key(1)]).into(), false),
            (sealed(b"{}"), true),
            (sealed(b"\xff"), true),
            (theirs.sign(&[&key(1)]).unwrap().bytes().clone(), true),
        ] {
            let error = verify(bytes).unwrap_err();
            assert_eq!(matches!(error, HeadError::Malformed { .. }), malformed, "{error}");
            assert_eq!(matches!(error, HeadError::Signature { .. }), !malformed, "{error}");
        }
        assert!(SignedHead::verify(good.bytes().clone(), &fedora(), &[]).is_err());
    }

    #[test]
    fn succession_is_decided_by_sequence_content_and_time() {
        let held = head(5).sign(&[&key(1)]).unwrap();
        let offer = |sequence, change: fn(&mut Head)| {
            let mut head = head(sequence);
            change(&mut head);
            head.sign(&[&key(1)]).unwrap()
        };
        let keep: fn(&mut Head) = |_| ();
        let ahead: fn(&mut Head) = |head| {
            head.issued = ISSUED.plus(CLOCK_SKEW_MAX + Duration::from_millis(1));
            head.expires = head.issued;
        };
        let (repository, end) = (fedora(), ISSUED.plus(DAY * 7));
        let late = end.plus(Duration::from_millis(1));
        let rollback = HeadError::Rollback {
            repository: fedora(),
            offered: 4,
            held: 5,
        };
        let equivocation = HeadError::Equivocation {
            repository: fedora(),
            sequence: 5,
        };
        let expired = HeadError::Expired {
            repository: fedora(),
            expires: end,
        };
        let future = HeadError::Future {
            repository,
            issued: ISSUED.plus(CLOCK_SKEW_MAX + Duration::from_millis(1)),
        };
        for (offered, now, expected) in [
            (offer(6, keep), ISSUED, Ok(Succession::Newer)),
            (offer(HIGHEST, keep), end, Ok(Succession::Newer)),
            (offer(5, keep), ISSUED, Ok(Succession::Same)),
            (offer(5, keep), late, Ok(Succession::Same)),
            (offer(4, keep), ISSUED, Err(rollback)),
            (offer(5, |head| head.preseed.clear()), ISSUED, Err(equivocation)),
            (offer(6, keep), late, Err(expired)),
            (offer(6, ahead), ISSUED, Err(future)),
            (
                offer(6, ahead),
                ISSUED.plus(Duration::from_millis(1)),
                Ok(Succession::Newer),
            ),
        ] {
            assert_eq!(offered.succeeds(Some(&held), now), expected);
        }
        assert_eq!(offer(1, keep).succeeds(None, ISSUED), Ok(Succession::Newer));
        assert!(offer(1, keep).succeeds(None, late).is_err());
        // Signed again by another key: the same head.
        let resigned = head(5).sign(&[&key(2), &key(1)]).unwrap();
        assert_eq!(resigned.succeeds(Some(&held), ISSUED), Ok(Succession::Same));
    }

    /// The vectors of docs/formats/head.md. They never change; a new format gets a new version.
    #[test]
    fn documented_vectors() {
        let vectors = include_str!("../../docs/formats/vectors/head.txt");
        let record = Snapshot {
            id: SnapshotId::from_random([1; 16]),
            repository: fedora(),
            created: ISSUED,
            parent: None,
            note: "first".to_owned(),
            root: Root {
                node: NodeId::of(b"node"),
                mode: 0o755,
                mtime: 1_700_000_000,
                files: 3,
                bytes: 1 << 40,
            },
        };
        let (id, bytes) = record.encode();
        let mut signed = head(7);
        signed.snapshots[0].record = id;
        let envelope = signed.sign(&[&key(1)]).unwrap();
        let expected = [
            format!("secret {}", key(1).to_secret_text().trim()),
            format!("public {}", key(1).public()),
            format!(
                "record {id} {} bytes\n{}",
                bytes.len(),
                String::from_utf8(bytes).unwrap().trim()
            ),
            format!("payload\n{}", serde_json::to_string(&signed).unwrap()),
            format!("envelope\n{}", String::from_utf8(envelope.bytes().to_vec()).unwrap()),
        ];
        for part in expected {
            assert!(vectors.contains(&part), "not in the vectors:\n{part}");
        }
    }
}
