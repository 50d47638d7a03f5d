//! Whether what a scan made agrees with the repository metadata in it, before anybody gets to see it.
//!
//! `repositories/NAME/checked` remembers the last tree that was found good. It says something of a catalog, which never
//! changes, so it needs to agree with no head: after a publish that was cut off, refused or [not
//! checked](super::PublishOptions::no_check) the next one compares with the last good tree, however old that is.

use std::path::PathBuf;

use instantmirror_core::{RepoName, Root};
use instantmirror_store::StoreError;
use instantmirror_store::disk::{read_file, write_atomically};
use instantmirror_store::metadata::{Known, check_stored};
use instantmirror_store::tree::SourceTree;

use super::writer::Writer;
use super::{Master, MasterError};
use crate::config::{CheckKind, ServerRepository};

/// Longest file that is read; a repository would need half a million metadata files.
const KNOWN_BYTES_MAX: u64 = 64 << 20;

fn path(repository: &RepoName) -> PathBuf {
    Master::repository_dir(repository).join("checked")
}

impl Master {
    /// Checks the metadata of a scanned tree as the configuration says.
    ///
    /// # Errors
    /// [`MasterError::Inconsistent`] with what is wrong, where that refuses a publish; what reading gave.
    pub(super) fn check_metadata(
        &self,
        repository: &ServerRepository,
        writer: &Writer,
        root: &Root,
        source: &SourceTree,
    ) -> Result<(), MasterError> {
        if repository.check == CheckKind::Off {
            return Ok(());
        }
        let name = &repository.name;
        let known = self.known(name)?;
        let source = writer.is_dry.then_some(source);
        let nodes = writer.snapshots.as_ref();
        let checked = check_stored(nodes, &root.meta(), &writer.objects, known.as_ref(), source)?;
        tracing::debug!(repository = %name, metadata = checked.found.len(), read_bytes = checked.read_bytes, "metadata checked");
        if !checked.problems.is_empty() {
            if repository.check == CheckKind::Warn {
                let is = if writer.is_dry {
                    "would be published"
                } else {
                    "published"
                };
                tracing::warn!(repository = %name, "{is} although its metadata does not agree with its files:{}", checked.problems);
                return Ok(());
            }
            return Err(MasterError::Inconsistent {
                repository: name.clone(),
                problems: checked.problems,
            });
        }
        if writer.is_dry {
            return Ok(());
        }
        let root = root.node;
        let found = checked.found;
        let now_known = Known { root, found };
        if known.as_ref() != Some(&now_known) {
            self.disk.create_dir_all(&Self::repository_dir(name))?;
            write_atomically(self.disk.as_ref(), &path(name), now_known.encode().as_bytes())?;
        }
        Ok(())
    }

    /// The last good tree; `None` if there was none or what is remembered is damaged, which costs a full check.
    fn known(&self, name: &RepoName) -> Result<Option<Known>, StoreError> {
        let content = match read_file(self.disk.as_ref(), &path(name), KNOWN_BYTES_MAX) {
            Err(error) if error.is_not_found() => return Ok(None),
            Err(StoreError::TooLarge { .. }) => return Ok(None),
            content => content?,
        };
        match Known::decode(&String::from_utf8_lossy(&content)) {
            Ok(known) => Ok(Some(known)),
            Err(error) => {
                tracing::warn!(repository = %name, "{}: {error}; everything is checked anew", path(name).display());
                Ok(None)
            }
        }
    }
}
