//! Tests of outboards between sessions, in virtual time.

use super::{KEY, at, config};
use crate::session::*;
use crate::wire::Message;
use crate::wire::extension::{ExtensionHandshake, ExtensionIds, HANDSHAKE_ID, NodeMessage, OUTBOARD_PART_BYTES};

const OBJECT: ObjectId = ObjectId::from_bytes([3; 32]);
const PART: usize = OUTBOARD_PART_BYTES as usize;

fn session(id: u8, secret: Option<[u8; 32]>) -> Session {
    let config = SessionConfig { secret, ..config(id) };
    let mut session = Session::new(config, 1);
    session.set_space(100);
    session
}

/// Who connects to whom does not matter here.
fn hello(id: u8) -> Hello {
    super::hello(id, id.is_multiple_of(2))
}

/// Carries messages to and fro until nobody says anything more. The first one has an outboard, of the object at piece 5; what
/// comes of it at the second one is returned.
fn carry(giver: &mut Session, asker: &mut Session, outboard: Option<&Bytes>, now: Moment) -> Vec<Event> {
    let mut events = Vec::new();
    loop {
        let (from_giver, from_asker) = (giver.actions(), asker.actions());
        if from_giver.is_empty() && from_asker.is_empty() {
            return events;
        }
        for (_, action) in from_asker {
            if let Action::Send(message) = action {
                giver.message(KEY, &message, now);
            }
        }
        for (_, action) in from_giver {
            match action {
                Action::Send(message) => events.extend(asker.message(KEY, &message, now)),
                Action::Upload => {
                    while let Some((object, offset)) = giver.next_outboard(KEY) {
                        let outboard = outboard.filter(|_| object == OBJECT && giver.may_know(KEY, 5));
                        giver.answer_outboard(KEY, object, offset, outboard, now);
                    }
                }
                Action::Close(reason) => panic!("{reason}"),
            }
        }
    }
}

fn connected(secrets: [Option<[u8; 32]>; 2]) -> (Session, Session) {
    let (mut giver, mut asker) = (session(1, secrets[0]), session(2, secrets[1]));
    giver.connected(KEY, hello(2), at(0));
    asker.connected(KEY, hello(1), at(0));
    carry(&mut giver, &mut asker, None, at(1));
    (giver, asker)
}

fn extended(id: u8, payload: Bytes) -> Message {
    Message::Extended { id, payload }
}

/// A peer that speaks as one of our nodes does and has these pieces.
fn node(session: &mut Session, key: PeerKey, id: u8, pieces: &[Message]) {
    session.connected(key, hello(id), at(0));
    let handshake = ExtensionHandshake {
        ids: ExtensionIds {
            node: Some(4),
            ..ExtensionIds::default()
        },
        ..ExtensionHandshake::default()
    };
    for message in pieces {
        session.message(key, message, at(1));
    }
    session.message(key, &extended(HANDSHAKE_ID, handshake.encode()), at(1));
}

fn node_messages(session: &mut Session) -> Vec<NodeMessage> {
    let said = |(_, action)| match action {
        Action::Send(Message::Extended { id: 4, payload }) => NodeMessage::decode(&payload).ok()?,
        _ => None,
    };
    session.actions().into_iter().filter_map(said).collect()
}

#[test]
fn what_one_has_the_other_gets_part_by_part() {
    let (mut giver, mut asker) = connected([None, None]);
    giver.set_have(5, true, at(2));
    let outboard: Bytes = (0..PART * 2 + 96)
        .map(|byte| u8::try_from(byte % 251).unwrap())
        .collect::<Vec<_>>()
        .into();
    carry(&mut giver, &mut asker, None, at(2));
    assert_eq!(asker.outboard_peer(&OBJECT, 4, 2, &[]), Some(KEY));
    for offset in [0, OUTBOARD_PART_BYTES, 2 * OUTBOARD_PART_BYTES] {
        asker.ask_outboard(KEY, OBJECT, offset, at(3));
    }
    assert_eq!(asker.outboard_peer(&OBJECT, 4, 2, &[]), None, "it is asked already");
    let mut got = vec![0; outboard.len()];
    for event in carry(&mut giver, &mut asker, Some(&outboard), at(4)) {
        let Event::Outboard {
            object: OBJECT,
            total,
            offset,
            data,
        } = event
        else {
            panic!("{event:?}")
        };
        assert_eq!(total as usize, outboard.len());
        got[offset as usize..][..data.len()].copy_from_slice(&data);
    }
    assert_eq!(got, outboard);
    // Beyond its end, and of an object that is not here.
    let other = ObjectId::from_bytes([4; 32]);
    asker.ask_outboard(KEY, OBJECT, 4 * OUTBOARD_PART_BYTES, at(5));
    asker.ask_outboard(KEY, other, 0, at(5));
    let events = carry(&mut giver, &mut asker, Some(&outboard), at(6));
    assert_eq!(events, [Event::NoOutboard(OBJECT), Event::NoOutboard(other)]);
}

