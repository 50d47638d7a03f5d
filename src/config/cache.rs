//! `[cache]` of a node.

use std::path::PathBuf;

use instantmirror_core::expiry::PolicyKind;
use instantmirror_core::rules::PathGlobs;
use instantmirror_store::cache::{CacheLimits, CacheOptions, VerifyWhen};
use serde::{Deserialize, Deserializer};

use super::{ByteRate, ByteSize};

/// `[cache]`: where objects and catalogs are kept, how many, and which go.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct CacheConfig {
    /// Its directory.
    pub dir: PathBuf,
    /// Most bytes of objects; never exceeded.
    pub max_size: ByteSize,
    /// Most objects.
    #[serde(default)]
    pub max_objects: Option<u64>,
    /// Free space on its file system that is left to others.
    #[serde(default)]
    pub keep_free: Option<ByteSize>,
    /// Which objects go when room is needed.
    #[serde(default)]
    pub policy: ExpiryKind,
    /// When what lies on the disk is verified.
    #[serde(default)]
    pub verify: VerifyKind,
    /// How fast a scrub reads.
    #[serde(default = "scrub_rate")]
    pub scrub_rate: ByteRate,
    /// Paths in repositories whose files are streamed to clients and not kept.
    #[serde(default, deserialize_with = "globs")]
    pub never: PathGlobs,
}

/// A disk of 10 TB in six days.
fn scrub_rate() -> ByteRate {
    ByteRate(20 << 20)
}

pub(super) fn globs<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathGlobs, D::Error> {
    PathGlobs::new(Vec::<String>::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}

/// Which objects go first, after those that no snapshot or only an old one refers to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ExpiryKind {
    /// What was not used again soon after it came.
    #[default]
    #[serde(rename = "s3-fifo")]
    S3Fifo,
    /// What was not used for longest.
    Lru,
    /// What has the fewest uses a byte.
    Gdsf,
    /// What has the fewest uses.
    Lfuda,
}

/// When objects on the disk are verified, beside those that a crash may have damaged: those always are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum VerifyKind {
    /// Before each is first served by this process.
    #[default]
    FirstUse,
    /// For every request.
    Always,
    /// By reading all of them again and again in the background.
    Scrub,
    /// Never: the file system does it.
    Filesystem,
}

impl CacheConfig {
    /// A directory and the most bytes of objects in it, and the default of everything else.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>, max_size: ByteSize) -> Self {
        Self {
            dir: dir.into(),
            max_size,
            max_objects: None,
            keep_free: None,
            policy: ExpiryKind::default(),
            verify: VerifyKind::default(),
            scrub_rate: scrub_rate(),
            never: PathGlobs::none(),
        }
    }

    /// The hard limits.
    #[must_use]
    pub fn limits(&self) -> CacheLimits {
        let mut limits = CacheLimits::bytes(self.max_size.0);
        limits.max_objects = self.max_objects;
        limits.keep_free_bytes = self.keep_free.map_or(0, |size| size.0);
        limits
    }

    /// How the cache is run.
    #[must_use]
    pub fn options(&self) -> CacheOptions {
        let policy = match self.policy {
            ExpiryKind::S3Fifo => PolicyKind::S3Fifo,
            ExpiryKind::Lru => PolicyKind::Lru,
            ExpiryKind::Gdsf => PolicyKind::Gdsf,
            ExpiryKind::Lfuda => PolicyKind::Lfuda,
        };
        let verify = match self.verify {
            VerifyKind::FirstUse => VerifyWhen::FirstUse,
            VerifyKind::Always => VerifyWhen::Always,
            VerifyKind::Scrub | VerifyKind::Filesystem => VerifyWhen::Doubtful,
        };
        let mut options = CacheOptions::default();
        options.limits = self.limits();
        options.verify = verify;
        options.policy = policy;
        options
    }

    pub(super) fn check(&self) -> Result<(), String> {
        if self.max_size.0 == 0 || self.max_objects == Some(0) {
            return Err(
                "[cache] max_size and max_objects must be more than 0; to keep nothing, say never = [\"*\"]".to_owned(),
            );
        }
        self.check_scrubbing()
    }

    pub(crate) fn check_scrubbing(&self) -> Result<(), String> {
        if self.verify == VerifyKind::Scrub && self.scrub_rate.0 < 1 << 10 {
            return Err("[cache] scrub_rate is too small to come to an end: at least \"1 KiB/s\"".to_owned());
        }
        Ok(())
    }
}
