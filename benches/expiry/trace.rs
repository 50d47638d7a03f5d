//! Traces: what was asked for, and what the snapshots said about it meanwhile; as text, one event a line.
//!
//! `time_s object size [class]`, separated by white space; `#` begins a comment. *object* is any word, *size* is in
//! bytes. The classes `garbage`, `old` and `live` are no requests: from then on no live snapshot refers to the object,
//! only an old one, or a current one. Any other class is only a word. Times grow.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use instantmirror::core::expiry::Standing;

/// What happens to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// It is asked for.
    Request,
    /// The snapshots say something else about it.
    Standing(Standing),
}

/// One line of a trace.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Event {
    pub(crate) time_s: u32,
    pub(crate) object: u32,
    pub(crate) what: What,
}

/// Events, and the sizes of the objects in them.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    pub(crate) events: Vec<Event>,
    /// By object.
    pub(crate) sizes: Vec<u64>,
}

impl Trace {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut trace = Self::default();
        let mut names: HashMap<&str, u32> = HashMap::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_whitespace();
            let (Some(time), Some(name), Some(size)) = (words.next(), words.next(), words.next()) else {
                ensure!(
                    line.trim().is_empty(),
                    "line {}: `time_s object size [class]` is wanted",
                    number + 1
                );
                continue;
            };
            let wrong = || format!("line {}: time and size are numbers", number + 1);
            let size: u64 = size.parse().with_context(wrong)?;
            let time: f64 = time.parse().with_context(wrong)?;
            ensure!(
                (0.0..4e9).contains(&time),
                "line {}: a time is in seconds, from 0 on",
                number + 1
            );
            let object = *names.entry(name).or_insert_with(|| {
                trace.sizes.push(size);
                u32::try_from(trace.sizes.len() - 1).unwrap_or(u32::MAX)
            });
            let what = match words.next() {
                Some("garbage") => What::Standing(Standing::Garbage),
                Some("old") => What::Standing(Standing::Old),
                Some("live") => What::Standing(Standing::Live),
                _ => What::Request,
            };
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above")]
            let time_s = time as u32;
            ensure!(
                trace.events.last().is_none_or(|last| last.time_s <= time_s),
                "line {}: times must grow",
                number + 1
            );
            trace.events.push(Event { time_s, object, what });
        }
        Ok(trace)
    }

    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let mut text = String::new();
        for Event { time_s, object, what } in &self.events {
            let class = match what {
                What::Request => "",
                What::Standing(Standing::Garbage) => " garbage",
                What::Standing(Standing::Old) => " old",
                What::Standing(_) => " live",
            };
            writeln!(text, "{time_s} {object} {}{class}", self.size(*object))?;
        }
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    pub(crate) fn size(&self, object: u32) -> u64 {
        usize::try_from(object)
            .ok()
            .and_then(|at| self.sizes.get(at))
            .copied()
            .unwrap_or_default()
    }

    /// Requests, bytes asked for, objects asked for, bytes of those.
    pub(crate) fn totals(&self) -> (u64, u64, u64, u64) {
        let mut seen = vec![false; self.sizes.len()];
        let (mut requests, mut bytes, mut objects, mut footprint) = (0, 0, 0, 0);
        for event in self.events.iter().filter(|event| event.what == What::Request) {
            let size = self.size(event.object);
            requests += 1;
            bytes += size;
            let at = usize::try_from(event.object).unwrap_or_default();
            if !std::mem::replace(&mut seen[at], true) {
                objects += 1;
                footprint += size;
            }
        }
        (requests, bytes, objects, footprint)
    }
}