#[test]
fn outboards_of_hidden_objects_are_for_those_who_prove_that_they_may_have_them() {
    for (secret, is_authorised) in [(Some([5; 32]), true), (Some([6; 32]), false), (None, false)] {
        let (mut giver, mut asker) = connected([Some([5; 32]), secret]);
        let mut hidden = Bitfield::new();
        hidden.insert(5);
        giver.set_hidden(hidden, at(2));
        let outboard = Bytes::from(vec![1; 96]);
        asker.ask_outboard(KEY, OBJECT, 0, at(3));
        let events = carry(&mut giver, &mut asker, Some(&outboard), at(4));
        let is_given = matches!(events[..], [Event::Outboard { .. }]);
        assert_eq!(is_given, is_authorised, "{secret:?}: {events:?}");
    }
}

#[test]
fn nothing_that_was_not_asked_for_is_taken() {
    let (mut giver, mut asker) = connected([None, None]);
    let outboard = Bytes::from(vec![1; 96]);
    giver.answer_outboard(KEY, OBJECT, 0, Some(&outboard), at(1));
    giver.answer_outboard(KEY, OBJECT, 0, None, at(1));
    assert_eq!(carry(&mut giver, &mut asker, None, at(2)), []);
    assert_eq!(asker.status().counts.wasted_bytes, 96);
    asker.ask_outboard(KEY, OBJECT, 0, at(3));
    asker.forget_outboard(KEY, &OBJECT);
    assert_eq!(carry(&mut giver, &mut asker, Some(&outboard), at(4)), []);
    // And each once.
    asker.ask_outboard(KEY, OBJECT, 0, at(5));
    giver.answer_outboard(KEY, OBJECT, 0, Some(&outboard), at(5));
    assert_eq!(carry(&mut giver, &mut asker, Some(&outboard), at(6)).len(), 1);
}

#[test]
fn who_asks_for_too_much_at_a_time_is_declined() {
    let mut giver = session(1, None);
    node(&mut giver, KEY, 2, &[]);
    node_messages(&mut giver);
    let number = |count: usize| u32::try_from(count).unwrap() * OUTBOARD_PART_BYTES;
    for count in 0..OUTBOARD_WAITS_MAX + 3 {
        let offset = number(count);
        let ask = NodeMessage::OutboardRequest { object: OBJECT, offset };
        // Twice: what waits already costs nothing.
        giver.message(KEY, &extended(4, ask.encode()), at(2));
        giver.message(KEY, &extended(4, ask.encode()), at(2));
    }
    assert_eq!(
        node_messages(&mut giver),
        vec![NodeMessage::NoOutboard { object: OBJECT }; 6]
    );
    let waiting: Vec<_> = std::iter::from_fn(|| giver.next_outboard(KEY)).collect();
    assert_eq!(waiting.len(), OUTBOARD_WAITS_MAX);
    assert_eq!(waiting[1], (OBJECT, number(1)));
}

#[test]
fn nodes_that_have_it_are_asked_before_those_that_have_some_and_masters_last() {
    let mut asker = session(1, None);
    let have = |pieces: &[u32]| pieces.iter().map(|piece| Message::Have(*piece)).collect::<Vec<_>>();
    node(&mut asker, PeerKey(1), 2, &[Message::HaveAll]);
    node(&mut asker, PeerKey(2), 3, &have(&[5]));
    node(&mut asker, PeerKey(3), 4, &have(&[5, 6]));
    node(&mut asker, PeerKey(4), 5, &have(&[7]));
    // Some client that is none of ours.
    asker.connected(PeerKey(5), hello(6), at(0));
    asker.message(PeerKey(5), &Message::HaveAll, at(1));
    let mut asked = Vec::new();
    while let Some(key) = asker.outboard_peer(&OBJECT, 5, 2, &asked) {
        asked.push(key);
    }
    assert_eq!(asked, [PeerKey(3), PeerKey(2), PeerKey(1)]);
    // What strangers ask is passed over.
    let _ = asker.actions();
    let ask = NodeMessage::OutboardRequest {
        object: OBJECT,
        offset: 0,
    };
    asker.message(PeerKey(5), &extended(4, ask.encode()), at(2));
    assert_eq!((asker.next_outboard(PeerKey(5)), asker.actions().len()), (None, 0));
}
