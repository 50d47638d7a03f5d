//! [`RouteList`]: routes as people and programs read them, a line or an object for each.

use std::fmt;

use http::Method;
use instantmirror_core::RepoName;
use serde_json::{Value, json};

use super::{Access, RouteEntry};
use crate::view::mounts::Mounts;

/// Routes in an order, to be shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RouteList(Vec<RouteEntry>);

impl RouteList {
    /// The routes.
    pub fn iter(&self) -> impl Iterator<Item = &RouteEntry> {
        self.0.iter()
    }

    /// The same as on a control socket: for nobody else.
    #[must_use]
    pub fn on_control_socket(mut self) -> Self {
        self.0.iter_mut().for_each(|entry| entry.access = Access::Control);
        self
    }

    /// An array of objects with `method`, `path`, `access` ([`Access::as_str`]) and `purpose`.
    ///
    /// ```
    /// use http::Method;
    /// use instantmirror_http::{Access, RouteEntry, RouteList};
    /// let route = RouteEntry::new(Method::GET, "/metrics", Access::Public, "Counts");
    /// let list: RouteList = [route].into_iter().collect();
    /// assert_eq!(list.to_json()[0]["access"], "public");
    /// ```
    #[must_use]
    pub fn to_json(&self) -> Value {
        let object = |entry: &RouteEntry| {
            json!({
                "method": entry.method.as_str(),
                "path": entry.path,
                "access": entry.access.as_str(),
                "purpose": entry.purpose,
            })
        };
        self.0.iter().map(object).collect()
    }

    /// What a command prints: [JSON](Self::to_json), or columns.
    #[must_use]
    pub fn shown(&self, json: bool) -> String {
        if json {
            format!("{:#}\n", self.to_json())
        } else {
            self.to_string()
        }
    }
}

impl FromIterator<RouteEntry> for RouteList {
    fn from_iter<T: IntoIterator<Item = RouteEntry>>(routes: T) -> Self {
        Self(routes.into_iter().collect())
    }
}

impl Extend<RouteEntry> for RouteList {
    fn extend<T: IntoIterator<Item = RouteEntry>>(&mut self, routes: T) {
        self.0.extend(routes);
    }
}

impl IntoIterator for RouteList {
    type Item = RouteEntry;
    type IntoIter = std::vec::IntoIter<RouteEntry>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// A line for each route, in columns: method, path, who may ask, what it does.
impl fmt::Display for RouteList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widest = |width: fn(&RouteEntry) -> usize| self.0.iter().map(width).max().unwrap_or(0);
        let method = widest(|entry| entry.method.as_str().len());
        let path = widest(|entry| entry.path.chars().count());
        let access = widest(|entry| entry.access.to_string().len());
        self.0.iter().try_for_each(|entry| {
            let (asks, who) = (entry.method.as_str(), entry.access);
            writeln!(
                f,
                "{asks:method$}  {:path$}  {who:access$}  {}",
                entry.path, entry.purpose
            )
        })
    }
}

/// The places of published trees, which are looked at before the routes of a table outside `/.im/`: the list of the
/// repositories, each repository, mounts. With `own_files` also the operator's own.
#[must_use]
pub fn published_trees(repositories: &[RepoName], mounts: &Mounts, own_files: bool) -> RouteList {
    let entry = |path: String, purpose: String| RouteEntry::new(Method::GET, path, Access::Public, purpose);
    let below = |path: &str| match path {
        "" => "/{*path}".to_owned(),
        path => format!("/{path}/{{*path}}"),
    };
    let mut list = RouteList::default();
    let is_at_root = mounts.all().any(|mount| mount.host.is_none() && mount.path.is_root());
    if !is_at_root {
        list.0.push(entry("/".to_owned(), "Lists what is published".to_owned()));
    }
    list.extend(repositories.iter().map(|name| {
        let purpose = format!("Shows the snapshots of '{name}'");
        entry(below(name.as_str()), purpose)
    }));
    list.extend(mounts.all().map(|mount| {
        let on = mount.host.as_ref().map(|host| format!(" on host {}", host.as_str()));
        let purpose = format!(
            "Shows {} of '{}'{}",
            mount.view,
            mount.repository,
            on.unwrap_or_default()
        );
        entry(below(mount.path.as_str()), purpose)
    }));
    if !repositories.is_empty() {
        let path = format!("/{}/{{*path}}", instantmirror_core::metainfo::WEB_SEED_PREFIX);
        list.0
            .push(entry(path, "Serves web seeds of torrents (BEP 19)".to_owned()));
    }
    if own_files {
        list.0.push(entry(
            below(""),
            "Shows a file of the operator's own where nothing else is".to_owned(),
        ));
    }
    list
}
