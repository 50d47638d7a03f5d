//! When a staged snapshot appears. Pure: time and reports come in as arguments.

use std::fmt;

use crate::head::{LiveSnapshot, SnapshotState};
use crate::{Head, SnapshotId, Timestamp};

/// How many of the nodes that may have a staged snapshot have all of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Synced {
    /// Those that said so.
    pub nodes: usize,
    /// All that are registered.
    pub of: usize,
}

impl Synced {
    /// Whether at least `percent` of the nodes are done. No nodes at all are never enough: nobody could have failed.
    #[must_use]
    pub fn reaches(self, percent: u8) -> bool {
        self.of > 0 && percent <= 100 && self.nodes.saturating_mul(100) >= self.of.saturating_mul(usize::from(percent))
    }
}

impl fmt::Display for Synced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} nodes", self.nodes, self.of)
    }
}

/// Whether the rule of a staged snapshot is met. All that its rule says must hold; one without a rule waits for a person.
#[must_use]
pub fn is_due(state: &SnapshotState, now: Timestamp, synced: Synced) -> bool {
    match *state {
        SnapshotState::Released { .. } => false,
        SnapshotState::Staged {
            release_at: None,
            when_synced_percent: None,
        } => false,
        SnapshotState::Staged {
            release_at,
            when_synced_percent,
        } => {
            release_at.is_none_or(|time| now >= time)
                && when_synced_percent.is_none_or(|percent| synced.reaches(percent))
        }
    }
}

/// The first snapshot that was made after this one and is released: whoever releases this one takes that one back.
#[must_use]
pub fn overtaken_by(head: &Head, snapshot: &SnapshotId) -> Option<SnapshotId> {
    let mut later = head.snapshots.iter().skip_while(|live| live.id != *snapshot).skip(1);
    later.find(|live| live.state.is_released()).map(|live| live.id)
}

/// The staged snapshots of a head, oldest first.
pub fn staged(head: &Head) -> impl Iterator<Item = &LiveSnapshot> {
    head.snapshots.iter().filter(|live| !live.state.is_released())
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn synced(nodes: usize, of: usize) -> Synced {
        Synced { nodes, of }
    }

    #[test]
    fn shares_are_counted_exactly() {
        for (nodes, of, percent, reached) in [
            (0, 0, 0, false),
            (0, 3, 0, true),
            (2, 3, 66, true),
            (2, 3, 67, false),
            (3, 3, 100, true),
            (3, 3, 101, false),
            (usize::MAX, usize::MAX, 100, true),
        ] {
            assert_eq!(
                synced(nodes, of).reaches(percent),
                reached,
                "{nodes} of {of}, {percent} %"
            );
        }
    }

    #[test]
    fn everything_that_the_rule_says_must_hold() {
        let at = Timestamp::from_millis;
        let due = |release_at: Option<i64>, when_synced_percent, now, done| {
            let state = SnapshotState::Staged {
                release_at: release_at.map(at),
                when_synced_percent,
            };
            is_due(&state, at(now), done)
        };
        assert!(
            !due(None, None, i64::MAX, synced(9, 9)),
            "without a rule a person decides"
        );
        assert!(!due(Some(5), None, 4, synced(0, 0)) && due(Some(5), None, 5, synced(0, 0)));
        assert!(!due(None, Some(50), 9, synced(1, 3)) && due(None, Some(50), 9, synced(2, 3)));
        assert!(!due(Some(5), Some(50), 4, synced(3, 3)));
        assert!(!due(Some(5), Some(50), 5, synced(1, 3)));
        assert!(due(Some(5), Some(50), 5, synced(2, 3)));
        assert!(!is_due(&SnapshotState::released(at(0), 1), at(9), synced(1, 1)));
    }
}
