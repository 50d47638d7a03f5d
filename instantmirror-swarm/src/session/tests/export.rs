//! Sessions of export torrents, whose pieces are all known.

use super::{KEY, MIB, at, config, hello, node};
use crate::session::*;
use crate::wire::{Block, Reserved};

/// A session of an export torrent of 20 pieces, the last of which has 5 bytes.
fn export(serves_all: bool) -> Session {
    let config = SessionConfig {
        fixed: Some((20, 19 * MIB + 5)),
        serves_all,
        ..config(1)
    };
    Session::new(config, 1)
}

/// What is sent first to a peer of a torrent's seed.
fn first_pieces(fast: bool) -> Message {
    let mut session = export(true);
    let reserved = Reserved { fast, ..Reserved::OURS };
    let hello = Hello {
        reserved,
        ..hello(2, false)
    };
    session.connected(KEY, hello, at(0));
    let sent = session.actions().into_iter().filter_map(|(_, action)| match action {
        Action::Send(message @ (Message::HaveAll | Message::Bitfield(_) | Message::HaveNone)) => Some(message),
        _ => None,
    });
    let sent: Vec<Message> = sent.collect();
    assert_eq!(sent.len(), 1);
    sent[0].clone()
}

#[test]
fn a_seed_says_that_it_has_everything_as_its_peer_understands_it() {
    assert_eq!(first_pieces(true), Message::HaveAll);
    assert_eq!(
        first_pieces(false),
        Message::Bitfield(Bytes::from_static(&[0xff, 0xff, 0xf0]))
    );
}

#[test]
fn a_seed_that_has_lost_a_piece_is_not_asked_for_it() {
    let mut session = export(false);
    session.connected(KEY, hello(2, false), at(0));
    session.message(KEY, &Message::HaveAll, at(1));
    for piece in [3, 20] {
        let payload = Bytes::copy_from_slice(&crate::wire::extension::encode_dont_have(piece));
        session.message(KEY, &Message::Extended { id: 3, payload }, at(2));
    }
    let has = (0..20).filter(|piece| session.is_available(*piece));
    assert_eq!(
        has.collect::<Vec<_>>(),
        (0..20).filter(|piece| *piece != 3).collect::<Vec<_>>()
    );
    session.message(KEY, &Message::Have(3), at(3));
    assert!(session.is_available(3));
}

#[test]
fn what_a_peer_of_a_torrent_has_may_be_said_anew_all_at_once() {
    let has = |session: &Session| (0..20).filter(|piece| session.is_available(*piece)).collect::<Vec<_>>();
    let mut session = export(false);
    session.connected(KEY, hello(2, false), at(0));
    session.message(KEY, &Message::Bitfield(Bytes::from_static(&[0x80, 0, 0])), at(1));
    session.message(KEY, &Message::Interested, at(2));
    assert_eq!(has(&session), [0]);
    // As aria2 does instead of many HAVEs.
    session.message(KEY, &Message::Bitfield(Bytes::from_static(&[0x80, 0, 0x10])), at(3));
    assert_eq!(has(&session), [0, 19]);
    session.message(KEY, &Message::HaveAll, at(4));
    session.message(KEY, &Message::HaveAll, at(5));
    assert_eq!(has(&session).len(), 20);
    session.message(KEY, &Message::HaveNone, at(6));
    assert_eq!(session.peer_count(), 0, "nobody has nothing any more");

    // In a repository's swarm, whose pieces have no end, it has to come first.
    let mut session = node(1);
    session.connected(KEY, hello(2, false), at(0));
    session.message(KEY, &Message::Interested, at(1));
    session.message(KEY, &Message::Bitfield(Bytes::from_static(&[0x80])), at(2));
    assert_eq!(session.peer_count(), 0);
}

