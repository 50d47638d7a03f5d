//! The master: publishes source trees as signed snapshots and serves them.
//!
//! [`Master`] is the store with its key and its repositories. Publishing ([`Master::publish`]) and serving
//! ([`Catalogs`](instantmirror_core::traits::Catalogs) through [`MasterPublication`]) may go on in one
//! process or in several: a publisher holds the store's writer lock, readers never wait for it and notice a new head
//! by themselves.

mod builder;
mod clean_up;
mod consistency;
mod continuity;
mod defaults;
mod embargo;
mod expired;
mod gate;
mod given;
mod hints;
mod history;
mod key;
mod mirrors;
mod nodes;
mod parts;
mod plan;
mod publication;
mod publish;
mod reload;
mod repository;
mod retention;
mod ring;
mod routes;
mod runtime;
mod serve;
mod staging;
mod swarm;
mod tags;
#[cfg(test)]
mod tests;
mod torrents;
mod verified;
mod watch;
mod withdrawn;
mod writer;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use instantmirror_core::catalog::{Differences, NodeSource};
use instantmirror_core::traits::{Objects, SnapshotStore};
use instantmirror_core::{
    CacheError, HeadError, KeysError, NodeName, ObjectId, PublicKey, RepoName, SignedHead, Snapshot, SnapshotId,
    TagName,
};
use instantmirror_store::StoreError;
use instantmirror_store::disk::Disk;
use instantmirror_store::metadata::{MetadataError, Problems};
use tokio::sync::watch::Sender;

use crate::build_error::BuildError;
use crate::config::{ServerConfig, ServerRepository};
use crate::export::{ExportError, ExportFormat, export};
use crate::progress::Progress;
use parts::StorageParts;

pub use builder::MasterBuilder;
pub use clean_up::{CleanUpOptions, CleanedUp};
pub(crate) use defaults::check_key;
pub use hints::{HintError, Hints};
pub use history::{HistoryError, Removal, RemoveOptions, Rollback};
pub use key::{KeyError, generate_key, load_key, store_key};
pub use mirrors::{MirrorRepository, MirrorStatus, MirrorsStatus, StagedAt};
pub use plan::{PlannedOutcome, PublishPlan};
pub use publication::MasterPublication;
pub use publish::{NoProgress, PublishOptions, PublishProgress, Published, PublishedSnapshot, StageRule};
pub use reload::MasterReloader;
pub use repository::Repository;
pub use ring::MasterKey;
pub(crate) use routes::MIRRORS_PATH;
pub use routes::routes;
pub use serve::{MasterServer, MasterStatus, RepositoryStatus};
pub use tags::Tagged;

