//! How people name a snapshot: by its id or the beginning of it, by a tag, as `current`, or as `current~N`. Pure.
//!
//! There is one resolver for every command of master and node, so a name means the same everywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::order::before_current;
use crate::view::RepositoryState;
use crate::{Head, SnapshotId, TagName};

/// Shortest beginning of an id that counts as one: a slip of a finger must not name a snapshot that is to be removed.
pub const ID_PREFIX_MIN: usize = 4;
/// How many candidates a message lists before it counts the rest.
const LISTED_MAX: usize = 5;
/// How many characters of a name may be mistyped for it to be taken for another.
const TYPOS_MAX: usize = 8;

/// A snapshot as a person names it. Parsing checks the form alone; what it means a [`SnapshotNames`] says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SnapshotRef(String);

/// Why a text cannot name any snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a snapshot is named by its id or at least 4 characters of its beginning, by a tag, as current, or as current~N (N changes before)"
)]
pub struct SnapshotRefError;

impl FromStr for SnapshotRef {
    type Err = SnapshotRefError;

    fn from_str(text: &str) -> Result<Self, SnapshotRefError> {
        let is_back = text
            .strip_prefix("current~")
            .is_some_and(|steps| steps.parse::<u32>().is_ok());
        let is_name = text.parse::<TagName>().is_ok() || text.to_ascii_lowercase().parse::<SnapshotId>().is_ok();
        if is_back || is_name || is_id_prefix(&text.to_ascii_lowercase()) {
            Ok(Self(text.to_owned()))
        } else {
            Err(SnapshotRefError)
        }
    }
}

impl TryFrom<String> for SnapshotRef {
    type Error = SnapshotRefError;

    fn try_from(text: String) -> Result<Self, SnapshotRefError> {
        text.parse()
    }
}

impl From<SnapshotRef> for String {
    fn from(asked: SnapshotRef) -> Self {
        asked.0
    }
}

impl From<SnapshotId> for SnapshotRef {
    fn from(id: SnapshotId) -> Self {
        Self(id.to_string())
    }
}

impl fmt::Display for SnapshotRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_id_prefix(text: &str) -> bool {
    text.len() >= ID_PREFIX_MIN
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-'))
}

/// Why a name means no snapshot. The text is for the person who typed it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// Nothing has that name.
    #[error("the repository has no snapshot '{asked}'; {hint}")]
    Unknown {
        /// The name.
        asked: String,
        /// What was probably meant, or what there is.
        hint: String,
    },
    /// Several have.
    #[error("'{asked}' may be any of {candidates}; give more of the id")]
    Ambiguous {
        /// The name.
        asked: String,
        /// Those that have it.
        candidates: String,
    },
    /// The current snapshot has not so many before it.
    #[error("there is no '{asked}': {known} of the snapshots before the current one {} kept", if *known == 1 { "is" } else { "are" })]
    TooFarBack {
        /// The name.
        asked: String,
        /// How many there are.
        known: usize,
    },
}

/// The names that snapshots of a repository have.
#[derive(Debug, Clone, Default)]
pub struct SnapshotNames {
    /// The current one, and those before it.
    current: Vec<SnapshotId>,
    tags: BTreeMap<TagName, BTreeSet<SnapshotId>>,
    /// From new to old.
    ids: Vec<SnapshotId>,
}

impl SnapshotNames {
    /// The names on a master: all snapshots of the head, staged ones too.
    #[must_use]
    pub fn of_head(head: &Head) -> Self {
        let mut tags: BTreeMap<TagName, BTreeSet<SnapshotId>> = BTreeMap::new();
        for (tag, id) in &head.tags {
            tags.entry(tag.clone()).or_default().insert(*id);
        }
        Self {
            current: (0..).map_while(|steps| before_current(head, steps)).collect(),
            tags,
            ids: head.snapshots.iter().rev().map(|live| live.id).collect(),
        }
    }

