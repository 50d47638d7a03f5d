//! How much may be on its way over a line. What nobody waits for asks for no more at a time than fits on the line, so that the
//! queue in front of it stays short and a client's request finds it nearly empty.
//!
//! After LEDBAT (RFC 6817): how long the queue is shows in how much longer an answer takes than the fastest one did lately.
//! LEDBAT runs at the sender of one connection; here is the receiver of several, so what is steered is how many bytes are asked
//! for and have not come. What comes makes room for the next request, so requests go out as fast as the line delivers.

use std::collections::VecDeque;
use std::time::Duration;

use crate::Moment;
use crate::outboard::GROUP_BYTES;

/// So long a queue is aimed at, or this part of what an answer takes without one: with none it would not be known whether the
/// line can take more.
const QUEUE_MIN: Duration = Duration::from_millis(2);
const QUEUE_PART: u32 = 10;
/// The fastest of so many answers in a row says how long the queue is: one alone may have been late for other reasons.
const ANSWERS: usize = 3;
/// What an answer takes without a queue is the fastest of the last one or two spans: routes change.
const BASE_SPAN: Duration = Duration::from_secs(120);

/// The window at first, at least and at most.
const WINDOW_FIRST: f64 = 2.0 * 1024.0 * 1024.0;
const WINDOW_MIN: f64 = 256.0 * 1024.0;
const WINDOW_MAX: f64 = 128.0 * 1024.0 * 1024.0;
/// Nor is it less than this part of what filled the line lately, or than what came in so many seconds at best: the queue may be
/// somebody else's, and answers late for want of a processor.
const FLOOR: f64 = 0.125;
const FLOOR_SECONDS: f64 = 0.005;
/// Nor is it more than so many times what can have been on the way lately: the transfers may be held up by a processor, a disk
/// or clients, and then no queue shows that it is too much.
const CEILING_FIRST: f64 = 3.0;
const CEILING: f64 = 1.3;
/// It grows by this factor with each answer until a queue shows for the first time ...
const GROWTH_FIRST: f64 = 1.15;
/// ... and by this one after so many answers without half of the queue that is aimed at.
const GROWTH_CALM: f64 = 1.05;
const CALM_ANSWERS: u32 = 20;
/// The first growth ends as well after so many answers at the ceiling.
const STALLED_ANSWERS: u32 = 10;
/// Else by this part of what is missing of the queue, and it shrinks likewise, but by no more than so much at a time.
const GAIN: f64 = 0.1;
const CUT_MAX: f64 = 0.1;

/// The window is full when so much of it was asked for.
const FULL: f64 = 0.75;
/// But it is something else that holds the transfers up if they are slower than this part of what a full window makes.
const LINE_SHARE: f64 = 0.6;
/// A request is for so many bytes at least, since it has its price, and at most.
const PART_MIN: u64 = GROUP_BYTES;
const PART_MAX: u64 = 16 << 20;

/// Requests go out so fast that they fill the window within a round trip, or at first within half of one: all at once, as after
/// a pause, they would come back as one queue. Nor do they go out much faster than bytes have come at best, except at first:
/// a part of the window may wait at the source, not on the line. Timers may be so late.
const PACE_FIRST: f64 = 2.0;
const PACE_PEAK: f64 = 1.2;
const PACE_SLACK: Duration = Duration::from_millis(1);

/// The rate is averaged over so many seconds.
const RATE_SECONDS: f64 = 0.25;
/// The highest rate fades by a half in so many seconds.
const PEAK_HALF_SECONDS: f64 = 300.0;

/// Whether there is room for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// It may go out.
    Now,
    /// It may go out then, if there is room still.
    At(Moment),
    /// When something has come, or will not come.
    Full,
}