/// Why the master could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MasterError {
    /// Threads for what nobody waits for.
    #[error("cannot start threads: {0}")]
    Threads(#[source] std::io::Error),
    /// The settings of its builder.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The store or the source tree.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Catalogs, records or heads in the store.
    #[error(transparent)]
    Snapshots(#[from] instantmirror_core::StoreError),
    /// A catalog in the store.
    #[error(transparent)]
    Catalog(instantmirror_core::catalog::CatalogError),
    /// The counts of what refers to what.
    #[error(transparent)]
    References(#[from] instantmirror_store::references::ReferenceError),
    /// Objects in the store.
    #[error(transparent)]
    Objects(#[from] CacheError),
    /// A head in the store that this master's key has not signed, or that cannot be signed.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// The directory of the store is something else.
    #[error("{} is the cache of a node: give the store a directory of its own in [store] dir", dir.display())]
    IsCache {
        /// The directory.
        dir: PathBuf,
    },
    /// The signing key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The sockets for peers.
    #[error(transparent)]
    Swarm(#[from] crate::peering::SwarmError),
    /// Key lists that cannot be used or signed.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The lists name other keys than those that are here.
    #[error("no key that counts for nodes is here; bring its file back from a backup (`imserver key list` names them)")]
    NoKeySigns,
    /// A key that is not in use.
    #[error("{key} is not in use; in use are: {known}")]
    UnknownKey {
        /// The key.
        key: Box<PublicKey>,
        /// Those there are.
        known: String,
    },
    /// The key was given to the builder, which keeps no other one.
    #[error(
        "the key of this master was given to its builder; only keys in files can be changed (.key_file, or .dir alone)"
    )]
    GivenKey,
    /// Objects that these notes do not know may be of another run.
    #[error(
        "orphans cannot be told from objects of other runs: this master keeps its notes in memory, and its objects in a storage that \
         was given to it; build it with .dir, or clean up without orphans"
    )]
    OrphansUnknown,
    /// Without the last key nothing could be signed.
    #[error("this is the only key; make the next one first: `imserver key rotate`")]
    LastKey,
    /// More keys at a time than nodes accept.
    #[error(
        "there are {} keys in use, and no more can be: `imserver key retire` the oldest first",
        instantmirror_core::keys::KEYS_MAX
    )]
    TooManyKeys,
    /// A repository that the configuration does not name.
    #[error("there is no repository '{name}'; configured are: {known}")]
    UnknownRepository {
        /// The name asked for.
        name: RepoName,
        /// The names there are.
        known: String,
    },
    /// A snapshot that does not exist.
    #[error("repository '{repository}' has no snapshot {snapshot}; {hint} (`imserver snapshot list` shows all)")]
    UnknownSnapshot {
        /// The repository.
        repository: RepoName,
        /// The snapshot asked for.
        snapshot: SnapshotId,
        /// The one that was probably meant, or those there are.
        hint: String,
    },
    /// A tag that does not exist.
    #[error("repository '{repository}' has no tag '{tag}'; {hint}")]
    UnknownTag {
        /// The repository.
        repository: RepoName,
        /// The tag asked for.
        tag: TagName,
        /// The one that was probably meant, or those there are.
        hint: String,
    },
    /// Going back, or removing a snapshot.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// A snapshot that everybody may see already.
    #[error(
        "snapshot {snapshot} of '{repository}' is released already; only a staged one can be released or withdrawn"
    )]
    NotStaged {
        /// The repository.
        repository: RepoName,
        /// The snapshot asked for.
        snapshot: SnapshotId,
    },
    /// A staged snapshot that is older than a released one.
    #[error(
        "snapshot {snapshot} of '{repository}' was overtaken by {by}, which was published after it was staged: releasing          it would take that back. Publish the tree again, or `imserver snapshot release --take-back`"
    )]
    Overtaken {
        /// The repository.
        repository: RepoName,
        /// The staged snapshot.
        snapshot: SnapshotId,
        /// The released one.
        by: SnapshotId,
    },
    /// A node that has a token already.
    #[error("node '{node}' has a token already; `imserver node remove {node}` takes it away")]
    NodeExists {
        /// The node.
        node: NodeName,
    },
    /// A node that is not registered.
    #[error("there is no node '{node}'; {hint}")]
    UnknownNode {
        /// The node.
        node: NodeName,
        /// The one that was probably meant, or those there are.
        hint: String,
    },
    /// A repository without any snapshot.
    #[error("'{repository}' was never published; `imserver publish {repository}` does it")]
    NeverPublished {
        /// The repository.
        repository: RepoName,
    },
    /// Somebody else writes to the store.
    #[error(
        "{} writes to the store now, and there is one writer at a time (a publish, of whatever repository, or a \
         clean-up); try again, or let `imserver publish --wait` wait",
        pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
    )]
    Busy {
        /// The process, if it is known.
        pid: Option<u32>,
    },
    /// What was said to have changed.
    #[error(transparent)]
    Hints(#[from] HintError),
    /// The piece length was changed after the first publish.
    #[error("repository '{repository}' was begun with a piece length of {held} bytes, which cannot change to {asked}")]
    PieceLength {
        /// The repository.
        repository: RepoName,
        /// What its heads say.
        held: u32,
        /// What the configuration says.
        asked: u64,
    },
    /// The store or its key lies inside a source tree: everybody could read it.
    #[error("{} lies inside the source tree {} and would be published; move one of them", path.display(), tree.display())]
    SourceHolds {
        /// The source tree.
        tree: PathBuf,
        /// The store or the key file.
        path: PathBuf,
    },
    /// The source tree has no file any more: a mount that is missing looks just so.
    #[error(
        "repository '{repository}': {} has no files any more, but the current snapshot has; is it mounted? \
         `imserver publish --allow-empty {repository}` publishes it nevertheless",
        source_tree.display()
    )]
    Emptied {
        /// The repository.
        repository: RepoName,
        /// Its source tree.
        source_tree: PathBuf,
    },
    /// The source tree was replaced by another directory again and again.
    #[error("{} was replaced each time it was scanned; publish again when it is at rest", .0.display())]
    SourceReplaced(PathBuf),
    /// Every file of the source tree is closed to others.
    #[error(
        "repository '{repository}': others may read no file of {} ({example}), and what they may not read is left out. \
         If modes mean nothing there (vfat, NTFS, some network file systems), set private = \"publish\" in its \
         [[repository]]; else `chmod -R o+rX` opens it; `imserver publish --allow-empty {repository}` publishes it without files",
        source_tree.display()
    )]
    AllPrivate {
        /// The repository.
        repository: RepoName,
        /// Its source tree.
        source_tree: PathBuf,
        /// The first path that was left out, with its mode.
        example: String,
    },
    /// The repository metadata in a tree does not agree with the files in it.
    #[error(
        "'{repository}' is not published, since its metadata does not agree with its files ({} found):{problems}\n\
         Mend the tree, or publish it nevertheless: `imserver publish --no-check {repository}`",
        problems.count()
    )]
    Inconsistent {
        /// The repository.
        repository: RepoName,
        /// What is wrong.
        problems: Problems,
    },
    /// The metadata in a tree could not be checked.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// An export.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// A torrent.
    #[error(transparent)]
    Torrent(#[from] crate::torrent::TorrentError),
    /// No randomness from the system.
    #[error("the system gives no random numbers: {0}")]
    Random(String),
    /// The HTTP server.
    #[error(transparent)]
    Http(#[from] crate::serve::OpenError),
    /// The watch on the store or on a source tree.
    #[error("cannot watch {}: {reason}", path.display())]
    Watch {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
}

impl MasterError {
    /// Whether it is about the source tree, as a whole and as it is: a publish has looked at it, and refuses it.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Emptied { .. }
                | Self::AllPrivate { .. }
                | Self::Inconsistent { .. }
                | Self::Store(StoreError::Unpublishable { .. })
        )
    }
}

