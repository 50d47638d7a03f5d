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
use crate::config::{CheckKind, ServerConfig, ServerRepository};

/// Longest file that is read; a repository would need half a million metadata files.
const KNOWN_BYTES_MAX: u64 = 64 << 20;

fn path(repository: &RepoName) -> PathBuf {
    Master::repository_dir(repository).join("checked")
}

/// Says which repositories nobody checks although nobody said so.
pub(super) fn tell_unchecked(config: &ServerConfig) {
    let unchecked = config.repositories.iter();
    let unchecked = unchecked.filter(|repository| repository.check == CheckKind::NotCompiled);
    let names: Vec<&str> = unchecked.map(|repository| repository.name.as_str()).collect();
    if !names.is_empty() {
        tracing::warn!(
            repositories = names.join(", "),
            "trees are published without a look at the repository metadata in them: this program was built without the feature \
             `metadata-check`; say check = \"off\" if that is meant"
        );
    }
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
        if !repository.check.looks() {
            return Ok(());
        }
        let name = &repository.name;
        let known = self.known(name)?;
        let source = writer.is_dry.then_some(source);
        let nodes = writer.catalogs.nodes();
        let checked = check_stored(&nodes, &root.meta(), writer.objects.as_ref(), known.as_ref(), source)?;
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
            self.notes().create_dir_all(&Self::repository_dir(name))?;
            write_atomically(self.notes(), &path(name), now_known.encode().as_bytes())?;
        }
        Ok(())
    }

    /// The last good tree; `None` if there was none or what is remembered is damaged, which costs a full check.
    fn known(&self, name: &RepoName) -> Result<Option<Known>, StoreError> {
        let content = match read_file(self.notes(), &path(name), KNOWN_BYTES_MAX) {
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_log_names_what_nobody_checks_unless_the_file_says_so() {
        let repository = |name: &str| format!("[[repository]]\nname = \"{name}\"\nsource = \"/x\"\ncheck = \"off\"\n");
        let text = format!("[store]\ndir = \"/s\"\n{}{}", repository("one"), repository("two"));
        let mut config = ServerConfig::parse(Path::new("imserver.toml"), &text).unwrap();
        let log = tempfile::NamedTempFile::new().unwrap();
        let file = log.reopen().unwrap();
        let lines = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || file.try_clone().unwrap());
        let text = tracing::subscriber::with_default(lines.finish(), || {
            tell_unchecked(&config);
            config.repositories[1].check = CheckKind::NotCompiled;
            tell_unchecked(&config);
            std::fs::read_to_string(log.path()).unwrap()
        });
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains("WARN") && text.contains("`metadata-check`"), "{text}");
        assert!(text.trim_end().ends_with("repositories=\"two\""), "{text}");
    }
}
