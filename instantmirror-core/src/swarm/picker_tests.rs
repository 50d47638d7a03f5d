//! Tests of the picker.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::super::Bitfield;
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

/// What a peer has that has not everything.
fn some(has: &dyn Fn(PieceIndex) -> bool) -> Pieces {
    let mut pieces = Bitfield::new();
    (0..10_000)
        .filter(|piece| has(*piece))
        .for_each(|piece| _ = pieces.insert(piece));
    Pieces::Some(pieces)
}

fn nothing(_: PieceIndex) -> bool {
    false
}

/// One unit of a peer that refuses nothing.
fn pick(picker: &mut Picker, pieces: &Pieces, begun: Option<UnitId>) -> Option<Unit> {
    picker.pick(pieces, &nothing, begun, Class::Rest)
}

/// All units that a peer is asked for, one after the other.
fn drain(picker: &mut Picker, pieces: &Pieces) -> Vec<Unit> {
    let mut units: Vec<Unit> = Vec::new();
    while let Some(unit) = pick(picker, pieces, units.last().map(|unit| unit.id)) {
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
            let units = drain(&mut picker, &Pieces::All);
            let mut starts: Vec<(u64, u32)> = units.iter().map(|unit| (unit.offset, unit.length)).collect();
            starts.sort_unstable();
            let mut next = 0;
            for (offset, length) in starts {
                assert_eq!(offset, next, "{piece_bytes} {size}");
                next += u64::from(length);
            }
            assert_eq!(next, size);
            assert!(picker.all_given_out() && !picker.is_empty());
            units.iter().for_each(|unit| _ = picker.done(unit.id));
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
    let groups: Vec<u64> = drain(&mut picker, &Pieces::All)
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
    let units = drain(&mut picker, &Pieces::All);
    assert!(units[..16].iter().all(|unit| (2 * MIB..3 * MIB).contains(&unit.offset)));
    for piece in units.chunks(16) {
        assert!(piece.iter().all(|unit| unit.offset / MIB == piece[0].offset / MIB));
    }
}

#[test]
fn two_peers_begin_different_pieces_and_join_when_none_is_left() {
    let mut picker = picker(1 << 20);
    picker.want(want(0, 2 * MIB, Class::Preseed), &|_| 2);
    let one = pick(&mut picker, &Pieces::All, None).unwrap();
    let other = pick(&mut picker, &Pieces::All, None).unwrap();
    assert_ne!(one.offset / MIB, other.offset / MIB);
    assert!(pick(&mut picker, &Pieces::All, None).is_some());
    let mut rest = BTreeSet::new();
    while let Some(unit) = pick(&mut picker, &Pieces::All, Some(one.id)) {
        assert!(rest.insert(unit.offset));
    }
    assert_eq!(rest.len(), 29);
}

#[test]
fn what_a_client_waits_for_goes_before_all_else_and_from_front_to_back() {
    let mut picker = picker(1 << 20);
    picker.want(want(0, 4 * MIB, Class::Preseed), &|_| 1);
    let begun = pick(&mut picker, &Pieces::All, None).unwrap();
    let reader = picker.want(want(100, 3 * MIB, Class::Demand), &|_| 1);
    for group in 0..48 {
        let unit = pick(&mut picker, &Pieces::All, Some(begun.id)).unwrap();
        assert_eq!(
            (unit.want, unit.offset, unit.first_piece),
            (reader, group * GROUP_BYTES, 100)
        );
    }
    assert!(
        picker
            .pick(&Pieces::All, &nothing, Some(begun.id), Class::Demand)
            .is_none()
    );
    assert_ne!(pick(&mut picker, &Pieces::All, Some(begun.id)).unwrap().want, reader);
}

#[test]
fn a_peer_is_asked_for_what_it_has_alone_and_for_small_pieces_it_needs_all_of_a_group() {
    let mut picker = picker(16 << 10);
    picker.want(want(8, 2 * GROUP_BYTES, Class::Rest), &|_| 1);
    assert!(pick(&mut picker, &some(&|piece| piece != 9 && piece != 14), None).is_none());
    let unit = pick(&mut picker, &some(&|piece| piece >= 12), None).unwrap();
    assert_eq!(unit.offset, GROUP_BYTES);
    assert!(picker.wants_piece(15) && picker.wants_piece(8) && !picker.wants_piece(16) && !picker.wants_piece(7));
}

#[test]
fn what_nobody_has_is_not_looked_for_until_somebody_comes() {
    let mut picker = picker(1 << 20);
    picker.want(want(0, 2 * MIB, Class::Rest), &|_| 0);
    assert!(pick(&mut picker, &some(&|piece| piece == 1), None).is_none());
    picker.peer_changed(1, true);
    assert_eq!(pick(&mut picker, &some(&|piece| piece == 1), None).unwrap().offset, MIB);
    picker.peer_came(&some(&|piece| piece == 0), true);
    assert_eq!(pick(&mut picker, &some(&|piece| piece == 0), None).unwrap().offset, 0);
}

#[test]
fn what_only_those_have_who_have_everything_is_asked_of_them_and_not_looked_for_at_others() {
    let mut picker = picker(1 << 20);
    // More than one pick looks at, and one that a peer has.
    for first in 0..5000 {
        picker.want(want(first, 100, Class::Rest), &|piece| u32::from(piece == 4321));
    }
    let unit = pick(&mut picker, &some(&|piece| piece == 4321), None).unwrap();
    assert_eq!(unit.first_piece, 4321);
    assert!(pick(&mut picker, &some(&|_| true), None).is_none());
    assert!(pick(&mut picker, &Pieces::All, None).is_some());
}

#[test]
fn a_piece_that_has_just_come_somewhere_can_be_asked_for_by_name() {
    let mut picker = picker(1 << 20);
    let id = picker.want(want(3, 100, Class::Preseed), &|_| 0);
    assert!(picker.has_free(3) && !picker.has_free(4) && !picker.is_over(id));
    assert!(picker.pick_piece(3, &Pieces::All, &nothing, Class::Demand).is_none());
    assert!(
        picker
            .pick_piece(3, &Pieces::default(), &nothing, Class::Rest)
            .is_none()
    );
    assert!(picker.pick_piece(4, &Pieces::All, &nothing, Class::Rest).is_none());
    let unit = picker.pick_piece(3, &Pieces::All, &nothing, Class::Rest).unwrap();
    assert_eq!((unit.first_piece, unit.length), (3, 100));
    assert!(picker.pick_piece(3, &Pieces::All, &nothing, Class::Rest).is_none() && !picker.has_free(3));
    picker.give_back(unit.id);
    assert!(picker.has_free(3));
    let unit = pick(&mut picker, &Pieces::All, None).unwrap();
    picker.done(unit.id);
    assert!(picker.is_over(id) && picker.is_empty());
}

#[test]
fn a_withdrawn_want_leaves_nothing() {
    let mut picker = picker(1 << 20);
    let id = picker.want(want(0, 4 * MIB, Class::Rest), &|_| 1);
    let unit = pick(&mut picker, &Pieces::All, None).unwrap();
    picker.forget(id);
    assert!(picker.is_empty() && picker.all_given_out() && picker.unit(unit.id).is_none());
    picker.done(unit.id);
    picker.give_back(unit.id);
    assert!(pick(&mut picker, &Pieces::All, None).is_none() && picker.by_piece.is_empty() && picker.tiers.is_empty());
}

#[test]
fn what_a_peer_refuses_is_asked_of_it_no_more_than_what_it_lacks() {
    for pieces in [Pieces::All, some(&|piece| piece < 4)] {
        let mut picker = picker(1 << 20);
        picker.want(want(0, 4 * MIB, Class::Rest), &|_| 1);
        let odd = |piece: PieceIndex| piece % 2 == 1;
        let mut asked = BTreeSet::new();
        while let Some(unit) = picker.pick(&pieces, &odd, None, Class::Rest) {
            asked.insert(unit.offset / MIB);
        }
        assert_eq!(asked, BTreeSet::from([0, 2]));
        assert!(picker.pick_piece(1, &pieces, &odd, Class::Rest).is_none());
        assert!(picker.pick_piece(1, &pieces, &nothing, Class::Rest).is_some());
    }
}

#[test]
fn one_of_two_wants_of_a_piece_is_withdrawn_and_the_other_stays() {
    let mut picker = picker(1 << 20);
    let ids = [0, 1].map(|_| picker.want(want(7, 100, Class::Rest), &|_| 1));
    picker.forget(ids[0]);
    assert_eq!(picker.wanted_of(&some(&|piece| piece == 7), 9), Some(7));
    let unit = pick(&mut picker, &some(&|piece| piece == 7), None).unwrap();
    assert_eq!(unit.want, ids[1]);
    picker.done(unit.id);
    assert!(picker.wanted_of(&Pieces::All, 0).is_none() && picker.firsts.is_empty());
}

/// What is kept as things change is what would come of looking at all that is wanted.
fn assert_kept(picker: &Picker) {
    let (mut waiting, mut started, mut firsts) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (serial, span) in &picker.spans {
        firsts.insert(span.first);
        assert_eq!(span.place == Place::None, span.first_free().is_none());
        match span.place {
            Place::None => {}
            Place::Waiting(peers) => {
                assert_eq!((peers, span.out), (span.peers, 0));
                waiting.insert((span.urgency, peers, span.first));
            }
            Place::Started => _ = started.insert((span.urgency, *serial)),
        }
    }
    let (mut filed_waiting, mut filed_started) = (BTreeSet::new(), BTreeSet::new());
    for (urgency, tier) in &picker.tiers {
        assert!(!tier.is_empty());
        let (spans, pieces) = tier.filed();
        filed_started.extend(spans.into_iter().map(|serial| (*urgency, serial)));
        filed_waiting.extend(pieces.into_iter().map(|(peers, piece)| (*urgency, peers, piece)));
    }
    assert_eq!((filed_waiting, filed_started), (waiting, started));
    assert!(picker.firsts.common_from(&Pieces::All, 0).eq(firsts.iter().copied()));
    assert!(firsts.iter().eq(picker.by_piece.keys().collect::<BTreeSet<_>>()));
}

/// What a pick has to be, by a look at everything: of the most urgent class that the peer has something of, and the rarest
/// one of it that nobody has begun.
fn assert_is_best(picker: &Picker, pieces: &Pieces, refuses: &dyn Fn(PieceIndex) -> bool, found: Option<Serial>) {
    let is_given = |span: &&Span| span.is_all(|piece| pieces.has(piece) && !refuses(piece));
    let given = || picker.spans.values().filter(is_given);
    let free = given().filter(|span| span.first_free().is_some());
    let Some(best) = free.map(|span| span.urgency).min() else {
        return assert!(found.is_none());
    };
    let rarest = given()
        .filter_map(|span| match span.place {
            Place::Waiting(peers) if span.urgency == best => Some(peers),
            _ => None,
        })
        .min();
    let picked = &picker.spans[&found.unwrap()];
    let is_rarest = picked.place == rarest.map_or(Place::Started, Place::Waiting);
    assert!(picked.urgency == best && is_given(&picked) && is_rarest);
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
                0 | 1 => if let Some(unit) = pick(&mut picker, &Pieces::All, some(&out).map(|unit| unit.id)) {
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
        while let Some(unit) = pick(&mut picker, &Pieces::All, None) {
            prop_assert!(out.insert(unit.id, unit).is_none());
        }
        for unit in out.values() {
            picker.done(unit.id);
            done += u64::from(unit.length);
        }
        prop_assert_eq!(done, total);
        prop_assert!(picker.is_empty() && picker.tiers.is_empty() && picker.by_piece.is_empty());
    }

    /// Several peers come, go, and come to have more, wants come, end and are withdrawn: what is kept of it stays right, and
    /// each pick is the one that a look at everything would have found.
    #[test]
    fn what_is_kept_as_things_change_is_what_a_look_at_everything_finds(
        steps in prop::collection::vec((0_u8..8, any::<u64>()), 0..120),
        piece_bytes in prop::sample::select(vec![16_u32 << 10, 64 << 10, 1 << 20]),
    ) {
        let mut picker = picker(piece_bytes);
        let mut peers: [Bitfield; 3] = Default::default();
        let (mut wants, mut out) = (Vec::new(), Vec::new());
        for (step, draw) in steps {
            let number = usize::try_from(draw % 4).unwrap();
            let piece = u32::try_from(draw >> 8).unwrap_or(u32::MAX) % 200;
            let with = |piece: PieceIndex| u32::try_from(peers.iter().filter(|peer| peer.has(piece)).count()).unwrap();
            match step {
                0 => {
                    let class = [Class::Demand, Class::Preseed, Class::Rest][number % 3];
                    wants.push(picker.want(want(piece, draw >> 32 & 0x1f_ffff, class), &with));
                }
                1 => if let Some(id) = wants.pop() {
                    picker.forget(id);
                },
                2 | 3 if number < 3 => {
                    let has = step == 2;
                    let peer = &mut peers[number];
                    let is_new = if has { peer.insert(piece) } else { peer.remove(piece) };
                    if is_new {
                        picker.peer_changed(piece, has);
                    }
                }
                4 if number < 3 => {
                    let fresh = (0..200).filter(|piece| draw >> (piece % 61) & 1 == 1);
                    let mut pieces = Bitfield::new();
                    fresh.for_each(|piece| _ = pieces.insert(piece));
                    let before = std::mem::replace(&mut peers[number], pieces.clone());
                    picker.peer_came(&Pieces::Some(before), false);
                    picker.peer_came(&Pieces::Some(pieces), true);
                }
                5 if !out.is_empty() => {
                    let id = out.swap_remove(piece as usize % out.len());
                    if draw % 3 == 0 {
                        picker.give_back(id);
                    } else {
                        picker.done(id);
                    }
                }
                _ => {
                    let pieces = peers.get(number).map_or(Pieces::All, |peer| Pieces::Some(peer.clone()));
                    let refuses = |asked: PieceIndex| asked % 16 == piece % 16;
                    let found = picker.find(&pieces, &refuses, None, Class::Rest);
                    assert_is_best(&picker, &pieces, &refuses, found);
                    out.extend(found.and_then(|serial| picker.take(serial)).map(|unit| unit.id));
                    let wanted = picker.spans.values().any(|span| span.is_all(|piece| pieces.has(piece)));
                    let found = picker.wanted_of(&pieces, piece);
                    prop_assert_eq!(found.is_some(), wanted);
                    prop_assert!(found.is_none_or(|found| pieces.has(found) && picker.wants_piece(found)));
                }
            }
            assert_kept(&picker);
        }
    }
}
