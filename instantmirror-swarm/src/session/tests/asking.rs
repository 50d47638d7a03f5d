//! Tests of when a session asks whom, and for how much.

use std::collections::VecDeque;

use instantmirror_core::swarm::Urgency;
use instantmirror_core::traits::Class;
use proptest::prelude::*;

use super::{KEY, MIB, at, config, hello, node};
use crate::session::peer::Ask;
use crate::session::*;
use crate::wire::Block;

fn want(first_piece: PieceIndex, size: u64) -> Want {
    Want {
        first_piece,
        size,
        range: 0..size,
        urgency: Urgency {
            class: Class::Preseed,
            rank: 0,
        },
    }
}

/// What is sent to whom.
fn sent(session: &mut Session) -> Vec<(PeerKey, Message)> {
    let sends = |(key, action)| match action {
        Action::Send(message) => Some((key, message)),
        _ => None,
    };
    session.actions().into_iter().filter_map(sends).collect()
}

fn asked(session: &mut Session, of: PeerKey) -> Vec<Block> {
    let block = |(key, message)| match message {
        Message::Request(block) if key == of => Some(block),
        _ => None,
    };
    sent(session).into_iter().filter_map(block).collect()
}

/// A peer that has everything, or so far nothing, and serves us.
fn join(session: &mut Session, key: PeerKey, has: &Message) {
    session.connected(key, hello(u8::try_from(key.0).unwrap(), true), at(0));
    session.message(key, has, at(0));
    session.message(key, &Message::Unchoke, at(0));
}

/// A block comes; the unit that is whole with it, not verified yet.
fn comes(session: &mut Session, from: PeerKey, block: Block, millis: u64) -> Option<UnitId> {
    let data = vec![0; block.length as usize].into();
    let (piece, begin) = (block.piece, block.begin);
    match session.message(from, &Message::Piece { piece, begin, data }, at(millis)) {
        Some(Event::Block {
            unit, is_whole: true, ..
        }) => Some(unit.id),
        _ => None,
    }
}

#[test]
fn who_has_nothing_more_that_is_wanted_is_told_at_once_and_again_when_it_has() {
    let mut session = node(1);
    session.want(want(0, 100), at(0));
    session.want(want(1, 100), at(0));
    session.want(want(2, 100), at(0));
    let other = PeerKey(8);
    join(&mut session, KEY, &Message::HaveNone);
    session.connected(other, hello(3, true), at(0));
    session.message(other, &Message::HaveAll, at(0));
    let _ = session.actions();
    for piece in [0, 2] {
        session.message(KEY, &Message::Have(piece), at(1));
        let said = sent(&mut session);
        let block = Block {
            piece,
            begin: 0,
            length: 100,
        };
        assert_eq!(
            said,
            [(KEY, Message::Interested), (KEY, Message::Request(block))],
            "{piece}"
        );
        let unit = comes(&mut session, KEY, block, 2).unwrap();
        assert!(sent(&mut session).is_empty(), "it may be asked again if this is a lie");
        session.verified(unit, at(3));
        let said = sent(&mut session);
        assert_eq!(said, [(KEY, Message::NotInterested)], "of the other is");
    }
}

#[test]
fn when_there_is_room_again_others_are_asked_too() {
    let config = SessionConfig {
        units_max: 10,
        ..config(1)
    };
    let mut session = Session::new(config, 1);
    session.want(want(0, 16 * MIB), at(0));
    let other = PeerKey(8);
    join(&mut session, KEY, &Message::HaveAll);
    let mut waiting = asked(&mut session, KEY);
    // One unit more, so that nothing has become free since all were asked.
    let come: Vec<Block> = waiting.drain(..4).collect();
    let units = come
        .into_iter()
        .filter_map(|block| comes(&mut session, KEY, block, 1))
        .collect::<Vec<_>>();
    session.all_verified(&units, at(1));
    waiting.extend(asked(&mut session, KEY));
    join(&mut session, other, &Message::HaveAll);
    let of_other = asked(&mut session, other).len();
    assert_eq!((waiting.len(), of_other), (32, 8), "8 and 2 units");
    let come = waiting
        .into_iter()
        .filter_map(|block| comes(&mut session, KEY, block, 1));
    let units: Vec<UnitId> = come.collect();
    session.message(KEY, &Message::Choke, at(2));
    assert!(sent(&mut session).is_empty(), "what waits to be verified takes room");
    session.all_verified(&units, at(3));
    assert_eq!(asked(&mut session, other).len(), 24, "6 units more");
}

