//! Torrents that were taken over, on the disk: a node that starts while its master is away offers and seeds them as before.
//!
//! Invariant: what is read is believed no more than what a master says; an info dictionary that does not have its hash is as if
//! it were not there.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use instantmirror_core::RepoName;
use instantmirror_core::metainfo::InfoHash;
use instantmirror_store::StoreError;
use instantmirror_store::disk::{Disk, read_file, write_atomically};

use super::{INFO_BYTES_MAX, Infos};
use crate::torrent::TorrentList;

/// Beside catalogs and heads: a directory of each repository, with the list and the info dictionaries by their hashes.
const DIR: &str = "torrents";
const LIST: &str = "list.json";

/// What is kept of one repository's torrents.
#[derive(Debug, Clone)]
pub(super) struct KeptTorrents {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
}

impl KeptTorrents {
    pub(super) fn of(disk: &Arc<dyn Disk>, repository: &RepoName) -> Self {
        Self {
            disk: Arc::clone(disk),
            dir: Path::new(DIR).join(repository.as_str()),
        }
    }

    /// The list and its info dictionaries, as far as they are here; `None` if nothing of use is. Blocks.
    pub(super) fn load(&self) -> Option<(TorrentList, Infos)> {
        let read = |name: &str| read_file(self.disk.as_ref(), &self.dir.join(name), INFO_BYTES_MAX as u64).ok();
        let list: TorrentList = serde_json::from_slice(&read(LIST)?).ok()?;
        let replaced = list.replaced.iter().map(|replaced| &replaced.row);
        let infos = list.torrents.iter().chain(replaced).filter_map(|row| {
            let hash: InfoHash = row.info_hash.parse().ok()?;
            let name = hash.to_string();
            let info = read(&name)?;
            if InfoHash::of(&info) != hash {
                tracing::warn!(file = %self.dir.join(&name).display(), "damaged; it is asked of the master anew");
                let _ = self.disk.remove(&self.dir.join(&name));
                return None;
            }
            Some((hash, info.into()))
        });
        let infos = infos.collect();
        Some((list, infos))
    }

    /// Keeps a list and its info dictionaries instead of what was kept before. Blocks.
    pub(super) fn store(&self, list: &TorrentList, infos: &Infos) -> Result<(), StoreError> {
        self.disk.create_dir_all(&self.dir)?;
        let held = self.names()?;
        for (hash, info) in infos {
            let name = hash.to_string();
            if !held.contains(&name) {
                write_atomically(self.disk.as_ref(), &self.dir.join(name), info)?;
            }
        }
        // Last: what it names is there.
        let text = serde_json::to_vec(list).unwrap_or_default();
        write_atomically(self.disk.as_ref(), &self.dir.join(LIST), &text)?;
        let is_needed = |name: &str| name == LIST || name.parse().is_ok_and(|hash: InfoHash| infos.contains_key(&hash));
        for name in held.iter().filter(|name| !is_needed(name)) {
            self.disk.remove(&self.dir.join(name))?;
        }
        Ok(())
    }

    /// Keeps nothing any more. Blocks.
    pub(super) fn forget(&self) -> Result<(), StoreError> {
        match self.disk.remove(&self.dir.join(LIST)) {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    fn names(&self) -> Result<Vec<String>, StoreError> {
        let items = self.disk.list(&self.dir)?.into_iter();
        Ok(items.filter_map(|item| item.name.into_string().ok()).collect())
    }
}
