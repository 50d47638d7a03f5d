//! What of a changed configuration a running node takes up: the limits of its cache, and what it never keeps.

use instantmirror_core::traits::ObjectCache as _;

use super::Node;
use crate::config::NodeConfig;

impl Node {
    /// Takes up what a changed configuration says about `[cache]`. Limits hold at once for what comes; what is there and
    /// beyond them goes object by object in the background. What takes a restart is logged by its name. Must be called
    /// inside a tokio runtime.
    pub fn reload(&self, config: &NodeConfig) {
        let (held, new) = (&self.config.cache, &config.cache);
        let fixed = [
            ("[cache] dir", held.dir == new.dir),
            ("[cache] policy", held.policy == new.policy),
            ("[cache] verify", held.verify == new.verify),
            ("[cache] scrub_rate", held.scrub_rate == new.scrub_rate),
        ];
        for (name, _) in fixed.iter().filter(|(_, same)| !same) {
            tracing::warn!("{name} has changed, which takes a restart; it stays as it was");
        }
        self.engine.never_keep(new.never.clone());
        let limits = new.limits();
        if limits == self.cache.limits() {
            return;
        }
        let (bytes, objects, free) = (limits.max_bytes, limits.max_objects, limits.keep_free_bytes);
        tracing::info!(max_size = ?bytes, max_objects = ?objects, keep_free = free, "the cache has other limits now");
        self.cache.set_limits(limits);
        let cache = self.cache.clone();
        tokio::task::spawn_blocking(move || match cache.shrink() {
            Ok(()) => {
                let usage = cache.usage();
                tracing::info!(
                    objects = usage.objects,
                    bytes = usage.used_bytes + usage.side_bytes,
                    "the cache gave up what was beyond its limits, but for what is in use or tagged"
                );
            }
            Err(error) => tracing::error!(
                "the cache cannot give up what is beyond its limits: {error}; it is tried again when room is needed"
            ),
        });
    }
}