/// How many bytes of what nobody waits for may be on their way from one source.
///
/// It is told how long the source takes for the smallest of answers ([`answered`](Self::answered), some 20 times a second while
/// transfers run), what is asked for ([`try_begin`](Self::try_begin)), what of it has come or never will
/// ([`came`](Self::came), [`given_up`](Self::given_up)), and when the transfers stood still for others ([`held`](Self::held)).
///
/// ```
/// use std::time::Duration;
/// use instantmirror_core::{Moment, spare::{Room, SpareWindow}};
///
/// let mut spare = SpareWindow::default();
/// let (part, now) = (spare.part(8), Moment(Duration::from_secs(1)));
/// assert_eq!(spare.try_begin(now, part), Room::Now);
/// spare.answered(now, Duration::from_millis(20));
/// spare.came(part);
/// ```
#[derive(Debug, Clone)]
pub struct SpareWindow {
    window: f64,
    /// The next request may go out then.
    next_at: Moment,
    /// Bytes that were asked for and have not come.
    out: u64,
    /// More could have been asked for since the last answer, but for the window.
    is_full: bool,
    base: Base,
    recent: VecDeque<Duration>,
    /// Bytes since `updated`.
    came: u64,
    updated: Option<Moment>,
    /// Bytes per second.
    rate: f64,
    peak: f64,
    is_first: bool,
    calm: u32,
    /// Answers in a row at which the window was at its ceiling.
    stalled: u32,
    /// The transfers held still since the last answer.
    was_held: bool,
}

impl Default for SpareWindow {
    fn default() -> Self {
        Self {
            window: WINDOW_FIRST,
            next_at: Moment::default(),
            out: 0,
            is_full: false,
            base: Base::default(),
            recent: VecDeque::new(),
            came: 0,
            updated: None,
            rate: 0.0,
            peak: 0.0,
            is_first: true,
            calm: 0,
            stalled: 0,
            was_held: false,
        }
    }
}

impl SpareWindow {
    /// Whether so many bytes may be asked for now; if so they count from then on. The first ones always may.
    pub fn try_begin(&mut self, now: Moment, bytes: u64) -> Room {
        let out = self.out.saturating_add(bytes);
        if self.out > 0 && out as f64 > self.window {
            self.is_full = true;
            return Room::Full;
        }
        if self.out > 0 && self.next_at > now {
            return Room::At(self.next_at);
        }
        self.out = out;
        self.is_full |= out as f64 >= self.window * FULL;
        if let Some(pace) = self.pace() {
            // What is larger than the window keeps others out until it has come, and no longer.
            let seconds = self.window.min(bytes as f64) / pace;
            let earliest = Moment(now.0.saturating_sub(PACE_SLACK));
            self.next_at = self.next_at.max(earliest).plus(Duration::from_secs_f64(seconds));
        }
        Room::Now
    }

    /// Bytes per second that are asked for.
    fn pace(&self) -> Option<f64> {
        let base = self.base.get()?.as_secs_f64().max(0.000_001);
        let fill = self.window / base;
        Some(if self.is_first {
            fill * PACE_FIRST
        } else {
            fill.min((self.peak * PACE_PEAK).max(WINDOW_MIN / base))
        })
    }

    /// Bytes that were asked for have come.
    pub fn came(&mut self, bytes: u64) {
        self.came += bytes;
        self.given_up(bytes);
    }

    /// The transfers hold still, or did since the last answer: what comes meanwhile says nothing of the line.
    pub fn held(&mut self) {
        self.was_held = true;
    }

    /// Bytes that were asked for will not come.
    pub fn given_up(&mut self, bytes: u64) {
        self.out = self.out.saturating_sub(bytes);
    }

    /// How many bytes one request should be for, where so many transfers ask one after the other: whole groups.
    #[must_use]
    pub fn part(&self, transfers: usize) -> u64 {
        let part = self.window() / (transfers as u64).max(1);
        (part.div_ceil(GROUP_BYTES) * GROUP_BYTES).clamp(PART_MIN, PART_MAX)
    }

