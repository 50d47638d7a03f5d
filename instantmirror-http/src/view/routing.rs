//! Where a path leads: which repository, which snapshot, which entry. A function of the path, the mounts and
//! what is published at that moment; it reads catalog nodes and nothing else.
//!
//! Invariant: what is found lies inside one snapshot. Symlinks of a tree are followed inside it only.

use std::sync::Arc;
use std::time::Instant;

use instantmirror_core::catalog::{Catalog, CatalogError, NodeSource, Resolution};
use instantmirror_core::log_limited;
use instantmirror_core::metainfo::{WebSeedPlace, client_names};
use instantmirror_core::traits::Catalogs;
use instantmirror_core::view::{AREAS, Place, RepositoryState, View};
use instantmirror_core::{Directory, FileMeta, Kind, Name, RepoName, RepoPath, Snapshot, SnapshotId};

use crate::message::request::RequestPath;
pub use crate::view::listing::Nodes;
use crate::view::listing::{Row, RowKind};
use crate::view::mounts::{Mount, Site, depth, is_reserved};

/// The document that stands for a directory where a [`Mount`] says so.
pub(crate) const INDEX: &str = "index.html";
/// In larger directories no file is looked for that a torrent client has renamed.
const RENAMED_AMONG_MAX: usize = 2_000;

/// Which snapshot something was found in.
#[derive(Debug, Clone)]
pub struct Origin {
    /// The repository.
    pub repository: RepoName,
    /// What was published of it at that moment.
    pub state: Arc<RepositoryState>,
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Whether the URL names the snapshot, so that its content can never change.
    pub fixed: bool,
    /// The path inside the snapshot, as it was asked for (symlinks and all).
    pub path: RepoPath,
    /// Where the same can be had for ever, relative to the URL asked for, if it is another.
    pub permanent: Option<String>,
}

/// Where a path leads.
#[derive(Debug)]
#[non_exhaustive]
pub enum Route {
    /// To a regular file.
    File(Origin, FileMeta, i64),
    /// To a directory of a tree.
    Directory(Origin, Directory, Nodes),
    /// To a directory that exists in the name space only.
    Virtual(Vec<Row>),
    /// To a pad file of a torrent (BEP 47): so many zeros, which lie nowhere.
    Zeros(u64),
    /// To a directory, had the path a slash at its end: where that is, relative to the URL asked for. The flag says
    /// whether it will stay so.
    Redirect(String, bool),
    /// Into a tree, but to nothing there. The text is for a person.
    NotFound(String),
    /// Into a repository of which nothing can be shown yet. The text is for a person.
    NotYet(String),
    /// To no tree at all.
    Elsewhere,
    /// To something that could not be read.
    Failed(RepoName, CatalogError),
}

/// Finds where `request` leads now on this site.
#[must_use]
pub fn route(site: &Site, catalogs: &dyn Catalogs, request: &RequestPath) -> Route {
    if is_reserved(&request.path) {
        return match WebSeedPlace::route(&request.path) {
            Some(place) => route_web_seed(site, catalogs, place, request),
            None => Route::Elsewhere,
        };
    }
    match place(site, catalogs, &request.path) {
        Spot::Tree(tree) => route_tree(site, catalogs, &tree, request),
        // Whoever copies by listings would take an empty one for the truth.
        Spot::Area(state, _) if state.snapshots.is_empty() => not_yet(&state.name),
        Spot::Area(state, place) => slashed(request, || Route::Virtual(area_rows(&state, &place))),
        Spot::Between(rows) => slashed(request, || Route::Virtual(rows)),
        Spot::Unknown(text) => Route::NotFound(text),
        Spot::Nowhere => Route::Elsewhere,
    }
}

fn not_yet(repository: &RepoName) -> Route {
    Route::NotYet(format!(
        "repository '{repository}' has no snapshot that is whole here yet"
    ))
}

/// What a torrent client asks for that uses this server as a web seed.
fn route_web_seed(site: &Site, catalogs: &dyn Catalogs, place: WebSeedPlace, request: &RequestPath) -> Route {
    let tree = Tree {
        repository: place.repository,
        view: View::Snapshot(place.snapshot),
        index: false,
        path: place.path,
        by_default: true,
    };
    let state = catalogs.state(&tree.repository);
    let is_visible = state.is_some_and(|state| state.snapshot(&tree.view).is_some());
    match (route_tree(site, catalogs, &tree, request), place.pad_bytes) {
        (Route::NotFound(_), Some(bytes)) if is_visible && !request.directory => Route::Zeros(bytes),
        (Route::NotFound(text), None) if is_visible && !request.directory => match renamed(catalogs, &tree) {
            Some(path) => route_tree(site, catalogs, &Tree { path, ..tree }, request),
            None => Route::NotFound(text),
        },
        (route, _) => route,
    }
}

