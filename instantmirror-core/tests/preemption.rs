//! A simulation in virtual time: what clients feel of a node that fetches ahead with all its might. One link, shared
//! evenly by all transfers that do not have to hold still, as TCP does it.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::collections::BTreeMap;
use std::time::Duration;

use instantmirror_core::scheduler::{PriorityScheduler, SchedulerLimits};
use instantmirror_core::traits::{Class, Next, Outcome, Request, Scheduler, Ticket};
use instantmirror_core::{Moment, ObjectId};

/// 100 MB/s, looked at every millisecond.
const LINK_BYTES_PER_MS: u64 = 100_000;
/// A client feels its first byte when the first group is here.
const GROUP: u64 = 64 * 1024;
const AHEAD_BYTES: u64 = 20_000_000;
const DEMAND_BYTES: u64 = 500_000;

#[derive(Debug)]
struct Transfer {
    class: Class,
    left: u64,
    got: u64,
}

/// Numbers that look random.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

fn request(class: Class, size: u64, now: Moment) -> Request {
    Request {
        repository: "r".parse().unwrap(),
        object: ObjectId::of(b""),
        objects: 1,
        size,
        class,
        rank: 0,
        deadline: now,
    }
}

/// Milliseconds to the first group of each of 2,000 clients, and bytes fetched ahead meanwhile.
fn run(ahead: usize, preempts: bool) -> (Vec<u64>, u64) {
    let mut queue = PriorityScheduler::new(SchedulerLimits::default());
    for number in 0..ahead {
        let class = [Class::Preseed, Class::Suggested, Class::Rest][number % 3];
        queue.submit(Moment::default(), request(class, AHEAD_BYTES, Moment::default()));
    }
    let mut random = Random(7);
    let mut running: BTreeMap<Ticket, Transfer> = BTreeMap::new();
    let mut asked: BTreeMap<Ticket, u64> = BTreeMap::new();
    let (mut latencies, mut ahead_bytes, mut next_client) = (Vec::new(), 0, 50);
    for tick in 1.. {
        let now = Moment(Duration::from_millis(tick));
        if tick == next_client {
            let ticket = queue.submit(now, request(Class::Demand, DEMAND_BYTES, now));
            asked.insert(ticket, tick);
            next_client += 1 + random.below(60);
        }
        while let Next::Start(ticket, request) = queue.next(now) {
            let (class, left) = (request.class, request.size);
            running.insert(ticket, Transfer { class, left, got: 0 });
        }
        let moves = |transfer: &Transfer| !preempts || !queue.must_yield(transfer.class);
        let moving = running.values().filter(|transfer| moves(transfer)).count() as u64;
        let share = LINK_BYTES_PER_MS / moving.max(1);
        let mut over = Vec::new();
        for (ticket, transfer) in &mut running {
            if preempts && queue.must_yield(transfer.class) {
                continue;
            }
            let take = share.min(transfer.left);
            (transfer.left, transfer.got) = (transfer.left - take, transfer.got + take);
            if transfer.class.is_background() {
                ahead_bytes += take;
            } else if transfer.got >= GROUP.min(DEMAND_BYTES)
                && let Some(since) = asked.remove(ticket)
            {
                latencies.push(tick - since + 1);
            }
            if transfer.left == 0 {
                over.push(*ticket);
            }
        }
        for ticket in over {
            running.remove(&ticket);
            queue.finished(now, ticket, Outcome::Done);
        }
        if latencies.len() >= 2000 {
            break;
        }
    }
    latencies.sort_unstable();
    (latencies, ahead_bytes)
}

fn at(latencies: &[u64], percent: usize) -> u64 {
    latencies[(latencies.len() - 1) * percent / 100]
}

#[test]
fn a_client_feels_nothing_of_what_is_fetched_ahead() {
    let (idle, _) = run(0, true);
    let (busy, ahead_bytes) = run(100_000, true);
    let (shared, _) = run(100_000, false);
    for (what, latencies) in [
        ("idle", &idle),
        ("full pre-seed", &busy),
        ("the same without yielding", &shared),
    ] {
        println!("{what}: median {} ms, p99 {} ms", at(latencies, 50), at(latencies, 99));
    }
    for percent in [50, 99] {
        let (idle, busy) = (at(&idle, percent), at(&busy, percent));
        assert!(
            busy as f64 <= idle as f64 * 1.3,
            "p{percent}: {busy} ms instead of {idle} ms"
        );
    }
    assert!(
        at(&shared, 50) > 5 * at(&busy, 50),
        "without yielding there would be something to feel"
    );
    // And the link is not idle: what clients leave of it is used.
    assert!(ahead_bytes > 2_000_000_000, "{ahead_bytes} bytes were fetched ahead");
}
