//! Sets of byte positions as sorted, disjoint, non-adjacent ranges.

use std::ops::Range;

/// A set of `u64` positions, stored as ranges. Operations cost the number of ranges touched.
///
/// ```
/// use instantmirror_core::RangeSet;
/// let mut set = RangeSet::new();
/// set.insert(0..10);
/// set.insert(10..20);
/// assert_eq!(set.ranges(), [0..20]);
/// assert_eq!(set.gap(5..40), Some(20..40));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RangeSet(Vec<Range<u64>>);

impl RangeSet {
    /// The empty set.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// The ranges in order; none is empty and no two touch.
    #[must_use]
    pub fn ranges(&self) -> &[Range<u64>] {
        &self.0
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many positions are in it.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.0.iter().map(|range| range.end - range.start).sum()
    }

    /// Adds every position of `range`.
    pub fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        // Those that overlap or touch it are replaced by their union.
        let first = self.0.partition_point(|held| held.end < range.start);
        let last = self.0.partition_point(|held| held.start <= range.end);
        let (mut start, mut end) = (range.start, range.end);
        if first < last {
            start = start.min(self.0[first].start);
            end = end.max(self.0[last - 1].end);
        }
        self.0.splice(first..last, std::iter::once(start..end));
    }

    /// Takes every position of `range` out.
    pub fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let first = self.0.partition_point(|held| held.end <= range.start);
        let last = self.0.partition_point(|held| held.start < range.end);
        if first >= last {
            return;
        }
        let head = self.0[first].start..range.start;
        let tail = range.end..self.0[last - 1].end;
        self.0
            .splice(first..last, [head, tail].into_iter().filter(|rest| !rest.is_empty()));
    }

    /// Whether every position of `range` is in it.
    #[must_use]
    pub fn contains(&self, range: Range<u64>) -> bool {
        range.is_empty() || self.run_from(range.start) >= range.end
    }

    /// End of the run of present positions that begins at `start`; `start` itself if it is absent.
    #[must_use]
    pub fn run_from(&self, start: u64) -> u64 {
        let i = self.0.partition_point(|held| held.end <= start);
        match self.0.get(i) {
            Some(held) if held.start <= start => held.end,
            _ => start,
        }
    }

    /// The first run of absent positions inside `range`, if any.
    #[must_use]
    pub fn gap(&self, range: Range<u64>) -> Option<Range<u64>> {
        let start = self.run_from(range.start);
        if start >= range.end {
            return None;
        }
        let i = self.0.partition_point(|held| held.end <= start);
        let end = self.0.get(i).map_or(range.end, |next| next.start.min(range.end));
        Some(start..end)
    }
}

impl FromIterator<Range<u64>> for RangeSet {
    fn from_iter<T: IntoIterator<Item = Range<u64>>>(ranges: T) -> Self {
        let mut set = Self::new();
        ranges.into_iter().for_each(|range| set.insert(range));
        set
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// A set of single positions is the model.
        #[test]
        fn behaves_like_a_set_of_positions(steps in prop::collection::vec((any::<bool>(), 0u64..60, 0u64..20), 0..40)) {
            let (mut set, mut model) = (RangeSet::new(), BTreeSet::new());
            for (add, start, len) in steps {
                let range = start..start + len;
                if add { set.insert(range.clone()); model.extend(range) } else {
                    set.remove(range.clone());
                    range.for_each(|position| { model.remove(&position); });
                }
                prop_assert_eq!(set.len(), model.len() as u64);
                let expanded: BTreeSet<u64> = set.ranges().iter().cloned().flatten().collect();
                prop_assert_eq!(&expanded, &model);
                prop_assert!(set.ranges().windows(2).all(|pair| pair[0].end < pair[1].start));
                prop_assert!(set.ranges().iter().all(|range| !range.is_empty()));
                for start in 0..80 {
                    let run = (start..100).take_while(|position| model.contains(position)).count() as u64;
                    prop_assert_eq!(set.run_from(start), start + run);
                    let first = (start..80).find(|position| !model.contains(position));
                    prop_assert_eq!(set.gap(start..80).map(|gap| gap.start), first);
                    if let Some(gap) = set.gap(start..80) {
                        prop_assert!(gap.clone().all(|position| !model.contains(&position)));
                        prop_assert!(gap.end == 80 || model.contains(&gap.end));
                    }
                    prop_assert_eq!(set.contains(start..start + 3), (start..start + 3).all(|p| model.contains(&p)));
                }
            }
        }
    }
}