/// The file that a torrent client means which changes names before it asks for them. `None` if there is none, or more than one.
fn renamed(catalogs: &dyn Catalogs, tree: &Tree) -> Option<RepoPath> {
    let state = catalogs.state(&tree.repository)?;
    let snapshot = state.snapshot(&tree.view)?;
    let catalog = Catalog::new(catalogs.nodes(), snapshot.root.meta());
    let (mut path, mut meta) = (RepoPath::ROOT, snapshot.root.meta());
    for asked in tree.path.components() {
        let as_asked = path.join(&Name::new(asked).ok()?).ok()?;
        if let Some(found) = catalog.lookup(&as_asked).ok()? {
            (path, meta) = (as_asked, found);
            continue;
        }
        let mut meant = None;
        for (at, entry) in catalog.list(meta.as_directory()?, None).enumerate() {
            let entry = entry.ok().filter(|_| at < RENAMED_AMONG_MAX)?;
            if client_names(entry.name.as_str()).iter().any(|name| name == asked) && meant.replace(entry).is_some() {
                return None;
            }
        }
        let entry = meant?;
        (path, meta) = (path.join(&entry.name).ok()?, entry.meta);
    }
    meta.as_file().is_some().then_some(path)
}

/// Whether a route leaves its path to files of the operator's own: nothing is there, and it is at no repository's place and
/// inside no mount but one at the root. The front page is theirs too where nothing is mounted at the root.
pub(crate) fn is_free(catalogs: &dyn Catalogs, site: &Site, request: &RequestPath, route: &Route) -> bool {
    if request.path.is_root() {
        return matches!(route, Route::Virtual(_));
    }
    let is_elsewhere = || default_place(site, catalogs, &request.path).is_none();
    match route {
        Route::Elsewhere => !is_reserved(&request.path),
        Route::NotFound(_) | Route::NotYet(_) => {
            let mount = site.find(&request.path);
            mount.is_some_and(|(mount, _)| mount.path.is_root()) && is_elsewhere()
        }
        _ => false,
    }
}

/// A place of the name space, before any catalog is read.
enum Spot {
    Tree(Tree),
    Area(Arc<RepositoryState>, Place),
    Between(Vec<Row>),
    Unknown(String),
    Nowhere,
}

struct Tree {
    repository: RepoName,
    view: View,
    index: bool,
    path: RepoPath,
    /// Found at a default place, where the URL itself says which view is meant, for ever.
    by_default: bool,
}

fn place(site: &Site, catalogs: &dyn Catalogs, path: &RepoPath) -> Spot {
    let found = site.find(path);
    match default_place(site, catalogs, path) {
        Some(spot) if !found.as_ref().is_some_and(|found| wins(catalogs, found, path)) => spot,
        default => match found {
            Some((mount, path)) => Spot::Tree(Tree {
                repository: mount.repository.clone(),
                view: mount.view.clone(),
                index: mount.index,
                path,
                by_default: false,
            }),
            None => default.unwrap_or_else(|| between(site, catalogs, path)),
        },
    }
}

/// Whether a mount shows `path`, which is at the place of a repository: always, but for the repository's own top and
/// what is reserved there. Of these it shows what it was mounted at, and what its tree has.
fn wins(catalogs: &dyn Catalogs, (mount, rest): &(&Mount, RepoPath), path: &RepoPath) -> bool {
    let mut parts = path.components().skip(1);
    let end: usize = match parts.next() {
        Some(area) if !AREAS.contains(&area) => return true,
        Some(_) => 2,
        None => 1,
    };
    let Some(own) = end.checked_sub(depth(&mount.path)).filter(|own| *own > 0) else {
        return true;
    };
    let own: Vec<&str> = rest.components().take(own).collect();
    RepoPath::new(own.join("/")).is_ok_and(|own| has_entry(catalogs, mount, &own))
}

/// Whether the tree of a mount has something at `path`. One that cannot be read has not.
fn has_entry(catalogs: &dyn Catalogs, mount: &Mount, path: &RepoPath) -> bool {
    let state = catalogs.state(&mount.repository);
    let Some(snapshot) = state.as_ref().and_then(|state| state.snapshot(&mount.view)) else {
        return false;
    };
    let catalog = Catalog::new(catalogs.nodes(), snapshot.root.meta());
    !matches!(catalog.resolve(path), Ok(Resolution::NotFound) | Err(_))
}

fn between(site: &Site, catalogs: &dyn Catalogs, path: &RepoPath) -> Spot {
    let rows = rows_between(site, catalogs, path);
    if rows.is_empty() && !path.is_root() {
        Spot::Nowhere
    } else {
        Spot::Between(rows)
    }
}

