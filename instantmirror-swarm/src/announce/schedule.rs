//! What one swarm's trackers are told, and when.
//!
//! One tracker at a time knows of us: the first that answers, in the order of [`Tiers`]. It hears that we begin, when
//! it wants to hear of us again, that we have completed the torrent, and that we go; another that comes in its place hears the
//! same from the beginning.

use std::collections::BTreeMap;
use std::time::Duration;

use instantmirror_core::Moment;
use instantmirror_core::metainfo::InfoHash;

use super::{AnnounceError, AnnounceReply, AnnounceRequest, Event, Next, Tiers, TrackerUrl};
use crate::wire::PeerId;

/// How often trackers are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Not more often than this, whatever they say.
    pub interval_min: Duration,
    /// Nor less often, as long as they answer.
    pub interval_max: Duration,
    /// As soon asks again who is [lonely](Progress::is_lonely), if the tracker does not say how soon it may ...
    pub lonely: Duration,
    /// ... and not sooner than this, whatever it says.
    pub lonely_min: Duration,
    /// Pause after the first failure; it doubles with each.
    pub pause: Duration,
    /// Longest pause.
    pub pause_max: Duration,
    /// As long is waited for trackers that are told that we go.
    pub leave: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            interval_min: Duration::from_secs(60),
            interval_max: Duration::from_secs(6 * 60 * 60),
            lonely: Duration::from_secs(5 * 60),
            lonely_min: Duration::from_secs(10),
            pause: Duration::from_secs(15),
            pause_max: Duration::from_secs(60 * 60),
            leave: Duration::from_secs(2),
        }
    }
}

/// Who we are in a swarm, and who is told.
#[derive(Debug, Clone)]
pub struct Membership {
    /// The torrent.
    pub info_hash: InfoHash,
    /// What we call ourselves.
    pub peer_id: PeerId,
    /// Where we listen.
    pub port: u16,
    /// A random number, the same as long as we run.
    pub key: u32,
    /// The trackers, in tiers.
    pub trackers: Vec<Vec<TrackerUrl>>,
    /// How often.
    pub pace: Pace,
}

/// How we stand in a swarm.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress {
    /// Bytes that we sent since we began.
    pub uploaded: u64,
    /// Bytes that we received since we began.
    pub downloaded: u64,
    /// Bytes that we lack.
    pub left: u64,
    /// How many peers we want; `None` leaves it to the tracker.
    pub wanted: Option<u32>,
    /// We want nothing of what we lack.
    pub is_partial_seed: bool,
    /// We want something and have nobody to ask: the tracker is asked again as soon as it lets us.
    pub is_lonely: bool,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Tell this tracker, and then [`Schedule::done`] what came of it.
    Announce {
        /// Whom.
        tracker: TrackerUrl,
        /// What.
        request: AnnounceRequest,
    },
    /// Nothing before then, unless the progress changes.
    Wait(Moment),
    /// Nothing: there is no tracker (any more).
    Idle,
}

/// What a tracker that answered knows of us.
#[derive(Debug, Default)]
struct Known {
    /// It has heard that we lack something, and not yet that we completed it.
    is_owed_completion: bool,
    tracker_id: Option<Vec<u8>>,
}

/// The last answer.
#[derive(Debug)]
struct Answered {
    at: Moment,
    by: TrackerUrl,
    interval: Duration,
    interval_min: Duration,
}

/// Drives the announces of one swarm. Pure: it is asked what to do, and told what came of it.
#[derive(Debug)]
pub struct Schedule {
    membership: Membership,
    tiers: Tiers,
    known: BTreeMap<TrackerUrl, Known>,
    last: Option<Answered>,
    /// Who was to be told and has not answered yet.
    asking: Option<TrackerUrl>,
}

impl Schedule {
    /// A swarm that nobody was told of.
    pub fn new(membership: Membership, random: &mut dyn FnMut() -> u64) -> Self {
        let pace = membership.pace;
        Self {
            tiers: Tiers::new(&membership.trackers, pace.pause, pace.pause_max, random),
            membership,
            known: BTreeMap::new(),
            last: None,
            asking: None,
        }
    }

    /// What to do now.
    pub fn next(&mut self, now: Moment, progress: &Progress) -> Step {
        let due = self.due(progress);
        if due > now {
            return Step::Wait(due);
        }
        match self.tiers.next(now) {
            Next::Ask(tracker) => {
                let request = self.request(&tracker, progress);
                self.asking = Some(tracker.clone());
                Step::Announce { tracker, request }
            }
            Next::Wait(until) => Step::Wait(until),
            Next::Never => Step::Idle,
        }
    }

