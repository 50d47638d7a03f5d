//! Grace: what `current` showed a while ago is still found there. Pure: head and time come in as arguments.
//!
//! A client reads repository metadata, and then what it names; in between the next snapshot may have become current, and
//! the files gone. So a path that the current snapshot lacks is looked for in those that were current within the grace
//! time. What is in the current snapshot always wins; listings show the current snapshot alone.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use crate::order::{Turn, newest_first};
use crate::view::RepositoryState;
use crate::{Head, Snapshot, SnapshotId, Timestamp};

/// The grace time, unless the operator says otherwise.
pub const GRACE_DEFAULT: Duration = Duration::from_secs(6 * 3600);
/// Most snapshots in which a path is looked for: it bounds the cost of a path that never was.
pub const FALLBACKS_MAX: usize = 256;

/// Released snapshots that another one replaced less than `grace` ago, newest first, those of a rollback too. What became
/// current last is not among them.
#[must_use]
pub fn replaced_within(head: &Head, grace: Duration, now: Timestamp) -> Vec<Turn> {
    let order = newest_first(head, now);
    let mut replaced: Vec<Turn> = Vec::new();
    let mut at = None;
    for pair in order.windows(2).rev() {
        // It was replaced after all that came before it: a date of a clock that was behind ends no grace too early.
        at = at.max(Some(pair[0].released));
        if at.is_some_and(|at| now.since(at) < grace) {
            replaced.push(pair[1]);
        }
    }
    replaced.reverse();
    replaced
}