/// A master's store, its key and its repositories. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Master {
    config: Arc<ServerConfig>,
    key: PublicKey,
    parts: Arc<StorageParts>,
    /// Absent if nobody wants to command it.
    control_socket: Option<PathBuf>,
    /// Changes with each head that is stored through this.
    told: Arc<Sender<u64>>,
}

/// Directories inside the store.
const REPOSITORIES: &str = "repositories";

impl Master {
    /// Begins a master out of parts of one's own; see [`MasterBuilder`].
    pub fn builder() -> MasterBuilder {
        MasterBuilder::default()
    }

    /// Makes the store's directories and, if there is none, its key. Harmless where they exist.
    ///
    /// # Errors
    /// [`MasterError`] naming the file.
    pub fn init(config: &ServerConfig) -> Result<(), MasterError> {
        defaults::make(&config.store.dir, Some(&config.store.key_file()), true, true)
    }

    /// Opens the store of a configuration that was [initialised](Self::init). Publishes nothing, locks nothing. Without the feature
    /// `metadata-check`, the log names the repositories that would be checked with it.
    ///
    /// # Errors
    /// [`MasterError`]; [`KeyError`] says how to make a key where there is none.
    pub fn open(config: ServerConfig) -> Result<Self, MasterError> {
        MasterBuilder::from(config).build()
    }

    /// Puts it together.
    fn assemble(
        config: ServerConfig,
        control_socket: Option<PathBuf>,
        parts: StorageParts,
    ) -> Result<Self, MasterError> {
        let key = ring::Ring::load(parts.notes.disk.as_ref(), &parts.keys)?.newest()?;
        consistency::tell_unchecked(&config);
        Ok(Self {
            config: Arc::new(config),
            key,
            parts: Arc::new(parts),
            control_socket,
            told: Arc::default(),
        })
    }

    /// The configuration it was opened with.
    #[must_use]
    pub fn config(&self) -> &ServerConfig {
        &self.config
    }

    /// Its objects, for async readers.
    fn readable_objects(&self) -> Arc<dyn Objects> {
        self.parts.objects.objects()
    }

    /// Catalogs, records and heads, for reading.
    fn snapshots(&self) -> Arc<dyn SnapshotStore> {
        self.parts.catalogs.store()
    }

    /// The catalogs among them.
    fn catalog_nodes(&self) -> Arc<dyn NodeSource> {
        self.snapshots()
    }

    /// The files in which it notes the rest.
    fn notes(&self) -> &dyn Disk {
        self.parts.notes.disk.as_ref()
    }