fn default_place(site: &Site, catalogs: &dyn Catalogs, path: &RepoPath) -> Option<Spot> {
    let name: RepoName = path.components().next()?.parse().ok()?;
    let state = catalogs.state(&name)?;
    let rest = RepoPath::new(path.as_str().strip_prefix(name.as_str())?.trim_start_matches('/')).ok()?;
    Some(match Place::route(&rest) {
        Some(Place::Tree(view, path)) => Spot::Tree(Tree {
            index: site.shows_index(&name),
            repository: name,
            view,
            path,
            by_default: true,
        }),
        Some(place) => Spot::Area(state, place),
        None => Spot::Unknown(format!(
            "repository '{name}' shows snap/, master-snap/ and local-snap/; there is no '{rest}'"
        )),
    })
}

/// What lies directly below `path` on the way to mounts and repositories.
fn rows_between(site: &Site, catalogs: &dyn Catalogs, path: &RepoPath) -> Vec<Row> {
    let mut names: Vec<String> = site.names_below(path).collect();
    if path.is_root() {
        names.extend(catalogs.repositories().iter().map(ToString::to_string));
    }
    names.sort_unstable();
    names.dedup();
    names.into_iter().map(|name| Row::directory(name, None)).collect()
}

fn area_rows(state: &RepositoryState, place: &Place) -> Vec<Row> {
    let date = |snapshot: &Snapshot| Some(snapshot.created.as_millis().div_euclid(1000));
    let whole = |name: String, snapshot: &Snapshot| Row {
        name,
        kind: RowKind::Directory {
            files: Some(snapshot.root.files),
            bytes: Some(snapshot.root.bytes),
        },
        mtime: date(snapshot),
    };
    let tagged = |name: String, id: &SnapshotId| Some(whole(name, state.snapshots.get(id)?));
    match place {
        Place::Top => AREAS.map(|name| Row::directory(name.to_owned(), None)).into(),
        Place::Snapshots => {
            let current = state
                .snapshot(&View::Current)
                .map(|snapshot| whole("current".to_owned(), snapshot));
            let all = state.newest_first().into_iter();
            let all = all.map(|snapshot| whole(snapshot.id.to_string(), snapshot));
            current.into_iter().chain(all).collect()
        }
        Place::MasterTags => state
            .master_tags()
            .filter_map(|(tag, id)| tagged(tag.to_string(), id))
            .collect(),
        Place::LocalTags => state
            .local_tags
            .iter()
            .filter_map(|(tag, id)| tagged(tag.to_string(), id))
            .collect(),
        Place::Tree(..) => Vec::new(),
    }
}

/// A directory outside of trees, or the redirect to it.
fn slashed(request: &RequestPath, directory: impl FnOnce() -> Route) -> Route {
    if is_spelled_as_one(request) {
        directory()
    } else {
        Route::Redirect(request.reference_to(&request.path, true), false)
    }
}

/// Whether a request spells a directory so that links relative to it lead where its page means.
fn is_spelled_as_one(request: &RequestPath) -> bool {
    request.directory && !request.encodes_slash()
}

fn route_tree(site: &Site, catalogs: &dyn Catalogs, tree: &Tree, request: &RequestPath) -> Route {
    let (repository, view) = (&tree.repository, &tree.view);
    let state = catalogs.state(repository);
    let Some((state, snapshot)) = state.as_ref().and_then(|state| Some((state, state.snapshot(view)?))) else {
        if state.is_some_and(|state| state.is_awaited(view)) {
            return not_yet(repository);
        }
        return Route::NotFound(format!("'{view}' of repository '{repository}' is not visible here"));
    };
    let nodes = catalogs.nodes();
    let catalog = Catalog::new(Arc::clone(&nodes), snapshot.root.meta());
    let is_fixed = tree.by_default && matches!(view, View::Snapshot(_));
    let origin = |snapshot: SnapshotId, path: RepoPath, directory: bool| {
        // Whether a directory is shown by its index is for the operator to change.
        let fixed = is_fixed && (directory || !request.directory);
        let permanent = (!fixed).then(|| permanent_path(site, catalogs, repository, snapshot, &path));
        let permanent = permanent.flatten().map(|path| request.reference_to(&path, directory));
        Origin {
            repository: repository.clone(),
            state: Arc::clone(state),
            snapshot,
            fixed,
            path,
            permanent,
        }
    };
    match find(&catalog, tree, request) {
        Err(error) => Route::Failed(repository.clone(), error),
        Ok(Found::File(path, file, mtime)) => Route::File(origin(snapshot.id, path, false), file, mtime),
        Ok(Found::Directory(directory)) => {
            Route::Directory(origin(snapshot.id, tree.path.clone(), true), directory, Nodes(nodes))
        }
        Ok(Found::Slashless) => Route::Redirect(request.reference_to(&request.path, true), is_fixed),
        Ok(Found::Nothing) => match find_in_grace(catalogs, &catalog, tree, request) {
            Some((snapshot, path, file, mtime)) => Route::File(origin(snapshot, path, false), file, mtime),
            None => Route::NotFound(format!(
                "there is no '/{}' in snapshot {} of repository '{repository}'",
                tree.path, snapshot.id
            )),
        },
    }
}

