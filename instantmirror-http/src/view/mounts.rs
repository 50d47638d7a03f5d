//! Which views appear where in the name space: mounts of the operator's choice beside `/<repository>/`.
//!
//! Key decision: `/<repository>/snap/`, `master-snap/` and `local-snap/` are there whatever is mounted at or above
//! `/<repository>`, unless the mounted tree has an entry of that name itself. Reason: every answer names its snapshot's
//! URL, which has to lead somewhere; and a tree that holds such an entry must stay readable as it was published.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::str::FromStr;

use instantmirror_core::view::{AREAS, View};
use instantmirror_core::{RepoName, RepoPath};

/// The first path component that belongs to us and to no tree.
pub const RESERVED: &str = ".im";

/// The name of a virtual host: lower case, without port and without a dot at its end.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName(Box<str>);

impl HostName {
    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for HostName {
    type Err = String;

    /// Takes a name or an address without a port; addresses of IPv6 stand in brackets.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_address = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let is_good = match is_address {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => {
                let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
                text.len() <= 253 && text.bytes().all(is_part) && !text.starts_with('.') && !text.contains("..")
            }
        };
        let name = plain_host(text);
        if is_good && !name.is_empty() {
            Ok(Self(name.into_owned().into()))
        } else {
            Err(format!(
                "'{text}' is not the name of a host: write one like deb.example.org, without port"
            ))
        }
    }
}

/// The host of a request as [`HostName`] writes it: `Deb.Example.org.:8080` is `deb.example.org`.
fn plain_host(host: &str) -> Cow<'_, str> {
    let name = match host.find(']') {
        Some(end) => host.get(..=end).unwrap_or(host),
        None => host.split(':').next().unwrap_or(host),
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}

/// Shows one view of a repository at a path of the operator's choice, so that existing URLs stay valid.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Mount {
    /// The host on which it is shown; on every one if there is none.
    pub host: Option<HostName>,
    /// Where; the root mounts at `/` itself.
    pub path: RepoPath,
    /// Which repository.
    pub repository: RepoName,
    /// Which snapshot of it.
    pub view: View,
    /// Whether a directory with an `index.html` is answered with that instead of a listing.
    pub index: bool,
}

impl Mount {
    /// Shows what is current of a repository at this path, on every host, with listings.
    #[must_use]
    pub fn new(path: RepoPath, repository: RepoName) -> Self {
        Self {
            host: None,
            path,
            repository,
            view: View::Current,
            index: false,
        }
    }
}

/// Why a list of mounts was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// Two mounts at one path.
    #[error("two mounts at '/{0}'; a path can show one view only, on each host")]
    Twice(RepoPath),
    /// A mount inside the part of the name space that is ours.
    #[error("a mount at '/{0}': paths below '/{RESERVED}' are the server's own")]
    Reserved(RepoPath),
}

/// Two things that want the same paths. Its text says which wins.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Overlap {
    /// A mount lies inside another one and hides what the tree of that has there.
    Inside {
        /// The inner mount.
        inner: RepoPath,
        /// The outer one.
        outer: RepoPath,
    },
    /// A mount has the place of a repository that it does not show.
    OtherRepository {
        /// The mount.
        path: RepoPath,
        /// The repository it shows.
        shown: RepoName,
        /// The repository of that name.
        named: RepoName,
    },
    /// A mount of one host has the path of a mount that is there for all hosts.
    OfHost {
        /// Where.
        path: RepoPath,
        /// The host.
        host: HostName,
    },
    /// A mount takes the place of a repository's snapshots or tags.
    HidesSnapshots {
        /// The mount.
        path: RepoPath,
        /// The repository.
        repository: RepoName,
    },
}

impl Overlap {
    /// Where the mount is that it is about.
    #[must_use]
    pub fn path(&self) -> &RepoPath {
        match self {
            Self::Inside { inner, .. } => inner,
            Self::OtherRepository { path, .. } | Self::HidesSnapshots { path, .. } | Self::OfHost { path, .. } => path,
        }
    }
}

