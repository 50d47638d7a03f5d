//! Which directories are read much: counts that fade, in bounded memory.

use std::collections::HashMap;
use std::time::Duration;

use crate::{RepoName, RepoPath, Timestamp};

/// After this time a read counts half.
pub const HALF_LIFE: Duration = Duration::from_secs(24 * 3600);
/// Most directories that are counted; the least read go.
pub const DIRECTORIES_MAX: usize = 8192;
/// A directory that was read so often lately, older reads faded, is popular.
pub const POPULAR_READS: f64 = 16.0;

/// How often directories were read lately.
#[derive(Debug, Default)]
pub struct Popularity {
    directories: HashMap<(RepoName, RepoPath), Reads>,
}

#[derive(Debug, Clone, Copy)]
struct Reads {
    count: f64,
    last: Timestamp,
}

impl Reads {
    fn now(&self, now: Timestamp) -> f64 {
        let half_lives = now.since(self.last).as_secs_f64() / HALF_LIFE.as_secs_f64();
        self.count * 0.5_f64.powf(half_lives)
    }
}

impl Popularity {
    /// A client has read a file of this directory.
    pub fn note(&mut self, repository: &RepoName, directory: RepoPath, now: Timestamp) {
        if self.directories.len() >= DIRECTORIES_MAX {
            self.shrink(now);
        }
        let key = (repository.clone(), directory);
        let reads = self.directories.entry(key).or_insert(Reads { count: 0.0, last: now });
        reads.count = reads.now(now) + 1.0;
        reads.last = now;
    }

    /// Whether a directory is popular.
    #[must_use]
    pub fn is_popular(&self, repository: &RepoName, directory: &RepoPath, now: Timestamp) -> bool {
        self.reads(repository, directory, now) >= POPULAR_READS
    }

    /// How often a directory was read lately.
    #[must_use]
    pub fn reads(&self, repository: &RepoName, directory: &RepoPath, now: Timestamp) -> f64 {
        let key = (repository.clone(), directory.clone());
        self.directories.get(&key).map_or(0.0, |reads| reads.now(now))
    }

    /// Keeps the more popular half.
    fn shrink(&mut self, now: Timestamp) {
        let mut counts: Vec<f64> = self.directories.values().map(|reads| reads.now(now)).collect();
        let middle = counts.len() / 2;
        let (_, median, _) = counts.select_nth_unstable_by(middle, f64::total_cmp);
        let median = *median;
        // Of many that are equal some have to go as well.
        let mut excess = self.directories.len() - middle;
        self.directories.retain(|_, reads| {
            let goes = excess > 0 && reads.now(now) <= median;
            excess -= usize::from(goes);
            !goes
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository() -> RepoName {
        "r".parse().unwrap()
    }

    fn directory(number: usize) -> RepoPath {
        RepoPath::new(format!("d{number}")).unwrap()
    }

    const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    #[test]
    fn reads_make_popular_and_time_makes_forgotten() {
        let mut popularity = Popularity::default();
        for _ in 0..15 {
            popularity.note(&repository(), directory(1), START);
        }
        assert!(!popularity.is_popular(&repository(), &directory(1), START));
        popularity.note(&repository(), directory(1), START);
        assert!(popularity.is_popular(&repository(), &directory(1), START));
        assert!(!popularity.is_popular(&"other".parse().unwrap(), &directory(1), START));
        let later = START.plus(HALF_LIFE);
        let reads = popularity.reads(&repository(), &directory(1), later);
        assert!((reads - 8.0).abs() < 0.01, "{reads}");
        // A clock that was set back makes nothing more popular than it is.
        let before = Timestamp::from_millis(0);
        assert!((popularity.reads(&repository(), &directory(1), before) - 16.0).abs() < 0.01);
    }

    #[test]
    fn memory_is_bounded_and_what_is_read_much_stays() {
        let mut popularity = Popularity::default();
        (0..100).for_each(|_| popularity.note(&repository(), directory(0), START));
        for number in 1..3 * DIRECTORIES_MAX {
            popularity.note(&repository(), directory(number), START);
            assert!(popularity.directories.len() <= DIRECTORIES_MAX);
        }
        assert!(popularity.is_popular(&repository(), &directory(0), START));
    }
}
