//! Export torrents: `.torrent` files of snapshots for everybody's clients, made from stored digests alone.
//!
//! No content is read, however large the tree. What takes time is the padding: SHA-1 of the zeros behind every file that
//! does not fill its last piece, up to a piece each. [`PaddedPieces`] spreads it over processors, and keeps it for the next
//! torrent that has the same files.

mod offers;
mod padded;

use bytes::Bytes;
use instantmirror_core::catalog::Catalog;
use instantmirror_core::catalog::NodeSource;
use instantmirror_core::metainfo::shards::{self, Shard, ShardError};
use instantmirror_core::metainfo::{
    Content, InfoHash, Limits, MetainfoError, Outside, Tail, TorrentFile, build, client_names, web_seed_path,
};
use instantmirror_core::traits::TorrentLink;
use instantmirror_core::{FileMeta, Name, NameError, ObjectId, RepoName, RepoPath, Snapshot, SnapshotId};
use instantmirror_http::request::encode_path;
use instantmirror_store::StoreError;
use instantmirror_store::digest::ContentDigest;

use crate::progress::{Counted, Progress};

pub(crate) use offers::{Offer, Offered, OfferedTree, Offers, ReplacedRow, TorrentList, TorrentRow, torrent_routes};
pub use padded::PaddedPieces;

/// Where `.torrent` files are served: `/.im/torrent/REPO/FILE`.
pub const TORRENT_PREFIX: &str = ".im/torrent";

/// Why there is no torrent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TorrentError {
    /// The tree cannot be read or cut.
    #[error(transparent)]
    Tree(#[from] ShardError),
    /// It is too large, or holds nothing.
    #[error("no torrent of '/{path}': {source}{hint}", hint = if matches!(source, MetainfoError::TooLarge { .. }) {
        "; cut it into several (shards), take a part of the tree, or make it nevertheless (`imserver torrent --beyond-limits`)"
    } else {
        ""
    })]
    Metainfo {
        /// The root of the tree.
        path: RepoPath,
        /// What is wrong.
        source: MetainfoError,
    },
    /// A name that no directory or file can have.
    #[error("a torrent cannot be called '{name}': the name has {source}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        source: NameError,
    },
    /// The digests.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file whose hashes are not known.
    #[error("'/{path}': the hashes of object {object} are not in the store; `imserver publish` the file again")]
    NoDigest {
        /// The file.
        path: RepoPath,
        /// Its content.
        object: ObjectId,
    },
    /// A file that a repository with other pieces published last.
    #[error(
        "'/{path}': the store has its hashes in pieces of {held} bytes, and the repository has pieces of {asked}, since \
         a repository with another piece_length published the same content; give both the same, or stores of their own"
    )]
    PieceLength {
        /// The file.
        path: RepoPath,
        /// The piece length of its hashes.
        held: u32,
        /// That of the repository.
        asked: u32,
    },
}

/// What torrents are wanted of a snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TorrentOptions {
    /// A directory or file of the snapshot; the root for all of it.
    pub path: RepoPath,
    /// What clients call it; without one, the last component of the path, or the repository's name.
    pub name: Option<String>,
    /// Cut what is too large for one torrent into several.
    pub shards: bool,
    /// Make a torrent of what is too large for many clients.
    pub beyond_limits: bool,
}

/// A torrent of a snapshot, without what is known only where it is handed out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Torrent {
    /// The name of its file.
    pub file_name: String,
    /// What clients call what they download.
    pub name: Name,
    /// Its info dictionary.
    pub info: Bytes,
    /// Its info-hash.
    pub hash: InfoHash,
    /// Files in it, pads not counted.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// It is of one file that was named itself, without a directory around it.
    pub is_of_file: bool,
}

/// The torrents of one tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Torrents {
    /// The repository.
    pub repository: RepoName,
    /// The snapshot they were made of.
    pub snapshot: SnapshotId,
    /// Where in it their tree lies.
    pub path: RepoPath,
    /// The torrents: one, or as many as it was cut into.
    pub torrents: Vec<Torrent>,
    /// Symlinks in the tree, which are in no torrent. Known if it was to be cut.
    pub symlinks: u64,
    /// Empty files that are in none.
    pub empty_files: u64,
    /// Files in them to which some clients give [other names](client_names), below the torrents' root. Known where they are made.
    pub renamed: Vec<RepoPath>,
}

impl Torrents {
    /// The web seeds of these torrents at servers of ours. `servers` are their URLs, with or without a slash at the end. That of
    /// one file names the file (BEP 19): some clients add nothing to it.
    #[must_use]
    pub fn web_seeds(&self, servers: &[String]) -> Vec<String> {
        let mut path = web_seed_path(&self.repository, self.snapshot, &self.path);
        if let [torrent] = self.torrents.as_slice()
            && torrent.is_of_file
        {
            path.push_str(torrent.name.as_str());
        }
        let url = |server: &String| format!("{}{}", server.trim_end_matches('/'), encode_path(&path));
        servers.iter().map(url).collect()
    }

    /// Links to them on a server that serves them at [`TORRENT_PREFIX`].
    #[must_use]
    pub fn links(&self, outside: &Outside) -> Vec<TorrentLink> {
        let link = |torrent: &Torrent| TorrentLink {
            url: encode_path(&format!("/{TORRENT_PREFIX}/{}/{}", self.repository, torrent.file_name)),
            file_name: torrent.file_name.clone(),
            magnet: outside.magnet(torrent.hash, torrent.name.as_str()),
            hash: torrent.hash,
            bytes: torrent.bytes,
        };
        self.torrents.iter().map(link).collect()
    }
}

/// Hashes of an object, if they are known.
pub type DigestOf<'a> = dyn Fn(&ObjectId) -> Result<Option<ContentDigest>, StoreError> + 'a;

