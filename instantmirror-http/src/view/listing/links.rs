//! Where the symlinks of a directory lead.
//!
//! Key decision: links to names in the same directory are followed with the ends that were found before. Reason: chains of
//! links (`stable`, `stable-1`, `stable-1.2`) are followed from each of their links, which is quadratic otherwise, and a
//! page may have ten thousand of them.

use std::collections::HashMap;
use std::sync::Arc;

use instantmirror_core::catalog::{Catalog, CatalogError, NodeSource, Resolution, SYMLINKS_MAX};
use instantmirror_core::{Directory, Kind, Meta, Name, RepoPath};

use super::{LinkEnd, Nodes};

/// Most links that are followed at a time to learn the ends of all of them.
const TRAIL_MAX: usize = 128;

/// The tree that a directory's symlinks are followed in.
#[derive(Debug, Clone)]
pub struct Links {
    root: Meta,
    directory: RepoPath,
}

impl Links {
    /// Of the directory at a path of the tree with this root.
    #[must_use]
    pub fn new(root: Meta, directory: RepoPath) -> Self {
        Self { root, directory }
    }

    /// What finds the ends of some of them.
    pub(super) fn ends(&self, nodes: &Nodes) -> Result<LinkEnds<'_>, CatalogError> {
        let catalog = Catalog::new(Arc::clone(&nodes.0), self.root.clone());
        // Links on the way to the directory count too: there each path is followed by itself.
        let here = catalog.lookup(&self.directory)?;
        let here = here.and_then(|here| here.as_directory().copied());
        Ok(LinkEnds {
            links: self,
            catalog,
            here,
            known: HashMap::new(),
        })
    }
}

/// Finds where symlinks of one directory lead.
pub(super) struct LinkEnds<'a> {
    links: &'a Links,
    catalog: Catalog<Arc<dyn NodeSource>>,
    /// The directory, if no link leads to it.
    here: Option<Directory>,
    /// By name in it: the end, and over how many links.
    known: HashMap<String, (LinkEnd, usize)>,
}

impl LinkEnds<'_> {
    /// Where the symlink `name` with this target leads.
    pub(super) fn end(&mut self, name: &Name, target: &str) -> Result<LinkEnd, CatalogError> {
        let Ok(path) = self.links.directory.join(name) else {
            return Ok(LinkEnd::Nowhere);
        };
        if let Some(here) = self.here
            && let Some((end, links)) = self.follow(&here, target)?
        {
            return Ok(if links < SYMLINKS_MAX { end } else { LinkEnd::Nowhere });
        }
        Ok(match self.catalog.resolve(&path)? {
            Resolution::Found(_, meta) => end_of(&meta),
            Resolution::NotFound | Resolution::Loop => LinkEnd::Nowhere,
        })
    }

    /// The end of a target, and over how many links; `None` if one leads out of the directory.
    fn follow(&mut self, here: &Directory, target: &str) -> Result<Option<(LinkEnd, usize)>, CatalogError> {
        let mut trail = Vec::new();
        let mut name = target.to_owned();
        let (end, mut links) = loop {
            if name.contains('/') || matches!(name.as_str(), "" | "." | "..") {
                return Ok(None);
            }
            if let Some(known) = self.known.get(&name) {
                break *known;
            }
            if trail.len() == TRAIL_MAX {
                // From these on there are too many for sure; of the last ones that is not known.
                trail.truncate(TRAIL_MAX - SYMLINKS_MAX);
                break (LinkEnd::Nowhere, SYMLINKS_MAX);
            }
            match self.catalog.entry(here, &name)? {
                None => break (LinkEnd::Nowhere, 0),
                Some(meta) => match meta.kind {
                    Kind::Symlink(target) => trail.push(std::mem::replace(&mut name, target.into())),
                    _ => break (end_of(&meta), 0),
                },
            }
        };
        let mut found = (end, links);
        for name in trail.into_iter().rev() {
            links += 1;
            found = (if links <= SYMLINKS_MAX { end } else { LinkEnd::Nowhere }, links);
            self.known.insert(name, found);
        }
        Ok(Some(found))
    }
}

fn end_of(meta: &Meta) -> LinkEnd {
    match &meta.kind {
        Kind::Directory(_) => LinkEnd::Directory,
        Kind::File(file) => LinkEnd::File(file.size),
        Kind::Symlink(_) => LinkEnd::Nowhere,
    }
}
