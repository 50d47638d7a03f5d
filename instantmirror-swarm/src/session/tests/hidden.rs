//! Tests of staged content, which only members of the repository's swarm hear of.

use super::*;

#[test]
fn hidden_pieces_are_for_those_who_prove_that_they_may_have_them() {
    for (secret_of_other, is_authorised) in [(Some([5; 32]), true), (Some([6; 32]), false), (None, false)] {
        let with = |id: u8, secret| {
            let mut session = Session::new(SessionConfig { secret, ..config(id) }, 1);
            session.set_space(10);
            session
        };
        let (mut seed, mut leecher) = (with(1, Some([5; 32])), with(2, secret_of_other));
        let mut hidden = Bitfield::new();
        hidden.insert(1);
        seed.set_hidden(hidden, at(0));
        (0..2).for_each(|piece| seed.set_have(piece, true, at(0)));
        leecher.want(want(2 * MIB, Class::Preseed), at(0));
        let mut pair = Pair::new(seed, leecher);
        (1..20).for_each(|step| pair.run(step));
        let ought = if is_authorised { 2 * MIB } else { MIB };
        assert_eq!(pair.received(1), ought, "{secret_of_other:?}");
        // Whoever guesses that there is more gets none of it.
        let block = Block {
            piece: 1,
            begin: 0,
            length: 16384,
        };
        pair.sessions[0].message(KEY, &Message::Request(block), at(30));
        let answers = pair.sessions[0].actions();
        let is_rejected = answers.contains(&(KEY, Action::Send(Message::Reject(block))));
        assert_eq!(is_rejected, !is_authorised);
        // Released: everybody hears of it.
        pair.sessions[0].set_hidden(Bitfield::new(), at(40));
        (40..60).for_each(|step| pair.run(step));
        assert_eq!(pair.received(1), 2 * MIB);
    }
}

fn pieces(range: std::ops::Range<PieceIndex>) -> Bitfield {
    let mut pieces = Bitfield::new();
    range.for_each(|piece| _ = pieces.insert(piece));
    pieces
}

#[test]
fn many_hidden_pieces_are_told_all_at_once() {
    let count = u32::try_from(TOLD_SINGLY_MAX).unwrap() + 1;
    let with = |id: u8| {
        let secret = Some([5; 32]);
        let mut session = Session::new(SessionConfig { secret, ..config(id) }, 1);
        session.set_space(count);
        session.set_hidden(pieces(0..count), at(0));
        session
    };
    let (mut seed, leecher) = (with(1), with(2));
    (0..count).for_each(|piece| seed.set_have(piece, true, at(0)));
    let mut pair = Pair::new(seed, leecher);
    (1..20).for_each(|step| pair.run(step));
    assert_eq!(pair.closed, []);
    assert!((0..count).all(|piece| pair.sessions[1].is_available(piece)));
    // To those who may not know of them it is said by a new connection.
    let mut seed = pair.sessions.into_iter().next().unwrap();
    let stranger = PeerKey(8);
    seed.connected(stranger, hello(3, false), at(30));
    let _ = seed.actions();
    seed.set_hidden(Bitfield::new(), at(40));
    let said: Vec<_> = seed.actions();
    assert_eq!(said, [(stranger, Action::Close(CloseReason::Outdated))]);
}

#[test]
fn nobody_hears_of_a_hidden_piece_that_goes() {
    let secret = Some([5; 32]);
    let mut session = Session::new(SessionConfig { secret, ..config(1) }, 1);
    session.set_hidden(pieces(0..1), at(0));
    (0..2).for_each(|piece| session.set_have(piece, true, at(0)));
    let mut session = with_peer(session, PLAIN);
    sent(&mut session);
    session.set_have(0, false, at(1));
    assert_eq!(session.actions(), []);
    session.set_have(1, false, at(2));
    assert_eq!(closed(&mut session), Some(CloseReason::Outdated));
}

#[test]
fn nothing_is_shown_before_it_is_known_what_is_hidden() {
    let secret = Some([5; 32]);
    let mut seed = Session::new(SessionConfig { secret, ..config(1) }, 1);
    let mut leecher = node(2);
    seed.set_space(10);
    seed.set_have(0, true, at(0));
    leecher.want(want(MIB, Class::Preseed), at(0));
    let mut pair = Pair::new(seed, leecher);
    (1..20).for_each(|step| pair.run(step));
    let block = Block {
        piece: 0,
        begin: 0,
        length: 16384,
    };
    pair.sessions[0].message(KEY, &Message::Request(block), at(20));
    assert!(sent(&mut pair.sessions[0]).contains(&Message::Reject(block)));
    assert_eq!(pair.received(1), 0);
    pair.sessions[0].set_hidden(Bitfield::new(), at(30));
    (30..50).for_each(|step| pair.run(step));
    assert_eq!(pair.received(1), MIB);
}

#[test]
fn a_proof_is_good_for_its_connection_alone() {
    let secret = Some([5; 32]);
    let mut seed = Session::new(SessionConfig { secret, ..config(1) }, 1);
    seed.connected(KEY, hello(2, true), at(0));
    let theirs = ExtensionHandshake {
        ids: ExtensionIds {
            node: Some(4),
            ..ExtensionIds::default()
        },
        nonce: Some([3; 32]),
        ..ExtensionHandshake::default()
    };
    let payload = theirs.encode();
    say(
        &mut seed,
        Message::Extended {
            id: HANDSHAKE_ID,
            payload,
        },
        1,
    );
    let proof = sent(&mut seed).into_iter().rev().find_map(|message| match message {
        Message::Extended { id: 4, payload } => Some(payload),
        _ => None,
    });
    // Its own proof, sent back.
    say(
        &mut seed,
        Message::Extended {
            id: 4,
            payload: proof.unwrap(),
        },
        2,
    );
    assert!(!seed.status().peers[0].is_proven);
}
