//! A line in virtual time, and who shares it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::*;

const JOBS: usize = 8;
const INTERVAL: Duration = Duration::from_millis(50);

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Came(u64),
    /// What has come was taken in.
    Read(u64),
    Ask,
    /// There may be room.
    Look,
    /// A client comes: until it has its answer nothing else is read or asked for.
    Client,
    Answered,
}

/// A line with a queue in front of it, to a source that sends what is asked for at once.
struct Line {
    spare: SpareWindow,
    /// Bytes per second.
    rate: f64,
    base: f64,
    /// When the queue will be empty, in seconds.
    free_at: f64,
    /// What others put into the queue before each answer, in seconds.
    others: f64,
    /// How much later an answer is than it should be.
    noise: fn(u64) -> f64,
    /// Bytes per second that are taken in at most.
    reader: f64,
    reader_free_at: f64,
    is_held: bool,
    unread: Vec<u64>,
    clients: u64,
    happening: BinaryHeap<Reverse<(Duration, What)>>,
    now: f64,
    idle: usize,
    jobs: usize,
    asked: u64,
    came: u64,
    queues: Vec<f64>,
    /// The queues that clients found.
    waits: Vec<f64>,
}

impl Line {
    fn new(rate: f64, base: f64) -> Self {
        let mut line = Self {
            spare: SpareWindow::default(),
            rate,
            base,
            free_at: 0.0,
            others: 0.0,
            noise: |_| 0.0,
            reader: f64::INFINITY,
            reader_free_at: 0.0,
            is_held: false,
            unread: Vec::new(),
            clients: 0,
            happening: BinaryHeap::new(),
            now: 1.0,
            idle: 0,
            jobs: JOBS,
            asked: 0,
            came: 0,
            queues: Vec::new(),
            waits: Vec::new(),
        };
        line.idle = line.jobs;
        line.at(1.0, What::Ask);
        line
    }

    fn at(&mut self, seconds: f64, what: What) {
        self.happening.push(Reverse((Duration::from_secs_f64(seconds), what)));
    }

    fn take_in(&mut self, bytes: u64) {
        self.reader_free_at = self.reader_free_at.max(self.now) + bytes as f64 / self.reader;
        self.at(self.reader_free_at, What::Read(bytes));
    }

    fn read(&mut self, bytes: u64) {
        self.spare.came(bytes);
        self.came += bytes;
        self.idle += 1;
    }

    fn fill(&mut self) {
        while self.idle > 0 && !self.is_held {
            let part = self.spare.part(self.jobs);
            let now = Moment(Duration::from_secs_f64(self.now));
            match self.spare.try_begin(now, part) {
                Room::Now => {}
                Room::At(at) => return self.happening.push(Reverse((at.0, What::Look))),
                Room::Full => return,
            }
            self.idle -= 1;
            self.free_at = self.free_at.max(self.now + self.base / 2.0) + part as f64 / self.rate;
            self.at(self.free_at + self.base / 2.0, What::Came(part));
        }
    }

    /// Returns which part of the line was used, and the queue in the middle and at the 99th of a hundred.
    fn run(&mut self, seconds: f64) -> (f64, f64, f64) {
        let (begun, end) = (self.now, self.now + seconds);
        (self.came, self.queues) = (0, Vec::new());
        while self.now < end {
            let Reverse((at, what)) = self.happening.pop().unwrap();
            self.now = at.as_secs_f64();
            match what {
                What::Came(bytes) if self.is_held => self.unread.push(bytes),
                What::Came(bytes) => self.take_in(bytes),
                What::Read(bytes) => self.read(bytes),
                What::Look => {}
                What::Client => {
                    self.is_held = true;
                    self.spare.held();
                    self.clients += 1;
                    self.free_at = self.free_at.max(self.now + self.base / 2.0);
                    let queue = self.free_at - self.now - self.base / 2.0;
                    self.waits.push(queue);
                    self.at(self.now + self.base + queue, What::Answered);
                }
                What::Answered => {
                    self.is_held = false;
                    self.spare.held();
                    let unread = std::mem::take(&mut self.unread);
                    unread.into_iter().for_each(|bytes| self.take_in(bytes));
                    // Some 20 ms later comes the next one.
                    let pause = 0.04 * (self.clients * 7919 % 101) as f64 / 101.0;
                    self.at(self.now + pause, What::Client);
                }
                What::Ask => {
                    self.asked += 1;
                    let reached = self.now + self.base / 2.0;
                    self.free_at = self.free_at.max(reached) + self.others;
                    let queue = self.free_at - reached;
                    self.queues.push(queue);
                    let delay = self.base + queue + (self.noise)(self.asked);
                    self.spare.answered(Moment(at), Duration::from_secs_f64(delay));
                    self.happening.push(Reverse((at + INTERVAL, What::Ask)));
                }
            }
            self.fill();
        }
        self.queues.sort_by(f64::total_cmp);
        let used = self.came as f64 / (self.now - begun) / self.rate;
        let at = |percent: usize| self.queues[(self.queues.len() - 1) * percent / 100];
        (used, at(50), at(99))
    }
}

#[test]
fn the_queue_stays_short_and_the_line_is_used() {
    for (rate, base, most) in [
        (125e6, 0.02, 0.006),
        (125e6, 0.0003, 0.006),
        (12.5e6, 0.02, 0.012),
        (125e6, 0.2, 0.06),
        (1.25e9, 0.02, 0.006),
        (1.25e9, 0.0003, 0.006),
    ] {
        let mut line = Line::new(rate, base);
        line.run(5.0);
        let (used, middle, worst) = line.run(20.0);
        assert!(used > 0.85, "{used} of a line of {rate}, {base} s is used");
        assert!(
            worst <= most,
            "queues of {middle} and {worst} s on a line of {rate}, {base} s"
        );
    }
}