    /// The names on a node: what it shows, by its own tags too.
    #[must_use]
    pub fn of_state(state: &RepositoryState) -> Self {
        let mut names = state
            .head
            .as_ref()
            .map_or_else(Self::default, |signed| Self::of_head(signed.head()));
        for (tag, id) in &state.local_tags {
            names.tags.entry(tag.clone()).or_default().insert(*id);
        }
        // The newest that is whole here may be older than the head's.
        let at = state
            .current
            .and_then(|id| names.current.iter().position(|of| *of == id));
        names.current.drain(..at.unwrap_or(0));
        names.ids = state.newest_first().iter().map(|snapshot| snapshot.id).collect();
        names
    }

    /// The snapshot that is called so.
    ///
    /// # Errors
    /// [`ResolveError`].
    pub fn resolve(&self, asked: &SnapshotRef) -> Result<SnapshotId, ResolveError> {
        let text = asked.0.as_str();
        if let Some(steps) = steps_back(text) {
            return self
                .current
                .get(steps)
                .copied()
                .ok_or_else(|| match self.current.len() {
                    0 => self.unknown(text),
                    all => ResolveError::TooFarBack {
                        asked: text.to_owned(),
                        known: all - 1,
                    },
                });
        }
        let lower = text.to_ascii_lowercase();
        let mut found: BTreeSet<SnapshotId> = BTreeSet::new();
        if is_id_prefix(&lower) {
            found.extend(self.ids.iter().filter(|id| id.to_string().starts_with(&lower)));
        }
        if let Ok(tag) = text.parse::<TagName>() {
            found.extend(self.tags.get(&tag).into_iter().flatten());
        }
        match found.len() {
            0 | 1 => found.first().copied().ok_or_else(|| self.unknown(text)),
            _ => Err(ResolveError::Ambiguous {
                asked: text.to_owned(),
                candidates: listed(&found.iter().map(|id| self.described(id)).collect::<Vec<_>>()),
            }),
        }
    }

    fn described(&self, id: &SnapshotId) -> String {
        let tagged = self.tags.iter().filter(|(_, ids)| ids.contains(id));
        let tags: String = tagged.map(|(tag, _)| format!(" [{tag}]")).collect();
        format!("{id}{tags}")
    }

    fn unknown(&self, asked: &str) -> ResolveError {
        let tags = self.tags.keys().map(ToString::to_string);
        let known = tags.chain(self.ids.iter().map(ToString::to_string)).collect();
        ResolveError::Unknown {
            asked: asked.to_owned(),
            hint: hint(asked, known),
        }
    }
}

/// `current` is 0, `current~N` is N.
fn steps_back(text: &str) -> Option<usize> {
    match text.strip_prefix("current")? {
        "" => Some(0),
        rest => rest.strip_prefix('~')?.parse().ok(),
    }
}

fn listed(names: &[String]) -> String {
    let more = names.len().saturating_sub(LISTED_MAX);
    let mut text = names[..names.len() - more].join(", ");
    if more > 0 {
        text += &format!(" and {more} more");
    }
    text
}

