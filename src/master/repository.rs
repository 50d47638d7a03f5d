//! Repositories as a builder of masters is told of them: which tree is published, what of it, and how.

use std::path::PathBuf;

use instantmirror_core::RepoName;
use instantmirror_core::rules::PathGlobs;

use crate::build_error::BuildError;
use crate::config::{
    ByteSize, CheckKind, IgnoreKind, ImportKind, MountConfig, PrivateKind, RetentionConfig, ServerRepository,
    SymlinkKind, TorrentConfig, TorrentsConfig, UnpublishableKind, check_piece_length,
};

/// A repository that a master publishes: a name, a source tree, and rules for it, all of which but the tree have defaults.
#[derive(Debug, Clone)]
#[must_use]
pub struct Repository {
    pub(super) name: String,
    source: Option<PathBuf>,
    import: ImportKind,
    exclude: Vec<String>,
    unpublishable: UnpublishableKind,
    private: PrivateKind,
    symlinks: SymlinkKind,
    ignore: Vec<IgnoreKind>,
    check: CheckKind,
    piece_length: u64,
    mounts: Vec<MountConfig>,
    suggested: Vec<String>,
    torrents: Vec<TorrentConfig>,
    retention: Option<RetentionConfig>,
}

impl Repository {
    /// A repository by its name in URLs and on nodes.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            source: None,
            import: ImportKind::default(),
            exclude: Vec::new(),
            unpublishable: UnpublishableKind::default(),
            private: PrivateKind::default(),
            symlinks: SymlinkKind::default(),
            ignore: vec![IgnoreKind::Device],
            check: CheckKind::default(),
            piece_length: 1 << 20,
            mounts: Vec::new(),
            suggested: Vec::new(),
            torrents: Vec::new(),
            retention: None,
        }
    }

    /// The tree to publish: a directory of this machine.
    pub fn source(mut self, path: impl Into<PathBuf>) -> Self {
        self.source = Some(path.into());
        self
    }

    /// How files come into the store. [`ImportKind::Hardlink`] needs the master's own store in a [directory](super::MasterBuilder::dir).
    pub fn import(mut self, import: ImportKind) -> Self {
        self.import = import;
        self
    }

    /// Does not publish paths that match this glob.
    pub fn exclude(mut self, glob: impl Into<String>) -> Self {
        self.exclude.push(glob.into());
        self
    }

    /// The treatment of names that no snapshot can hold, and with what may not be read.
    pub fn unpublishable(mut self, unpublishable: UnpublishableKind) -> Self {
        self.unpublishable = unpublishable;
        self
    }

    /// The treatment of files and directories that others may not read.
    pub fn private(mut self, private: PrivateKind) -> Self {
        self.private = private;
        self
    }

    /// The treatment of symlinks that have an absolute target in the tree.
    pub fn symlinks(mut self, symlinks: SymlinkKind) -> Self {
        self.symlinks = symlinks;
        self
    }

    /// The parts of a file's state that say nothing about its content, instead of the device number alone.
    pub fn ignore(mut self, ignore: impl IntoIterator<Item = IgnoreKind>) -> Self {
        self.ignore = ignore.into_iter().collect();
        self
    }

    /// The treatment of a tree if the repository metadata in the tree does not agree with the files in it.
    pub fn check(mut self, check: CheckKind) -> Self {
        self.check = check;
        self
    }

    /// Bytes of a BitTorrent piece, a power of two from 16 KiB to 64 MiB, fixed once the repository has a snapshot; 1 MiB unless
    /// told otherwise.
    pub fn piece_length(mut self, bytes: u64) -> Self {
        self.piece_length = bytes;
        self
    }

    /// Shows it at one more place.
    pub fn mount(mut self, mount: MountConfig) -> Self {
        self.mounts.push(mount);
        self
    }

    /// Advises mirrors to fetch paths that match this glob before anybody asks for them; the globs that were said first are the
    /// most urgent.
    pub fn suggest(mut self, glob: impl Into<String>) -> Self {
        self.suggested.push(glob.into());
        self
    }

    /// Offers a torrent of a part of the current snapshot to everybody.
    pub fn torrent(mut self, torrent: TorrentConfig) -> Self {
        self.torrents.push(torrent);
        self
    }

    /// Which snapshots stay, instead of what [`MasterBuilder::retention`](super::MasterBuilder::retention) says.
    pub fn retention(mut self, retention: RetentionConfig) -> Self {
        self.retention = Some(retention);
        self
    }

    fn field(&self, method: &str) -> String {
        format!("repository '{}' {method}", self.name)
    }

    /// Checks it. `has_links` is whether files can come into the store by hard links.
    pub(super) fn checked(self, torrents: &TorrentsConfig, has_links: bool) -> Result<ServerRepository, BuildError> {
        let parsed: Result<RepoName, _> = self.name.parse();
        let name = parsed.map_err(|error| BuildError::invalid("repository", &self.name, error))?;
        let Some(source) = self.source.clone().filter(|path| !path.as_os_str().is_empty()) else {
            let advice = "name the directory that is to be published";
            return Err(BuildError::missing(self.field("source"), advice));
        };
        for (method, globs) in [("exclude", &self.exclude), ("suggest", &self.suggested)] {
            checked_globs(&self.field(method), globs.clone())?;
        }
        if let Err(rule) = check_piece_length(self.piece_length) {
            let (field, advice) = (self.field("piece_length"), format!("it {rule}"));
            return Err(BuildError::invalid(field, self.piece_length, advice));
        }
        if self.import == ImportKind::Hardlink && !has_links {
            let advice = "only the master's own store in a directory (.dir without .objects) can link files; leave it out to copy them";
            return Err(BuildError::invalid(self.field("import"), "Hardlink", advice));
        }
        if self.check.looks() && !cfg!(feature = "metadata-check") {
            let advice = "this program was built without the feature metadata-check; say CheckKind::Off";
            return Err(BuildError::invalid(
                self.field("check"),
                format!("{:?}", self.check),
                advice,
            ));
        }
        BuildError::of_settings(self.field("torrent"), torrents.check_offers(&self.name, &self.torrents))?;
        if let Some(retention) = &self.retention {
            check_retention(&self.field("retention"), retention)?;
        }
        Ok(ServerRepository {
            name,
            source,
            import: self.import,
            exclude: self.exclude,
            unpublishable: self.unpublishable,
            private: self.private,
            symlinks: self.symlinks,
            ignore: self.ignore,
            check: self.check,
            piece_length: ByteSize(self.piece_length),
            mounts: self.mounts,
            preseed: self.suggested,
            torrents: self.torrents,
            retention: self.retention,
        })
    }
}

impl From<ServerRepository> for Repository {
    fn from(repository: ServerRepository) -> Self {
        Self {
            name: repository.name.to_string(),
            source: Some(repository.source),
            import: repository.import,
            exclude: repository.exclude,
            unpublishable: repository.unpublishable,
            private: repository.private,
            symlinks: repository.symlinks,
            ignore: repository.ignore,
            check: repository.check,
            piece_length: repository.piece_length.0,
            mounts: repository.mounts,
            suggested: repository.preseed,
            torrents: repository.torrents,
            retention: repository.retention,
        }
    }
}

pub(super) fn checked_globs(field: &str, globs: Vec<String>) -> Result<PathGlobs, BuildError> {
    for glob in &globs {
        PathGlobs::new([glob]).map_err(|error| BuildError::invalid(field, glob, error))?;
    }
    PathGlobs::new(globs).map_err(|error| BuildError::invalid(field, "", error))
}

pub(super) fn check_retention(field: &str, retention: &RetentionConfig) -> Result<(), BuildError> {
    let checked = retention.check_max_bytes();
    checked.map_err(|advice| BuildError::invalid(field, 0, advice))
}
