//! Which bytes of one object to ask for next, while several readers wait for different parts of it.
//!
//! A *want* is a reader's interest in a range, a *flight* a transfer under way. The plan starts a flight
//! where a reader starves, cuts short the flights that it overtakes, and fills the gaps they leave behind.
//! It never asks for a byte twice at a time, except when a flight fails. Pure: the fetch engine drives it.

use std::ops::Range;

use crate::RangeSet;
use crate::outboard::{GROUP_BYTES, group_cover};

/// A reader starves if the flight towards it is further away than this; then it gets one of its own.
pub const OVERTAKE_BYTES: u64 = 1 << 20;
/// Most flights for one object at a time.
pub const FLIGHTS_MAX: usize = 8;
/// With no reader left, a fill goes on only if no more than this is missing ...
pub const FINISH_BYTES_MAX: u64 = 1 << 20;
/// ... or if at least this share of the object is present.
pub const FINISH_PRESENT_PERCENT: u64 = 75;

/// Names a want of one plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WantId(u64);

/// Names a flight of one plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlightId(u64);

#[derive(Debug)]
struct Want {
    id: WantId,
    range: Range<u64>,
}

#[derive(Debug)]
struct Flight {
    id: FlightId,
    range: Range<u64>,
}

/// The plan of one fill. All ranges that it hands out are whole groups.
#[derive(Debug)]
pub struct FillPlan {
    size: u64,
    present: RangeSet,
    wants: Vec<Want>,
    flights: Vec<Flight>,
    last_id: u64,
}

impl FillPlan {
    /// A plan for an object of `size` bytes of which `present` is here.
    #[must_use]
    pub fn new(size: u64, present: RangeSet) -> Self {
        Self {
            size,
            present,
            wants: Vec::new(),
            flights: Vec::new(),
            last_id: 0,
        }
    }

    fn new_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Adds a reader's interest.
    pub fn want(&mut self, range: Range<u64>) -> WantId {
        let id = WantId(self.new_id());
        let range = group_cover(range.start.min(self.size)..range.end.min(self.size), self.size);
        self.wants.push(Want { id, range });
        id
    }

    /// Tells how far a reader has come; what lies behind it is no longer wanted by it.
    pub fn advance(&mut self, want: WantId, position: u64) {
        if let Some(want) = self.wants.iter_mut().find(|held| held.id == want) {
            let position = position / GROUP_BYTES * GROUP_BYTES;
            want.range.start = want.range.start.max(position).min(want.range.end);
        }
    }

    /// Withdraws a reader's interest. When the last one leaves, the fill goes on to the end only if it
    /// is nearly there ([`FINISH_BYTES_MAX`], [`FINISH_PRESENT_PERCENT`]).
    pub fn forget(&mut self, want: WantId) {
        self.wants.retain(|held| held.id != want);
        let missing = self.size - self.present.len();
        let nearly = missing <= FINISH_BYTES_MAX || self.present.len() >= self.size / 100 * FINISH_PRESENT_PERCENT;
        if self.wants.is_empty() && missing > 0 && nearly {
            self.want(0..self.size);
        }
        self.trim_flights();
    }

    /// Cuts off what no reader wants of the flights.
    fn trim_flights(&mut self) {
        for flight in &mut self.flights {
            let wanted = self.wants.iter().filter(|want| want.range.start < flight.range.end);
            let end = wanted
                .map(|want| want.range.end)
                .filter(|&end| end > flight.range.start)
                .max();
            flight.range.end = flight.range.end.min(end.unwrap_or(flight.range.start));
        }
    }

    /// The next transfer to start, if one is needed and allowed. Call until it returns `None`.
    pub fn next_flight(&mut self) -> Option<(FlightId, Range<u64>)> {
        if self.flights.len() >= FLIGHTS_MAX {
            return None;
        }
        let range = self.starving().or_else(|| self.uncovered())?;
        for flight in &mut self.flights {
            if flight.range.contains(&range.start) {
                flight.range.end = range.start;
            }
        }
        let id = FlightId(self.new_id());
        self.flights.push(Flight {
            id,
            range: range.clone(),
        });
        Some((id, range))
    }

