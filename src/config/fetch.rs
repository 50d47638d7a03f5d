//! What a node fetches ahead, and how much it fetches at a time: `[preseed]`, `[fetch]`.

use std::collections::BTreeMap;

use instantmirror_core::preseed::PreseedRules;
use instantmirror_core::rules::{GlobError, PathGlobs};
use instantmirror_core::scheduler::SchedulerLimits;
use instantmirror_core::traits::Class;
use instantmirror_swarm::FetchLimits;
use instantmirror_swarm::fetch::BATCHED_OBJECT_BYTES_MAX;
use serde::{Deserialize, Deserializer};

use super::{ByteRate, ByteSize, DayHours};

/// `[preseed]`: what is fetched before anybody asks for it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct PreseedConfig {
    /// Globs of paths that are fetched ahead, in this order.
    #[serde(deserialize_with = "globs")]
    pub first: Vec<String>,
    /// Globs of paths that never are.
    #[serde(deserialize_with = "globs")]
    pub never: Vec<String>,
    /// After `first`: what the master advises.
    pub suggested: bool,
    /// After that: what is new in directories that are read much.
    pub popular: bool,
    /// After that: everything else, as long as the cache has room.
    pub rest: bool,
    /// Parts of the day in which anything is fetched ahead, in local time; without any, always.
    pub hours: Vec<DayHours>,
    /// Most bytes per second for all that nobody waits for.
    pub max_rate: Option<ByteRate>,
    /// Most bytes that are fetched ahead in 24 hours.
    pub budget: Option<ByteSize>,
}

/// `preseed = {}` of one repository, instead of the rules of `[preseed]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct RulesConfig {
    /// As [`PreseedConfig::first`].
    #[serde(deserialize_with = "globs")]
    pub first: Vec<String>,
    /// As [`PreseedConfig::never`].
    #[serde(deserialize_with = "globs")]
    pub never: Vec<String>,
    /// As [`PreseedConfig::suggested`].
    pub suggested: bool,
    /// As [`PreseedConfig::popular`].
    pub popular: bool,
    /// As [`PreseedConfig::rest`].
    pub rest: bool,
}

/// Globs that are good, as they were written.
pub(super) fn globs<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let globs = Vec::<String>::deserialize(deserializer)?;
    PathGlobs::new(globs.clone()).map_err(serde::de::Error::custom)?;
    Ok(globs)
}

impl PreseedConfig {
    /// The rules alone.
    #[must_use]
    pub fn rules(&self) -> RulesConfig {
        let Self {
            first,
            never,
            suggested,
            popular,
            rest,
            ..
        } = self.clone();
        RulesConfig {
            first,
            never,
            suggested,
            popular,
            rest,
        }
    }
}

impl RulesConfig {
    /// The rules, together with what the master advises. Advice that is no glob is left out.
    ///
    /// # Errors
    /// [`GlobError`], which cannot be where the configuration was read from a file.
    pub fn rules(&self, advice: &[String]) -> Result<PreseedRules, GlobError> {
        let rules = PreseedRules::new(self.first.iter().cloned(), self.never.iter().cloned())?;
        let usable = advice.iter().filter(|glob| PathGlobs::new([glob.as_str()]).is_ok());
        let advice = usable.filter(|_| self.suggested).cloned();
        Ok(rules
            .with_suggested(advice)?
            .with_popular(self.popular)
            .with_rest(self.rest))
    }
}

/// `[fetch]`: how much is fetched at a time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct FetchConfig {
    /// Most bytes per second, all together.
    pub max_rate: Option<ByteRate>,
    /// Most transfers at a time that nobody waits for.
    pub background: Option<usize>,
    /// Files up to this size are fetched many in one request; at most 512 KiB.
    pub batched: Option<ByteSize>,
    /// Whether what nobody waits for asks for no more at a time than fits on the line to a source; so it is unless told
    /// otherwise.
    pub yields: Option<bool>,
    /// Limits for each source.
    pub source: SourceConfig,
    /// Limits of classes, by their names.
    pub class: BTreeMap<ClassName, ClassConfig>,
}

