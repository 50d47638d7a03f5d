//! `imserver publish`: scan, import, commit. A snapshot exists when its head is signed and stored; whatever happens
//! before that leaves the repository as it was.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use instantmirror_core::changes::ChangeSet;
use instantmirror_core::head::{LiveSnapshot, SnapshotState};
use instantmirror_core::{Clock as _, Directory, Head, RepoName, Root, SignedHead, Snapshot, SnapshotId, Timestamp};
use instantmirror_store::StoreError;
use instantmirror_store::import::ImportOptions;
use instantmirror_store::references::CountedTree;
use instantmirror_store::scan::{
    LeftOutWhy, PieceSpace, ScanParts, ScanRules, Scanned, StampBook, changes_of_list, scan, scan_dry,
};
use instantmirror_store::tree::SourceTree;

use super::hints::Hints;
use super::key::random;
use super::writer::{Sink, Writer};
use super::{Master, MasterError, withdrawn};
use crate::clock::SystemClock;
use crate::config::{ImportKind, ServerRepository};

/// A head is signed anew when it is older than this, so that it never comes near its expiry.
pub(super) const HEAD_RENEWAL: Duration = Duration::from_secs(24 * 3600);

/// How often a source tree may be replaced while it is scanned.
const ROOT_TRIES_MAX: u32 = 3;

/// Hears how a publish goes. Called from several threads.
pub trait PublishProgress: Sync {
    /// So many more files were listed.
    fn listed(&self, files: u64) {
        let _ = files;
    }

    /// So many more bytes of new and changed files were read.
    fn read(&self, bytes: u64) {
        let _ = bytes;
    }

    /// One more new or changed file was taken in.
    fn imported(&self) {}
}

/// For those who do not want to hear.
#[derive(Debug, Clone, Copy)]
pub struct NoProgress;

impl PublishProgress for NoProgress {}

/// How a publish is done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PublishOptions {
    /// A remark that is kept with the snapshot.
    pub note: String,
    /// Publish a tree without any file although the current snapshot has some.
    pub allow_empty: bool,
    /// Keep the snapshot staged until this rule is met, instead of making it current.
    pub stage: Option<StageRule>,
    /// Look only at what these name; what they do not name stays as the last publish saw it. Where there is no such
    /// publish to start from, everything is looked at.
    pub hints: Option<Hints>,
    /// Wait for whoever writes to the store now, however long that takes.
    pub wait: bool,
    /// Publish whatever the repository metadata in the tree says.
    pub no_check: bool,
    /// Publish even a tree that was taken back: by a [rollback](Master::rollback), or with a
    /// [removed](Master::remove_snapshots) snapshot.
    pub again: bool,
}

/// When a staged snapshot is released: when all of this holds. Without any, by hand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StageRule {
    /// Not before this time.
    pub release_at: Option<Timestamp>,
    /// Not before this share of the registered nodes, in percent, has all of it.
    pub when_synced_percent: Option<u8>,
}

impl StageRule {
    fn state(self) -> SnapshotState {
        SnapshotState::Staged {
            release_at: self.release_at,
            when_synced_percent: self.when_synced_percent,
        }
    }
}

/// What a publish did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Published {
    /// The tree is what the current snapshot shows; nothing was made.
    Unchanged(SnapshotId),
    /// The tree is that of this snapshot, which was rolled back from or removed; nothing was made. It stays so until the
    /// tree changes, or until somebody publishes it [`again`](PublishOptions::again).
    TakenBack(SnapshotId),
    /// A new snapshot is current.
    Snapshot(Box<PublishedSnapshot>),
}

/// A new snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedSnapshot {
    /// Its record.
    pub snapshot: Snapshot,
    /// The head that made it current, or staged it.
    pub sequence: u64,
    /// What the scan saw and did.
    pub scanned: Scanned,
    /// Everything was looked at, and not only what was named.
    pub is_full_scan: bool,
    /// How long it took.
    pub took: Duration,
}

