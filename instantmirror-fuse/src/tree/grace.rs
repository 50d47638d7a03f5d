//! Finds what the current tree lacks in those that were current a while ago, as imhttpd does ([`grace`](instantmirror_core::grace)).
//!
//! Where HTTP looks a whole path up, the kernel comes with one name after the other; so a directory that only an older
//! snapshot has is found as well, and what is looked up below it is looked for in that snapshot first, then in those before it.

use std::sync::Arc;

use instantmirror_core::catalog::Resolution;
use instantmirror_core::view::View;
use instantmirror_core::{Name, RepoPath, Snapshot};

use super::{Place, Tree, failed, lock};
use crate::filesystem::{Errno, Found};

impl Tree {
    /// `name` in a directory whose snapshot lacks it.
    pub(super) fn find_in_grace(&self, place: &Place, name: &str) -> Result<Option<Found>, Errno> {
        let repository = &place.key.0;
        let Some(state) = self.catalogs().state(repository) else {
            return Ok(None);
        };
        let mut fallbacks = self.catalogs().fallbacks(repository);
        if state.current != Some(place.key.1) {
            // A reader that stays in its snapshot is shown nothing newer.
            let Some(own) = fallbacks.iter().position(|snapshot| snapshot.id == place.key.1) else {
                return Ok(None);
            };
            fallbacks.drain(..=own);
        }
        if fallbacks.is_empty() {
            return Ok(None);
        }
        let Ok(name) = Name::new(name) else { return Ok(None) };
        let Ok(path) = self.path_of(place)?.join(&name) else {
            return Ok(None);
        };
        for snapshot in &fallbacks {
            let found = self.found_path(place, snapshot, &path)?;
            if found.is_some() {
                let current = state.snapshot(&View::Current);
                let allowed = current.is_none_or(|current| self.allows(place, current, &path));
                return Ok(found.filter(|_| allowed));
            }
        }
        Ok(None)
    }

    /// Whether the rule of the repository lets grace find a path.
    fn allows(&self, place: &Place, current: &Snapshot, path: &RepoPath) -> bool {
        let catalog = self.catalog(current);
        let rule = self.catalogs().grace_rule(&place.key.0);
        let allowed = rule.allows(path, |path| {
            catalog
                .resolve(path)
                .map(|resolution| matches!(resolution, Resolution::Found(..)))
        });
        allowed.unwrap_or_else(|error| {
            failed(&error);
            false
        })
    }

    /// The entry at a path of a snapshot, numbered.
    fn found_path(&self, beside: &Place, snapshot: &Arc<Snapshot>, path: &RepoPath) -> Result<Option<Found>, Errno> {
        let catalog = self.catalog(snapshot);
        // Nothing is numbered on the way to what is not there.
        if !matches!(catalog.lookup(path), Ok(Some(_))) {
            return Ok(None);
        }
        let mut here = self.root_of(&beside.key.0, snapshot)?;
        let mut names = path.components().peekable();
        while let Some(name) = names.next() {
            let position = catalog
                .position(&here.directory, name)
                .map_err(|error| failed(&error))?;
            let Some((at, meta)) = position else { return Ok(None) };
            if names.peek().is_none() {
                return self.found(&here, at, &meta).map(Some);
            }
            let slot = lock(&self.slots).child(here.slot, at).ok_or(Errno::NOSPC)?;
            here = self.place(slot)?;
        }
        Ok(None)
    }
}