/// `did you mean X?`, or what there is; for messages about a name that nothing has.
#[must_use]
pub fn hint(asked: &str, known: Vec<String>) -> String {
    let nearest = known
        .iter()
        .map(|name| (strsim::damerau_levenshtein(asked, name), name))
        .min();
    match nearest {
        None => "it has none".to_owned(),
        Some((typos, name)) if typos <= TYPOS_MAX.min(name.len() / 2) => format!("did you mean {name}?"),
        Some(_) => format!("it has {}", listed(&known)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::{LiveSnapshot, SnapshotState};
    use crate::{RecordId, Timestamp};

    /// Four snapshots, the last of them staged; the second is current again.
    fn names() -> SnapshotNames {
        let id = |text: &str| text.parse().unwrap();
        let live = |(at, text): (u64, &str)| LiveSnapshot {
            id: id(text),
            record: RecordId::of(b""),
            state: SnapshotState::released(Timestamp::from_millis(1), at),
        };
        let ids = [
            "abc00000-0000-4000-8000-000000000000",
            "abc01000-0000-4000-8000-000000000000",
            "12300000-0000-4000-8000-000000000000",
            "fff00000-0000-4000-8000-000000000000",
        ];
        let mut head = Head {
            repository: "r".parse().unwrap(),
            sequence: 4,
            issued: Timestamp::from_millis(9),
            expires: Timestamp::from_millis(9),
            piece_length: 1 << 20,
            current: Some(id(ids[2])),
            snapshots: (1..).zip(ids).map(live).collect(),
            tags: BTreeMap::from([
                ("stable".parse().unwrap(), id(ids[0])),
                ("1230".parse().unwrap(), id(ids[1])),
            ]),
            key_list: 0,
            preseed: Vec::new(),
            grace_never: Vec::new(),
            removed: Vec::new(),
        };
        head.snapshots[3].state = SnapshotState::Staged {
            release_at: None,
            when_synced_percent: None,
        };
        crate::order::go_back_to(&mut head, id(ids[1]), 5, Timestamp::from_millis(9));
        SnapshotNames::of_head(&head)
    }

    #[test]
    fn a_name_means_one_snapshot_or_says_what_it_may_mean() {
        let names = names();
        for (asked, said) in [
            ("abc00", "abc00000-0000-4000-8000-000000000000"),
            (
                "ABC00000-0000-4000-8000-000000000000",
                "abc00000-0000-4000-8000-000000000000",
            ),
            ("stable", "abc00000-0000-4000-8000-000000000000"),
            ("current", "abc01000-0000-4000-8000-000000000000"),
            ("current~0", "abc01000-0000-4000-8000-000000000000"),
            // Number 3 was withdrawn by going back.
            ("current~1", "abc00000-0000-4000-8000-000000000000"),
            ("fff0", "fff00000-0000-4000-8000-000000000000"),
            (
                "current~2",
                "there is no 'current~2': 1 of the snapshots before the current one is kept",
            ),
            (
                "abc0",
                "'abc0' may be any of abc00000-0000-4000-8000-000000000000 [stable], abc01000-0000-4000-8000-000000000000 [1230]; give more of the id",
            ),
            (
                "1230",
                "'1230' may be any of 12300000-0000-4000-8000-000000000000, abc01000-0000-4000-8000-000000000000 [1230]; give more of the id",
            ),
            (
                "stabel",
                "the repository has no snapshot 'stabel'; did you mean stable?",
            ),
            (
                "dead",
                "the repository has no snapshot 'dead'; it has 1230, stable, fff00000-0000-4000-8000-000000000000, 12300000-0000-4000-8000-000000000000, abc01000-0000-4000-8000-000000000000 and 1 more",
            ),
        ] {
            let found = names.resolve(&asked.parse().unwrap());
            assert_eq!(
                found.map_or_else(|error| error.to_string(), |id| id.to_string()),
                said,
                "{asked}"
            );
        }
        for bad in ["", "current~", "current~x", "Stable", "a b", "../x"] {
            assert!(bad.parse::<SnapshotRef>().is_err(), "{bad}");
        }
        let none = SnapshotNames::default().resolve(&"current".parse().unwrap());
        assert!(none.unwrap_err().to_string().ends_with("it has none"));
    }

    #[test]
    fn hints_name_the_nearest_or_what_there_is() {
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(hint("stabel", names(&["stable", "testing"])), "did you mean stable?");
        assert_eq!(hint("x", names(&["stable", "testing"])), "it has stable, testing");
        assert_eq!(hint("x", Vec::new()), "it has none");
        let many: Vec<String> = (0..9).map(|i| format!("number-{i}")).collect();
        let said = hint("something else", many);
        assert!(said.ends_with("number-4 and 4 more"), "{said}");
    }
}
