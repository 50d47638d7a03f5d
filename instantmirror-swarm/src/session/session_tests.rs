//! Tests of sessions, alone and in pairs, in virtual time.

use std::collections::VecDeque;

use instantmirror_core::swarm::Urgency;
use instantmirror_core::traits::Class;

use super::*;
use crate::wire::extension::{ExtensionHandshake, ExtensionIds, HANDSHAKE_ID, MetadataMessage, encode_dont_have};
use crate::wire::{Block, Reserved};

pub(super) const MIB: u64 = 1 << 20;
pub(super) const KEY: PeerKey = PeerKey(7);

pub(super) fn at(millis: u64) -> Moment {
    Moment(Duration::from_millis(millis))
}

pub(super) fn config(id: u8) -> SessionConfig {
    SessionConfig {
        info_hash: InfoHash::from_bytes([9; 20]),
        peer_id: PeerId([id; 20]),
        piece_bytes: 1 << 20,
        fixed: None,
        serves_all: false,
        is_private: false,
        metadata: None,
        first_copies: false,
        listen_port: Some(6881),
        secret: None,
        units_max: 100,
    }
}

pub(super) fn hello(id: u8, is_outgoing: bool) -> Hello {
    Hello {
        address: SocketAddr::from(([192, 0, 2, id], 6881)),
        peer_id: PeerId([id; 20]),
        reserved: Reserved::OURS,
        is_outgoing,
        preference: 1,
        nonce: [id; 32],
    }
}

fn want(size: u64, class: Class) -> Want {
    Want {
        first_piece: 0,
        size,
        range: 0..size,
        urgency: Urgency { class, rank: 0 },
    }
}

pub(super) fn node(id: u8) -> Session {
    let mut session = Session::new(config(id), u64::from(id));
    session.set_space(10);
    session
}

/// A session with one peer that says what the test says.
fn with_peer(mut session: Session, reserved: Reserved) -> Session {
    let hello = Hello {
        reserved,
        ..hello(2, false)
    };
    session.connected(KEY, hello, at(0));
    session
}

fn say(session: &mut Session, message: Message, millis: u64) -> Option<Event> {
    session.message(KEY, &message, at(millis))
}

fn sent(session: &mut Session) -> Vec<Message> {
    let sends = |(_, action)| match action {
        Action::Send(message) => Some(message),
        _ => None,
    };
    session.actions().into_iter().filter_map(sends).collect()
}

fn closed(session: &mut Session) -> Option<CloseReason> {
    session.actions().into_iter().find_map(|(_, action)| match action {
        Action::Close(reason) => Some(reason),
        _ => None,
    })
}

fn requests(messages: &[Message]) -> Vec<Block> {
    let block = |message: &Message| match message {
        Message::Request(block) => Some(*block),
        _ => None,
    };
    messages.iter().filter_map(block).collect()
}

const PLAIN: Reserved = Reserved {
    fast: false,
    extended: false,
    dht: false,
};

/// Two sessions that hear each other at once.
struct Pair {
    sessions: [Session; 2],
    waiting: VecDeque<(usize, Message)>,
    closed: Vec<CloseReason>,
}

impl Pair {
    fn new(one: Session, other: Session) -> Self {
        let mut pair = Self {
            sessions: [one, other],
            waiting: VecDeque::new(),
            closed: Vec::new(),
        };
        pair.sessions[0].connected(KEY, hello(2, true), at(0));
        pair.sessions[1].connected(KEY, hello(1, false), at(0));
        pair.run(0);
        pair
    }

    /// Carries messages and blocks to and fro until nobody says anything more; all who want to be served are.
    fn run(&mut self, millis: u64) {
        let now = at(millis);
        loop {
            for side in 0..2 {
                for taker in self.sessions[side].takers(false) {
                    self.sessions[side].set_served(taker.peer, true, now);
                }
                for (_, action) in self.sessions[side].actions() {
                    match action {
                        Action::Send(message) => self.waiting.push_back((1 - side, message)),
                        Action::Close(reason) => self.closed.push(reason),
                        Action::Upload => {
                            while let Some(run) = self.sessions[side].next_run(KEY) {
                                self.sessions[side].sent(KEY, &run, now);
                                for block in run.blocks() {
                                    let data = Bytes::from(vec![0; block.length as usize]);
                                    let (piece, begin) = (block.piece, block.begin);
                                    self.waiting
                                        .push_back((1 - side, Message::Piece { piece, begin, data }));
                                }
                            }
                        }
                    }
                }
            }
            let Some((to, message)) = self.waiting.pop_front() else {
                return;
            };
            if let Some(Event::Block {
                unit, is_whole: true, ..
            }) = self.sessions[to].message(KEY, &message, now)
            {
                self.sessions[to].verified(unit.id, now);
            }
        }
    }

