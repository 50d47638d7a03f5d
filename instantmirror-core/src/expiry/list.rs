//! Doubly linked lists whose links lie in one array, by handle: 8 bytes an object, whichever list it is in.

use super::{Handle, at};

/// No neighbour.
const NONE: u32 = u32::MAX;
/// In the place of the older neighbour: in no list.
const ABSENT: u32 = u32::MAX - 1;

#[derive(Debug, Clone, Copy)]
struct Link {
    older: u32,
    newer: u32,
}

const UNLINKED: Link = Link {
    older: ABSENT,
    newer: NONE,
};

/// The links of all lists.
#[derive(Debug, Default)]
pub(super) struct Links(Vec<Link>);

impl Links {
    fn of(&self, handle: Handle) -> Link {
        self.0.get(at(handle)).copied().unwrap_or(UNLINKED)
    }

    fn of_mut(&mut self, handle: Handle) -> Option<&mut Link> {
        self.0.get_mut(at(handle))
    }

    /// Whether the object is in any list.
    pub(super) fn contains(&self, handle: Handle) -> bool {
        self.of(handle).older != ABSENT
    }
}

/// One list, from its oldest member to its newest.
#[derive(Debug)]
pub(super) struct List {
    oldest: u32,
    newest: u32,
    len: usize,
}

impl List {
    pub(super) fn new() -> Self {
        Self {
            oldest: NONE,
            newest: NONE,
            len: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn oldest(&self) -> Option<Handle> {
        (self.oldest != NONE).then_some(self.oldest)
    }

    /// Adds an object that is in no list, as the newest.
    pub(super) fn push(&mut self, links: &mut Links, handle: Handle) {
        if links.0.len() <= at(handle) {
            links.0.resize(at(handle) + 1, UNLINKED);
        }
        let older = self.newest;
        links.0[at(handle)] = Link { older, newer: NONE };
        match links.of_mut(older) {
            Some(link) if older != NONE => link.newer = handle,
            _ => self.oldest = handle,
        }
        self.newest = handle;
        self.len += 1;
    }

    /// Takes out an object that is in this list.
    pub(super) fn unlink(&mut self, links: &mut Links, handle: Handle) {
        let Link { older, newer } = links.of(handle);
        match links.of_mut(older) {
            Some(link) if older != NONE => link.newer = newer,
            _ => self.oldest = newer,
        }
        match links.of_mut(newer) {
            Some(link) if newer != NONE => link.older = older,
            _ => self.newest = older,
        }
        if let Some(link) = links.of_mut(handle) {
            *link = UNLINKED;
        }
        self.len -= 1;
    }

    /// Makes a member the newest.
    pub(super) fn renew(&mut self, links: &mut Links, handle: Handle) {
        self.unlink(links, handle);
        self.push(links, handle);
    }
}
