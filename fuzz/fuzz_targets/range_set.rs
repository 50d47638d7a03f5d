//! A range set behaves like a set of single positions.
#![no_main]

use std::collections::BTreeSet;

use instantmirror_core::RangeSet;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let (mut set, mut model) = (RangeSet::new(), BTreeSet::new());
    for step in data.chunks_exact(3).take(64) {
        let range = u64::from(step[1])..u64::from(step[1]) + u64::from(step[2] % 64);
        if step[0] & 1 == 0 {
            set.insert(range.clone());
            model.extend(range.clone());
        } else {
            set.remove(range.clone());
            model.retain(|position| !range.contains(position));
        }
        assert_eq!(set.len(), model.len() as u64);
        assert!(set.ranges().iter().all(|held| !held.is_empty()));
        assert!(
            set.ranges().windows(2).all(|pair| pair[0].end < pair[1].start),
            "ranges that touch"
        );
        assert!(set.ranges().iter().cloned().flatten().eq(model.iter().copied()));
        assert_eq!(
            set.contains(range.clone()),
            range.clone().all(|position| model.contains(&position))
        );
        let run = (range.start..).take_while(|position| model.contains(position)).count() as u64;
        assert_eq!(set.run_from(range.start), range.start + run);
        let missing = range.clone().find(|position| !model.contains(position));
        assert_eq!(set.gap(range).map(|gap| gap.start), missing);
    }
});