/// Where a path is looked for that `current` lacks, in this order: visible snapshots that were current before it and were
/// replaced less than `grace` ago, at most [`FALLBACKS_MAX`]. Trees that are the same are named once. What a rollback
/// withdrew is not looked at: it was taken back since it was wrong.
#[must_use]
pub fn fallbacks(state: &RepositoryState, grace: Duration, now: Timestamp) -> Vec<Arc<Snapshot>> {
    let (Some(signed), Some(current)) = (&state.head, &state.current) else {
        return Vec::new();
    };
    let head = signed.head();
    let order = newest_first(head, now);
    let newer = order.iter().take_while(|turn| turn.id != *current).map(|turn| turn.id);
    let newer: HashSet<SnapshotId> = newer.collect();
    let mut tree = state.snapshots.get(current).map(|snapshot| snapshot.root.node);
    replaced_within(head, grace, now)
        .iter()
        .filter(|turn| !turn.is_withdrawn && turn.id != *current && !newer.contains(&turn.id))
        .filter_map(|turn| state.snapshots.get(&turn.id))
        .filter(|snapshot| tree.replace(snapshot.root.node) != Some(snapshot.root.node))
        .take(FALLBACKS_MAX)
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::head::{LiveSnapshot, SnapshotState};
    use crate::{NodeId, RecordId, RepoName, Root, SecretKey};

    const HOUR: Duration = Duration::from_secs(3600);
    const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    fn id(number: u8) -> SnapshotId {
        SnapshotId::from_random([number; 16])
    }

    /// Snapshots released one an hour, of these trees; number `current` is current.
    fn state(trees: &[u8], current: u8) -> RepositoryState {
        let name: RepoName = "r".parse().unwrap();
        let numbers = || (0..).zip(trees);
        let live = |(number, _): (u8, &u8)| LiveSnapshot {
            id: id(number),
            record: RecordId::of(b""),
            state: SnapshotState::released(START.plus(HOUR * u32::from(number)), u64::from(number) + 1),
        };
        let head = Head {
            repository: name.clone(),
            sequence: 1,
            issued: START,
            expires: START.plus(HOUR),
            piece_length: 1 << 20,
            current: Some(id(current)),
            snapshots: numbers().map(live).collect(),
            tags: BTreeMap::new(),
            key_list: 0,
            preseed: Vec::new(),
            grace_never: Vec::new(),
            removed: Vec::new(),
        };
        let mut state = RepositoryState::empty(name.clone());
        state.head = Some(Arc::new(head.sign(&[&SecretKey::from_random([1; 32])]).unwrap()));
        state.current = Some(id(current));
        for (number, tree) in numbers() {
            let node = NodeId::of(&[*tree]);
            let root = Root {
                node,
                mode: 0,
                mtime: 0,
                files: 0,
                bytes: 0,
            };
            let snapshot = Snapshot {
                id: id(number),
                repository: name.clone(),
                created: START,
                parent: None,
                note: String::new(),
                root,
            };
            state.snapshots.insert(id(number), Arc::new(snapshot));
        }
        state
    }

    /// Numbers of the fallbacks, `hours` and a bit after the start.
    fn looked_for(state: &RepositoryState, grace: Duration, hours: u32) -> Vec<SnapshotId> {
        let now = START.plus(HOUR * hours + HOUR / 2);
        fallbacks(state, grace, now)
            .iter()
            .map(|snapshot| snapshot.id)
            .collect()
    }

    #[test]
    fn a_snapshot_is_found_until_it_was_replaced_for_longer_than_the_grace() {
        let state = state(&[0, 1, 2, 3], 3);
        assert_eq!(looked_for(&state, HOUR * 6, 3), [id(2), id(1), id(0)]);
        assert_eq!(looked_for(&state, HOUR * 2, 3), [id(2), id(1)]);
        assert_eq!(looked_for(&state, HOUR * 2, 4), [id(2)]);
        assert_eq!(looked_for(&state, HOUR * 2, 5), []);
        assert_eq!(looked_for(&state, Duration::ZERO, 3), []);
    }

    #[test]
    fn only_what_came_before_and_is_here_and_differs_counts() {
        assert_eq!(looked_for(&state(&[0, 1, 2, 3], 1), HOUR * 6, 3), [id(0)]);
        let mut shown = state(&[0, 1, 2, 2, 2], 4);
        assert_eq!(looked_for(&shown, HOUR * 9, 4), [id(1), id(0)]);
        shown.snapshots.remove(&id(1));
        assert_eq!(looked_for(&shown, HOUR * 9, 4), [id(0)]);
        shown.current = None;
        assert_eq!(looked_for(&shown, HOUR * 9, 4), []);
        assert_eq!(looked_for(&RepositoryState::empty("r".parse().unwrap()), HOUR, 4), []);
    }

    #[test]
    fn what_a_rollback_withdrew_is_not_looked_at_and_what_came_back_is_not_undercut() {
        let mut state = state(&[0, 1, 2, 3], 3);
        let mut head = state.head.as_ref().unwrap().head().clone();
        let now = START.plus(HOUR * 4);
        crate::order::go_back_to(&mut head, id(1), 5, now);
        let show = |state: &mut RepositoryState, head: &Head| {
            state.current = head.current;
            state.head = Some(Arc::new(head.sign(&[&SecretKey::from_random([1; 32])]).unwrap()));
        };
        show(&mut state, &head);
        // Number 0 was replaced long before; 2 and 3 are newer, and withdrawn.
        assert_eq!(looked_for(&state, HOUR * 2, 4), []);
        assert_eq!(looked_for(&state, HOUR * 9, 4), [id(0)]);
        // What came back is replaced now by going forward: its grace begins then.
        crate::order::go_back_to(&mut head, id(3), 6, now.plus(HOUR * 10));
        show(&mut state, &head);
        assert_eq!(looked_for(&state, HOUR * 2, 14), [id(1)]);
    }

    #[test]
    fn the_cost_is_bounded() {
        let trees: Vec<u8> = (0..250).collect();
        let mut state = state(&trees, 249);
        assert_eq!(looked_for(&state, HOUR * 1000, 249).len(), 249);
        let more: Vec<_> = (10..30)
            .map(|number| SnapshotId::from_random([number, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9]))
            .collect();
        let mut head = state.head.as_ref().unwrap().head().clone();
        for (number, id) in (10u8..30).zip(more) {
            let released = SnapshotState::released(START, 0);
            head.snapshots.insert(
                0,
                LiveSnapshot {
                    id,
                    record: RecordId::of(b""),
                    state: released,
                },
            );
            let root = Root {
                node: NodeId::of(&[number, number]),
                ..state.snapshots[&self::id(0)].root
            };
            let snapshot = Snapshot {
                id,
                root,
                ..(*state.snapshots[&self::id(0)]).clone()
            };
            state.snapshots.insert(id, Arc::new(snapshot));
        }
        state.head = Some(Arc::new(head.sign(&[&SecretKey::from_random([1; 32])]).unwrap()));
        assert_eq!(looked_for(&state, HOUR * 1000, 249).len(), FALLBACKS_MAX);
    }
}