impl Master {
    /// Publishes the source tree of a repository and makes it current, or [stages](PublishOptions::stage) it. Blocks
    /// until it is done.
    ///
    /// # Errors
    /// [`MasterError::Busy`] if somebody else writes to this store now, and goes on for longer than a short wait;
    /// [`MasterError::Store`] with [`Unpublishable`](instantmirror_store::StoreError::Unpublishable) if the tree holds
    /// what cannot be published; [`MasterError::Emptied`] if it has lost all its files; [`MasterError::Inconsistent`] if
    /// its metadata does not agree with its files. The repository is as before then.
    pub fn publish(
        &self,
        name: &RepoName,
        options: &PublishOptions,
        progress: &dyn PublishProgress,
    ) -> Result<Published, MasterError> {
        let started = Instant::now();
        let repository = self.repository(name)?;
        self.check_source(repository)?;
        let writer = Writer::open_to_publish(self, options.wait)?;
        let published = self.published(repository)?;
        let seen = self.scan(repository, &writer, &published, options.hints.as_ref(), progress)?;
        if let Some(refusal) = seen.refusal {
            return Err(refusal.into());
        }
        if let (Some(current), Some(held)) = (&published.current, &published.head)
            && current.root == seen.scanned.root
        {
            self.renew_if_old(&writer, held)?;
            return Ok(Published::Unchanged(current.id));
        }
        if let Some(snapshot) = self.taken_back(&writer, name, &seen.scanned.root, options.again)? {
            return Ok(Published::TakenBack(snapshot));
        }
        self.check_tree(repository, &writer, options, published.current.as_ref(), &seen)?;
        let (scanned, is_full_scan) = (seen.scanned, seen.is_full);
        let (held, current) = (published.head, published.current);
        let now = SystemClock.now();
        let snapshot = Snapshot {
            id: SnapshotId::from_random(random()?),
            repository: name.clone(),
            created: now,
            parent: current.map(|current| current.id),
            note: options.note.clone(),
            root: scanned.root,
        };
        // Before the record: what has a record is counted.
        let mut references = self.parts.notes.references()?;
        references.count_in(&writer.catalogs.nodes(), &counted_tree(&snapshot))?;
        let record = writer.catalogs.store().put_snapshot(&snapshot)?;
        let mut head = held.map_or_else(|| first_head(repository, now), |held| held.head().clone());
        self.drop_lost(&mut head)?;
        let state = match options.stage {
            Some(rule) => rule.state(),
            None => {
                head.current = Some(snapshot.id);
                SnapshotState::released(now, head.sequence + 1)
            }
        };
        head.snapshots.push(LiveSnapshot {
            id: snapshot.id,
            record,
            state,
        });
        self.prune(repository, &mut head, now);
        let sequence = self.commit(&writer, head, now)?;
        Ok(Published::Snapshot(Box::new(PublishedSnapshot {
            snapshot,
            sequence,
            scanned,
            is_full_scan,
            took: started.elapsed(),
        })))
    }

    /// What a publish starts from.
    pub(super) fn published(&self, repository: &ServerRepository) -> Result<BeforePublish, MasterError> {
        let name = &repository.name;
        let head = self.head(name)?;
        check_piece_length(repository, head.as_ref())?;
        let current = head.as_ref().and_then(|held| held.head().current);
        let current = current.map(|id| self.kept_snapshot(name, id));
        let current = current.transpose()?.flatten();
        Ok(BeforePublish { head, current })
    }

    /// The snapshot of this tree that was taken back, if any was.
    pub(super) fn taken_back_of(&self, name: &RepoName, root: &Root) -> Result<Option<SnapshotId>, MasterError> {
        let withdrawn = withdrawn::read(self.notes(), name)?;
        Ok(withdrawn.get(&root.node).map(|(snapshot, _)| *snapshot))
    }