    fn received(&mut self, side: usize) -> u64 {
        self.sessions[side].status().counts.good_bytes
    }
}

#[test]
fn what_one_has_the_other_gets_and_nothing_twice() {
    let (mut seed, mut leecher) = (node(1), node(2));
    (0..3).for_each(|piece| seed.set_have(piece, true, at(0)));
    leecher.want(want(3 * MIB - 1000, Class::Preseed), at(0));
    let mut pair = Pair::new(seed, leecher);
    (1..50).for_each(|step| pair.run(step));
    assert_eq!(pair.received(1), 3 * MIB - 1000);
    let status = pair.sessions[1].status();
    assert_eq!((status.counts.wasted_bytes, status.wanted, status.asked), (0, 0, 0));
    assert!(!status.peers[0].is_wanted, "there is nothing more to want");
    assert_eq!(pair.sessions[0].status().counts.sent_bytes, 3 * MIB - 1000);
}

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

#[test]
fn of_two_connections_both_sides_keep_the_same_one() {
    let survivors = |own: u8, other: u8| {
        let mut session = node(own);
        // The other side connected first, then we did; or the other way round.
        let mut kept = Vec::new();
        for first_is_outgoing in [false, true] {
            session = node(own);
            session.connected(PeerKey(1), hello(other, first_is_outgoing), at(0));
            session.connected(PeerKey(2), hello(other, !first_is_outgoing), at(0));
            let left: Vec<bool> = session.peers.values().map(|peer| peer.is_outgoing).collect();
            assert_eq!(left.len(), 1);
            kept.push(left[0]);
        }
        drop(session);
        kept
    };
    assert_eq!(survivors(3, 2), [true, true], "the higher id keeps the one it made");
    assert_eq!(survivors(2, 3), [false, false], "and the lower one the same");
    let mut session = node(2);
    session.connected(PeerKey(1), hello(3, false), at(0));
    session.connected(PeerKey(2), hello(3, false), at(0));
    assert_eq!(session.peers.keys().collect::<Vec<_>>(), [&PeerKey(1)]);
    session.connected(PeerKey(3), hello(2, true), at(0));
    assert_eq!(session.peer_count(), 1, "it is us");
}

#[test]
fn pieces_that_go_are_taken_back_and_who_cannot_be_told_is_closed() {
    let mut session = node(1);
    (0..2).for_each(|piece| session.set_have(piece, true, at(0)));
    let mut session = with_peer(session, Reserved::OURS);
    let ids = ExtensionIds {
        dont_have: Some(9),
        ..ExtensionIds::default()
    };
    let payload = ExtensionHandshake {
        ids,
        ..ExtensionHandshake::default()
    }
    .encode();
    say(
        &mut session,
        Message::Extended {
            id: HANDSHAKE_ID,
            payload,
        },
        1,
    );
    say(&mut session, Message::Interested, 1);
    session.set_served(KEY, true, at(1));
    let block = Block {
        piece: 1,
        begin: 0,
        length: 16384,
    };
    say(&mut session, Message::Request(block), 2);
    sent(&mut session);
    session.set_have(1, false, at(3));
    let payload = Bytes::copy_from_slice(&encode_dont_have(1));
    assert_eq!(
        sent(&mut session),
        [Message::Extended { id: 9, payload }, Message::Reject(block)]
    );
    assert!(session.next_run(KEY).is_none());
    say(&mut session, Message::Request(block), 4);
    assert_eq!(sent(&mut session), [Message::Reject(block)]);

    let mut other = node(1);
    other.set_have(1, true, at(0));
    let mut other = with_peer(other, PLAIN);
    sent(&mut other);
    other.set_have(1, false, at(3));
    assert_eq!(closed(&mut other), Some(CloseReason::Outdated));
}

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
fn a_piece_that_a_peer_comes_to_have_is_asked_of_it_at_once() {
    let mut session = with_peer(node(1), Reserved::OURS);
    say(&mut session, Message::HaveNone, 1);
    say(&mut session, Message::Unchoke, 1);
    for first_piece in 0..5 {
        let small = Want {
            first_piece,
            ..want(20_000, Class::Preseed)
        };
        session.want(small, at(1));
    }
    let mut asked = Vec::new();
    for (millis, piece) in [(2, 3), (3, 1), (4, 3), (5, 0)] {
        say(&mut session, Message::Have(piece), millis);
        let blocks = requests(&sent(&mut session));
        assert!(blocks.iter().all(|block| block.piece == piece), "{blocks:?}");
        asked.push(blocks.len());
    }
    assert_eq!(
        asked,
        [2, 2, 0, 2],
        "two blocks each, and what was asked for is not asked for again"
    );
}

