//! The tree of a catalog, with the content in a master's objects.

use std::io::Read;

use instantmirror_core::catalog::{Catalog, CatalogError, Differences, NodeSource, Resolution};
use instantmirror_core::{FileMeta, Meta, ObjectId, RepoPath};

use super::{Checked, Known, MetadataError, Touched, Tree, check, check_since, is_metadata};
use crate::error::StoreError;
use crate::objects::ObjectWriter;
use crate::tree::{SourceFile, SourceTree};

/// A [`Tree`] that was scanned and stored, published or not.
#[derive(Debug)]
pub struct StoredTree<'a, S> {
    catalog: Catalog<&'a S>,
    objects: &'a dyn ObjectWriter,
    /// Where the content of objects is that were not kept.
    source: Option<&'a SourceTree>,
}

impl<'a, S: NodeSource> StoredTree<'a, S> {
    /// The tree below `root`.
    pub fn new(nodes: &'a S, root: Meta, objects: &'a dyn ObjectWriter) -> Self {
        Self {
            catalog: Catalog::new(nodes, root),
            objects,
            source: None,
        }
    }

    /// The same of a dry run: what was scanned and not stored is read from the source tree.
    #[must_use]
    pub fn or_from(self, source: Option<&'a SourceTree>) -> Self {
        Self { source, ..self }
    }

    fn resolve(&self, path: &RepoPath) -> Result<Option<(RepoPath, Meta)>, MetadataError> {
        match self.catalog.resolve(path)? {
            Resolution::Found(real, meta) => Ok(Some((real, meta))),
            _ => Ok(None),
        }
    }
}

impl<S: NodeSource> Tree for StoredTree<'_, S> {
    fn file(&self, path: &RepoPath) -> Result<Option<(RepoPath, FileMeta)>, MetadataError> {
        let found = self.resolve(path)?;
        Ok(found.and_then(|(real, meta)| Some((real, *meta.as_file()?))))
    }

    fn is_directory(&self, path: &RepoPath) -> Result<bool, MetadataError> {
        let found = self.resolve(path)?;
        Ok(found.is_some_and(|(_, meta)| meta.as_directory().is_some()))
    }

    fn open(&self, path: &RepoPath, file: &FileMeta) -> Result<Box<dyn Read + '_>, MetadataError> {
        match (self.objects.content(&file.object), self.source) {
            (Ok(content), _) => Ok(content),
            (Err(_), Some(source)) => Ok(Box::new(open_source(source, path, file)?)),
            (Err(error), None) => Err(error.into()),
        }
    }

    fn sha256(&self, object: &ObjectId) -> Result<Option<[u8; 32]>, MetadataError> {
        Ok(self.objects.sha256(object)?)
    }
}

fn open_source(source: &SourceTree, path: &RepoPath, file: &FileMeta) -> Result<SourceFile, StoreError> {
    let opened = source.open_file(path)?;
    if opened.stamp().size == file.size {
        return Ok(opened);
    }
    Err(StoreError::SourceChanged {
        path: opened.path().to_path_buf(),
        what: format!("it had {} bytes and has {} now", file.size, opened.stamp().size),
    })
}

/// Checks the metadata of a stored tree: what could have become wrong since the `known` one, or everything.
/// In a dry run, `source` is what was scanned.
///
/// # Errors
/// [`MetadataError`]: then nothing is known.
pub fn check_stored<S: NodeSource>(
    nodes: &S,
    root: &Meta,
    objects: &dyn ObjectWriter,
    known: Option<&Known>,
    source: Option<&SourceTree>,
) -> Result<Checked, MetadataError> {
    let tree = StoredTree::new(nodes, root.clone(), objects).or_from(source);
    let Some(node) = root.as_directory().map(|directory| directory.node) else {
        return Ok(Checked::default());
    };
    if let Some(known) = known {
        match Touched::of(Differences::new(nodes, Some(known.root), node)) {
            Ok(Some(touched)) => return check_since(&tree, known, &touched),
            // Too much has changed, or the catalog of the tree that was good was cleaned up.
            Ok(None) | Err(CatalogError::Missing(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let mut metadata = Vec::new();
    for found in Differences::new(nodes, None, node) {
        let path = found?.path;
        if is_metadata(&path) {
            metadata.push(path);
        }
    }
    metadata.sort();
    check(&tree, metadata)
}