    /// The same, where that counts. What the scan took in for it is given up to the next
    /// clean-up.
    fn taken_back(
        &self,
        writer: &Writer,
        name: &RepoName,
        root: &Root,
        again: bool,
    ) -> Result<Option<SnapshotId>, MasterError> {
        let Some(snapshot) = self.taken_back_of(name, root)? else {
            return Ok(None);
        };
        if again {
            withdrawn::change(self.notes(), name, |list| _ = list.remove(&root.node))?;
            return Ok(None);
        }
        let tree = CountedTree {
            repository: name.clone(),
            snapshot: SnapshotId::from_random(random()?),
            root: root.node,
        };
        let mut references = self.parts.notes.references()?;
        references.count_in(&writer.catalogs.nodes(), &tree)?;
        references.count_out(&writer.catalogs.nodes(), &tree)?;
        Ok(Some(snapshot))
    }

    /// What was scanned is no accident, as far as one can tell.
    pub(super) fn check_tree(
        &self,
        repository: &ServerRepository,
        writer: &Writer,
        options: &PublishOptions,
        current: Option<&Snapshot>,
        seen: &Seen,
    ) -> Result<(), MasterError> {
        let Seen { scanned, tree, .. } = seen;
        let root = &scanned.root;
        let had_files = current.is_some_and(|current| current.root.files > 0);
        let private = scanned.left_out.get(&LeftOutWhy::Private);
        if let Some((path, reason)) = private.and_then(|noted| noted.example())
            && root.files == 0
            && !options.allow_empty
        {
            return Err(MasterError::AllPrivate {
                repository: repository.name.clone(),
                source_tree: repository.source.clone(),
                example: format!("{path}: {reason}"),
            });
        }
        if had_files && root.files == 0 && !options.allow_empty {
            return Err(MasterError::Emptied {
                repository: repository.name.clone(),
                source_tree: repository.source.clone(),
            });
        }
        if options.no_check {
            return Ok(());
        }
        self.check_metadata(repository, writer, root, tree)
    }

    /// Signs the heads anew that would otherwise come near their expiry.
    ///
    /// # Errors
    /// The first [`MasterError`], after all repositories had their turn;
    /// [`Locked`](instantmirror_store::StoreError::Locked) if somebody publishes now.
    pub fn renew_heads(&self) -> Result<(), MasterError> {
        let mut first_error = Ok(());
        for repository in &self.config.repositories {
            let renewed = self.renew(&repository.name);
            first_error = first_error.and(renewed);
        }
        first_error
    }

    fn renew(&self, name: &RepoName) -> Result<(), MasterError> {
        let held = self.head(name)?;
        if held.map_or(Ok(false), |held| self.is_due(&held))? {
            let writer = Writer::open(self)?;
            // Somebody may have published until the lock was ours: only what is held now has a successor.
            if let Some(held) = self.head(name)? {
                self.renew_if_old(&writer, &held)?;
            }
        }
        Ok(())
    }

    /// Whether a head says what is not so any more, or will not be believed for long.
    fn is_due(&self, held: &SignedHead) -> Result<bool, MasterError> {
        let head = held.head();
        let is_changed = head.preseed != self.advice(&head.repository)
            || head.grace_never != self.config.snapshots.grace_never.texts();
        Ok(self.is_old(held)? || is_changed)
    }

    fn renew_if_old(&self, writer: &Writer, held: &SignedHead) -> Result<(), MasterError> {
        if self.is_due(held)? {
            self.commit(writer, held.head().clone(), SystemClock.now())?;
        }
        Ok(())
    }

    /// It comes near its expiry, or was signed before the keys were changed.
    fn is_old(&self, held: &SignedHead) -> Result<bool, MasterError> {
        let is_old = SystemClock.now().since(held.head().issued) > HEAD_RENEWAL;
        Ok(is_old || held.head().key_list < self.ring()?.version())
    }

