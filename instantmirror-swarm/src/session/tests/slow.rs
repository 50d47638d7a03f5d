//! Tests of peers that choke, answer late, or not at all.

use super::*;

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
