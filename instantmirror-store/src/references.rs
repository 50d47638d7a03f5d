//! How many catalog nodes refer to each node and object of the master's store, so that what a snapshot leaves behind
//! is known without looking at any other snapshot.
//!
//! A node refers to its children and objects once for each time it names them, however many snapshots share it. So
//! counting a tree in touches what is new in it, counting it out touches what goes with it, and neither touches the
//! rest. What falls to nothing is listed in the same transaction as *dead*, and stays listed until whoever removes it
//! says that it is gone: a crash anywhere loses neither a count nor a piece of work.
//!
//! It is a table of SQLite because a lost or doubled count would be lost data or a leak, and its transactions are the
//! best proved there are. All of it can be made anew from the catalogs: a store that has no table, or a damaged one,
//! gets it back from the trees that are [counted in](References::count_in).
//!
//! Whoever calls holds the store's writer lock. Invariant: while every live tree is counted in, nothing that is listed
//! as dead and has no count is in use.

mod memory;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use instantmirror_core::catalog::{CatalogError, CatalogNode, NodeSource};
use instantmirror_core::{Kind, NodeId, ObjectId, RepoName, SnapshotId};
use rusqlite::{Connection, ErrorCode, OptionalExtension as _, Transaction, TransactionBehavior, params};

pub use memory::MemoryReferences;

/// The table's file in the store's directory.
pub const FILE: &str = "references.db";
/// Stands in the file; another one is refused.
const VERSION: i64 = 1;
/// Objects whose counts are gathered before they are written: 32 MB.
const GATHERED_MAX: usize = 1 << 20;
/// Size of its pages.
const PAGE_BYTES: i64 = 1024;
/// Pages that SQLite keeps in memory, in KiB.
const CACHE_KIB: i64 = 64 * 1024;
/// How long another process may hold the table, although it should not.
const BUSY_WAIT: std::time::Duration = std::time::Duration::from_secs(10);