#[test]
fn small_pieces_are_sent_many_together_and_no_more_than_is_read_at_once() {
    let mut session = with_peer(node(1), Reserved::OURS);
    say(&mut session, Message::HaveNone, 1);
    session.set_space(100);
    (0..100).for_each(|piece| session.set_have(piece, true, at(1)));
    say(&mut session, Message::Interested, 1);
    session.set_served(KEY, true, at(1));
    let ask = |session: &mut Session, piece, begin, length| {
        say(session, Message::Request(Block { piece, begin, length }), 2);
    };
    (0..50).for_each(|piece| ask(&mut session, piece, 0, 1000));
    for block in 0..20 {
        ask(&mut session, 60, block * 16384, 16384);
    }
    let mut rounds = Vec::new();
    loop {
        let runs = session.next_runs(KEY);
        let bytes: u32 = runs.iter().map(Run::bytes).sum();
        if runs.is_empty() {
            break;
        }
        assert!(bytes <= 256 * 1024 && runs.len() <= 32);
        rounds.push((runs.len(), bytes));
    }
    let large = 256 * 1024 - 18 * 1000;
    let (first, rest) = (large / 16384 * 16384, 20 * 16384 - large / 16384 * 16384);
    assert_eq!(rounds, [(32, 32_000), (19, 18_000 + first), (1, rest)]);
}

#[test]
fn a_choke_frees_what_was_asked_and_a_rejected_piece_rests() {
    let mut session = node(1);
    session.want(want(MIB, Class::Preseed), at(0));
    let mut session = with_peer(session, PLAIN);
    say(&mut session, Message::Bitfield(vec![0x80].into()), 1);
    say(&mut session, Message::Unchoke, 1);
    let first = requests(&sent(&mut session));
    assert_eq!(first.len(), 8 * 4);
    say(&mut session, Message::Choke, 2);
    assert_eq!(session.status().asked, 0);
    say(&mut session, Message::Unchoke, 3);
    assert_eq!(requests(&sent(&mut session)).len(), 8 * 4);

    let mut session = node(1);
    session.want(want(MIB, Class::Preseed), at(0));
    let mut session = with_peer(session, Reserved::OURS);
    say(&mut session, Message::HaveAll, 1);
    say(&mut session, Message::Unchoke, 1);
    let asked = requests(&sent(&mut session));
    for block in &asked {
        say(&mut session, Message::Reject(*block), 2);
    }
    assert!(requests(&sent(&mut session)).is_empty());
    session.tick(at(3000));
    assert!(requests(&sent(&mut session)).is_empty());
    session.tick(at(4500));
    assert!(!requests(&sent(&mut session)).is_empty());
}

#[test]
fn who_does_not_answer_is_given_up_and_who_is_silent_is_closed() {
    let mut session = node(1);
    session.want(want(MIB, Class::Demand), at(0));
    let mut session = with_peer(session, Reserved::OURS);
    say(&mut session, Message::HaveAll, 1);
    say(&mut session, Message::Unchoke, 1);
    let asked = requests(&sent(&mut session)).len();
    session.tick(at(3500));
    let cancelled = sent(&mut session)
        .into_iter()
        .filter(|message| matches!(message, Message::Cancel(_)));
    assert_eq!((cancelled.count(), session.status().asked), (asked, 0));
    session.tick(at(65_000));
    assert!(sent(&mut session).contains(&Message::KeepAlive));
    session.tick(at(151_000));
    assert_eq!(closed(&mut session), Some(CloseReason::Silent));
}