/// `[fetch.source]`: limits for each master or peer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct SourceConfig {
    /// Most bytes per second from one.
    pub max_rate: Option<ByteRate>,
    /// Most transfers at a time from one, at least 2.
    pub max_running: Option<usize>,
}

/// `[fetch.class.NAME]`: limits of one class.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct ClassConfig {
    /// Most bytes per second.
    pub max_rate: Option<ByteRate>,
    /// Most transfers at a time.
    pub max_running: Option<usize>,
}

/// The name of a [`Class`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClassName(pub Class);

impl<'de> Deserialize<'de> for ClassName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        let found = Class::ALL.into_iter().find(|class| class.name() == name);
        found.map(Self).ok_or_else(|| {
            let names = Class::ALL.map(Class::name).join(", ");
            serde::de::Error::custom(format!("there is no class '{name}'; there are {names}"))
        })
    }
}

impl SourceConfig {
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.max_running.is_some_and(|running| running < 2) {
            return Err("[fetch.source] max_running is less than 2: one is kept for what clients wait for".to_owned());
        }
        check_rate("[fetch.source] max_rate", self.max_rate)
    }
}

impl ClassConfig {
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.max_running == Some(0) {
            return Err("[fetch.class] max_running is 0: nothing would ever be fetched".to_owned());
        }
        check_rate("[fetch.class] max_rate", self.max_rate)
    }
}

/// No text of a file gives such a rate; a number in code does.
fn check_rate(key: &str, rate: Option<ByteRate>) -> Result<(), String> {
    match rate {
        Some(ByteRate(0)) => Err(format!("{key} is 0: nothing would come; leave it out for no limit")),
        _ => Ok(()),
    }
}

impl FetchConfig {
    pub(super) fn check(&self) -> Result<(), String> {
        self.source.check()?;
        self.class.values().try_for_each(ClassConfig::check)?;
        self.check_own()
    }

    /// Checks all but its sections.
    pub(crate) fn check_own(&self) -> Result<(), String> {
        check_rate("[fetch] max_rate", self.max_rate)?;
        let most = ByteSize(BATCHED_OBJECT_BYTES_MAX);
        if self.batched.is_some_and(|size| size > most) {
            return Err(format!(
                "[fetch] batched is more than {most}: larger files gain nothing by it"
            ));
        }
        match self.background {
            Some(0) => Err("[fetch] background is 0: nothing would ever be fetched".to_owned()),
            _ => Ok(()),
        }
    }

    /// The same for the fetch engine, with the rate of `[preseed]` and the labels of preferred sources.
    #[must_use]
    pub fn limits(&self, preseed: &PreseedConfig, preferred: Vec<String>) -> FetchLimits {
        let mut scheduler = SchedulerLimits::default();
        if let Some(background) = self.background {
            scheduler.background_running_max = background;
        }
        let mut class_rates = [None; Class::ALL.len()];
        for (ClassName(class), limits) in &self.class {
            class_rates[class.index()] = limits.max_rate.map(|rate| rate.0);
            if let Some(running) = limits.max_running {
                scheduler.class_running_max[class.index()] = running;
            }
        }
        let mut limits = FetchLimits::default();
        limits.scheduler = scheduler;
        limits.rate = self.max_rate.map(|rate| rate.0);
        limits.background_rate = preseed.max_rate.map(|rate| rate.0);
        limits.class_rates = class_rates;
        limits.source_rate = self.source.max_rate.map(|rate| rate.0);
        limits.source_running_max = self.source.max_running;
        limits.batched_bytes_max = self.batched.map(|size| size.0);
        limits.yields = self.yields.unwrap_or(true);
        limits.preferred = preferred;
        limits
    }
}