    /// The key that new nodes have to trust: the newest one, when this was opened.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        self.key
    }

    /// The configuration of a repository.
    ///
    /// # Errors
    /// [`MasterError::UnknownRepository`].
    pub fn repository(&self, name: &RepoName) -> Result<&ServerRepository, MasterError> {
        let found = self
            .config
            .repositories
            .iter()
            .find(|repository| repository.name == *name);
        found.ok_or_else(|| {
            let known: Vec<_> = self
                .config
                .repositories
                .iter()
                .map(|repository| repository.name.to_string())
                .collect();
            MasterError::UnknownRepository {
                name: name.clone(),
                known: known.join(", "),
            }
        })
    }

    /// The head of a repository, `None` before its first publish. Read from the disk.
    ///
    /// # Errors
    /// [`MasterError::Snapshots`] if it cannot be read or was not signed with one of this master's keys.
    pub fn head(&self, repository: &RepoName) -> Result<Option<SignedHead>, MasterError> {
        Ok(self.snapshots().head(repository, &self.ring()?.known())?)
    }

    /// The record of a snapshot.
    ///
    /// # Errors
    /// [`MasterError::UnknownSnapshot`], [`MasterError::Snapshots`].
    pub fn snapshot(&self, repository: &RepoName, id: SnapshotId) -> Result<Snapshot, MasterError> {
        if let Some(found) = self.snapshots().snapshot(repository, id)? {
            return Ok(found);
        }
        // For the message only: whatever is wrong with the head is told by whoever needs it.
        let head = self.head(repository).ok().flatten();
        let live = head.iter().flat_map(|head| &head.head().snapshots);
        Err(tags::unknown_snapshot(repository, id, live.map(|live| live.id)))
    }

    /// The record of a snapshot that a head names, `None` if it is lost: removed by somebody, or damaged.
    fn kept_snapshot(&self, repository: &RepoName, id: SnapshotId) -> Result<Option<Snapshot>, MasterError> {
        match self.snapshot(repository, id) {
            Ok(snapshot) => Ok(Some(snapshot)),
            Err(
                error @ (MasterError::UnknownSnapshot { .. }
                | MasterError::Snapshots(instantmirror_core::StoreError::Damaged(_))),
            ) => {
                tracing::error!(%repository, snapshot = %id, "a snapshot's record is lost; the next publish drops it: {error}");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// How many files the current snapshot has, if that can be told: for those who want to know how long a publish takes.
    #[must_use]
    pub fn current_files(&self, repository: &RepoName) -> Option<u64> {
        let head = self.head(repository).ok().flatten()?;
        let current = self.snapshots().snapshot(repository, head.head().current?);
        Some(current.ok().flatten()?.root.files)
    }

    /// What differs between two snapshots, path by path, from their catalogs alone: what is equal is not read.
    ///
    /// # Errors
    /// [`MasterError::UnknownRepository`], [`MasterError::UnknownSnapshot`].
    pub fn differences(
        &self,
        repository: &RepoName,
        before: SnapshotId,
        after: SnapshotId,
    ) -> Result<Differences<Arc<dyn NodeSource>>, MasterError> {
        self.repository(repository)?;
        let root = |id| self.snapshot(repository, id).map(|snapshot| snapshot.root.node);
        let (before, after) = (root(before)?, root(after)?);
        Ok(Differences::new(parts::walker(&self.snapshots()), Some(before), after))
    }

    /// Writes a list of a snapshot, of the current one if none is named, to `out`. Reads the catalog only, and blocks on it.
    /// `progress` hears of files.
    ///
    /// # Errors
    /// [`MasterError::UnknownRepository`], [`MasterError::NeverPublished`], [`MasterError::UnknownSnapshot`],
    /// [`MasterError::Export`].
    pub fn export(
        &self,
        repository: &RepoName,
        snapshot: Option<SnapshotId>,
        format: ExportFormat,
        out: &mut dyn Write,
        progress: &dyn Progress,
    ) -> Result<(), MasterError> {
        self.repository(repository)?;
        let head = self.head(repository)?;
        let never = || MasterError::NeverPublished {
            repository: repository.clone(),
        };
        let id = snapshot.or(head.ok_or_else(never)?.head().current).ok_or_else(never)?;
        let snapshot = self.snapshot(repository, id)?;
        let sha256 = |object: &ObjectId| self.parts.notes.sha256(object);
        Ok(export(
            format,
            &snapshot,
            &self.catalog_nodes(),
            &sha256,
            out,
            progress,
        )?)
    }

    fn repository_dir(name: &RepoName) -> PathBuf {
        Path::new(REPOSITORIES).join(name.as_str())
    }
}

/// Repositories, by their places in the configuration, that were begun with another piece length. What else is wrong with a
/// store that is there is not looked for.
pub(crate) fn check_piece_lengths(config: &ServerConfig) -> Vec<(usize, MasterError)> {
    let Ok(master) = Master::open(config.clone()) else {
        return Vec::new();
    };
    let repositories = config.repositories.iter().enumerate();
    let wrong = repositories.filter_map(|(at, repository)| {
        let head = master.head(&repository.name).ok().flatten();
        let checked = publish::check_piece_length(repository, head.as_ref());
        checked.err().map(|error| (at, error))
    });
    wrong.collect()
}
