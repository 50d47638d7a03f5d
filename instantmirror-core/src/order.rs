//! The order in which snapshots became current: by the sequence of heads, never by a clock. Pure.
//!
//! A head says of each released snapshot in which head it became current last ([`SnapshotState::Released`]); those of
//! older masters do not, and count as older than all that have it, in the order of the list. So a publish with a wrong
//! clock changes nobody's rank, and a snapshot that came back by a rollback counts as the newest.
//!
//! Dates serve the rules of age alone. One that lies ahead of the clock was written by a clock that was wrong: it is
//! taken for the date of the snapshot that came next, or for now.

use crate::head::SnapshotState;
use crate::{Head, SnapshotId, Timestamp};

/// A released snapshot at its place in the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// The snapshot.
    pub id: SnapshotId,
    /// Its index in [`Head::snapshots`], which is the order of publishing.
    pub position: usize,
    /// When it became current, as far as that can be believed.
    pub released: Timestamp,
    /// The date that the head gives lies ahead of the clock.
    pub is_dated_ahead: bool,
    /// The master went back to an older one.
    pub is_withdrawn: bool,
}

/// The released snapshots of a head, the one that became current last first.
#[must_use]
pub fn newest_first(head: &Head, now: Timestamp) -> Vec<Turn> {
    let released = head
        .snapshots
        .iter()
        .enumerate()
        .filter_map(|(position, live)| match live.state {
            SnapshotState::Released {
                released,
                since,
                withdrawn,
            } => {
                let turn = Turn {
                    id: live.id,
                    position,
                    released,
                    is_dated_ahead: released > now,
                    is_withdrawn: withdrawn,
                };
                Some((since.unwrap_or(0), turn))
            }
            SnapshotState::Staged { .. } => None,
        });
    let mut order: Vec<_> = released.collect();
    order.sort_unstable_by_key(|(since, turn)| std::cmp::Reverse((*since, turn.position)));
    let mut next = now;
    let believed = |(_, mut turn): (u64, Turn)| {
        if turn.is_dated_ahead {
            turn.released = next;
        }
        next = turn.released;
        turn
    };
    order.into_iter().map(believed).collect()
}

/// The snapshot that was current `steps` changes before the current one; 0 is the current one. Those that a rollback
/// withdrew are passed over.
#[must_use]
pub fn before_current(head: &Head, steps: usize) -> Option<SnapshotId> {
    let current = head.current?;
    // The dates do not matter here.
    let order = newest_first(head, Timestamp::from_millis(0));
    let older = order.iter().skip_while(|turn| turn.id != current).skip(1);
    let older = older.filter(|turn| !turn.is_withdrawn).map(|turn| turn.id);
    std::iter::once(current).chain(older).nth(steps)
}

/// Makes a released snapshot current again, in a head that will have the sequence number `sequence`. What was published
/// after it is withdrawn; where it was published after the one that is current now, nothing is. Returns those that are
/// withdrawn by this.
pub fn go_back_to(head: &mut Head, snapshot: SnapshotId, sequence: u64, now: Timestamp) -> Vec<SnapshotId> {
    let position = |id| head.snapshots.iter().position(|live| live.id == id);
    let (Some(to), from) = (position(snapshot), head.current.and_then(position)) else {
        return Vec::new();
    };
    let is_back = from.is_some_and(|from| to < from);
    let mut withdrawn_now = Vec::new();
    for live in head.snapshots.iter_mut().skip(to + 1).filter(|_| is_back) {
        if let SnapshotState::Released { withdrawn, .. } = &mut live.state
            && !std::mem::replace(withdrawn, true)
        {
            withdrawn_now.push(live.id);
        }
    }
    head.snapshots[to].state = SnapshotState::released(now, sequence);
    head.current = Some(snapshot);
    withdrawn_now
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::RecordId;
    use crate::head::LiveSnapshot;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn id(number: u8) -> SnapshotId {
        SnapshotId::from_random([number; 16])
    }

    /// Snapshots number 0, 1, … with the date and the sequence of their release.
    fn head(released: &[(i64, Option<u64>)]) -> Head {
        let live = |(number, (date, since)): (u8, &(i64, Option<u64>))| LiveSnapshot {
            id: id(number),
            record: RecordId::of(b""),
            state: SnapshotState::Released {
                released: at(*date),
                since: *since,
                withdrawn: false,
            },
        };
        Head {
            repository: "r".parse().unwrap(),
            sequence: 9,
            issued: at(100),
            expires: at(200),
            piece_length: 1 << 20,
            current: None,
            snapshots: (0..).zip(released).map(live).collect(),
            tags: BTreeMap::new(),
            key_list: 0,
            preseed: Vec::new(),
            grace_never: Vec::new(),
            removed: Vec::new(),
        }
    }

    fn numbers(turns: &[Turn]) -> Vec<usize> {
        turns.iter().map(|turn| turn.position).collect()
    }

    #[test]
    fn sequence_decides_and_dates_do_not() {
        // The clock was ahead for number 1, and behind for number 3.
        let order = newest_first(
            &head(&[(10, None), (5_000, Some(2)), (30, Some(3)), (1, Some(4))]),
            at(100),
        );
        assert_eq!(numbers(&order), [3, 2, 1, 0]);
        assert_eq!(
            order.iter().map(|turn| turn.released).collect::<Vec<_>>(),
            [at(1), at(30), at(30), at(10)]
        );
        assert_eq!(
            order.iter().map(|turn| turn.is_dated_ahead).collect::<Vec<_>>(),
            [false, false, true, false]
        );
        // Heads of older masters: as they list them. The last one's date has no successor to be taken from.
        let order = newest_first(&head(&[(20, None), (10, None), (500, None)]), at(100));
        assert_eq!((numbers(&order), order[0].released), (vec![2, 1, 0], at(100)));
    }

    #[test]
    fn a_rollback_withdraws_what_came_after_and_going_forward_again_nothing() {
        let mut head = head(&[(1, Some(1)), (2, Some(2)), (3, Some(3)), (4, Some(4))]);
        head.current = Some(id(3));
        let withdrawn = |head: &Head| {
            let order = newest_first(head, at(100));
            let all = order.iter().filter(|turn| turn.is_withdrawn).map(|turn| turn.position);
            (numbers(&order), all.collect::<Vec<_>>())
        };
        assert_eq!(go_back_to(&mut head, id(1), 5, at(50)), [id(2), id(3)]);
        assert_eq!(withdrawn(&head), (vec![1, 3, 2, 0], vec![3, 2]));
        assert_eq!((head.current, before_current(&head, 0)), (Some(id(1)), Some(id(1))));
        assert_eq!(
            (before_current(&head, 1), before_current(&head, 2)),
            (Some(id(0)), None)
        );
        assert_eq!(go_back_to(&mut head, id(2), 6, at(60)), []);
        assert_eq!(withdrawn(&head), (vec![2, 1, 3, 0], vec![3]));
        assert_eq!(
            (before_current(&head, 1), before_current(&head, 2)),
            (Some(id(1)), Some(id(0)))
        );
        assert_eq!(go_back_to(&mut head, id(9), 7, at(70)), []);
        assert_eq!(head.current, Some(id(2)));
    }
}