const SCHEMA: &str = "
    CREATE TABLE trees (repository TEXT, snapshot TEXT, root BLOB NOT NULL, PRIMARY KEY (repository, snapshot)) WITHOUT ROWID;
    CREATE TABLE nodes (id BLOB PRIMARY KEY, n INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE objects (key INTEGER PRIMARY KEY, n INTEGER NOT NULL);
    CREATE TABLE dead_nodes (id BLOB PRIMARY KEY) WITHOUT ROWID;
    CREATE TABLE dead_objects (id BLOB PRIMARY KEY) WITHOUT ROWID;
    CREATE TABLE dead_digests (id BLOB PRIMARY KEY) WITHOUT ROWID;
";

/// Why counts could not be changed. Nothing of the change was made then.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum ReferenceError {
    /// The table.
    #[error("{}: {source}", path.display())]
    Table {
        /// Its file.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// The file was written by another version.
    #[error("{} has version {found}, this program knows {VERSION}: use the program that wrote it", path.display())]
    UnknownVersion {
        /// The file.
        path: PathBuf,
        /// The version that it states.
        found: i64,
    },
    /// The counts do not fit the catalogs. [`References::forget_all`] and counting everything in again mends it.
    #[error("{}: {what} has fewer references than its catalogs hold", path.display())]
    Inconsistent {
        /// The file.
        path: PathBuf,
        /// A node or object.
        what: String,
    },
    /// A catalog node that had to be read.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

/// One snapshot's tree, as the table knows it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct CountedTree {
    /// Its repository.
    pub repository: RepoName,
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The root of its catalog.
    pub root: NodeId,
}

/// The counts; see the [module](self).
#[derive(Debug)]
pub struct References {
    db: Connection,
    path: PathBuf,
}

impl References {
    /// Opens (making it where needed) the table in the directory of a store. A file that SQLite cannot make sense of is
    /// put aside with a word in the log, and an empty table takes its place.
    ///
    /// # Errors
    /// [`ReferenceError::Table`], [`ReferenceError::UnknownVersion`].
    pub fn open(dir: &Path) -> Result<Self, ReferenceError> {
        let path = dir.join(FILE);
        match Self::open_file(&path) {
            Err(ReferenceError::Table { source, .. }) if is_damage(&source) => {
                let aside = path.with_extension("db.damaged");
                tracing::error!(path = %path.display(), "{source}: put aside as {}; references are counted anew", aside.display());
                let failed = |error: std::io::Error| ReferenceError::Table {
                    path: path.clone(),
                    source: rusqlite::Error::ToSqlConversionFailure(Box::new(error)),
                };
                std::fs::rename(&path, aside).map_err(failed)?;
                Self::open_file(&path)
            }
            opened => opened,
        }
    }

    fn open_file(path: &Path) -> Result<Self, ReferenceError> {
        let failed = |source| ReferenceError::Table {
            path: path.to_path_buf(),
            source,
        };
        let mut db = Connection::open(path).map_err(failed)?;
        db.busy_timeout(BUSY_WAIT).map_err(failed)?;
        db.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
        db.pragma_update(None, "cache_size", -CACHE_KIB).map_err(failed)?;
        // Hashes of what was removed must not lie about in free pages.
        db.pragma_update(None, "secure_delete", true).map_err(failed)?;
        let version = |db: &Connection| db.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0));
        // Keys are hashes: each is on a page of its own, and small pages are less to write. No effect on a table that is.
        db.pragma_update(None, "page_size", PAGE_BYTES).map_err(failed)?;
        let mut found = version(&db).map_err(failed)?;
        if found == 0 {
            let tx = db
                .transaction_with_behavior(TransactionBehavior::Immediate)
                .map_err(failed)?;
            tx.execute_batch(SCHEMA).map_err(failed)?;
            tx.pragma_update(None, "user_version", VERSION).map_err(failed)?;
            tx.commit().map_err(failed)?;
            found = VERSION;
        }
        if found != VERSION {
            let path = path.to_path_buf();
            return Err(ReferenceError::UnknownVersion { path, found });
        }
        let path = path.to_path_buf();
        Ok(Self { db, path })
    }

    /// Counts a tree in. No effect if it is counted already. Durable when it returns.
    ///
    /// Costs what the tree has that no counted tree has.
    ///
    /// # Errors
    /// [`ReferenceError::Catalog`] if a new node of it cannot be read, [`ReferenceError::Table`].
    pub fn count_in(&mut self, source: &impl NodeSource, tree: &CountedTree) -> Result<(), ReferenceError> {
        let path = self.path.clone();
        self.change(|tx| {
            let sql = "INSERT OR IGNORE INTO trees VALUES (?, ?, ?)";
            if tx.execute(sql, tree_row(tree)).map_err(table(&path))? == 0 {
                return Ok(());
            }
            let mut gathered = Gathered::default();
            let mut work = vec![tree.root];
            while let Some(id) = work.pop() {
                if add_node(tx, &id).map_err(table(&path))? == 1 {
                    children(source, id, &mut work, &mut gathered.0)?;
                }
                if gathered.0.len() >= GATHERED_MAX {
                    gathered.add_to(tx).map_err(table(&path))?;
                }
            }
            gathered.add_to(tx).map_err(table(&path))
        })
    }

    /// Counts a tree out, and lists what only it referred to as dead. No effect if it is not counted. Durable when it
    /// returns.
    ///
    /// Costs what goes with the tree. Nodes that cannot be read any more are passed over with a word in the log: what
    /// only they referred to stays on the disk.
    ///
    /// # Errors
    /// [`ReferenceError::Inconsistent`] if something is counted less often than the tree refers to it,
    /// [`ReferenceError::Table`].
    pub fn count_out(&mut self, source: &impl NodeSource, tree: &CountedTree) -> Result<(), ReferenceError> {
        let path = self.path.clone();
        self.change(|tx| {
            let sql = "DELETE FROM trees WHERE repository = ? AND snapshot = ? AND root = ?";
            if tx.execute(sql, tree_row(tree)).map_err(table(&path))? == 0 {
                return Ok(());
            }
            let mut gathered = Gathered::default();
            let mut work = vec![tree.root];
            while let Some(id) = work.pop() {
                let left = drop_node(tx, &id).map_err(table(&path))?;
                let left = left.ok_or_else(|| inconsistent(&path, &format!("node {id}")))?;
                if left == 0
                    && let Err(error) = children(source, id, &mut work, &mut gathered.0)
                {
                    tracing::warn!(%error, "a part of an expired snapshot cannot be read: what it refers to stays");
                }
                if gathered.0.len() >= GATHERED_MAX {
                    gathered.take_from(tx, &path)?;
                }
            }
            gathered.take_from(tx, &path)
        })
    }

    /// All trees that are counted in.
    ///
    /// # Errors
    /// [`ReferenceError::Table`].
    pub fn trees(&self) -> Result<Vec<CountedTree>, ReferenceError> {
        let read = || {
            let mut query = self.db.prepare("SELECT repository, snapshot, root FROM trees")?;
            let rows = query.query_map([], |row| {
                Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get(2)?))
            })?;
            rows.collect::<rusqlite::Result<Vec<(String, String, [u8; 32])>>>()
        };
        let parsed = |(repository, snapshot, root): (String, String, [u8; 32])| {
            Some(CountedTree {
                repository: repository.parse().ok()?,
                snapshot: snapshot.parse().ok()?,
                root: NodeId::from_bytes(root),
            })
        };
        let rows = read().map_err(table(&self.path))?;
        let known = rows.len();
        let trees: Vec<_> = rows.into_iter().filter_map(parsed).collect();
        if trees.len() < known {
            return Err(inconsistent(&self.path, "the list of trees"));
        }
        Ok(trees)
    }

    /// Whether anything refers to an object, or to one whose hash begins alike: one that is in use is never missed.
    ///
    /// # Errors
    /// [`ReferenceError::Table`].
    pub fn uses(&self, object: &ObjectId) -> Result<bool, ReferenceError> {
        self.query_one("SELECT 1 FROM objects WHERE key = ?", params![key(object)])
    }

    /// Whether anything refers to a node.
    ///
    /// # Errors
    /// [`ReferenceError::Table`].
    pub fn uses_node(&self, node: &NodeId) -> Result<bool, ReferenceError> {
        self.query_one("SELECT 1 FROM nodes WHERE id = ?", params![node.as_bytes()])
    }

    fn query_one(&self, sql: &str, params: impl rusqlite::Params) -> Result<bool, ReferenceError> {
        let found = self
            .db
            .prepare_cached(sql)
            .and_then(|mut query| query.query_row(params, |_| Ok(())).optional());
        Ok(found.map_err(table(&self.path))?.is_some())
    }

    /// The first of the dead objects behind `after`, by their ids; none if there are no more. Those that are in use
    /// again are taken off the list.
    ///
    /// # Errors
    /// [`ReferenceError::Table`].
    pub fn dead_objects(&mut self, after: Option<&ObjectId>, count: usize) -> Result<Vec<ObjectId>, ReferenceError> {
        loop {
            let listed = self.listed("dead_objects", after.map(ObjectId::as_bytes), count)?;
            let (mut dead, mut back) = (Vec::new(), Vec::new());
            for object in listed.into_iter().map(ObjectId::from_bytes) {
                let place = if self.uses(&object)? { &mut back } else { &mut dead };
                place.push(object);
            }
            self.unlist("dead_objects", &back)?;
            if back.is_empty() || !dead.is_empty() {
                return Ok(dead);
            }
        }
    }

    /// How many objects are listed as dead. Some of them may be in use again.
    ///
    /// # Errors
    /// [`ReferenceError::Table`].
    pub fn dead_object_count(&self) -> Result<u64, ReferenceError> {
        let count = self
            .db
            .query_row("SELECT COUNT(*) FROM dead_objects", [], |row| row.get(0));
        let count: i64 = count.map_err(table(&self.path))?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    /// The files of these objects are gone for good: from now on their digests are what is left to remove.
    ///
    /// # Errors
    /// [`ReferenceError::Table`].
    pub fn objects_gone(&mut self, objects: &[ObjectId]) -> Result<(), ReferenceError> {
        let path = self.path.clone();
        self.change(|tx| {
            for object in objects {
                let id = params![object.as_bytes()];
                tx.prepare_cached("DELETE FROM dead_objects WHERE id = ?")
                    .and_then(|mut sql| sql.execute(id))
                    .and_then(|_| tx.prepare_cached("INSERT OR IGNORE INTO dead_digests VALUES (?)"))
                    .and_then(|mut sql| sql.execute(id))
                    .map_err(table(&path))?;
            }
            Ok(())
        })
    }

    /// Dead nodes that are still listed, in use again or not: whoever removes them asks [`uses_node`](Self::uses_node).
    ///
    /// # Errors
    /// [`ReferenceError::Table`].
    pub fn dead_nodes(&self) -> Result<Vec<NodeId>, ReferenceError> {
        let listed = self.listed("dead_nodes", None, usize::MAX)?;
        Ok(listed.into_iter().map(NodeId::from_bytes).collect())
    }

    /// The dead nodes are gone, or are not dead any more.
    ///
    /// # Errors
    /// [`ReferenceError::Table`].
    pub fn nodes_gone(&mut self) -> Result<(), ReferenceError> {
        self.clear("dead_nodes")
    }

    /// Objects that are gone and whose digests may still be there.
    ///
    /// # Errors
    /// [`ReferenceError::Table`].
    pub fn dead_digests(&self) -> Result<Vec<ObjectId>, ReferenceError> {
        let listed = self.listed("dead_digests", None, usize::MAX)?;
        Ok(listed.into_iter().map(ObjectId::from_bytes).collect())
    }

    /// The dead digests are gone, or are not dead any more.
    ///
    /// # Errors
    /// [`ReferenceError::Table`].
    pub fn digests_gone(&mut self) -> Result<(), ReferenceError> {
        self.clear("dead_digests")
    }

    /// Whether catalog nodes or digests are listed as dead.
    ///
    /// # Errors
    /// [`ReferenceError::Table`].
    pub fn lists_dead(&self) -> Result<bool, ReferenceError> {
        Ok(!self.listed("dead_nodes", None, 1)?.is_empty() || !self.listed("dead_digests", None, 1)?.is_empty())
    }

    /// Forgets all counts, and keeps the lists of what is dead: every live tree has to be counted in before anything
    /// of them may be removed.
    ///
    /// # Errors
    /// [`ReferenceError::Table`].
    pub fn forget_all(&mut self) -> Result<(), ReferenceError> {
        let path = self.path.clone();
        self.change(|tx| {
            tx.execute_batch("DELETE FROM trees; DELETE FROM nodes; DELETE FROM objects")
                .map_err(table(&path))
        })
    }

    /// Lists objects as dead that nothing ever referred to.
    ///
    /// # Errors
    /// [`ReferenceError::Table`].
    pub fn condemn(&mut self, objects: &[ObjectId]) -> Result<(), ReferenceError> {
        let path = self.path.clone();
        self.change(|tx| {
            let list = |object| list_as_dead(tx, "dead_objects", ObjectId::as_bytes(object));
            objects.iter().try_for_each(list).map_err(table(&path))
        })
    }

    fn listed(&self, list: &str, after: Option<&[u8; 32]>, count: usize) -> Result<Vec<[u8; 32]>, ReferenceError> {
        let read = || {
            let sql = format!("SELECT id FROM {list} WHERE id > ? ORDER BY id LIMIT ?");
            let mut query = self.db.prepare_cached(&sql)?;
            let limit = i64::try_from(count).unwrap_or(i64::MAX);
            let after = after.map_or(&[][..], <[u8; 32]>::as_slice);
            let rows = query.query_map(params![after, limit], |row| row.get(0))?;
            rows.collect::<rusqlite::Result<_>>()
        };
        read().map_err(table(&self.path))
    }

    fn unlist(&mut self, list: &str, objects: &[ObjectId]) -> Result<(), ReferenceError> {
        if objects.is_empty() {
            return Ok(());
        }
        let path = self.path.clone();
        self.change(|tx| {
            let sql = format!("DELETE FROM {list} WHERE id = ?");
            for object in objects {
                tx.prepare_cached(&sql)
                    .and_then(|mut sql| sql.execute([object.as_bytes()]))
                    .map_err(table(&path))?;
            }
            Ok(())
        })
    }

    fn clear(&mut self, list: &str) -> Result<(), ReferenceError> {
        let done = self.db.execute(&format!("DELETE FROM {list}"), []);
        done.map(drop).map_err(table(&self.path))
    }

    /// All of a change, or after an error nothing of it.
    fn change(
        &mut self,
        work: impl FnOnce(&Transaction<'_>) -> Result<(), ReferenceError>,
    ) -> Result<(), ReferenceError> {
        let path = self.path.clone();
        let tx = self
            .db
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(table(&path))?;
        work(&tx)?;
        tx.commit().map_err(table(&path))
    }
}

/// Objects that nodes refer to, to be counted in order of their keys: the table is then written from end to end instead
/// of all over.
#[derive(Debug, Default)]
struct Gathered(Vec<ObjectId>);

impl Gathered {
    /// Takes them, grouped by key.
    fn groups(&mut self) -> HashMap<i64, Vec<ObjectId>> {
        let mut groups: HashMap<i64, Vec<ObjectId>> = HashMap::new();
        for object in self.0.drain(..) {
            groups.entry(key(&object)).or_default().push(object);
        }
        groups
    }

    fn add_to(&mut self, tx: &Transaction<'_>) -> rusqlite::Result<()> {
        self.0.sort_unstable_by_key(key);
        let mut sql =
            tx.prepare_cached("INSERT INTO objects VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET n = n + excluded.n")?;
        for alike in self.0.chunk_by(|a, b| key(a) == key(b)) {
            if let Some(first) = alike.first() {
                sql.execute(params![key(first), count(alike)])?;
            }
        }
        self.0.clear();
        Ok(())
    }

    fn take_from(&mut self, tx: &Transaction<'_>, path: &Path) -> Result<(), ReferenceError> {
        for (key, objects) in self.groups() {
            let left = tx
                .prepare_cached("UPDATE objects SET n = n - ? WHERE key = ? RETURNING n")
                .and_then(|mut sql| {
                    sql.query_row(params![count(&objects), key], |row| row.get::<_, i64>(0))
                        .optional()
                });
            match left.map_err(table(path))? {
                Some(0) => {
                    tx.prepare_cached("DELETE FROM objects WHERE key = ?")
                        .and_then(|mut sql| sql.execute([key]))
                        .map_err(table(path))?;
                    let list = |object: &ObjectId| list_as_dead(tx, "dead_objects", object.as_bytes());
                    objects.iter().try_for_each(list).map_err(table(path))?;
                }
                Some(1..) => {}
                _ => {
                    let what = objects
                        .first()
                        .map_or_else(String::new, |object| format!("object {object}"));
                    return Err(inconsistent(path, &what));
                }
            }
        }
        Ok(())
    }
}

fn count(objects: &[ObjectId]) -> i64 {
    i64::try_from(objects.len()).unwrap_or(i64::MAX)
}

/// What a node refers to.
fn children(
    source: &impl NodeSource,
    id: NodeId,
    nodes: &mut Vec<NodeId>,
    objects: &mut Vec<ObjectId>,
) -> Result<(), CatalogError> {
    let bytes = source.node(&id)?.ok_or(CatalogError::Missing(id))?;
    let node = CatalogNode::open(id, bytes)?;
    let before = (nodes.len(), objects.len());
    for i in 0..node.len() {
        if node.is_index() {
            nodes.push(node.child(i).node);
            continue;
        }
        match node.meta(i) {
            Ok(meta) => match meta.kind {
                Kind::Directory(directory) => nodes.push(directory.node),
                Kind::File(file) => objects.push(file.object),
                Kind::Symlink(_) => {}
            },
            Err(error) => {
                // All of a node or nothing: half of it would be counted half.
                nodes.truncate(before.0);
                objects.truncate(before.1);
                return Err(error);
            }
        }
    }
    Ok(())
}

/// One more reference; returns how many there are now.
fn add_node(tx: &Transaction<'_>, id: &NodeId) -> rusqlite::Result<i64> {
    let sql = "INSERT INTO nodes VALUES (?, 1) ON CONFLICT (id) DO UPDATE SET n = n + 1 RETURNING n";
    tx.prepare_cached(sql)?.query_row([id.as_bytes()], |row| row.get(0))
}

/// One reference less; returns how many are left, `None` if there was none. With the last one the node is dead.
fn drop_node(tx: &Transaction<'_>, id: &NodeId) -> rusqlite::Result<Option<i64>> {
    let id = id.as_bytes();
    let left = tx
        .prepare_cached("UPDATE nodes SET n = n - 1 WHERE id = ? RETURNING n")?
        .query_row([id], |row| row.get(0))
        .optional()?;
    if left == Some(0) {
        tx.prepare_cached("DELETE FROM nodes WHERE id = ?")?.execute([id])?;
        list_as_dead(tx, "dead_nodes", id)?;
    }
    Ok(left)
}

fn list_as_dead(tx: &Transaction<'_>, list: &str, id: &[u8; 32]) -> rusqlite::Result<()> {
    let mut sql = tx.prepare_cached(&format!("INSERT OR IGNORE INTO {list} VALUES (?)"))?;
    sql.execute([id]).map(drop)
}

/// Objects are counted by the first eight bytes of their hash: a third of the space. Two that share them share a count,
/// which keeps one too long and never loses one. Nodes have children, so they are counted by all of it.
fn key(object: &ObjectId) -> i64 {
    let first = object.as_bytes().first_chunk();
    first.map_or(0, |bytes| i64::from_be_bytes(*bytes))
}

fn tree_row(tree: &CountedTree) -> (String, String, [u8; 32]) {
    let CountedTree {
        repository,
        snapshot,
        root,
    } = tree;
    (repository.to_string(), snapshot.to_string(), *root.as_bytes())
}

fn table(path: &Path) -> impl Fn(rusqlite::Error) -> ReferenceError + '_ {
    |source| ReferenceError::Table {
        path: path.to_path_buf(),
        source,
    }
}

fn inconsistent(path: &Path, what: &str) -> ReferenceError {
    ReferenceError::Inconsistent {
        path: path.to_path_buf(),
        what: what.to_owned(),
    }
}

fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt)
    )
}

#[cfg(test)]
#[path = "references_tests.rs"]
mod tests;