    /// A gap at which a reader would wait for a flight that is far away.
    fn starving(&self) -> Option<Range<u64>> {
        self.wants.iter().find_map(|want| {
            let gap = self.present.gap(want.range.clone())?;
            let coming = self.flights.iter().find(|flight| flight.range.contains(&gap.start));
            match coming {
                Some(flight) if gap.start - flight.range.start <= OVERTAKE_BYTES => None,
                _ => Some(self.until_next_flight(gap)),
            }
        })
    }

    /// A gap further on that no flight covers.
    fn uncovered(&self) -> Option<Range<u64>> {
        let mut covered = self.present.clone();
        self.flights
            .iter()
            .for_each(|flight| covered.insert(flight.range.clone()));
        self.wants.iter().find_map(|want| covered.gap(want.range.clone()))
    }

    fn until_next_flight(&self, gap: Range<u64>) -> Range<u64> {
        let next = self
            .flights
            .iter()
            .map(|flight| flight.range.start)
            .filter(|&start| start > gap.start)
            .min();
        gap.start..next.map_or(gap.end, |start| start.min(gap.end))
    }

    /// Tells of ranges that turned out to be here already.
    pub fn add_present(&mut self, present: &RangeSet) {
        present
            .ranges()
            .iter()
            .for_each(|range| self.present.insert(range.clone()));
    }

    /// Where a flight has to stop: it may have come nearer since it started. `None` if it is to stop now.
    #[must_use]
    pub fn flight_end(&self, flight: FlightId) -> Option<u64> {
        let flight = self.flights.iter().find(|held| held.id == flight)?;
        (!flight.range.is_empty()).then_some(flight.range.end)
    }

    /// The first part of a flight that is still missing. `None` if it is to stop now.
    #[must_use]
    pub fn flight_gap(&self, flight: FlightId) -> Option<Range<u64>> {
        let flight = self.flights.iter().find(|held| held.id == flight)?;
        self.present.gap(flight.range.clone())
    }

    /// Tells that whole groups of a flight have come and were verified, in whatever order.
    pub fn arrived(&mut self, flight: FlightId, range: Range<u64>) {
        self.present.insert(range);
        if let Some(flight) = self.flights.iter_mut().find(|held| held.id == flight) {
            let reached = self.present.run_from(flight.range.start);
            flight.range.start = flight.range.start.max(reached.min(flight.range.end));
        }
    }

    /// Tells that a flight is over, however it ended; what it did not bring is asked for again.
    pub fn ended(&mut self, flight: FlightId) {
        self.flights.retain(|held| held.id != flight);
    }

    /// What is here.
    #[must_use]
    pub fn present(&self) -> &RangeSet {
        &self.present
    }

