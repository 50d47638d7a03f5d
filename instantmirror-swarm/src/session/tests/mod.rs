//! Tests of sessions, alone and in pairs, in virtual time.

mod asking;
mod breaches;
mod export;
mod hidden;
mod outboard;
mod slow;

use std::collections::VecDeque;

use instantmirror_core::swarm::Urgency;
use instantmirror_core::traits::Class;

use super::*;
use crate::wire::extension::{ExtensionHandshake, ExtensionIds, HANDSHAKE_ID, MetadataMessage, encode_dont_have};
use crate::wire::{Block, Reserved};

const MIB: u64 = 1 << 20;
const KEY: PeerKey = PeerKey(7);

fn at(millis: u64) -> Moment {
    Moment(Duration::from_millis(millis))
}

fn config(id: u8) -> SessionConfig {
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

fn hello(id: u8, is_outgoing: bool) -> Hello {
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

fn node(id: u8) -> Session {
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

/// The peer says under which ids it takes what.
fn take_extensions(session: &mut Session, ids: ExtensionIds) {
    let handshake = ExtensionHandshake {
        ids,
        ..ExtensionHandshake::default()
    };
    let (id, payload) = (HANDSHAKE_ID, handshake.encode());
    say(session, Message::Extended { id, payload }, 1);
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
    take_extensions(&mut session, ids);
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
    take_extensions(&mut session, ids);
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