/// A file that `current` lacks, in one of the snapshots that were current a while ago. Files only: a listing tells what
/// is there now. And only those whose absence means nothing beside what is there.
fn find_in_grace(
    catalogs: &dyn Catalogs,
    current: &Catalog<Arc<dyn NodeSource>>,
    tree: &Tree,
    request: &RequestPath,
) -> Option<(SnapshotId, RepoPath, FileMeta, i64)> {
    if tree.view != View::Current || request.directory {
        return None;
    }
    let found = find_in_older(catalogs, tree, request)?;
    let rule = catalogs.grace_rule(&tree.repository);
    let allowed = rule.allows(&tree.path, |path| match current.resolve(path)? {
        Resolution::Found(..) => Ok::<_, CatalogError>(true),
        Resolution::NotFound | Resolution::Loop => Ok(false),
    });
    match allowed {
        Ok(allowed) => allowed.then_some(found),
        Err(error) => {
            log_limited!(Instant::now(), warn, repository = %tree.repository, "the current catalog cannot be read: {error}");
            None
        }
    }
}

fn find_in_older(
    catalogs: &dyn Catalogs,
    tree: &Tree,
    request: &RequestPath,
) -> Option<(SnapshotId, RepoPath, FileMeta, i64)> {
    catalogs.fallbacks(&tree.repository).iter().find_map(|snapshot| {
        let catalog = Catalog::new(catalogs.nodes(), snapshot.root.meta());
        match find(&catalog, tree, request) {
            Ok(Found::File(path, file, mtime)) => Some((snapshot.id, path, file, mtime)),
            Ok(_) => None,
            Err(error) => {
                log_limited!(Instant::now(), warn, repository = %tree.repository, snapshot = %snapshot.id, "its catalog cannot be read: {error}");
                None
            }
        }
    })
}

enum Found {
    File(RepoPath, FileMeta, i64),
    Directory(Directory),
    Slashless,
    Nothing,
}

fn find(catalog: &Catalog<Arc<dyn NodeSource>>, tree: &Tree, request: &RequestPath) -> Result<Found, CatalogError> {
    let meta = match catalog.resolve(&tree.path)? {
        Resolution::Found(_, meta) => meta,
        Resolution::NotFound => return Ok(Found::Nothing),
        Resolution::Loop => {
            // No more than this: whoever asks again and again would fill the log.
            tracing::debug!(repository = %tree.repository, path = %tree.path, "symlinks of the tree form a loop");
            return Ok(Found::Nothing);
        }
    };
    match meta.kind {
        // A file is no directory, and a resolved path does not end in a symlink.
        Kind::File(_) if request.directory => Ok(Found::Nothing),
        Kind::File(file) => Ok(Found::File(tree.path.clone(), file, meta.mtime)),
        Kind::Symlink(_) => Ok(Found::Nothing),
        Kind::Directory(_) if !is_spelled_as_one(request) => Ok(Found::Slashless),
        Kind::Directory(directory) => {
            let index = tree.index.then(|| Name::new(INDEX).ok()).flatten();
            let Some(path) = index.and_then(|name| tree.path.join(&name).ok()) else {
                return Ok(Found::Directory(directory));
            };
            match catalog.resolve(&path)? {
                Resolution::Found(_, meta) => Ok(match meta.kind {
                    Kind::File(file) => Found::File(path, file, meta.mtime),
                    _ => Found::Directory(directory),
                }),
                _ => Ok(Found::Directory(directory)),
            }
        }
    }
}

/// `<repository>/snap/<uuid>/<path>`, unless a mount hides that place.
fn permanent_path(
    site: &Site,
    catalogs: &dyn Catalogs,
    repository: &RepoName,
    snapshot: SnapshotId,
    path: &RepoPath,
) -> Option<RepoPath> {
    let mut full = format!("{repository}/snap/{snapshot}");
    if !path.is_root() {
        full.push('/');
        full.push_str(path.as_str());
    }
    let full = RepoPath::new(&full).ok()?;
    let is_hidden = site.find(&full).is_some_and(|found| wins(catalogs, &found, &full));
    (!is_hidden).then_some(full)
}
