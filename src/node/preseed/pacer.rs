//! When anything may be fetched ahead at all: hours of the day, and a budget of bytes for a day.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::config::{ByteSize, DayHours, PreseedConfig};

/// A budget is for this time.
const DAY: Duration = Duration::from_secs(24 * 3600);
/// While it waits for its hours or its budget it looks again after this: the configuration may change.
const LOOK: Duration = Duration::from_secs(30);

/// Holds back what nobody waits for.
#[derive(Debug)]
pub(super) struct Pacer(Mutex<State>);

#[derive(Debug)]
struct State {
    hours: Vec<DayHours>,
    budget: Option<ByteSize>,
    /// Since when bytes are counted, and how many there were.
    since: Instant,
    spent: u64,
    waiting: Option<String>,
}

impl Pacer {
    pub(super) fn new() -> Self {
        Self(Mutex::new(State {
            hours: Vec::new(),
            budget: None,
            since: Instant::now(),
            spent: 0,
            waiting: None,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes up what the configuration says.
    pub(super) fn configure(&self, config: &PreseedConfig) {
        let mut state = self.lock();
        (state.hours, state.budget) = (config.hours.clone(), config.budget);
    }

    /// Why nothing is fetched ahead now, if so.
    pub(super) fn waiting(&self) -> Option<String> {
        self.lock().waiting.clone()
    }

    /// Waits until so many more bytes may be fetched, and counts them.
    pub(super) async fn admit(&self, bytes: u64) {
        loop {
            let pause = {
                let mut state = self.lock();
                let held = state.held_back(minute_of_day());
                state.waiting = held.as_ref().map(|(reason, _)| reason.clone());
                match held {
                    None => {
                        state.spent += bytes;
                        return;
                    }
                    Some((_, pause)) => pause.min(LOOK),
                }
            };
            tokio::time::sleep(pause).await;
        }
    }
}

impl State {
    /// Why to wait, and for how long at least.
    fn held_back(&mut self, minute: u16) -> Option<(String, Duration)> {
        let begins = self
            .hours
            .iter()
            .map(|hours| (hours.begins_in(minute), hours))
            .min_by_key(|(wait, _)| *wait);
        if let Some((wait, hours)) = begins.filter(|(wait, _)| *wait > 0) {
            let pause = Duration::from_secs(u64::from(wait) * 60);
            return Some((format!("for {hours}, as [preseed] hours says"), pause));
        }
        let passed = self.since.elapsed();
        if passed >= DAY {
            (self.since, self.spent) = (Instant::now(), 0);
        }
        let budget = self.budget.filter(|budget| self.spent >= budget.0)?;
        let left = DAY.saturating_sub(passed);
        let hours = left.as_secs().div_ceil(3600);
        Some((
            format!("for a new day: the budget of {budget} is spent, for {hours} h more"),
            left,
        ))
    }
}

fn minute_of_day() -> u16 {
    let now = jiff::Zoned::now();
    u16::try_from(now.hour()).unwrap_or(0) * 60 + u16::try_from(now.minute()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(hours: &[&str], budget: Option<u64>) -> State {
        let pacer = Pacer::new();
        pacer.configure(&PreseedConfig {
            hours: hours.iter().map(|hours| hours.parse().unwrap()).collect(),
            budget: budget.map(ByteSize),
            ..PreseedConfig::default()
        });
        pacer.0.into_inner().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn hours_hold_back_outside_of_them() {
        let mut state = state(&["22:00-06:00", "12:00-13:00"], None);
        assert_eq!(state.held_back(23 * 60), None);
        assert_eq!(state.held_back(12 * 60 + 30), None);
        let (reason, pause) = state.held_back(11 * 60).unwrap();
        assert!(reason.contains("12:00-13:00"), "{reason}");
        assert_eq!(pause, Duration::from_secs(3600));
        assert_eq!(super::State::held_back(&mut self::state(&[], None), 0), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_budget_is_for_a_day() {
        let pacer = Pacer::new();
        pacer.configure(&PreseedConfig {
            budget: Some(ByteSize(1000)),
            ..PreseedConfig::default()
        });
        let begun = Instant::now();
        pacer.admit(600).await;
        pacer.admit(600).await;
        assert_eq!(begun.elapsed(), Duration::ZERO, "what has begun is finished");
        pacer.admit(1).await;
        assert!(begun.elapsed() >= DAY && begun.elapsed() < DAY + LOOK * 2);
        assert_eq!(pacer.waiting(), None);
    }
}