    /// Whether everything is here.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.present.contains(0..self.size)
    }

    /// Whether nothing flies and nothing that is wanted is missing: the fill may rest.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.flights.is_empty() && self.wants.iter().all(|want| self.present.contains(want.range.clone()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const G: u64 = GROUP_BYTES;

    #[test]
    fn one_reader_of_everything_is_one_flight() {
        let mut plan = FillPlan::new(100 * G + 5, RangeSet::new());
        plan.want(0..100 * G + 5);
        let (flight, range) = plan.next_flight().unwrap();
        assert_eq!(range, 0..100 * G + 5);
        assert_eq!(plan.next_flight(), None);
        plan.arrived(flight, range);
        plan.ended(flight);
        assert!(plan.is_complete() && plan.is_idle());
    }

    #[test]
    fn a_reader_of_the_tail_overtakes_and_nothing_comes_twice() {
        let size = 1000 * G;
        let mut plan = FillPlan::new(size, RangeSet::new());
        plan.want(0..size);
        let (first, _) = plan.next_flight().unwrap();
        plan.arrived(first, 0..G);
        plan.want(size - 10..size);
        let (tail, range) = plan.next_flight().unwrap();
        assert_eq!(range, size - G..size);
        assert_eq!(plan.flight_end(first), Some(size - G));
        assert_eq!(plan.next_flight(), None);
        plan.arrived(tail, range);
        plan.ended(tail);
        assert_eq!(plan.next_flight(), None);
    }

    #[test]
    fn a_reader_close_behind_a_flight_joins_it() {
        let mut plan = FillPlan::new(1000 * G, RangeSet::new());
        plan.want(0..1000 * G);
        plan.next_flight().unwrap();
        plan.want(OVERTAKE_BYTES..2 * OVERTAKE_BYTES);
        assert_eq!(plan.next_flight(), None);
    }

    #[test]
    fn a_range_moves_no_more_than_its_groups() {
        let mut plan = FillPlan::new(1000 * G, RangeSet::new());
        let want = plan.want(10 * G + 1..10 * G + 2);
        let (flight, range) = plan.next_flight().unwrap();
        assert_eq!(range, 10 * G..11 * G);
        plan.arrived(flight, range);
        plan.ended(flight);
        plan.forget(want);
        assert!(plan.is_idle() && plan.next_flight().is_none());
    }

    #[test]
    fn with_no_reader_left_a_fill_stops_unless_it_is_nearly_done() {
        for (done, goes_on) in [(10, false), (74, false), (75, true)] {
            let mut plan = FillPlan::new(100 * G, RangeSet::new());
            let want = plan.want(0..100 * G);
            let (flight, _) = plan.next_flight().unwrap();
            plan.arrived(flight, 0..done * G);
            plan.forget(want);
            assert_eq!(plan.flight_end(flight).is_some(), goes_on, "{done} %");
        }
    }

    #[test]
    fn what_a_failed_flight_did_not_bring_is_asked_for_again() {
        let mut plan = FillPlan::new(100 * G, RangeSet::new());
        plan.want(0..100 * G);
        let (flight, _) = plan.next_flight().unwrap();
        plan.arrived(flight, 0..7 * G);
        plan.ended(flight);
        assert!(!plan.is_idle());
        assert_eq!(plan.next_flight().unwrap().1, 7 * G..100 * G);
    }

    proptest! {
        /// Whatever readers do, every wanted byte comes, and none is in two flights at a time.
        #[test]
        fn every_want_is_met_without_overlap(
            size in 1..50 * G,
            steps in prop::collection::vec((0u8..4, any::<u64>(), any::<u64>()), 1..60),
        ) {
            let mut plan = FillPlan::new(size, RangeSet::new());
            let mut wants: Vec<(WantId, Range<u64>)> = Vec::new();
            let mut flights: Vec<FlightId> = Vec::new();
            for (what, a, b) in steps {
                let (a, b) = (a % size, b % size);
                match what {
                    0 => { let r = a.min(b)..a.max(b) + 1; wants.push((plan.want(r.clone()), r)); }
                    1 if !wants.is_empty() => { let i = usize::try_from(a).unwrap() % wants.len(); plan.forget(wants.remove(i).0); }
                    2 if !flights.is_empty() => { let i = usize::try_from(b).unwrap() % flights.len(); plan.ended(flights.remove(i)); }
                    _ => {}
                }
                while let Some((flight, range)) = plan.next_flight() {
                    prop_assert!(range.start % G == 0 && (range.end % G == 0 || range.end == size) && !range.is_empty());
                    flights.push(flight);
                }
                let mut covered = RangeSet::new();
                let mut total = 0;
                for flight in &plan.flights {
                    covered.insert(flight.range.clone());
                    total += flight.range.end - flight.range.start;
                }
                prop_assert_eq!(covered.len(), total, "flights overlap");
                if let Some(&flight) = flights.first() {
                    let held = plan.flights.iter().find(|held| held.id == flight).map(|held| held.range.clone());
                    if let Some(range) = held.filter(|range| !range.is_empty()) {
                        plan.arrived(flight, range.start..(range.start + G).min(size));
                    }
                }
            }
            for _ in 0..10_000 {
                let Some(flight) = flights.pop().or_else(|| plan.next_flight().map(|(flight, _)| flight)) else { break };
                let range = plan.flights.iter().find(|held| held.id == flight).map(|held| held.range.clone());
                if let Some(range) = range { plan.arrived(flight, range) }
                plan.ended(flight);
            }
            prop_assert!(plan.is_idle());
            for (_, range) in wants { prop_assert!(plan.present().contains(range)); }
        }
    }
}
