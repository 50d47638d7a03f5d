//! Tests of the picker.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const MIB: u64 = 1 << 20;

fn picker(piece_bytes: u32) -> Picker {
    Picker::new(piece_bytes, Random::new(1))
}

fn want(first_piece: u32, size: u64, class: Class) -> Want {
    Want {
        first_piece,
        size,
        range: 0..size,
        urgency: Urgency { class, rank: 0 },
    }
}

fn everything(_: PieceIndex) -> bool {
    true
}

/// All units that a peer is asked for, one after the other.
fn drain(picker: &mut Picker, has: &dyn Fn(PieceIndex) -> bool) -> Vec<Unit> {
    let mut units: Vec<Unit> = Vec::new();
    while let Some(unit) = picker.pick(has, true, units.last().map(|unit| unit.id), Class::Rest) {
        units.push(unit);
    }
    units
}

#[test]
fn every_group_is_asked_for_once_whatever_the_length_of_pieces() {
    for piece_bytes in [16 << 10, 32 << 10, 64 << 10, 1 << 20, 64 << 20] {
        for size in [1, 20_000, 65_536, 65_537, 3 * MIB + 5, 70 * MIB] {
            let mut picker = picker(piece_bytes);
            picker.want(want(9, size, Class::Preseed), &|_| 1);
            let units = drain(&mut picker, &everything);
            let mut starts: Vec<(u64, u32)> = units.iter().map(|unit| (unit.offset, unit.length)).collect();
            starts.sort_unstable();
            let mut next = 0;
            for (offset, length) in starts {
                assert_eq!(offset, next, "{piece_bytes} {size}");
                next += u64::from(length);
            }
            assert_eq!(next, size);
            assert!(picker.all_given_out() && !picker.is_empty());
            units.iter().for_each(|unit| picker.done(unit.id));
            assert!(picker.is_empty());
        }
    }
}

#[test]
fn a_range_is_wanted_without_its_surroundings() {
    let mut picker = picker(1 << 20);
    let range = 17 * GROUP_BYTES..20 * GROUP_BYTES;
    picker.want(
        Want {
            range,
            ..want(0, 8 * MIB, Class::Demand)
        },
        &|_| 1,
    );
    let groups: Vec<u64> = drain(&mut picker, &everything)
        .iter()
        .map(|unit| unit.offset / GROUP_BYTES)
        .collect();
    assert_eq!(groups, [17, 18, 19]);
    assert!(picker.wants_piece(1) && !picker.wants_piece(0) && !picker.wants_piece(2));
}

#[test]
fn the_rarest_piece_goes_first_and_a_begun_one_is_finished() {
    let mut picker = picker(1 << 20);
    picker.want(want(0, 4 * MIB, Class::Preseed), &|piece| {
        if piece == 2 { 1 } else { 5 }
    });
    let units = drain(&mut picker, &everything);
    assert!(units[..16].iter().all(|unit| (2 * MIB..3 * MIB).contains(&unit.offset)));
    for piece in units.chunks(16) {
        assert!(piece.iter().all(|unit| unit.offset / MIB == piece[0].offset / MIB));
    }
}

#[test]
fn two_peers_begin_different_pieces_and_join_when_none_is_left() {
    let mut picker = picker(1 << 20);
    picker.want(want(0, 2 * MIB, Class::Preseed), &|_| 2);
    let one = picker.pick(&everything, true, None, Class::Rest).unwrap();
    let other = picker.pick(&everything, true, None, Class::Rest).unwrap();
    assert_ne!(one.offset / MIB, other.offset / MIB);
    assert!(picker.pick(&everything, true, None, Class::Rest).is_some());
    let mut rest = BTreeSet::new();
    while let Some(unit) = picker.pick(&everything, true, Some(one.id), Class::Rest) {
        assert!(rest.insert(unit.offset));
    }
    assert_eq!(rest.len(), 29);
}

#[test]
fn what_a_client_waits_for_goes_before_all_else_and_from_front_to_back() {
    let mut picker = picker(1 << 20);
    picker.want(want(0, 4 * MIB, Class::Preseed), &|_| 1);
    let begun = picker.pick(&everything, true, None, Class::Rest).unwrap();
    let reader = picker.want(want(100, 3 * MIB, Class::Demand), &|_| 1);
    for group in 0..48 {
        let unit = picker.pick(&everything, true, Some(begun.id), Class::Rest).unwrap();
        assert_eq!(
            (unit.want, unit.offset, unit.first_piece),
            (reader, group * GROUP_BYTES, 100)
        );
    }
    assert!(picker.pick(&everything, true, Some(begun.id), Class::Demand).is_none());
    assert_ne!(
        picker
            .pick(&everything, true, Some(begun.id), Class::Rest)
            .unwrap()
            .want,
        reader
    );
}

#[test]
fn a_peer_is_asked_for_what_it_has_alone_and_for_small_pieces_it_needs_all_of_a_group() {
    let mut picker = picker(16 << 10);
    picker.want(want(8, 2 * GROUP_BYTES, Class::Rest), &|_| 1);
    assert!(
        picker
            .pick(&|piece| piece != 9 && piece != 14, false, None, Class::Rest)
            .is_none()
    );
    let unit = picker.pick(&|piece| piece >= 12, false, None, Class::Rest).unwrap();
    assert_eq!(unit.offset, GROUP_BYTES);
    assert!(picker.wants_piece(15) && picker.wants_piece(8) && !picker.wants_piece(16) && !picker.wants_piece(7));
}