    /// What cannot be served any more is not promised any longer.
    fn drop_lost(&self, head: &mut Head) -> Result<(), MasterError> {
        let mut kept = Vec::with_capacity(head.snapshots.len() + 1);
        for live in std::mem::take(&mut head.snapshots) {
            if self.kept_snapshot(&head.repository, live.id)?.is_some() {
                kept.push(live);
            }
        }
        head.tags.retain(|_, id| kept.iter().any(|live| live.id == *id));
        head.snapshots = kept;
        Ok(())
    }

    /// What nobody may see must not lie in the tree, by whatever name the configuration calls it.
    pub(super) fn check_source(&self, repository: &ServerRepository) -> Result<(), MasterError> {
        // What cannot be resolved is not there, which is told by whoever opens it.
        let Ok(source) = repository.source.canonicalize() else {
            return Ok(());
        };
        for path in self.parts.secret_paths() {
            if path.canonicalize().is_ok_and(|real| real.starts_with(&source)) {
                let (tree, path) = (repository.source.clone(), path.to_path_buf());
                return Err(MasterError::SourceHolds { tree, path });
            }
        }
        Ok(())
    }

    /// The live snapshot that the last scan made: what is remembered of the tree belongs to it. `None` if that scan made
    /// none, because it was cut off, refused, or what it made was withdrawn.
    fn base(&self, held: Option<&SignedHead>, book: &StampBook) -> Result<Option<Directory>, MasterError> {
        let (Some(held), Some(seen)) = (held, book.root()?) else {
            return Ok(None);
        };
        for live in held.head().snapshots.iter().rev() {
            let snapshot = self.kept_snapshot(&held.head().repository, live.id)?;
            if let Some(snapshot) = snapshot.filter(|snapshot| snapshot.root.node == seen) {
                return Ok(Some(directory(&snapshot.root)));
            }
        }
        Ok(None)
    }

    /// Scans the tree. One that was replaced meanwhile may be one that is being removed: the one in its place is scanned
    /// then.
    pub(super) fn scan(
        &self,
        repository: &ServerRepository,
        writer: &Writer,
        published: &BeforePublish,
        hints: Option<&Hints>,
        progress: &dyn PublishProgress,
    ) -> Result<Seen, MasterError> {
        for _ in 0..ROOT_TRIES_MAX {
            let tree = SourceTree::open(&repository.source)?;
            let scanned = self.scan_tree(repository, &tree, writer, published, hints, progress);
            if tree.is_still_there()? {
                let (scanned, refusal, is_full) = scanned?;
                return Ok(Seen {
                    scanned,
                    refusal,
                    is_full,
                    tree,
                });
            }
            tracing::warn!(
                "{} was replaced while it was scanned: looking at the tree that is there now",
                repository.source.display()
            );
        }
        Err(MasterError::SourceReplaced(repository.source.clone()))
    }

    fn scan_tree(
        &self,
        repository: &ServerRepository,
        tree: &SourceTree,
        writer: &Writer,
        published: &BeforePublish,
        hints: Option<&Hints>,
        progress: &dyn PublishProgress,
    ) -> Result<(Scanned, Option<StoreError>, bool), MasterError> {
        let (book, pieces) = self.memory_of(repository, writer)?;
        let base = self.base(published.head.as_ref(), &book)?;
        let rules = repository.scan_rules();
        let changes = changes(hints, writer, &book, tree, &rules, base)?;
        let parts = ScanParts {
            tree,
            objects: writer.objects.as_ref(),
            nodes: &writer.catalogs.nodes(),
            book: &book,
            pieces: &pieces,
            previous: base.or_else(|| published.current.as_ref().map(|current| directory(&current.root))),
            changes: changes.as_deref(),
            import: import_options(repository.import),
            rules: &rules,
            now: SystemClock.now().as_millis() / 1000,
        };
        let sink = Sink { writer, progress };
        let (scanned, refusal) = if writer.is_dry {
            scan_dry(&parts, &sink)?
        } else {
            (scan(&parts, &sink)?, None)
        };
        Ok((scanned, refusal, changes.is_none_or(|changes| changes.is_all())))
    }

