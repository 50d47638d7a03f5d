//! Who gets a place, step by step in virtual time.

use super::*;

const SECOND: Micros = 1_000_000;

fn place(room: &mut Room, address: Option<IpAddr>, now: Micros) -> (u64, Arc<Seat>) {
    match room.admit(address, now) {
        Verdict::Admitted(id, seat) => (id, seat),
        refused => panic!("{refused:?}"),
    }
}

/// A room of connections that have had an answer at these times, and wait since.
fn answered_at(room: &mut Room, times: &[Micros]) -> Vec<(u64, Arc<Seat>)> {
    let idle = |time: &Micros| {
        let (id, seat) = place(room, None, *time);
        seat.works();
        seat.waits(*time);
        (id, seat)
    };
    times.iter().map(idle).collect()
}

#[test]
fn whoever_is_idle_for_longest_makes_room() {
    let mut room = Room::new(4, None);
    let seats = answered_at(&mut room, &[3 * SECOND, SECOND, 2 * SECOND, 9 * SECOND]);
    let now = 10 * SECOND;
    for expected in [1, 2, 0] {
        let (_, seat) = place(&mut room, None, now);
        seat.works();
        assert!(seats[expected].1.is_told());
        assert_eq!(room.open(), 4);
    }
    assert_eq!(
        (room.tally.closed_idle, room.take_notices()),
        (3, vec![Notice::ClosesIdle])
    );
    // What has had its answer a moment ago is about to be used.
    seats[3].1.works();
    seats[3].1.waits(now);
    assert!(matches!(room.admit(None, now), Verdict::Full));
    assert_eq!(room.take_notices(), [Notice::Full]);
    assert!(matches!(room.admit(None, now + SECOND), Verdict::Admitted(..)));
    assert!(seats[3].1.is_told() && room.take_notices().is_empty());
}

#[test]
fn a_new_connection_has_a_head_start() {
    let mut room = Room::new(2, None);
    let (_, silent) = place(&mut room, None, SECOND);
    let (_, kept) = answered_at(&mut room, &[2 * SECOND]).remove(0);
    let (_, third) = place(&mut room, None, 3 * SECOND);
    assert!(
        kept.is_told() && !silent.is_told(),
        "the one that came first is still fresh"
    );
    let (_, _) = place(&mut room, None, 5 * SECOND);
    assert!(silent.is_told() && !third.is_told());
}

#[test]
fn one_that_is_asked_in_the_moment_when_it_is_told_counts_until_it_ends() {
    let mut room = Room::new(1, None);
    let (id, seat) = answered_at(&mut room, &[0]).remove(0);
    let (second, newcomer) = place(&mut room, None, SECOND);
    assert!(newcomer.waits_since().is_some() && seat.works());
    room.stays(id);
    assert_eq!(room.open(), 2);
    room.release(id, SECOND);
    room.release(id, SECOND);
    assert_eq!(room.open(), 1);
    room.release(second, SECOND);
    assert_eq!((room.open(), room.connected.len()), (0, 0));
}

#[test]
fn readers_queue_where_nodes_pass() {
    let mut room = Room::new(32, None);
    let mut busy = Vec::new();
    for _ in 0..30 {
        let (id, seat) = place(&mut room, None, 0);
        assert!(!seat.is_reserved());
        seat.works();
        busy.push(id);
    }
    let (node, of_node) = place(&mut room, None, 0);
    let (reader, of_reader) = place(&mut room, None, 0);
    assert!(of_node.is_reserved() && of_reader.is_reserved());
    of_node.works();
    of_reader.works();
    let (_, mut verdict) = room.settle(reader, 0);
    assert!(verdict.try_recv().is_err());
    assert_eq!((room.queued(), room.take_notices()), (1, vec![Notice::Full]));
    // The reader that queues gives way to whom comes next, which may be a node.
    let (other, of_other) = place(&mut room, None, 0);
    assert_eq!(verdict.try_recv(), Ok(false));
    assert_eq!((room.open(), room.tally.turned_away), (32, 1));
    room.release(reader, 0);
    of_other.works();
    let (_, mut verdict) = room.settle(other, 0);
    // The next place that comes free is its own.
    room.release(busy.remove(0), 0);
    assert_eq!(verdict.try_recv(), Ok(true));
    assert!(!of_other.is_reserved() && of_node.is_reserved());
    assert_eq!((room.common, room.reserved), (30, 1));
    room.release(node, 0);
    assert_eq!((room.common, room.reserved), (30, 0));
    // Who has waited for long enough is not turned away twice.
    let (late, _) = place(&mut room, None, 0);
    let (ticket, _verdict) = room.settle(late, 0);
    room.gives_up(late, ticket);
    room.gives_up(late, ticket);
    assert_eq!((room.queued(), room.tally.turned_away), (0, 2));
}

/// As many connections at work as there are common places, and the first of them.
fn full_of_readers(max: usize) -> (Room, u64) {
    let mut room = Room::new(max, None);
    for _ in 0..room.common_max() {
        place(&mut room, None, 0).1.works();
    }
    (room, 0)
}