#[test]
fn what_one_peer_rejects_another_that_had_nothing_to_do_is_asked_for_with_the_next_unit() {
    let mut session = node(1);
    session.want(want(0, 2 * 65536), at(0));
    let other = PeerKey(8);
    join(&mut session, KEY, &Message::HaveAll);
    let blocks = asked(&mut session, KEY);
    join(&mut session, other, &Message::HaveAll);
    assert_eq!((blocks.len(), asked(&mut session, other).len()), (8, 0));
    session.message(KEY, &Message::Reject(blocks[0]), at(1));
    let come = blocks[4..]
        .iter()
        .filter_map(|block| comes(&mut session, KEY, *block, 2));
    let units: Vec<UnitId> = come.collect();
    session.verified(units[0], at(3));
    assert_eq!(asked(&mut session, other), blocks[..4]);
}

#[test]
fn a_peer_is_asked_ahead_for_what_it_sends_in_less_than_a_second() {
    let mut session = node(1);
    session.set_space(100);
    session.want(want(0, 100 * MIB), at(0));
    join(&mut session, KEY, &Message::HaveAll);
    let mut waiting: VecDeque<Block> = asked(&mut session, KEY).into();
    assert_eq!(waiting.len(), 32, "8 units of a peer whose rate is not known");
    // Two units every 100 ms: 1.25 MiB in a second.
    for step in 1..200 {
        for _ in 0..8 {
            let block = waiting.pop_front().unwrap();
            if let Some(unit) = comes(&mut session, KEY, block, step * 100) {
                session.verified(unit, at(step * 100));
            }
        }
        session.tick(at(step * 100));
        waiting.extend(asked(&mut session, KEY));
        assert!(waiting.len() >= 32 - 8, "{step}");
    }
    assert!((16 * 4..=19 * 4).contains(&waiting.len()), "{} blocks", waiting.len());
}

proptest! {
    #[test]
    fn a_block_is_found_where_it_is_in_a_unit_and_nothing_else_is(
        first_piece in 0_u32..1000,
        number in 0_u64..100,
        length in 1_u32..=65536,
        piece_bytes in prop::sample::select(vec![16_u32 << 10, 64 << 10, 1 << 20]),
        missing in 0_u64..16,
        asked in (0_u32..1100, 0_u32..(1 << 20), 1_u32..20_000),
    ) {
        let mut picker = Picker::new(piece_bytes, Random::new(1));
        let offset = number * 65536;
        let size = offset + u64::from(length);
        picker.want(Want { range: offset..size, ..want(first_piece, size) }, &|_| 1);
        let unit = picker.pick(&Pieces::All, &|_| false, None, Class::Rest).unwrap();
        let mut ask = Ask::new(unit, at(0));
        prop_assert_eq!(ask.blocks(piece_bytes).map(|(_, block)| block.length).sum::<u32>(), length);
        for (at, block) in ask.blocks(piece_bytes) {
            prop_assert_eq!(ask.place_of(&block, piece_bytes), Some(at));
            prop_assert_eq!(ask.place_of(&Block { length: block.length + 1, ..block }, piece_bytes), None);
            prop_assert_eq!(ask.place_of(&Block { begin: block.begin + 1, ..block }, piece_bytes), None);
        }
        ask.missing &= missing;
        let (piece, begin, length) = asked;
        for block in Ask::new(unit, at(0)).blocks(piece_bytes).map(|(_, block)| block).chain([Block { piece, begin, length }]) {
            let known = ask.blocks(piece_bytes).find(|(_, known)| *known == block).map(|(at, _)| at);
            prop_assert_eq!(ask.place_of(&block, piece_bytes), known);
        }
    }
}