#[test]
fn what_nobody_has_is_not_looked_for_until_somebody_comes() {
    let mut picker = picker(1 << 20);
    picker.want(want(0, 2 * MIB, Class::Rest), &|_| 0);
    assert!(picker.pick(&|piece| piece == 1, false, None, Class::Rest).is_none());
    picker.peer_changed(1, true);
    assert_eq!(
        picker
            .pick(&|piece| piece == 1, false, None, Class::Rest)
            .unwrap()
            .offset,
        MIB
    );
    picker.peer_came(&|piece| piece == 0, true);
    assert_eq!(
        picker
            .pick(&|piece| piece == 0, false, None, Class::Rest)
            .unwrap()
            .offset,
        0
    );
}

#[test]
fn what_only_those_have_who_have_everything_is_asked_of_them_and_not_looked_for_at_others() {
    let mut picker = picker(1 << 20);
    // More than one pick looks at, and one that a peer has.
    for first in 0..5000 {
        picker.want(want(first, 100, Class::Rest), &|piece| u32::from(piece == 4321));
    }
    let unit = picker.pick(&|piece| piece == 4321, false, None, Class::Rest).unwrap();
    assert_eq!(unit.first_piece, 4321);
    assert!(picker.pick(&everything, false, None, Class::Rest).is_none());
    assert!(picker.pick(&everything, true, None, Class::Rest).is_some());
}

#[test]
fn a_piece_that_has_just_come_somewhere_can_be_asked_for_by_name() {
    let mut picker = picker(1 << 20);
    let id = picker.want(want(3, 100, Class::Preseed), &|_| 0);
    assert!(picker.has_free(3) && !picker.has_free(4) && !picker.is_over(id));
    assert!(picker.pick_piece(3, &everything, Class::Demand).is_none());
    assert!(picker.pick_piece(3, &|_| false, Class::Rest).is_none());
    assert!(picker.pick_piece(4, &everything, Class::Rest).is_none());
    let unit = picker.pick_piece(3, &everything, Class::Rest).unwrap();
    assert_eq!((unit.first_piece, unit.length), (3, 100));
    assert!(picker.pick_piece(3, &everything, Class::Rest).is_none() && !picker.has_free(3));
    picker.give_back(unit.id);
    assert!(picker.has_free(3));
    let unit = picker.pick(&everything, true, None, Class::Rest).unwrap();
    picker.done(unit.id);
    assert!(picker.is_over(id) && picker.is_empty());
}

#[test]
fn a_withdrawn_want_leaves_nothing() {
    let mut picker = picker(1 << 20);
    let id = picker.want(want(0, 4 * MIB, Class::Rest), &|_| 1);
    let unit = picker.pick(&everything, true, None, Class::Rest).unwrap();
    picker.forget(id);
    assert!(picker.is_empty() && picker.all_given_out() && picker.unit(unit.id).is_none());
    picker.done(unit.id);
    picker.give_back(unit.id);
    assert!(
        picker.pick(&everything, true, None, Class::Rest).is_none()
            && picker.by_piece.is_empty()
            && picker.tiers.is_empty()
    );
}

proptest! {
    /// Whatever is asked for, given back and finished, by whomever: no unit is out twice, and all come at last.
    #[test]
    fn nothing_is_out_twice_and_nothing_is_lost(
        sizes in prop::collection::vec(1_u64..3_000_000, 1..6),
        steps in prop::collection::vec((0_u8..4, any::<u64>()), 0..200),
        piece_bytes in prop::sample::select(vec![16_u32 << 10, 64 << 10, 1 << 20]),
    ) {
        let mut picker = picker(piece_bytes);
        let (mut first, mut total) = (0, 0);
        for (number, size) in sizes.iter().enumerate() {
            picker.want(want(first, *size, Class::ALL[number % 6]), &|_| 1);
            first += u32::try_from(size.div_ceil(u64::from(piece_bytes))).unwrap();
            total += size;
        }
        let mut out: BTreeMap<UnitId, Unit> = BTreeMap::new();
        let mut done = 0;
        for (step, draw) in steps {
            let some = |out: &BTreeMap<UnitId, Unit>| {
                let at = usize::try_from(draw % out.len().max(1) as u64).unwrap();
                out.values().nth(at).copied()
            };
            match step {
                0 | 1 => if let Some(unit) = picker.pick(&everything, true, some(&out).map(|unit| unit.id), Class::Rest) {
                    prop_assert!(out.insert(unit.id, unit).is_none());
                },
                2 => if let Some(unit) = some(&out) {
                    out.remove(&unit.id);
                    picker.give_back(unit.id);
                },
                _ => if let Some(unit) = some(&out) {
                    out.remove(&unit.id);
                    picker.done(unit.id);
                    done += u64::from(unit.length);
                },
            }
        }
        while let Some(unit) = picker.pick(&everything, true, None, Class::Rest) {
            prop_assert!(out.insert(unit.id, unit).is_none());
        }
        for unit in out.values() {
            picker.done(unit.id);
            done += u64::from(unit.length);
        }
        prop_assert_eq!(done, total);
        prop_assert!(picker.is_empty() && picker.tiers.is_empty() && picker.by_piece.is_empty());
    }
}