#[test]
fn requests_of_one_connection_queue_together_and_take_one_place() {
    let (mut room, first) = full_of_readers(32);
    let (reader, seat) = place(&mut room, None, 0);
    seat.works();
    let mut waiting: Vec<_> = (0..3).map(|_| room.settle(reader, 0)).collect();
    assert_eq!(room.queued(), 1);
    // One that is cancelled waits no more, and the others do.
    let (cancelled, _) = waiting.remove(1);
    assert!(room.withdraws(reader, cancelled) && !room.withdraws(reader, cancelled));
    assert_eq!(room.queued(), 1);
    room.release(first, 0);
    for (_, verdict) in &mut waiting {
        assert_eq!(verdict.try_recv(), Ok(true));
    }
    assert_eq!((room.common, room.reserved, room.queued()), (30, 0, 0));
    let (_, mut late) = room.settle(reader, 0);
    assert_eq!(late.try_recv(), Ok(true), "it has a common place already");
    room.release(reader, 0);
    assert_eq!((room.common, room.reserved), (29, 0));
}

#[test]
fn requests_that_are_cancelled_leave_the_queue() {
    let (mut room, first) = full_of_readers(32);
    let (gone, _) = place(&mut room, None, 0);
    let (reader, _) = place(&mut room, None, 0);
    let (ticket, _) = room.settle(gone, 0);
    let (_, mut verdict) = room.settle(reader, 0);
    room.withdraws(gone, ticket);
    assert_eq!((room.queued(), room.tally.turned_away), (1, 0));
    room.release(first, 0);
    assert_eq!(verdict.try_recv(), Ok(true));
    assert_eq!((room.common, room.reserved), (30, 1));
}

#[test]
fn a_connection_that_is_turned_away_is_told_to_leave_and_counts_once() {
    let (mut room, first) = full_of_readers(32);
    let (reader, seat) = place(&mut room, None, 0);
    let (_, of_node) = place(&mut room, None, 0);
    of_node.works();
    seat.works();
    let mut waiting: Vec<_> = (0..3).map(|_| room.settle(reader, 0)).collect();
    let (newcomer, _) = place(&mut room, None, 0);
    for (_, verdict) in &mut waiting {
        assert_eq!(verdict.try_recv(), Ok(false));
    }
    assert!(seat.is_told());
    assert_eq!((room.common, room.reserved, room.tally.turned_away), (30, 2, 3));
    let (_, mut late) = room.settle(reader, 0);
    assert_eq!((late.try_recv(), room.queued()), (Ok(false), 0));
    // What it asks for in that moment is not answered before others, but counts.
    assert!(seat.works());
    room.stays(reader);
    let (_, mut late) = room.settle(reader, 0);
    assert!(seat.is_reserved() && late.try_recv().is_err());
    assert_eq!((room.common, room.reserved), (30, 3));
    room.release(reader, 0);
    room.release(newcomer, 0);
    room.release(first, 0);
    assert_eq!((room.common, room.reserved, room.queued()), (29, 1, 0));
}

#[test]
fn nobody_queues_beside_somebody_idle_and_silence_holds_no_reserved_place() {
    let mut room = Room::new(16, None);
    for _ in 0..15 {
        place(&mut room, None, 0).1.works();
    }
    let (_, silent) = place(&mut room, None, 0);
    assert!(silent.is_reserved());
    assert!(matches!(room.admit(None, SECOND), Verdict::Full), "it is fresh");
    let (_, next) = place(&mut room, None, 3 * SECOND);
    assert!(silent.is_told() && next.is_reserved());
}

#[test]
fn an_address_makes_room_for_itself_or_is_refused() {
    let address: IpAddr = "192.0.2.7".parse().unwrap();
    let mut room = Room::new(100, Some(2));
    let (first, of_first) = place(&mut room, Some(address), 0);
    let (second, of_second) = place(&mut room, Some(address), 0);
    of_first.works();
    of_second.works();
    assert!(matches!(room.admit(Some(address), SECOND), Verdict::AddressFull));
    assert!(matches!(room.admit(Some(address), SECOND), Verdict::AddressFull));
    let notices = room.take_notices();
    assert_eq!(
        (room.tally.refused_by_address, notices),
        (2, vec![Notice::AddressFull(address)])
    );
    place(&mut room, Some("192.0.2.8".parse().unwrap()), SECOND);
    place(&mut room, None, SECOND);
    of_second.waits(SECOND);
    let (third, _) = place(&mut room, Some(address), 2 * SECOND);
    assert!(of_second.is_told() && !of_first.is_told());
    assert_eq!(room.by_address[&address].len(), 2);
    // The client that a proxy names counts as well.
    let (proxied, _) = place(&mut room, None, 2 * SECOND);
    assert!(!room.assign(proxied, address, 2 * SECOND));
    room.release(first, 2 * SECOND);
    assert!(room.assign(proxied, address, 2 * SECOND));
    for id in [second, third, proxied] {
        room.release(id, 2 * SECOND);
    }
    assert!(
        !room.by_address.contains_key(&address),
        "nothing is kept of those that are gone"
    );
}

#[test]
fn limits_change_while_connections_are_open() {
    let mut room = Room::new(4, None);
    let seats = answered_at(&mut room, &[0, 1, 2, 3]);
    room.set_limits(2, Some(1));
    let now = SECOND;
    place(&mut room, None, now);
    assert_eq!((room.open(), room.idle()), (2, 2));
    assert!(seats[..3].iter().all(|(_, seat)| seat.is_told()));
    room.set_limits(8, None);
    place(&mut room, None, now);
    assert_eq!(room.open(), 3);
}

#[test]
fn only_few_are_told_why_they_are_refused() {
    let mut room = Room::new(1000, Some(1));
    let told: Vec<_> = std::iter::from_fn(|| room.admit_to_be_refused(0)).collect();
    assert_eq!((told.len(), room.open()), (REFUSED_MAX, 0));
    room.release(told[0].0, 0);
    assert!(room.admit_to_be_refused(0).is_some());
}