impl fmt::Display for Overlap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inside { inner, outer } => write!(
                f,
                "the mount '/{inner}' lies inside the mount '/{outer}': it wins there, whatever that tree has"
            ),
            Self::OtherRepository { path, shown, named } => write!(
                f,
                "the mount '/{path}' shows '{shown}', and there is a repository '{named}': the mount wins, except for \
                 '/{named}/snap/', '/{named}/master-snap/' and '/{named}/local-snap/', which stay those of '{named}' unless \
                 the mounted tree has such names"
            ),
            Self::OfHost { path, host } => write!(
                f,
                "there are two mounts '/{path}' on host '{host}': that with `host` wins there, the other one on all other hosts"
            ),
            Self::HidesSnapshots { path, repository } => write!(
                f,
                "the mount '/{path}' lies where the snapshots of '{repository}' are: it wins, and they cannot be reached \
                 there; mount it somewhere else"
            ),
        }
    }
}

/// All mounts of a server. Besides them every repository is shown at `/<name>/` with all its snapshots, on every host.
#[derive(Debug, Clone)]
pub struct Mounts {
    /// What each host that has mounts of its own shows, by its place in `sites`.
    hosts: HashMap<Box<str>, usize>,
    /// The first is that of all other hosts.
    sites: Vec<Site>,
}

/// What one host shows, or all those that have no mounts of their own.
#[derive(Debug, Clone, Default)]
pub struct Site {
    number: usize,
    /// The longest paths first.
    mounts: Vec<Mount>,
}

impl Default for Mounts {
    fn default() -> Self {
        let sites = vec![Site::default()];
        Self {
            hosts: HashMap::new(),
            sites,
        }
    }
}

impl Mounts {
    /// Checks and orders mounts.
    ///
    /// # Errors
    /// [`MountError`].
    pub fn new(mut mounts: Vec<Mount>) -> Result<Self, MountError> {
        mounts.sort_by(|a, b| {
            depth(&b.path)
                .cmp(&depth(&a.path))
                .then_with(|| (&a.path, &a.host).cmp(&(&b.path, &b.host)))
        });
        let is_same = |pair: &&[Mount]| (&pair[0].path, &pair[0].host) == (&pair[1].path, &pair[1].host);
        if let Some(pair) = mounts.windows(2).find(is_same) {
            return Err(MountError::Twice(pair[0].path.clone()));
        }
        if let Some(mount) = mounts.iter().find(|mount| is_reserved(&mount.path)) {
            return Err(MountError::Reserved(mount.path.clone()));
        }
        let mut names: Vec<HostName> = mounts.iter().filter_map(|mount| mount.host.clone()).collect();
        names.sort();
        names.dedup();
        let mut sites = vec![Site::new(0, None, &mounts)];
        let mut hosts = HashMap::new();
        for name in names {
            hosts.insert(name.0.clone(), sites.len());
            sites.push(Site::new(sites.len(), Some(&name), &mounts));
        }
        Ok(Self { hosts, sites })
    }

    /// What is shown to a request for this host (the Host field or `:authority`, with or without port).
    #[must_use]
    pub fn site(&self, host: Option<&str>) -> &Site {
        static NONE: Site = Site {
            number: 0,
            mounts: Vec::new(),
        };
        let own = match host {
            Some(host) if !self.hosts.is_empty() => self.hosts.get(plain_host(host).as_ref()),
            _ => None,
        };
        self.sites.get(own.copied().unwrap_or(0)).unwrap_or(&NONE)
    }

    /// All mounts: those of every host first, then those of each host.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Mount> {
        let sites = self.sites.iter().enumerate();
        sites.flat_map(|(number, site)| {
            site.mounts
                .iter()
                .filter(move |mount| number == 0 || mount.host.is_some())
        })
    }

    /// What of these mounts and the places of `repositories` overlaps, so that an operator can be told which wins.
    #[must_use]
    pub fn overlaps(&self, repositories: &[RepoName]) -> Vec<Overlap> {
        let all = self.sites.iter().flat_map(|site| site.overlaps(repositories));
        let mut overlaps: Vec<Overlap> = Vec::new();
        for overlap in all {
            // What is there for all hosts overlaps on each of them.
            if !overlaps.contains(&overlap) {
                overlaps.push(overlap);
            }
        }
        let first = self.sites.first().into_iter().flat_map(|site| &site.mounts);
        let general: BTreeSet<&RepoPath> = first.map(|mount| &mount.path).collect();
        for mount in self.sites.iter().flat_map(|site| &site.mounts) {
            if let Some(host) = mount.host.clone().filter(|_| general.contains(&mount.path)) {
                let path = mount.path.clone();
                overlaps.push(Overlap::OfHost { path, host });
            }
        }
        overlaps
    }
}

