//! The directories by which a store and a cache are known, so that neither is taken for the other.

use std::path::Path;

/// Where digests lie in the store of a master.
pub(crate) const DIGESTS: &str = "digests";
/// Where the snapshot store of a master puts heads.
pub(crate) const HEADS: &str = "heads";
/// Where objects lie in the directory of a node.
pub(crate) const CACHE: &str = "cache";
/// Where catalogs, heads and the notes of a node lie in its directory.
pub(crate) const SNAPSHOTS: &str = "snapshots";

/// Whether a directory is the store of a master.
pub(crate) fn is_store(dir: &Path) -> bool {
    [HEADS, DIGESTS].iter().all(|part| dir.join(part).is_dir())
}

/// Whether a directory is the cache of a node.
pub(crate) fn is_cache(dir: &Path) -> bool {
    [CACHE, SNAPSHOTS].iter().all(|part| dir.join(part).is_dir())
}
