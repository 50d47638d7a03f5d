//! Sections about the life of snapshots: how long they stay, on master and node.

use std::time::Duration;

use instantmirror_core::grace::GRACE_DEFAULT;
use instantmirror_core::retention::RetentionPolicy;
use instantmirror_core::rules::PathGlobs;
use serde::Deserialize;

use super::cache::globs;
use super::{ByteSize, Report, TimeSpan};

/// `[retention]`: which snapshots of a master stay. Without any rule all do.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct RetentionConfig {
    /// The newest so many stay.
    pub keep_last: u32,
    /// Everything released within this time stays.
    pub keep_within: Option<TimeSpan>,
    /// The newest of each of the last so many hours that have a snapshot stays.
    pub keep_hourly: u32,
    /// Likewise days, in UTC.
    pub keep_daily: u32,
    /// Likewise weeks, from Monday on.
    pub keep_weekly: u32,
    /// Likewise months.
    pub keep_monthly: u32,
    /// Likewise years.
    pub keep_yearly: u32,
    /// The oldest ones go until the distinct content of the rest fits in.
    pub max_bytes: Option<ByteSize>,
    /// Data is deleted so long after its last snapshot went: for those who still read it.
    pub delete_after: TimeSpan,
}

impl Default for RetentionConfig {
    fn default() -> Self {
        Self {
            keep_last: 0,
            keep_within: None,
            keep_hourly: 0,
            keep_daily: 0,
            keep_weekly: 0,
            keep_monthly: 0,
            keep_yearly: 0,
            max_bytes: None,
            delete_after: TimeSpan(Duration::from_secs(3600)),
        }
    }
}

/// Notes counts of 0 that the file states: they are no rule, though they read like one that keeps nothing.
pub(super) fn note_zeros(section: &str, keys: &[&str], report: &mut Report<'_>) {
    for key in keys {
        let place = format!("{section}.{key}");
        if report.stated(&place).as_deref() == Some("0") {
            report.note(&place, format!("{key} = 0 is the same as no {key}: it lets nothing go"));
        }
    }
}

impl RetentionConfig {
    pub(super) fn check(&self, section: &str, report: &mut Report<'_>) {
        if let Err(text) = self.check_max_bytes() {
            report.refuse(&format!("{section}.max_bytes"), format!("retention: {text}"));
        }
        let counts = [
            "keep_last",
            "keep_hourly",
            "keep_daily",
            "keep_weekly",
            "keep_monthly",
            "keep_yearly",
        ];
        note_zeros(section, &counts, report);
    }

    /// Whether `max_bytes` is a bound that leaves something.
    pub(crate) fn check_max_bytes(&self) -> Result<(), &'static str> {
        match self.max_bytes {
            Some(ByteSize(0)) => Err(
                "max_bytes = 0 would let everything but the current snapshot go with each publish; to keep little, say \
                 keep_last = 1, to keep all, leave it out",
            ),
            _ => Ok(()),
        }
    }

    /// The rules as a policy.
    #[must_use]
    pub fn policy(&self, grace: TimeSpan) -> RetentionPolicy {
        let mut policy = RetentionPolicy::default();
        policy.keep_last = self.keep_last;
        policy.keep_within = self.keep_within.map(|within| within.0);
        policy.keep_hourly = self.keep_hourly;
        policy.keep_daily = self.keep_daily;
        policy.keep_weekly = self.keep_weekly;
        policy.keep_monthly = self.keep_monthly;
        policy.keep_yearly = self.keep_yearly;
        policy.max_bytes = self.max_bytes.map(|size| size.0);
        policy.grace = grace.0;
        policy
    }
}

/// `[snapshots]` of a master.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct MasterSnapshotsConfig {
    /// For so long after another one replaced it a snapshot stays, and its files are still found under `current`.
    pub grace: TimeSpan,
    /// Paths that are never found so, here and on nodes, besides optional files beside what they belong to
    /// ([`companion`](instantmirror_core::companion)).
    #[serde(deserialize_with = "globs")]
    pub grace_never: PathGlobs,
    /// Optional files are found so too.
    pub grace_optional: bool,
}

impl Default for MasterSnapshotsConfig {
    fn default() -> Self {
        Self {
            grace: TimeSpan(GRACE_DEFAULT),
            grace_never: PathGlobs::none(),
            grace_optional: false,
        }
    }
}

/// `[snapshots]` of a node: which of those that the master has are kept here. Without a rule all are.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct NodeSnapshotsConfig {
    /// The newest so many.
    pub keep_last: u32,
    /// Everything released within this time.
    pub keep_within: Option<TimeSpan>,
    /// For so long after another one replaced it a snapshot stays, if the master has it, and its files are still found
    /// under `current`.
    pub grace: TimeSpan,
    /// Paths that are never found so, besides optional files beside what they belong to
    /// ([`companion`](instantmirror_core::companion)).
    #[serde(deserialize_with = "globs")]
    pub grace_never: PathGlobs,
    /// Optional files are found so too.
    pub grace_optional: bool,
}

impl Default for NodeSnapshotsConfig {
    fn default() -> Self {
        Self {
            keep_last: 0,
            keep_within: None,
            grace: TimeSpan(GRACE_DEFAULT),
            grace_never: PathGlobs::none(),
            grace_optional: false,
        }
    }
}

impl NodeSnapshotsConfig {
    /// The rules as a policy.
    #[must_use]
    pub fn policy(&self) -> RetentionPolicy {
        let mut policy = RetentionPolicy::default();
        policy.keep_last = self.keep_last;
        policy.keep_within = self.keep_within.map(|within| within.0);
        policy.grace = self.grace.0;
        policy
    }
}