    /// What came of an announce. `random` spreads those who failed at the same time.
    pub fn done(
        &mut self,
        now: Moment,
        tracker: &TrackerUrl,
        request: &AnnounceRequest,
        result: &Result<AnnounceReply, AnnounceError>,
        random: u64,
    ) {
        self.asking = None;
        let reply = match result {
            Ok(reply) => reply,
            Err(error) => return self.tiers.failed(tracker, now, error.retry(), random),
        };
        self.tiers.succeeded(tracker);
        let known = self.known.entry(tracker.clone()).or_default();
        known.is_owed_completion = match request.event {
            Event::Completed => false,
            _ => known.is_owed_completion || request.left > 0,
        };
        if reply.tracker_id.is_some() {
            known.tracker_id.clone_from(&reply.tracker_id);
        }
        let Pace {
            interval_min,
            interval_max,
            lonely,
            lonely_min,
            ..
        } = self.membership.pace;
        let bounded = |interval: Duration| interval.max(interval_min).min(interval_max.max(interval_min));
        let interval = bounded(reply.interval.max(reply.interval_min.unwrap_or_default()));
        self.last = Some(Answered {
            at: now,
            by: tracker.clone(),
            interval,
            interval_min: reply.interval_min.unwrap_or(lonely).max(lonely_min).min(interval),
        });
    }

    /// Who has to be told that we go, and what.
    #[must_use]
    pub fn farewells(&self, progress: &Progress) -> Vec<(TrackerUrl, AnnounceRequest)> {
        // One that was being told may have heard.
        let asking = self.asking.as_ref().filter(|asking| !self.known.contains_key(asking));
        let known = self.known.keys().chain(asking);
        let goodbye = |tracker: &TrackerUrl| AnnounceRequest {
            event: Event::Stopped,
            wanted: Some(0),
            ..self.request(tracker, progress)
        };
        known.map(|tracker| (tracker.clone(), goodbye(tracker))).collect()
    }

    fn due(&self, progress: &Progress) -> Moment {
        let Some(last) = &self.last else {
            return Moment::default();
        };
        let is_owed = self.known.get(&last.by).is_some_and(|known| known.is_owed_completion);
        if progress.left == 0 && is_owed {
            return last.at;
        }
        let interval = if progress.is_lonely {
            last.interval_min
        } else {
            last.interval
        };
        last.at.plus(interval)
    }