impl Site {
    /// The mounts of a host, and those of all hosts as far as it has none at the same path.
    fn new(number: usize, host: Option<&HostName>, all: &[Mount]) -> Self {
        let is_own = |mount: &&Mount| mount.host.is_some() && mount.host.as_ref() == host;
        let own: Vec<&RepoPath> = all.iter().filter(is_own).map(|mount| &mount.path).collect();
        let is_shown = |mount: &&Mount| is_own(mount) || mount.host.is_none() && !own.contains(&&mount.path);
        let mounts = all.iter().filter(is_shown).cloned().collect();
        Self { number, mounts }
    }

    /// Which of its server's sites this is.
    pub(crate) fn number(&self) -> usize {
        self.number
    }

    /// Whether directories of a repository are answered with their `index.html` at its own place: if one of its mounts does.
    pub(crate) fn shows_index(&self, repository: &RepoName) -> bool {
        self.mounts
            .iter()
            .any(|mount| mount.index && mount.repository == *repository)
    }

    /// The mount with the longest path that `path` begins with, and the rest of `path` below it.
    pub(crate) fn find(&self, path: &RepoPath) -> Option<(&Mount, RepoPath)> {
        self.mounts
            .iter()
            .find_map(|mount| Some((mount, below(path, &mount.path)?)))
    }

    /// The names that lie directly below `path` on the way to mounts.
    pub(crate) fn names_below(&self, path: &RepoPath) -> impl Iterator<Item = String> {
        let rests = self.mounts.iter().filter_map(|mount| below(&mount.path, path));
        rests.filter_map(|rest| rest.components().next().map(str::to_owned))
    }

    fn overlaps(&self, repositories: &[RepoName]) -> Vec<Overlap> {
        let mut overlaps = Vec::new();
        for mount in &self.mounts {
            let path = || mount.path.clone();
            let is_around = |outer: &&Mount| outer.path != mount.path && below(&mount.path, &outer.path).is_some();
            if let Some(outer) = self.mounts.iter().find(is_around) {
                let (inner, outer) = (path(), outer.path.clone());
                overlaps.push(Overlap::Inside { inner, outer });
            }
            let mut parts = mount.path.components();
            let first = parts.next();
            let Some(named) = repositories.iter().find(|name| Some(name.as_str()) == first) else {
                continue;
            };
            match parts.next() {
                None if mount.repository != *named => overlaps.push(Overlap::OtherRepository {
                    path: path(),
                    shown: mount.repository.clone(),
                    named: named.clone(),
                }),
                Some(area) if AREAS.contains(&area) => overlaps.push(Overlap::HidesSnapshots {
                    path: path(),
                    repository: named.clone(),
                }),
                _ => {}
            }
        }
        overlaps
    }
}

/// Components of a path.
pub(crate) fn depth(path: &RepoPath) -> usize {
    path.components().count()
}

/// Whether `path` is [`RESERVED`] or below it.
#[must_use]
pub fn is_reserved(path: &RepoPath) -> bool {
    path.components().next() == Some(RESERVED)
}