    /// What the last scan of a repository has left, which this one goes on with.
    fn memory_of(&self, repository: &ServerRepository, writer: &Writer) -> Result<(StampBook, PieceSpace), StoreError> {
        let dir = Self::repository_dir(&repository.name);
        let (stamps, pieces) = (dir.join("stamps"), dir.join("pieces"));
        let piece_bytes = u32::try_from(repository.piece_length.0).unwrap_or(u32::MAX);
        let disk = || Arc::clone(&self.parts.notes.disk);
        Ok(if writer.is_dry {
            (
                StampBook::open_overlay(disk(), stamps)?,
                PieceSpace::open_overlay(disk(), pieces, piece_bytes)?,
            )
        } else {
            (
                StampBook::open(disk(), stamps)?,
                PieceSpace::open(disk(), pieces, piece_bytes)?,
            )
        })
    }
}

/// What is there before a publish.
pub(super) struct BeforePublish {
    pub(super) head: Option<SignedHead>,
    pub(super) current: Option<Snapshot>,
}

/// A source tree that was scanned.
pub(super) struct Seen {
    pub(super) scanned: Scanned,
    /// Why nothing can be published of it; a publish that is no dry run has failed by then.
    pub(super) refusal: Option<StoreError>,
    /// Everything was looked at.
    pub(super) is_full: bool,
    pub(super) tree: SourceTree,
}

/// What to look at; `None` for everything.
fn changes<'a>(
    hints: Option<&'a Hints>,
    writer: &Writer,
    book: &StampBook,
    tree: &SourceTree,
    rules: &ScanRules,
    base: Option<Directory>,
) -> Result<Option<Cow<'a, ChangeSet>>, MasterError> {
    let Some(hints) = hints else { return Ok(None) };
    let Some(base) = base else {
        tracing::warn!("no finished publish to start from: looking at the whole tree, not only at what was named");
        return Ok(None);
    };
    if book.terms()? != Some(rules.terms(tree)?) {
        tracing::warn!(
            "the source tree is another directory, or its rules are others than at the last publish: looking at the \
             whole tree, not only at what was named"
        );
        return Ok(None);
    }
    Ok(Some(match hints {
        Hints::Paths(changes) => Cow::Borrowed(changes),
        Hints::List(list) => Cow::Owned(changes_of_list(list, &writer.catalogs.nodes(), book, base, rules)?),
    }))
}

pub(super) fn counted_tree(snapshot: &Snapshot) -> CountedTree {
    CountedTree {
        repository: snapshot.repository.clone(),
        snapshot: snapshot.id,
        root: snapshot.root.node,
    }
}

fn directory(root: &Root) -> Directory {
    Directory {
        node: root.node,
        files: root.files,
        bytes: root.bytes,
    }
}

fn first_head(repository: &ServerRepository, now: Timestamp) -> Head {
    let piece_length = u32::try_from(repository.piece_length.0).unwrap_or(u32::MAX);
    Head::first(repository.name.clone(), piece_length, now)
}

pub(super) fn check_piece_length(repository: &ServerRepository, held: Option<&SignedHead>) -> Result<(), MasterError> {
    let asked = repository.piece_length.0;
    match held.map(|held| held.head().piece_length) {
        Some(held) if u64::from(held) != asked => Err(MasterError::PieceLength {
            repository: repository.name.clone(),
            held,
            asked,
        }),
        _ => Ok(()),
    }
}

fn import_options(kind: ImportKind) -> ImportOptions {
    let mut options = ImportOptions::default();
    options.reflink = kind != ImportKind::Copy;
    options.hardlink = kind == ImportKind::Hardlink;
    options
}