    fn request(&self, tracker: &TrackerUrl, progress: &Progress) -> AnnounceRequest {
        let known = self.known.get(tracker);
        let event = match known {
            None => Event::Started,
            Some(known) if progress.left == 0 && known.is_owed_completion => Event::Completed,
            Some(_) if progress.is_partial_seed && progress.left > 0 => Event::Paused,
            Some(_) => Event::Regular,
        };
        let Membership {
            info_hash,
            peer_id,
            port,
            key,
            ..
        } = self.membership;
        AnnounceRequest {
            info_hash,
            peer_id,
            port,
            uploaded: progress.uploaded,
            downloaded: progress.downloaded,
            left: progress.left,
            event,
            wanted: progress.wanted,
            key,
            tracker_id: known.and_then(|known| known.tracker_id.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{INTERVAL, Retry};
    use super::*;

    const A: &str = "http://a.example/";
    const B: &str = "udp://b.example:1";

    fn schedule(tiers: &[&[&str]]) -> Schedule {
        let tier = |tier: &&[&str]| tier.iter().map(|url| url.parse().unwrap()).collect();
        let membership = Membership {
            info_hash: InfoHash::from_bytes([1; 20]),
            peer_id: PeerId([2; 20]),
            port: 6881,
            key: 3,
            trackers: tiers.iter().map(tier).collect(),
            pace: Pace::default(),
        };
        Schedule::new(membership, &mut || 0)
    }

    fn at(seconds: u64) -> Moment {
        Moment(Duration::from_secs(seconds))
    }

    fn left(left: u64) -> Progress {
        Progress {
            left,
            ..Progress::default()
        }
    }

    fn reply(interval_s: u64) -> Result<AnnounceReply, AnnounceError> {
        Ok(AnnounceReply {
            interval: Duration::from_secs(interval_s),
            interval_min: None,
            complete: None,
            incomplete: None,
            peers: Vec::new(),
            warning: None,
            tracker_id: None,
        })
    }

    fn lost() -> Result<AnnounceReply, AnnounceError> {
        Err(AnnounceError::Unreachable("no answer".to_owned()))
    }

    /// Announces, expecting tracker and event, with this result.
    fn tell(
        schedule: &mut Schedule,
        now: Moment,
        progress: &Progress,
        ought: (&str, Event),
        result: &Result<AnnounceReply, AnnounceError>,
    ) -> AnnounceRequest {
        match schedule.next(now, progress) {
            Step::Announce { tracker, request } => {
                assert_eq!((tracker.to_string().as_str(), request.event), ought, "at {now:?}");
                schedule.done(now, &tracker, &request, result, 1023);
                request
            }
            other => panic!("{other:?} at {now:?}, not {ought:?}"),
        }
    }

    #[test]
    fn a_tracker_hears_the_beginning_each_interval_the_completion_and_the_end() {
        let mut schedule = schedule(&[&[A]]);
        tell(&mut schedule, at(0), &left(10), (A, Event::Started), &reply(600));
        assert_eq!(schedule.next(at(1), &left(10)), Step::Wait(at(600)));
        tell(&mut schedule, at(600), &left(5), (A, Event::Regular), &reply(600));
        tell(&mut schedule, at(700), &left(0), (A, Event::Completed), &reply(600));
        assert_eq!(schedule.next(at(701), &left(0)), Step::Wait(at(1300)));
        tell(&mut schedule, at(1300), &left(0), (A, Event::Regular), &reply(600));
        let farewells = schedule.farewells(&left(0));
        let [(tracker, request)] = &farewells[..] else {
            panic!("{farewells:?}")
        };
        assert_eq!(
            (tracker.to_string().as_str(), request.event, request.wanted),
            (A, Event::Stopped, Some(0))
        );
    }

    #[test]
    fn who_begins_complete_never_completes() {
        let mut schedule = schedule(&[&[A]]);
        tell(&mut schedule, at(0), &left(0), (A, Event::Started), &reply(600));
        assert_eq!(schedule.next(at(1), &left(0)), Step::Wait(at(600)));
        tell(&mut schedule, at(600), &left(0), (A, Event::Regular), &reply(600));
    }

    #[test]
    fn a_completion_that_was_not_heard_is_told_again_with_the_pauses_of_a_failure() {
        let mut schedule = schedule(&[&[A]]);
        tell(&mut schedule, at(0), &left(9), (A, Event::Started), &reply(600));
        tell(&mut schedule, at(100), &left(0), (A, Event::Completed), &lost());
        assert_eq!(schedule.next(at(100), &left(0)), Step::Wait(at(115)));
        tell(&mut schedule, at(115), &left(0), (A, Event::Completed), &lost());
        assert_eq!(schedule.next(at(115), &left(0)), Step::Wait(at(145)));
        tell(&mut schedule, at(145), &left(0), (A, Event::Completed), &reply(600));
        assert_eq!(schedule.next(at(146), &left(0)), Step::Wait(at(745)));
    }

    #[test]
    fn a_partial_seed_says_so() {
        let mut schedule = schedule(&[&[A]]);
        let progress = Progress {
            is_partial_seed: true,
            ..left(10)
        };
        tell(&mut schedule, at(0), &progress, (A, Event::Started), &reply(60));
        tell(&mut schedule, at(60), &progress, (A, Event::Paused), &reply(60));
        let complete = Progress { left: 0, ..progress };
        tell(&mut schedule, at(120), &complete, (A, Event::Completed), &reply(60));
        tell(&mut schedule, at(180), &complete, (A, Event::Regular), &reply(60));
    }

    #[test]
    fn the_loss_of_a_tracker_is_survived_by_the_next_and_it_comes_back() {
        let mut schedule = schedule(&[&[A], &[B]]);
        tell(&mut schedule, at(0), &left(1), (A, Event::Started), &reply(600));
        tell(&mut schedule, at(600), &left(1), (A, Event::Regular), &lost());
        tell(&mut schedule, at(600), &left(1), (B, Event::Started), &reply(600));
        assert_eq!(
            schedule.next(at(601), &left(1)),
            Step::Wait(at(1200)),
            "one tracker is enough"
        );
        tell(&mut schedule, at(1200), &left(1), (A, Event::Regular), &lost());
        tell(&mut schedule, at(1200), &left(1), (B, Event::Regular), &lost());
        assert_eq!(schedule.next(at(1200), &left(1)), Step::Wait(at(1215)));
        tell(&mut schedule, at(1230), &left(1), (A, Event::Regular), &reply(600));
        let told: Vec<String> = schedule
            .farewells(&left(1))
            .iter()
            .map(|(url, _)| url.to_string())
            .collect();
        assert_eq!(told, [A, B], "both have heard of us");
    }

    #[test]
    fn each_tracker_hears_of_the_completion_at_most_once() {
        let mut schedule = schedule(&[&[A], &[B]]);
        tell(&mut schedule, at(0), &left(1), (A, Event::Started), &reply(600));
        tell(&mut schedule, at(600), &left(1), (A, Event::Regular), &lost());
        tell(&mut schedule, at(600), &left(1), (B, Event::Started), &reply(600));
        // A is due again, comes first, and is still owed it.
        tell(&mut schedule, at(700), &left(0), (A, Event::Completed), &reply(600));
        assert_eq!(schedule.next(at(701), &left(0)), Step::Wait(at(1300)));
        tell(&mut schedule, at(1300), &left(0), (A, Event::Regular), &lost());
        tell(&mut schedule, at(1300), &left(0), (B, Event::Completed), &reply(600));
        assert_eq!(schedule.next(at(1301), &left(0)), Step::Wait(at(1900)));
    }

    #[test]
    fn intervals_are_kept_within_reason() {
        for (interval_s, after) in [(0, 60), (59, 60), (1800, 1800), (u64::MAX, 6 * 3600)] {
            let mut schedule = schedule(&[&[A]]);
            tell(&mut schedule, at(5), &left(1), (A, Event::Started), &reply(interval_s));
            assert_eq!(schedule.next(at(5), &left(1)), Step::Wait(at(5 + after)));
        }
    }

    #[test]
    fn who_is_lonely_asks_as_soon_as_it_may() {
        let lonely = Progress {
            is_lonely: true,
            ..left(1)
        };
        for (interval_s, min_s, after) in [
            (1800, None, 300),
            (100, None, 100),
            (1800, Some(120), 120),
            (1800, Some(20), 20),
            (1800, Some(1), 10),
            (1800, Some(3000), 3000),
        ] {
            let mut schedule = schedule(&[&[A]]);
            let mut reply = reply(interval_s).unwrap();
            reply.interval_min = min_s.map(Duration::from_secs);
            tell(&mut schedule, at(0), &lonely, (A, Event::Started), &Ok(reply));
            assert_eq!(schedule.next(at(0), &lonely), Step::Wait(at(after)));
        }
    }

    #[test]
    fn a_tracker_gets_its_own_id_back() {
        let mut schedule = schedule(&[&[A], &[B]]);
        let mut with_id = reply(60).unwrap();
        with_id.tracker_id = Some(b"a".to_vec());
        tell(&mut schedule, at(0), &left(1), (A, Event::Started), &Ok(with_id));
        let request = tell(&mut schedule, at(60), &left(1), (A, Event::Regular), &reply(60));
        assert_eq!(request.tracker_id.as_deref(), Some(&b"a"[..]));
        let request = tell(&mut schedule, at(120), &left(1), (A, Event::Regular), &lost());
        assert_eq!(
            request.tracker_id.as_deref(),
            Some(&b"a"[..]),
            "it stays until there is another"
        );
        let request = tell(&mut schedule, at(120), &left(1), (B, Event::Started), &reply(60));
        assert_eq!(request.tracker_id, None);
    }

    #[test]
    fn a_tracker_that_wants_nothing_of_us_is_left_alone() {
        let mut schedule = schedule(&[&[A]]);
        let refused = Err(AnnounceError::Refused {
            reason: "go away".to_owned(),
            retry: Retry::Never,
        });
        tell(&mut schedule, at(0), &left(1), (A, Event::Started), &refused);
        assert_eq!(schedule.next(at(1_000_000), &left(1)), Step::Idle);
        assert_eq!(schedule.farewells(&left(1)), []);
        assert_eq!(self::schedule(&[]).next(at(0), &left(1)), Step::Idle);
    }

    #[test]
    fn who_leaves_while_it_begins_says_goodbye_all_the_same() {
        let mut schedule = schedule(&[&[A]]);
        assert_eq!(schedule.farewells(&left(1)), []);
        assert!(matches!(schedule.next(at(0), &left(1)), Step::Announce { .. }));
        assert_eq!(schedule.farewells(&left(1)).len(), 1);
    }

    #[test]
    fn without_a_word_of_the_tracker_half_an_hour_passes() {
        let mut schedule = schedule(&[&[A]]);
        tell(
            &mut schedule,
            at(0),
            &left(1),
            (A, Event::Started),
            &super::super::http::parse_reply(b"de"),
        );
        assert_eq!(schedule.next(at(0), &left(1)), Step::Wait(Moment(INTERVAL)));
    }
}
