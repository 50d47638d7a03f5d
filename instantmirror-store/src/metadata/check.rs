//! The check itself: what has to be read, and whether what is named is there.

use std::collections::{BTreeSet, HashMap};

use instantmirror_core::{FileMeta, RepoPath};
use percent_encoding::percent_decode_str;

use super::digests::{Digest, HashKind};
use super::known::{Found, Index, Known};
use super::names::{Entry, Named, is_below, region};
use super::problem::Fault;
use super::touched::Touched;
use super::{Checked, MetadataError, Tree, debian, yum};

/// More directories than this are taken for the whole tree.
const REGIONS_MAX: usize = 64;

/// Checks all metadata of a tree, which is at these paths.
///
/// # Errors
/// [`MetadataError`]: then nothing is known.
pub fn check(tree: &dyn Tree, metadata: impl IntoIterator<Item = RepoPath>) -> Result<Checked, MetadataError> {
    let mut checker = Checker::new(tree, None);
    for path in metadata {
        checker.entry(&path, None)?;
    }
    Ok(checker.checked)
}

/// Checks what could have become wrong since a tree that was good: `touched` are the differences between the two.
///
/// # Errors
/// [`MetadataError`]: then nothing is known.
pub fn check_since(tree: &dyn Tree, known: &Known, touched: &Touched) -> Result<Checked, MetadataError> {
    let mut checker = Checker::new(tree, Some(touched));
    let before: HashMap<&RepoPath, &Found> = known.found.iter().map(|found| (&found.path, found)).collect();
    let mut paths: BTreeSet<RepoPath> = before.keys().map(|path| (*path).clone()).collect();
    paths.extend(
        touched
            .came()
            .chain(touched.gone())
            .filter(|path| Entry::of(path).is_some()),
    );
    for path in &paths {
        checker.entry(path, before.get(path).copied())?;
    }
    Ok(checker.checked)
}

/// What metadata states of a file.
pub(super) struct Expected {
    pub(super) size: Option<u64>,
    pub(super) digest: Option<Digest>,
    /// Read the file for a hash that is not known, even if it has not changed since a check.
    pub(super) always_hash: bool,
}

pub(super) struct Checker<'a> {
    pub(super) tree: &'a dyn Tree,
    touched: Option<&'a Touched>,
    checked: Checked,
    pub(super) read_bytes: u64,
    /// Indices that were looked at already: `Release` and `InRelease` list the same ones.
    done: HashMap<RepoPath, Index>,
}

impl<'a> Checker<'a> {
    fn new(tree: &'a dyn Tree, touched: Option<&'a Touched>) -> Self {
        Self {
            tree,
            touched,
            checked: Checked::default(),
            read_bytes: 0,
            done: HashMap::new(),
        }
    }

    /// Checks what one metadata file leads to. `before` is what the last good tree had of it.
    fn entry(&mut self, path: &RepoPath, before: Option<&Found>) -> Result<(), MetadataError> {
        let Some(entry) = Entry::of(path) else { return Ok(()) };
        if self.tree.file(path)?.is_none() {
            return Ok(());
        }
        if let (Some(before), Some(touched)) = (before, self.touched)
            && !touched.is_in(&entry.dir())
            && before.indices.iter().all(|index| is_quiet(touched, index))
        {
            self.checked.found.push(before.clone());
            return Ok(());
        }
        let mut scope = Scope {
            before,
            is_full: before.is_none() || self.is_touched(path),
            indices: Vec::new(),
        };
        match &entry {
            Entry::Yum { base } => yum::check(self, path, base, &mut scope)?,
            _ => debian::check(self, path, &entry, &mut scope)?,
        }
        self.checked.found.push(Found {
            path: path.clone(),
            indices: scope.indices,
        });
        self.checked.read_bytes = self.read_bytes;
        Ok(())
    }

    pub(super) fn problem(&mut self, metadata: &RepoPath, fault: Fault) {
        self.checked.problems.add(metadata, fault);
    }

    /// Whether a path is not what it was in the last good tree.
    pub(super) fn is_touched(&self, path: &RepoPath) -> bool {
        self.touched.is_none_or(|touched| touched.contains(path))
    }

    /// Finds the file that is named, at the first candidate where there is one, and compares it. What is elsewhere is
    /// nobody's fault. `None` if there is no such file, or it is not as stated.
    pub(super) fn named(
        &mut self,
        metadata: &RepoPath,
        name: &str,
        candidates: &[Named],
        expected: &Expected,
    ) -> Result<Option<(RepoPath, FileMeta)>, MetadataError> {
        for candidate in candidates {
            match candidate {
                Named::Elsewhere => return Ok(None),
                Named::Impossible => {}
                Named::Path(path) => {
                    if let Some((real, file)) = self.find(path)? {
                        let agrees = self.agrees(metadata, name, &real, &file, expected)?;
                        return Ok(agrees.then_some((real, file)));
                    }
                }
            }
        }
        let name = name.to_owned();
        self.problem(metadata, Fault::Missing { name });
        Ok(None)
    }

    /// Names are parts of URLs: some tools write them as such.
    fn find(&self, path: &RepoPath) -> Result<Option<(RepoPath, FileMeta)>, MetadataError> {
        let found = self.tree.file(path)?;
        if found.is_some() || !path.as_str().contains('%') {
            return Ok(found);
        }
        let decoded = percent_decode_str(path.as_str()).collect::<Vec<u8>>();
        RepoPath::new(decoded).map_or(Ok(None), |path| self.tree.file(&path))
    }