/// `path` relative to `prefix`, if it is that or below it.
pub(crate) fn below(path: &RepoPath, prefix: &RepoPath) -> Option<RepoPath> {
    if prefix.is_root() {
        return Some(path.clone());
    }
    let rest = path.as_str().strip_prefix(prefix.as_str())?;
    let rest = if rest.is_empty() { rest } else { rest.strip_prefix('/')? };
    RepoPath::new(rest).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A path, and the repository that is mounted there.
    type Pair = (&'static str, &'static str);

    fn mounts(all: &[Pair]) -> Result<Mounts, MountError> {
        let mount = |(path, repository): &Pair| Mount {
            host: None,
            path: RepoPath::new(path).unwrap(),
            repository: repository.parse().unwrap(),
            view: View::Current,
            index: false,
        };
        Mounts::new(all.iter().map(mount).collect())
    }

    #[test]
    fn impossible_mounts_are_refused() {
        let said = |all: &[Pair]| mounts(all).unwrap_err().to_string();
        assert!(said(&[("a", "x"), ("a", "y")]).contains("two mounts at '/a'"));
        assert!(said(&[(".im/x", "x")]).contains("'/.im'"));
        assert!(mounts(&[(".imx", "x"), ("", "x"), ("a/.im", "x")]).is_ok());
    }

    #[test]
    fn every_overlap_is_told_with_its_winner() {
        let repositories: Vec<RepoName> = ["debian", "fedora"].map(|name| name.parse().unwrap()).into();
        let told = |all: &[Pair]| -> Vec<String> {
            let overlaps = mounts(all).unwrap().overlaps(&repositories);
            overlaps.iter().map(ToString::to_string).collect()
        };
        let cases: [(&[Pair], &[&str]); 7] = [
            (&[("debian", "debian"), ("pub/x", "fedora")], &[]),
            (
                &[("pub", "debian"), ("pub/x", "fedora")],
                &["'/pub/x' lies inside the mount '/pub'"],
            ),
            (&[("pub", "debian"), ("pubx", "fedora")], &[]),
            (
                &[("", "debian"), ("pub", "fedora")],
                &["'/pub' lies inside the mount '/'"],
            ),
            (
                &[("fedora", "debian")],
                &["shows 'debian', and there is a repository 'fedora'"],
            ),
            (&[("debian/snap", "debian")], &["where the snapshots of 'debian' are"]),
            (&[("debian/old", "debian")], &[]),
        ];
        for (all, expected) in cases {
            let told = told(all);
            assert_eq!(told.len(), expected.len(), "{told:?}");
            for (text, part) in told.iter().zip(expected) {
                assert!(text.contains(part), "{text}");
            }
        }
    }

    #[test]
    fn hosts_are_compared_as_the_rfc_has_it() {
        let of = |host: Option<&str>, path: &str, repository: &str| Mount {
            host: host.map(|host| host.parse().unwrap()),
            path: RepoPath::new(path).unwrap(),
            repository: repository.parse().unwrap(),
            view: View::Current,
            index: false,
        };
        let mounts = Mounts::new(vec![
            of(None, "pub", "all"),
            of(Some("Deb.Example.org."), "", "debian"),
            of(Some("rpm.example.org"), "", "fedora"),
            of(Some("rpm.example.org"), "pub", "own"),
            of(Some("[2001:db8::1]"), "", "six"),
        ]);
        let mounts = mounts.unwrap();
        let shown = |host: Option<&str>, path: &str| {
            let site = mounts.site(host);
            let found = site.find(&RepoPath::new(path).unwrap());
            found.map(|(mount, _)| mount.repository.to_string())
        };
        for (host, root, pub_) in [
            (None, None, "all"),
            (Some(""), None, "all"),
            (Some("other.example.org"), None, "all"),
            (Some("deb.example.org"), Some("debian"), "all"),
            (Some("DEB.example.ORG:8080"), Some("debian"), "all"),
            (Some("deb.example.org.:80"), Some("debian"), "all"),
            (Some("rpm.example.org"), Some("fedora"), "own"),
            (Some("[2001:DB8::1]:443"), Some("six"), "all"),
            (Some("xdeb.example.org"), None, "all"),
        ] {
            assert_eq!(shown(host, "x").as_deref(), root, "{host:?}");
            assert_eq!(shown(host, "pub/x").as_deref(), Some(pub_), "{host:?}");
        }
        let told: Vec<String> = mounts.overlaps(&[]).iter().map(ToString::to_string).collect();
        assert_eq!(
            told.iter()
                .filter(|text| text.contains("on host 'rpm.example.org'"))
                .count(),
            1,
            "{told:?}"
        );
        for wrong in [
            "",
            ".",
            "a b",
            "a:80",
            "[::1",
            "a..b",
            ".a",
            "deb.example.org/x",
            "*.example.org",
        ] {
            assert!(wrong.parse::<HostName>().is_err(), "{wrong}");
        }
    }
}
