//! Tests of peers that break the protocol, flood, or lie.

use super::*;

#[test]
fn what_breaks_the_protocol_closes_the_connection_and_nothing_else() {
    let fixed = SessionConfig {
        fixed: Some((3, 2 * MIB + 5)),
        ..config(1)
    };
    let block = |piece, begin, length| Message::Request(Block { piece, begin, length });
    let late = |message: Message| vec![Message::Interested, message];
    for messages in [
        vec![Message::Have(3)],
        vec![Message::Bitfield(vec![0xff].into())],
        vec![Message::Bitfield(vec![0, 0].into())],
        vec![Message::HaveAll, Message::Interested, Message::HaveNone],
        late(block(0, 0, 0)),
        late(block(0, 0, 1 << 18)),
        late(block(0, (1 << 20) - 1, 2)),
        late(block(2, 0, 6)),
        late(block(3, 0, 1)),
        late(block(u32::MAX, u32::MAX, u32::MAX)),
        vec![Message::Extended {
            id: 3,
            payload: vec![1].into(),
        }],
        vec![Message::Extended {
            id: 0,
            payload: vec![b'x'].into(),
        }],
    ] {
        let mut session = Session::new(fixed.clone(), 1);
        session.set_have(0, true, at(0));
        session.connected(PeerKey(1), hello(9, false), at(0));
        let mut session = with_peer(session, Reserved::OURS);
        session.set_served(KEY, true, at(0));
        messages
            .iter()
            .for_each(|message| _ = session.message(KEY, message, at(1)));
        let reason = closed(&mut session);
        assert!(
            matches!(reason, Some(CloseReason::Breach(_))),
            "{messages:?}: {reason:?}"
        );
        assert_eq!(session.peer_count(), 1);
        // What comes from it later is nobody's.
        assert_eq!(say(&mut session, Message::Have(1), 2), None);
    }
}

#[test]
fn a_late_bitfield_is_a_breach_where_pieces_are_told_one_by_one() {
    let mut session = with_peer(node(1), Reserved::OURS);
    say(&mut session, Message::Interested, 1);
    say(&mut session, Message::Bitfield(vec![0].into()), 1);
    assert!(matches!(closed(&mut session), Some(CloseReason::Breach(_))));
}

#[test]
fn a_flood_of_requests_is_rejected_and_then_ends() {
    let mut session = node(1);
    session.set_have(0, true, at(0));
    let mut session = with_peer(session, Reserved::OURS);
    session.set_served(KEY, true, at(0));
    sent(&mut session);
    let mut rejected = 0;
    for number in 0..u32::try_from(REQUESTS_MAX).unwrap() + 10 {
        say(
            &mut session,
            Message::Request(Block {
                piece: 0,
                begin: number,
                length: 1,
            }),
            1,
        );
        rejected += sent(&mut session).len();
    }
    assert_eq!((rejected, session.peer_count()), (10, 1));
    assert_eq!(session.peers[&KEY].uploads.len(), REQUESTS_MAX);
}

#[test]
fn nothing_that_was_not_asked_for_is_taken() {
    let mut session = node(1);
    session.want(want(MIB, Class::Preseed), at(0));
    let mut session = with_peer(session, Reserved::OURS);
    say(&mut session, Message::HaveAll, 1);
    say(&mut session, Message::Unchoke, 1);
    let asked = requests(&sent(&mut session));
    assert!(!asked.is_empty());
    let piece = |block: Block| Message::Piece {
        piece: block.piece,
        begin: block.begin,
        data: vec![0; block.length as usize].into(),
    };
    for wrong in [
        Block { piece: 5, ..asked[0] },
        Block { begin: 1, ..asked[0] },
        Block {
            length: 16383,
            ..asked[0]
        },
        Block {
            begin: 16 * 65536 - 16384,
            ..asked[0]
        },
    ] {
        if !asked.contains(&wrong) {
            assert_eq!(say(&mut session, piece(wrong), 2), None);
        }
    }
    assert!(matches!(
        say(&mut session, piece(asked[0]), 2),
        Some(Event::Block { is_whole: false, .. })
    ));
    assert_eq!(say(&mut session, piece(asked[0]), 2), None, "the same once more");
    assert!(session.status().counts.wasted_bytes >= 3 * 16383);
}

#[test]
fn a_liar_is_closed_and_its_unit_is_asked_of_others() {
    let mut session = node(1);
    session.want(want(65536, Class::Preseed), at(0));
    let mut session = with_peer(session, Reserved::OURS);
    say(&mut session, Message::HaveAll, 1);
    say(&mut session, Message::Unchoke, 1);
    let mut whole = None;
    for block in requests(&sent(&mut session)) {
        let (piece, begin) = (block.piece, block.begin);
        let data = vec![0; block.length as usize].into();
        if let Some(Event::Block {
            unit, is_whole: true, ..
        }) = say(&mut session, Message::Piece { piece, begin, data }, 2)
        {
            whole = Some(unit);
        }
    }
    session.lied(KEY, whole.unwrap().id, at(3));
    assert_eq!(closed(&mut session), Some(CloseReason::Lie));
    let honest = PeerKey(8);
    session.connected(honest, hello(3, true), at(4));
    session.message(honest, &Message::HaveAll, at(4));
    session.message(honest, &Message::Unchoke, at(4));
    assert_eq!(requests(&sent(&mut session)).len(), 4);
    assert_eq!(session.status().counts.bad_bytes, 65536);
}