#[test]
fn requests_end_where_the_torrent_ends() {
    for (piece, begin, length, is_sound) in [(19, 0, 5, true), (19, 0, 6, false), (20, 0, 1, false), (18, 0, 6, true)] {
        let mut session = export(true);
        session.connected(KEY, hello(2, false), at(0));
        session.message(KEY, &Message::Interested, at(1));
        session.set_served(KEY, true, at(1));
        session.message(KEY, &Message::Request(Block { piece, begin, length }), at(2));
        assert_eq!(
            session.peer_count() == 1,
            is_sound,
            "{length} bytes at {begin} of {piece}"
        );
        assert_eq!(session.next_run(KEY).is_some(), is_sound);
    }
}

#[test]
fn a_piece_that_a_seed_cannot_read_is_not_asked_for_again_and_again() {
    let mut session = export(true);
    let plain = PeerKey(8);
    session.connected(KEY, hello(2, false), at(0));
    session.connected(plain, hello(3, false), at(0));
    let ids = crate::wire::extension::ExtensionIds {
        dont_have: Some(9),
        ..Default::default()
    };
    let said = crate::wire::extension::ExtensionHandshake {
        ids,
        ..Default::default()
    };
    let payload = said.encode();
    session.message(KEY, &Message::Extended { id: 0, payload }, at(1));
    session.message(KEY, &Message::Interested, at(1));
    session.set_served(KEY, true, at(1));
    let block = Block {
        piece: 3,
        begin: 0,
        length: 16384,
    };
    session.message(KEY, &Message::Request(block), at(1));
    let _ = session.actions();
    let run = session.next_run(KEY).unwrap();
    session.not_sent(KEY, &run, at(2));
    let gone = Message::Extended {
        id: 9,
        payload: Bytes::from_static(&[0, 0, 0, 3]),
    };
    let said = session.actions();
    for ought in [
        (KEY, Action::Send(gone)),
        (KEY, Action::Send(Message::Reject(block))),
        (plain, Action::Close(CloseReason::Outdated)),
    ] {
        assert!(said.contains(&ought), "{ought:?} is not in {said:?}");
    }
    session.message(KEY, &Message::Request(block), at(3));
    assert_eq!(session.actions(), [(KEY, Action::Send(Message::Reject(block)))]);
    // Whoever was closed comes back and hears what there is.
    session.connected(plain, hello(3, false), at(4));
    let pieces = Message::Bitfield(Bytes::from_static(&[0b1110_1111, 0xff, 0xf0]));
    assert!(session.actions().contains(&(plain, Action::Send(pieces))));
    // After some time it may have been mended.
    session.message(KEY, &Message::KeepAlive, at(590_000));
    session.tick(at(603_000));
    assert!(session.actions().contains(&(KEY, Action::Send(Message::Have(3)))));
    session.message(KEY, &Message::Request(block), at(604_000));
    assert_eq!(session.next_run(KEY).map(|run| run.piece), Some(3));
}

#[test]
fn what_is_left_is_counted_in_bytes() {
    let mut session = export(false);
    assert_eq!(session.status().left_bytes, 19 * MIB + 5);
    session.set_have(19, true, at(0));
    assert_eq!(session.status().left_bytes, 19 * MIB);
    (0..19).for_each(|piece| session.set_have(piece, true, at(0)));
    assert_eq!(session.status().left_bytes, 0);
    session.set_have(3, false, at(0));
    assert_eq!(session.standing().left_bytes, MIB);
    assert_eq!(export(true).status().left_bytes, 0);
}

#[test]
fn two_seeds_that_met_part_again() {
    let is_closed_after_a_while = |serves_all, said: Message| {
        let mut session = export(serves_all);
        session.connected(KEY, hello(2, true), at(0));
        session.message(KEY, &said, at(1));
        session.tick(at(20_000));
        assert!(super::closed(&mut session).is_none());
        session.tick(at(40_000));
        super::closed(&mut session) == Some(CloseReason::Useless)
    };
    let all = || Message::Bitfield(Bytes::from_static(&[0xff, 0xff, 0xf0]));
    assert!(is_closed_after_a_while(true, Message::HaveAll));
    assert!(is_closed_after_a_while(true, all()));
    // Who lacks something may come to want it, and who lacks something itself may come to ask for it.
    assert!(!is_closed_after_a_while(true, Message::HaveNone));
    assert!(!is_closed_after_a_while(false, all()));
}