/// Where the parts of a torrent come from.
pub struct Sources<'a> {
    /// Catalog nodes.
    pub nodes: &'a dyn NodeSource,
    /// Hashes.
    pub digest: &'a DigestOf<'a>,
    /// The length of the repository's pieces in bytes.
    pub piece_bytes: u32,
    /// Hashes of padded pieces that were needed before.
    pub padded: &'a mut PaddedPieces,
    /// Hears of files.
    pub progress: &'a dyn Progress,
}

/// Makes the torrents of a part of `snapshot`. Blocks for as long as it takes to hash the padding.
///
/// # Errors
/// [`TorrentError`].
pub fn make(
    snapshot: &Snapshot,
    options: &TorrentOptions,
    sources: &mut Sources<'_>,
) -> Result<Torrents, TorrentError> {
    let catalog = Catalog::new(sources.nodes, snapshot.root.meta());
    let name = name_of(snapshot, options)?;
    let limits = if options.beyond_limits {
        Limits::NONE
    } else {
        Limits::default()
    };
    let piece_bytes = u64::from(sources.piece_bytes);
    let plan = if options.shards {
        shards::plan(&catalog, &options.path, piece_bytes, &limits)?
    } else {
        whole(&options.path)
    };
    let metainfo = |source| TorrentError::Metainfo {
        path: options.path.clone(),
        source,
    };
    let below = catalog.lookup(&options.path).map_err(ShardError::from)?;
    let files = below.map_or(0, |meta| meta.as_directory().map_or(1, |directory| directory.files));
    if !options.shards {
        // Before anything is listed.
        limits.check(files, 0, 0).map_err(metainfo)?;
    }
    let progress = Counted::new(sources.progress, files);
    let (mut torrents, mut renamed) = (Vec::with_capacity(plan.shards.len()), Vec::new());
    for shard in &plan.shards {
        let listed = shards::files(&catalog, &options.path, &shard.roots)?;
        let is_renamed = |path: &&RepoPath| path.components().any(|name| !client_names(name).is_empty());
        renamed.extend(listed.iter().map(|(path, _)| path).filter(is_renamed).cloned());
        // Before anything is hashed.
        let pieces: u64 = listed.iter().map(|(_, file)| file.size.div_ceil(piece_bytes)).sum();
        limits.check(0, pieces, 0).map_err(metainfo)?;
        let files = hashed(&listed, sources, &progress)?;
        let info = build(&name, piece_bytes, &files, &limits).map_err(metainfo)?;
        torrents.push(Torrent {
            file_name: file_name(&name, &shard.label),
            name: name.clone(),
            hash: InfoHash::of(&info),
            info: info.into(),
            files: listed.len() as u64,
            bytes: listed.iter().map(|(_, file)| file.size).sum(),
            is_of_file: matches!(listed.as_slice(), [(path, _)] if path.is_root()),
        });
    }
    Ok(Torrents {
        repository: snapshot.repository.clone(),
        snapshot: snapshot.id,
        path: options.path.clone(),
        torrents,
        symlinks: plan.symlinks,
        empty_files: plan.empty_files,
        renamed,
    })
}

/// The name of what clients download: as told, or that of the directory, or of the repository.
fn name_of(snapshot: &Snapshot, options: &TorrentOptions) -> Result<Name, TorrentError> {
    let name = match (&options.name, options.path.split_last()) {
        (Some(name), _) => name.as_str(),
        (None, Some((_, last))) => last,
        (None, None) => snapshot.repository.as_str(),
    };
    Name::new(name).map_err(|source| TorrentError::Name {
        name: name.to_owned(),
        source,
    })
}

/// Everything in one torrent.
fn whole(path: &RepoPath) -> shards::Plan {
    let shard = Shard {
        label: String::new(),
        roots: vec![path.clone()],
    };
    shards::Plan {
        shards: vec![shard],
        ..shards::Plan::default()
    }
}

fn file_name(name: &Name, label: &str) -> String {
    let dot = if label.is_empty() { "" } else { "." };
    format!("{name}{dot}{label}.torrent")
}

/// Files with their hashes.
fn hashed(
    listed: &[(RepoPath, FileMeta)],
    sources: &mut Sources<'_>,
    progress: &Counted<'_>,
) -> Result<Vec<TorrentFile>, TorrentError> {
    let mut files = Vec::with_capacity(listed.len());
    let mut tails = Vec::new();
    for (path, file) in listed {
        let mut content = Content {
            size: file.size,
            full_pieces: Bytes::new(),
            tail: None,
        };
        if file.size > 0 {
            let digest = (sources.digest)(&file.object)?;
            let digest = digest.ok_or_else(|| TorrentError::NoDigest {
                path: path.clone(),
                object: file.object,
            })?;
            if digest.piece_bytes() != sources.piece_bytes {
                let (held, asked) = (digest.piece_bytes(), sources.piece_bytes);
                return Err(TorrentError::PieceLength {
                    path: path.clone(),
                    held,
                    asked,
                });
            }
            // A copy: the digest holds much more, which is not needed any longer.
            content.full_pieces = Bytes::copy_from_slice(digest.full_pieces());
            if let Some(tail) = digest.tail() {
                tails.push((files.len(), file.object, tail.clone()));
            } else {
                progress.add(1);
            }
        }
        files.push(TorrentFile {
            path: path.clone(),
            content,
        });
    }
    let padded = sources
        .padded
        .of(&tails, sources.piece_bytes, &|files| progress.add(files));
    for ((at, _, tail), padded) in tails.iter().zip(padded) {
        if let Some(file) = files.get_mut(*at) {
            file.content.tail = Some(Tail {
                padded,
                bare: tail.sha1(),
            });
        }
    }
    Ok(files)
}