#[test]
fn clients_that_come_again_and_again_find_no_queue() {
    for (rate, base, most) in [(125e6, 0.02, 0.008), (12.5e6, 0.02, 0.01), (125e6, 0.1, 0.05)] {
        // They are there from the beginning or come later; the transfers are as fast as the line, or something holds them up.
        for (before, reader) in [
            (0.0, f64::INFINITY),
            (5.0, f64::INFINITY),
            (5.0, rate * 0.4),
            (0.5, rate * 0.7),
        ] {
            let mut line = Line::new(rate, base);
            line.reader = reader;
            if before > 0.0 {
                line.run(before);
            }
            line.at(line.now, What::Client);
            let (used, ..) = line.run(30.0);
            line.waits.sort_by(f64::total_cmp);
            let worst = line.waits[line.waits.len() * 99 / 100];
            let what = format!("a line of {rate}, {base} s, clients after {before} s, a reader of {reader}");
            assert!(worst <= most, "{worst} s on {what}");
            // Of the time clients leave a half, or a sixth on the longest line.
            assert!(used > 0.2 || base > 0.02 && used > 0.05, "{used} of {what}");
        }
    }
}

#[test]
fn a_huge_request_keeps_others_waiting_no_longer_than_it_takes() {
    let at = |millis| Moment(Duration::from_millis(millis));
    let mut spare = SpareWindow::default();
    (0..3).for_each(|number| spare.answered(at(number), Duration::from_millis(20)));
    assert_eq!(spare.try_begin(at(5), u64::MAX), Room::Now);
    assert_eq!(spare.try_begin(at(1000), PART_MIN), Room::Full);
    spare.came(u64::MAX);
    assert_eq!(spare.try_begin(at(1001), PART_MIN), Room::Now);
    assert!(matches!(spare.try_begin(at(1001), PART_MIN), Room::Now));
    assert_eq!(spare.try_begin(at(1001), spare.window() / 2), Room::Now);
    let Room::At(next) = spare.try_begin(at(1001), PART_MIN) else {
        panic!("they are spaced");
    };
    assert!(next > at(1001) && next < at(1021));
}

#[test]
fn clients_that_come_for_long_leave_it_what_they_left_at_first() {
    let mut line = Line::new(125e6, 0.02);
    line.run(5.0);
    line.at(line.now, What::Client);
    line.run(900.0);
    let (used, ..) = line.run(30.0);
    assert!(used > 0.35, "{used}");
}

#[test]
fn requests_go_out_no_faster_than_bytes_have_come_however_large_the_window() {
    let at = |millis| Moment(Duration::from_millis(millis));
    let mut spare = SpareWindow::default();
    // 20 MB/s, of a line on which the window could be delivered five times as fast.
    for number in 0..60 {
        assert_eq!(spare.try_begin(at(number * 50), 1_000_000), Room::Now);
        spare.came(1_000_000);
        spare.answered(at(number * 50), Duration::from_millis(20));
    }
    assert_eq!(spare.window(), 2 << 20);
    let asked: u64 = (3000..4000)
        .filter(|millis| {
            // What is on its way is never nothing: then it would not be spaced.
            spare.out = spare.out.clamp(1, PART_MIN);
            spare.try_begin(at(*millis), PART_MIN) == Room::Now
        })
        .map(|_| PART_MIN)
        .sum();
    assert!((18_000_000..26_000_000).contains(&asked), "{asked}");
}

#[test]
fn it_takes_a_second_or_two_to_use_a_long_line() {
    let mut line = Line::new(125e6, 0.1);
    line.run(2.0);
    assert!(line.run(1.0).0 > 0.8);
}

#[test]
fn a_queue_of_others_leaves_it_something_and_when_they_go_it_takes_all() {
    let mut line = Line::new(10e6, 0.01);
    line.run(10.0);
    // Of 50 ms others take 45.
    line.others = 0.045;
    let (used, ..) = line.run(20.0);
    assert!(used > 0.02, "{used}");
    line.others = 0.0;
    line.run(10.0);
    assert!(line.run(10.0).0 > 0.85);
}

#[test]
fn answers_that_are_late_now_and_then_are_no_queue() {
    let mut line = Line::new(125e6, 0.01);
    line.noise = |number| {
        if number % 2 == 0 {
            0.0
        } else {
            0.002 * (number % 11) as f64
        }
    };
    line.run(5.0);
    assert!(line.run(10.0).0 > 0.85);
}

#[test]
fn a_longer_route_is_taken_for_a_queue_for_two_spans_at_most() {
    let mut line = Line::new(10e6, 0.01);
    line.run(5.0);
    line.base = 0.03;
    line.run(2.0 * BASE_SPAN.as_secs_f64() + 30.0);
    assert!(line.run(10.0).0 > 0.85);
}

#[test]
fn one_transfer_alone_asks_for_much_at_a_time_and_makes_no_long_queue() {
    let mut line = Line::new(125e6, 0.05);
    (line.jobs, line.idle) = (1, 1);
    line.run(10.0);
    let (used, _, worst) = line.run(10.0);
    assert!(used > 0.4 && worst < 0.12, "{used}, {worst} s");
}