    /// Whether a file is as stated; a problem is noted if not.
    pub(super) fn agrees(
        &mut self,
        metadata: &RepoPath,
        name: &str,
        real: &RepoPath,
        file: &FileMeta,
        expected: &Expected,
    ) -> Result<bool, MetadataError> {
        if let Some(stated) = expected.size.filter(|stated| *stated != file.size) {
            let (name, is) = (name.to_owned(), file.size);
            self.problem(metadata, Fault::Size { name, is, stated });
            return Ok(false);
        }
        let Some(digest) = &expected.digest else {
            return Ok(true);
        };
        if digest.kind == HashKind::Sha256
            && let Some(sha256) = self.tree.sha256(&file.object)?
        {
            return Ok(self.note_digest(metadata, name, digest, digest.is(&sha256)));
        }
        if !expected.always_hash && !self.is_touched(real) {
            return Ok(true);
        }
        self.read_bytes += file.size;
        let mut content = self.tree.open(real, file)?;
        match digest.is_of(&mut content) {
            Ok(is_same) => {
                drop(content);
                Ok(self.note_digest(metadata, name, digest, is_same))
            }
            Err(error) => {
                drop(content);
                let reason = format!("names {name}, which cannot be read: {error}");
                self.problem(metadata, Fault::Unreadable { reason });
                Ok(false)
            }
        }
    }

    fn note_digest(&mut self, metadata: &RepoPath, name: &str, digest: &Digest, is_same: bool) -> bool {
        if !is_same {
            let (name, kind) = (name.to_owned(), digest.kind.name());
            self.problem(metadata, Fault::Digest { name, kind });
        }
        is_same
    }

    /// Checks one file that an index names.
    pub(super) fn package(
        &mut self,
        metadata: &RepoPath,
        name: &str,
        candidates: &[Named],
        expected: &Expected,
        pass: &mut Pass,
    ) -> Result<(), MetadataError> {
        let is_gone = |named: &Named| match (named, self.touched) {
            (Named::Path(path), Some(touched)) => touched.is_gone(path),
            _ => false,
        };
        if !pass.is_full && !candidates.iter().any(is_gone) {
            return Ok(());
        }
        if let Some((real, _)) = self.named(metadata, name, candidates, expected)? {
            pass.note(candidates, &real);
        }
        Ok(())
    }
}

/// Nothing that an index names can have become wrong.
fn is_quiet(touched: &Touched, index: &Index) -> bool {
    let is_gone = index.regions.iter().any(|region| touched.is_gone_in(region));
    let is_elsewhere = index.is_indirect && touched.has_links();
    !(is_gone || is_elsewhere || touched.contains(&index.path))
}

/// How much of what a metadata file leads to has to be looked at.
pub(super) struct Scope<'a> {
    before: Option<&'a Found>,
    is_full: bool,
    indices: Vec<Index>,
}

/// One reading of an index.
pub(super) struct Pass {
    index: RepoPath,
    base: RepoPath,
    /// Every file is looked at; else only those of which something else is there now.
    is_full: bool,
    is_indirect: bool,
    regions: BTreeSet<RepoPath>,
}

impl Scope<'_> {
    /// The metadata file itself is new, so all that it lists is to be looked at.
    pub(super) fn is_full(&self) -> bool {
        self.is_full
    }

    /// Begins to read an index; `None` if it need not be read. With `anew` it is read although it has not changed.
    pub(super) fn begin(
        &mut self,
        checker: &mut Checker<'_>,
        path: &RepoPath,
        entry: &Entry,
        anew: bool,
    ) -> Option<Pass> {
        if let Some(done) = checker.done.get(path) {
            self.indices.push(done.clone());
            return None;
        }
        let before = self.before.filter(|_| !anew);
        let before = before.and_then(|found| found.indices.iter().find(|index| index.path == *path));
        if let (Some(before), Some(touched)) = (before, checker.touched)
            && is_quiet(touched, before)
        {
            checker.done.insert(path.clone(), before.clone());
            self.indices.push(before.clone());
            return None;
        }
        let kept = before.filter(|index| !index.is_indirect && !checker.is_touched(path));
        let pass = Pass {
            index: path.clone(),
            base: entry.bases().into_iter().next().unwrap_or_default(),
            is_full: kept.is_none(),
            is_indirect: false,
            regions: kept
                .map(|index| index.regions.iter().cloned().collect())
                .unwrap_or_default(),
        };
        checker.done.insert(path.clone(), pass.index());
        Some(pass)
    }

    /// Notes where all that lies which an index names.
    pub(super) fn end(&mut self, checker: &mut Checker<'_>, pass: &Pass) {
        let index = pass.index();
        checker.done.insert(index.path.clone(), index.clone());
        self.indices.push(index);
    }
}

impl Pass {
    /// Notes that a file was found.
    fn note(&mut self, candidates: &[Named], real: &RepoPath) {
        let is_plain = is_below(real, &self.base)
            && candidates
                .iter()
                .any(|named| matches!(named, Named::Path(path) if path == real));
        self.is_indirect |= !is_plain;
        if self.regions.len() < REGIONS_MAX {
            self.regions.insert(region(&self.base, real));
        } else if !self.regions.contains(&region(&self.base, real)) {
            self.regions.insert(RepoPath::ROOT);
        }
    }

    fn index(&self) -> Index {
        Index {
            path: self.index.clone(),
            is_indirect: self.is_indirect,
            regions: self.regions.iter().cloned().collect(),
        }
    }
}
