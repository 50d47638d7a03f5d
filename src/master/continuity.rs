//! Whether parts that were given to a builder belong to what is published already: the key to the heads, the storage to the
//! snapshots.
//!
//! Decision: a publish takes unchanged files from the snapshot before and does not read them again. A master whose storage does not
//! have their objects would sign snapshots that nobody can read, so a few of them are looked up while the master is built. One
//! missing object is a loss, which a publish of that file mends; when most of those looked for are missing, the storage is another one.

use instantmirror_core::catalog::{Catalog, CatalogError};
use instantmirror_core::entry::Kind;
use instantmirror_core::{ObjectId, RepoName, Snapshot, StoreError};

use super::parts::walker;
use super::{Master, MasterError};
use crate::build_error::BuildError;

/// Objects of each current snapshot that are looked up.
const LOOKED_UP: usize = 16;

/// Refuses a key that has signed none of the heads.
///
/// # Errors
/// [`BuildError::Invalid`]; whatever else is wrong with heads is told when they are used.
pub(super) fn check_key(master: &Master) -> Result<(), MasterError> {
    let mut refused = None;
    for repository in &master.config().repositories {
        match master.head(&repository.name) {
            Ok(Some(_)) => return Ok(()),
            Err(MasterError::Snapshots(StoreError::Damaged(text))) => refused = Some(text),
            Ok(None) | Err(_) => {}
        }
    }
    let Some(text) = refused else {
        return Ok(());
    };
    let advice = format!(
        "it has signed none of the heads that are here ({text}); give the key with which they were published, or begin anew in \
         an empty directory or store"
    );
    Err(BuildError::invalid("key", master.public_key(), advice).into())
}

/// Refuses a storage that does not have the objects of what is current. Blocks on the storage.
///
/// # Errors
/// [`BuildError::Invalid`]; that the storage or a catalog cannot be read is told when it is used.
pub(super) fn check_objects(master: &Master) -> Result<(), MasterError> {
    for repository in &master.config().repositories {
        let Some(snapshot) = current(master, &repository.name) else {
            continue;
        };
        let (mut found, mut missing) = (0, 0);
        for object in some_objects(master, &snapshot).unwrap_or_default() {
            match master.parts.objects.size(&object) {
                Ok(Some(_)) => found += 1,
                Ok(None) => missing += 1,
                Err(error) => {
                    tracing::warn!(%error, "cannot find out whether the storage has the objects of what is published");
                    return Ok(());
                }
            }
        }
        if missing > found {
            let advice = format!(
                "of {} objects of its current snapshot {} that were looked for, the storage lacks {missing}, and a publish does not \
                 read unchanged files again; give the storage with which it was published, copy its objects, or begin anew with \
                 an empty .dir (and an empty store of snapshots, if one is given)",
                found + missing,
                snapshot.id
            );
            return Err(BuildError::invalid("objects", format!("repository {}", repository.name), advice).into());
        }
    }
    Ok(())
}

fn current(master: &Master, repository: &RepoName) -> Option<Snapshot> {
    let id = master.head(repository).ok()??.head().current?;
    master.snapshots().snapshot(repository, id).ok()?
}

/// The objects of the first files of a snapshot; as few catalog nodes are read for them as may be.
fn some_objects(master: &Master, snapshot: &Snapshot) -> Result<Vec<ObjectId>, CatalogError> {
    let root = snapshot.root.meta();
    let Kind::Directory(top) = root.kind.clone() else {
        return Ok(Vec::new());
    };
    let catalog = Catalog::new(walker(&master.snapshots()), root);
    let mut objects = Vec::new();
    let mut open = vec![catalog.list(&top, None)];
    while let Some(entries) = open.last_mut().filter(|_| objects.len() < LOOKED_UP) {
        match entries.next().transpose()?.map(|entry| entry.meta.kind) {
            Some(Kind::File(file)) => objects.push(file.object),
            Some(Kind::Directory(directory)) => open.push(catalog.list(&directory, None)),
            Some(Kind::Symlink(_)) => {}
            None => _ = open.pop(),
        }
    }
    Ok(objects)
}