    /// How many bytes may be on their way.
    #[must_use]
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it lies between its bounds"
    )]
    pub fn window(&self) -> u64 {
        self.window as u64
    }

    /// The source has answered after so long.
    pub fn answered(&mut self, now: Moment, delay: Duration) {
        self.base.note(now, delay);
        self.recent.push_back(delay);
        if self.recent.len() > ANSWERS {
            self.recent.pop_front();
        }
        self.measure(now);
        let was_full = std::mem::take(&mut self.is_full);
        let (Some(base), Some(fastest)) = (self.base.get(), self.recent.iter().min()) else {
            return;
        };
        if self.recent.len() < ANSWERS {
            return;
        }
        let queue = fastest.saturating_sub(base).as_secs_f64();
        let aim = QUEUE_MIN.max(base / QUEUE_PART).as_secs_f64();
        let expected = self.window / (base.as_secs_f64() + queue).max(0.001);
        let is_full = was_full && (self.is_first || self.rate >= expected * LINE_SHARE);
        let base = base.as_secs_f64();
        let grown = self.grown(is_full, queue, aim, base);
        let floor = WINDOW_MIN.max(self.peak * (base * FLOOR).max(FLOOR_SECONDS));
        let times = if self.is_first { CEILING_FIRST } else { CEILING };
        let ceiling = WINDOW_FIRST.max(self.peak * (base + aim) * times);
        // The ceiling rises a little, now and then.
        let is_there = grown > ceiling * 0.9;
        self.stalled = if is_there { self.stalled + 1 } else { 0 };
        self.is_first &= self.stalled < STALLED_ANSWERS;
        self.window = grown.min(ceiling).clamp(floor.min(WINDOW_MAX), WINDOW_MAX);
    }

    /// What the window is to be. It grows only if somebody could have used more.
    fn grown(&mut self, is_full: bool, queue: f64, aim: f64, base: f64) -> f64 {
        if self.is_first {
            if queue > aim {
                self.is_first = false;
                // It has grown with transfers that other things held up, too: what counts is what has come.
                return self.window.min(self.rate * (base + aim));
            }
            return if is_full {
                self.window * GROWTH_FIRST
            } else {
                self.window
            };
        }
        self.calm = if is_full && queue < aim / 2.0 { self.calm + 1 } else { 0 };
        if self.calm > CALM_ANSWERS {
            return self.window * GROWTH_CALM;
        }
        let step = GAIN * (aim - queue) * self.rate;
        if step > 0.0 && !is_full {
            return self.window;
        }
        self.window + step.max(-CUT_MAX * self.window)
    }

    /// Takes note of what has come since the last time.
    fn measure(&mut self, now: Moment) {
        let came = std::mem::take(&mut self.came);
        let Some(updated) = self.updated.replace(now) else {
            return;
        };
        let seconds = now.since(updated).as_secs_f64();
        if seconds <= 0.0 {
            self.came = came;
            return;
        }
        let weight = (seconds / RATE_SECONDS).min(1.0);
        self.rate += (came as f64 / seconds - self.rate) * weight;
        // How fast the line is does not show while it is not used.
        let fades = if std::mem::take(&mut self.was_held) {
            0.0
        } else {
            seconds
        };
        self.peak = (self.peak * 0.5_f64.powf(fades / PEAK_HALF_SECONDS)).max(self.rate);
    }
}

/// The fastest answer of the last one or two spans.
#[derive(Debug, Clone, Default)]
struct Base {
    begun: Moment,
    before: Option<Duration>,
    now: Option<Duration>,
}

impl Base {
    fn note(&mut self, now: Moment, delay: Duration) {
        if now.since(self.begun) > BASE_SPAN {
            (self.begun, self.before, self.now) = (now, self.now, None);
        }
        self.now = Some(self.now.map_or(delay, |held| held.min(delay)));
    }

    fn get(&self) -> Option<Duration> {
        self.now.into_iter().chain(self.before).min()
    }
}

#[cfg(test)]
#[path = "spare_tests.rs"]
mod tests;