#[test]
fn a_slow_peers_units_are_asked_of_another_one_and_cancelled_when_they_come() {
    let mut session = node(1);
    session.want(want(4 * 65536, Class::Preseed), at(0));
    let mut session = with_peer(session, Reserved::OURS);
    say(&mut session, Message::HaveAll, 1);
    say(&mut session, Message::Unchoke, 1);
    let slow = requests(&sent(&mut session));
    assert_eq!(slow.len(), 16);
    let fast = PeerKey(8);
    session.connected(fast, hello(3, true), at(100));
    session.message(fast, &Message::HaveAll, at(100));
    session.message(fast, &Message::Unchoke, at(100));
    assert!(requests(&sent(&mut session)).is_empty());
    session.tick(at(2000));
    let second = requests(&sent(&mut session));
    assert_eq!(second.len(), 4, "one unit at a time");
    for block in second {
        let (piece, begin) = (block.piece, block.begin);
        let data = vec![0; block.length as usize].into();
        session.message(fast, &Message::Piece { piece, begin, data }, at(2100));
    }
    let cancelled = session
        .actions()
        .into_iter()
        .filter(|(key, action)| *key == KEY && matches!(action, Action::Send(Message::Cancel(_))));
    assert_eq!(cancelled.count(), 4);
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

#[test]
fn the_info_dictionary_is_given_to_those_who_ask() {
    let info = Bytes::from(vec![7; 20_000]);
    let mut session = with_peer(
        Session::new(
            SessionConfig {
                metadata: Some(info.clone()),
                ..config(1)
            },
            1,
        ),
        Reserved::OURS,
    );
    let ids = ExtensionIds {
        metadata: Some(5),
        ..ExtensionIds::default()
    };
    let payload = ExtensionHandshake {
        ids,
        ..ExtensionHandshake::default()
    }
    .encode();
    say(
        &mut session,
        Message::Extended {
            id: HANDSHAKE_ID,
            payload,
        },
        1,
    );
    sent(&mut session);
    let mut got = Vec::new();
    for piece in 0..3 {
        let payload = MetadataMessage::Request { piece }.encode();
        say(&mut session, Message::Extended { id: 1, payload }, 2);
        if let Some((piece, bytes)) = session.next_metadata(KEY) {
            assert_eq!(bytes, if piece == 0 { 16_384 } else { 3616 });
            session.give_metadata(KEY, piece, at(3));
        }
        let Some(Message::Extended { id: 5, payload }) = sent(&mut session).pop() else {
            panic!("an answer")
        };
        match MetadataMessage::decode(&payload).unwrap().unwrap() {
            MetadataMessage::Data { total_size, data, .. } => {
                assert_eq!(total_size, 20_000);
                got.extend_from_slice(&data);
            }
            other => assert_eq!(other, MetadataMessage::Reject { piece: 2 }),
        }
    }
    assert_eq!(got, info);
    // Whoever asks for more than it reads has little of it waiting.
    for _ in 0..1000 {
        let payload = MetadataMessage::Request { piece: 0 }.encode();
        say(&mut session, Message::Extended { id: 1, payload }, 4);
    }
    assert!(session.owes_answers(KEY));
    let bytes: usize = sent(&mut session)
        .iter()
        .map(|message| match message {
            Message::Extended { payload, .. } => payload.len(),
            other => panic!("{other:?}"),
        })
        .sum();
    assert!(bytes < 30 * 1000, "{bytes} bytes of rejections");
    let waiting = std::iter::from_fn(|| session.next_metadata(KEY)).count();
    assert_eq!(waiting, 64);
}

#[test]
fn peers_far_ahead_cost_no_memory() {
    let mut session = with_peer(node(1), Reserved::OURS);
    say(&mut session, Message::HaveNone, 1);
    say(&mut session, Message::Have(u32::MAX), 1);
    say(&mut session, Message::Have(12), 1);
    assert_eq!(session.status().peers[0].pieces, Some(1));
    assert_eq!(session.peer_count(), 1);
}
