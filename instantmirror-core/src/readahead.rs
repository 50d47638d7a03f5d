//! Reading ahead of somebody who asks for one piece after the other: an export read by a kernel, a client that fetches in
//! ranges, a video player. The window grows as long as the reads join, as Linux does it for files.

use std::ops::Range;

/// First window, in bytes.
pub const WINDOW_MIN: u64 = 256 * 1024;
/// Largest window, in bytes.
pub const WINDOW_MAX: u64 = 16 << 20;
/// A read joins the last one if it begins no further behind its end than this: kernels and players skip a little.
pub const SLACK: u64 = 128 * 1024;

/// What is known of the reads of one object.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReadAhead {
    /// Where the next read begins, if it joins.
    next: u64,
    /// The window after it; 0 before two reads have joined.
    window: u64,
    /// What was advised so far.
    until: u64,
}

impl ReadAhead {
    /// Takes note of a read of an object of `size` bytes, and says what to fetch beyond it, if anything. Reads that do not
    /// join the one before make it forget.
    pub fn read(&mut self, range: Range<u64>, size: u64) -> Option<Range<u64>> {
        let joins = range.start > 0 && range.start.abs_diff(self.next) <= SLACK;
        let is_first = self.next == 0 && self.window == 0;
        self.next = range.end;
        if !joins || is_first {
            (self.window, self.until) = (0, range.end);
            return None;
        }
        self.window = (self.window * 2).clamp(WINDOW_MIN, WINDOW_MAX);
        // Asked for again when half of it is used up, so that the reader never comes to its end.
        if self.until >= range.end + self.window / 2 && self.until < size {
            return None;
        }
        let ahead = self.until.max(range.end)..(range.end + self.window).min(size);
        self.until = self.until.max(ahead.end);
        (ahead.start < ahead.end).then_some(ahead)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const K: u64 = 1024;

    #[test]
    fn joined_reads_open_a_window_that_grows_and_stays_ahead() {
        let (mut ahead, size) = (ReadAhead::default(), 1 << 30);
        let mut fetched = 0;
        let mut largest = 0;
        for step in 0..4000 {
            let read = step * 64 * K..(step + 1) * 64 * K;
            if step > 2 {
                assert!(fetched >= read.end, "step {step}: {fetched} does not cover {read:?}");
            }
            if let Some(range) = ahead.read(read.clone(), size) {
                assert!(range.start >= read.end && range.end <= size);
                assert!(range.end - read.end <= WINDOW_MAX);
                assert!(range.start == fetched.max(read.end), "nothing twice, nothing left out");
                largest = largest.max(range.end - range.start);
                fetched = range.end;
            }
        }
        assert!(largest >= WINDOW_MAX / 2);
    }

    #[test]
    fn reads_here_and_there_fetch_nothing_more() {
        let (mut ahead, size) = (ReadAhead::default(), 1 << 30);
        for at in [0, 500, 3, 900, 77, 400] {
            assert_eq!(ahead.read(at << 20..(at << 20) + 4096, size), None);
        }
        // One range in the middle, as of a client that resumes, is no sequence either.
        assert_eq!(ReadAhead::default().read(100..200, size), None);
    }

    #[test]
    fn a_jump_closes_the_window_and_the_end_bounds_it() {
        let mut ahead = ReadAhead::default();
        assert_eq!(ahead.read(0..64 * K, 300 * K), None);
        assert_eq!(ahead.read(64 * K..128 * K, 300 * K), Some(128 * K..300 * K));
        assert_eq!(ahead.read(128 * K..192 * K, 300 * K), None);
        assert_eq!(ahead.read(0..K, 300 * K), None);
        assert_eq!(ahead.read(K..2 * K, 300 * K), Some(2 * K..(2 * K + WINDOW_MIN)));
    }
}
