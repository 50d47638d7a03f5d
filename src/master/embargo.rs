//! What only staged snapshots have: the catalog nodes and objects that nobody but a registered node may get.
//!
//! Worked out whenever the set of staged snapshots changes, by one walk of the catalogs; a snapshot that is released
//! meanwhile costs only what is new in it. Without staged snapshots it costs nothing. What a publish takes in lies in the
//! store before its snapshot is staged; until then it is protected by hashes that nobody was told.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;

use instantmirror_core::catalog::{CatalogError, NodeSource, Reachable};
use instantmirror_core::{NodeId, ObjectId, RepoName, SnapshotId};
use instantmirror_store::garbage::Garbage;

/// Root nodes of some snapshots.
pub(super) type Roots = BTreeMap<(RepoName, SnapshotId), NodeId>;

/// What is hidden, for lookups.
#[derive(Debug, Default)]
pub(super) struct Hidden {
    pub(super) nodes: HashSet<NodeId>,
    pub(super) objects: HashSet<ObjectId>,
}

/// Keeps [`Hidden`] up with the heads.
#[derive(Default)]
pub(super) struct Embargo {
    staged: Roots,
    released: Roots,
    garbage: Option<Garbage<Arc<dyn NodeSource>>>,
    hidden: Arc<Hidden>,
}

impl fmt::Debug for Embargo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embargo")
            .field("staged", &self.staged)
            .field("released", &self.released)
            .finish_non_exhaustive()
    }
}

impl Embargo {
    /// What is hidden when these snapshots are staged, and those released. Blocks on the disk.
    ///
    /// # Errors
    /// [`CatalogError`] if a catalog cannot be read; ask again, and show nothing new until it works.
    pub(super) fn update(
        &mut self,
        store: &Arc<dyn NodeSource>,
        staged: Roots,
        released: Roots,
    ) -> Result<Arc<Hidden>, CatalogError> {
        if staged == self.staged && released == self.released {
            return Ok(Arc::clone(&self.hidden));
        }
        // Whatever fails below: the next call begins anew.
        let before = std::mem::take(self);
        let (garbage, hidden) = if staged.is_empty() {
            (None, Hidden::default())
        } else if let (Some(mut garbage), true) = (before.garbage, staged == before.staged) {
            // What an expired snapshot alone had stays public: that was no secret.
            let mut objects = before.hidden.objects.clone();
            for (record, root) in &released {
                if !before.released.contains_key(record) {
                    garbage.absolve(*root, &mut objects)?;
                }
            }
            let nodes = before.hidden.nodes.iter().filter(|node| !garbage.is_live(node));
            let nodes = nodes.copied().collect();
            (Some(garbage), Hidden { nodes, objects })
        } else {
            let (garbage, hidden) = walk(store, &staged, &released)?;
            (Some(garbage), hidden)
        };
        *self = Self {
            staged,
            released,
            garbage,
            hidden: Arc::new(hidden),
        };
        Ok(Arc::clone(&self.hidden))
    }
}

fn walk(
    store: &Arc<dyn NodeSource>,
    staged: &Roots,
    released: &Roots,
) -> Result<(Garbage<Arc<dyn NodeSource>>, Hidden), CatalogError> {
    let mut garbage = Garbage::mark(Arc::clone(store), released.values().copied())?;
    let mut walk = Reachable::new(Arc::clone(store), garbage.live_nodes().clone());
    staged.values().for_each(|root| walk.add_root(*root));
    let mut nodes = HashSet::new();
    for node in walk {
        nodes.insert(node?.id());
    }
    garbage.condemn(staged.values().copied());
    let mut objects = HashSet::new();
    for shard in 0..garbage.shards() {
        objects.extend(garbage.objects(shard)?);
    }
    Ok((garbage, Hidden { nodes, objects }))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{World, name};
    use super::super::{MasterPublication, NoProgress, PublishOptions, StageRule};
    use super::*;

    /// Writes content into a tree and stages it.
    fn stage(world: &World, repository: &str, content: &str) -> SnapshotId {
        std::fs::write(world.in_store(&format!("../{repository}/file")), content).unwrap();
        let options = PublishOptions {
            stage: Some(StageRule::default()),
            ..PublishOptions::default()
        };
        let master = &world.master;
        master.publish(&name(repository), &options, &NoProgress).unwrap();
        let head = master.published_head(&name(repository)).unwrap();
        head.snapshots.last().unwrap().id
    }

    #[tokio::test]
    async fn what_is_hidden_follows_what_is_staged_and_released() {
        let world = World::new();
        world.publish("a", "public");
        world.publish("b", "other");
        let shown = MasterPublication::new(world.master.clone()).await;
        assert!(shown.hidden().objects.is_empty() && shown.hidden().nodes.is_empty());
        let object = |content: &str| ObjectId::of(content.as_bytes());

        let first = stage(&world, "a", "secret");
        shown.refresh().await.unwrap();
        assert_eq!(shown.hidden().objects, [object("secret")].into());
        assert!(!shown.hidden().nodes.is_empty() && shown.staged(&name("a"), first).is_some());
        let second = stage(&world, "b", "another secret");
        shown.refresh().await.unwrap();
        assert_eq!(shown.hidden().objects, ["secret", "another secret"].map(object).into());

        // Somebody else's release has the same content: it is no secret any more, and the other one still is.
        world.publish("b", "secret");
        shown.refresh().await.unwrap();
        assert_eq!(shown.hidden().objects, [object("another secret")].into());

        world.master.withdraw(&name("b"), second).unwrap();
        world.master.release(&name("a"), first, false).unwrap();
        shown.refresh().await.unwrap();
        assert!(shown.hidden().objects.is_empty() && shown.hidden().nodes.is_empty());
        assert!(shown.staged(&name("a"), first).is_none() && shown.staged(&name("b"), second).is_none());
    }
}
