//! A configuration that has changed while the node runs: what is taken up at once, and what takes a restart.

use std::sync::Arc;
use std::time::Duration;

use instantmirror_core::traits::Quota;

use super::Node;
use super::parts::NodeCache;
use crate::config::NodeConfig;
use crate::reload::Reloaded;

/// What is in use is looked at again after this time.
const SHRINK_PAUSE: Duration = Duration::from_secs(1);

impl Node {
    /// Takes up what a changed configuration says. Limits hold at once for what comes; what the cache holds beyond them
    /// goes object by object in the background; transfers that run keep their places. Must be called inside a tokio
    /// runtime.
    pub fn reload(&self, config: NodeConfig) -> Reloaded {
        let config = Arc::new(config);
        let held = Arc::clone(&self.ahead.config.borrow());
        let mut reloaded = Reloaded {
            changed: Vec::new(),
            refused: self.refused(&config),
        };
        let mut taken = |name: &str, same: bool| {
            if !same {
                reloaded.changed.push(name.to_owned());
            }
        };
        taken("[cache] never", held.cache.never == config.cache.never);
        let has_quota = self.cache.quota().is_some();
        taken(
            "[cache] limits",
            !has_quota || held.cache.limits() == config.cache.limits(),
        );
        taken("[preseed]", held.preseed == config.preseed);
        taken("[fetch]", held.fetch == config.fetch);
        taken("[peers] preferred", held.peers.preferred == config.peers.preferred);
        taken("[peers] limits", held.peers.has_limits_of(&config.peers));
        if let Some(swarming) = &self.swarming {
            let mut limits = config.peers.limits();
            // Whom to deal with takes a restart, for all kinds of sources alike.
            (limits.policy.allow, limits.policy.deny) =
                (self.config.peers.allow.clone(), self.config.peers.deny.clone());
            swarming.peering.swarms.set_limits(limits);
        }
        for repository in &config.repositories {
            let before = held.repositories.iter().find(|one| one.name == repository.name);
            let Some(before) = before else { continue };
            let name = |key: &str| format!("repository '{}' {key}", repository.name);
            taken(&name("preseed"), before.preseed == repository.preseed);
            taken(&name("mounts"), before.mounts == repository.mounts);
        }
        self.engine.never_keep(config.cache.never.clone());
        self.engine.set_limits(config.fetch_limits());
        self.take_up_limits(&config);
        // Last: who fetches ahead begins anew with it at once, and finds the new limits.
        self.ahead.config.send_replace(config);
        reloaded
    }

    /// What differs from what the node was started with and cannot change while it runs.
    fn refused(&self, new: &NodeConfig) -> Vec<String> {
        let held = &self.config;
        let has_quota = self.cache.quota().is_some();
        let fixed = [
            ("[cache] limits", has_quota || held.cache.limits() == new.cache.limits()),
            ("[cache] dir", held.cache.dir == new.cache.dir),
            ("[cache] policy", held.cache.policy == new.cache.policy),
            ("[cache] verify", held.cache.verify == new.cache.verify),
            ("[cache] scrub_rate", held.cache.scrub_rate == new.cache.scrub_rate),
            ("[snapshots]", held.snapshots == new.snapshots),
            ("[peers] allow", held.peers.allow == new.peers.allow),
            ("[peers] deny", held.peers.deny == new.peers.deny),
            ("[outgoing]", held.outgoing == new.outgoing),
            ("[control]", held.control == new.control),
            ("[log]", held.log == new.log),
        ];
        let fixed = fixed.into_iter().chain(held.peers.fixed(&new.peers));
        let refused = fixed.filter(|(_, same)| !same);
        let mut refused: Vec<String> = refused.map(|(name, _)| name.to_owned()).collect();
        for repository in &new.repositories {
            let name = |key: &str| format!("repository '{}'{key}", repository.name);
            let Some(before) = held.repositories.iter().find(|one| one.name == repository.name) else {
                refused.push(name(", which is new,"));
                continue;
            };
            let fixed = [
                (" master", before.master == repository.master),
                (" outgoing", before.outgoing == repository.outgoing),
                (" trust", before.trust == repository.trust),
                (" token_file", before.token_file == repository.token_file),
            ];
            refused.extend(fixed.iter().filter(|(_, same)| !same).map(|(key, _)| name(key)));
        }
        let is_gone = |name| !new.repositories.iter().any(|one| one.name == name);
        let gone = held.repositories.iter().filter(|one| is_gone(one.name.clone()));
        refused.extend(gone.map(|one| format!("repository '{}', which is gone,", one.name)));
        refused
    }

    fn take_up_limits(&self, config: &NodeConfig) {
        let limits = config.cache.limits();
        let Some(quota) = self.cache.quota().filter(|quota| quota.limits() != limits) else {
            return;
        };
        let (bytes, objects, free) = (limits.max_bytes, limits.max_objects, limits.keep_free_bytes);
        tracing::info!(max_size = ?bytes, max_objects = ?objects, keep_free = free, "the cache has other limits now");
        quota.set_limits(limits);
        tokio::spawn(shrink(self.cache.clone()));
    }
}

/// Until what is there is within the limits: what is in use is let go of sooner or later.
async fn shrink(cache: NodeCache) {
    let before = cache.usage();
    loop {
        let step = cache.clone();
        let shrunk = tokio::task::spawn_blocking(move || step.quota().map_or(Ok(true), Quota::shrink)).await;
        match shrunk {
            Ok(Ok(true)) => break,
            Ok(Ok(false)) => {}
            Ok(Err(error)) => {
                tracing::error!("the cache cannot give up what is beyond its limits: {error}; it is tried again");
            }
            Err(error) => return tracing::error!("the cache cannot be made smaller: {error}"),
        }
        tokio::time::sleep(SHRINK_PAUSE).await;
    }
    let after = cache.usage();
    let objects = after.evicted - before.evicted.min(after.evicted);
    let bytes = before.used_bytes.saturating_sub(after.used_bytes);
    if objects == 0 {
        tracing::info!("the cache is within its limits; nothing was evicted");
    } else {
        tracing::info!(objects, bytes, "the cache evicted objects that were beyond its limits");
    }
}
