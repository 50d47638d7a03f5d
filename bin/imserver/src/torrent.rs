//! `imserver torrent`: `.torrent` files of a snapshot, for torrent clients.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use instantmirror::Master;
use instantmirror::bars::{Bar, Unit};
use instantmirror::config::{ByteSize, TorrentsConfig, check_url};
use instantmirror::core::metainfo::Outside;
use instantmirror::core::snapshot_ref::SnapshotRef;
use instantmirror::core::{RepoName, RepoPath};
use instantmirror::text::Count;
use instantmirror::torrent::{TorrentOptions, Torrents};

const EXAMPLES: &str = "Examples:
  imserver torrent debian --path dists/stable --out stable.torrent  one directory
  imserver torrent debian --shards --out torrents/                  all of it, cut along directories";

/// Make .torrent files of a snapshot, or of a part of it, for everybody's torrent clients. Nothing is read again: they are
/// made from the hashes in the store. Symlinks are left out.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The repository.
    repository: RepoName,
    /// The snapshot: an id or the beginning of it, a tag, current or current~N; the current one if none is named.
    #[arg(long, value_name = "ID")]
    snapshot: Option<SnapshotRef>,
    /// A directory or file of the snapshot; without one, all of it.
    #[arg(long, value_name = "SUBTREE", default_value = "", hide_default_value = true)]
    path: String,
    /// What clients call what they download; without one, the last part of the path, or the repository's name.
    #[arg(long)]
    name: Option<String>,
    /// Cut what is too large for one torrent into several, along directories.
    #[arg(long)]
    shards: bool,
    /// Make one torrent of what is too large for many clients.
    #[arg(long, conflicts_with = "shards")]
    beyond_limits: bool,
    /// The file to write, or a directory (with a slash behind it, or --shards), which is made; without one, the current
    /// directory.
    #[arg(long, value_name = "DIR|FILE")]
    out: Option<PathBuf>,
    /// A tracker, instead of those of the configuration.
    #[arg(long = "tracker", value_name = "URL")]
    trackers: Vec<String>,
    /// No tracker, whatever the configuration says.
    #[arg(long, conflicts_with = "trackers")]
    no_tracker: bool,
    /// The URL under which everybody reaches an imserver or imnode that shows the snapshot, instead of those of the
    /// configuration.
    #[arg(long = "webseed", value_name = "URL")]
    web_seeds: Vec<String>,
    /// No web seed, whatever the configuration says.
    #[arg(long, conflicts_with = "web_seeds")]
    no_webseed: bool,
}

/// Makes them, writes them and says what they are.
pub(crate) async fn run(master: &Master, arguments: Arguments) -> anyhow::Result<()> {
    let path = RepoPath::new(arguments.path.trim_matches('/'));
    let path = path.map_err(|error| anyhow::anyhow!("--path '{}' has {error}", arguments.path))?;
    let configured = &master.config().torrents;
    let or = |given: Vec<String>, none: bool, configured: Vec<String>| match (none, given.is_empty()) {
        (true, _) => Vec::new(),
        (false, true) => configured,
        (false, false) => given,
    };
    let known = configured.trackers.iter().map(|url| url.without_user().into());
    let trackers = or(arguments.trackers, arguments.no_tracker, known.collect());
    let servers = or(arguments.web_seeds, arguments.no_webseed, configured.web_seeds.clone());
    for url in &trackers {
        check_url(url, TorrentsConfig::TRACKER_SCHEMES).map_err(|error| anyhow::anyhow!("--tracker {error}"))?;
    }
    for url in &servers {
        check_url(url, TorrentsConfig::WEB_SEED_SCHEMES).map_err(|error| anyhow::anyhow!("--webseed {error}"))?;
    }
    let mut options = TorrentOptions::default();
    options.path = path;
    options.name = arguments.name;
    options.shards = arguments.shards;
    options.beyond_limits = arguments.beyond_limits;
    let asked = arguments.snapshot.as_ref();
    let snapshot = asked.map(|asked| crate::snapshot::resolve(master, &arguments.repository, asked));
    let bar = Bar::new(format!("torrent {}", arguments.repository), Unit::Files);
    let made = master.torrents(&arguments.repository, snapshot.transpose()?, &options, &bar);
    bar.finish();
    let made = made?;
    if made.torrents.is_empty() {
        bail!(
            "there is no file that holds anything below '/{}', so there is nothing to share",
            made.path
        );
    }
    let outside = Outside {
        trackers,
        web_seeds: made.web_seeds(&servers),
        comment: None,
    };
    if arguments.beyond_limits {
        eprintln!("imserver: warning: a torrent beyond 30000 files, 100000 pieces or 8 MB fails in many clients");
    }
    if outside.trackers.is_empty() && servers.is_empty() {
        eprintln!("imserver: warning: without --tracker or --webseed clients have to be told where the content is");
    }
    if made.empty_files > 0 {
        eprintln!(
            "imserver: warning: {} left out: torrents hold no empty ones",
            Count(made.empty_files, "empty file")
        );
    }
    warn_of_renamed(&made);
    write(&made, &outside, arguments.out.as_deref(), arguments.shards)
}

/// Paths that are shown.
const RENAMED_SHOWN: usize = 5;

fn warn_of_renamed(made: &Torrents) {
    let count = made.renamed.len();
    if count == 0 {
        return;
    }
    let shown = made.renamed.iter().take(RENAMED_SHOWN).map(|path| format!("'{path}'"));
    let shown: Vec<String> = shown.collect();
    let more = if count > RENAMED_SHOWN { ", ..." } else { "" };
    eprintln!(
        "imserver: warning: {count} files get other names from libtorrent or Transmission, which change backslashes, \
         marks of the direction of a text, the characters : ? \" * < > |, blanks and dots at the ends, names of devices and names of more than 240 bytes: {}{more}. Web \
         seeds that are no imserver or imnode will not have them",
        shown.join(", ")
    );
}

/// With `--shards` always into a directory: how many there are changes with the tree, and the place should not.
fn write(made: &Torrents, outside: &Outside, out: Option<&Path>, may_be_several: bool) -> anyhow::Result<()> {
    let out = out.unwrap_or(Path::new("."));
    let names_directory = out.is_dir() || out.as_os_str().as_encoded_bytes().ends_with(b"/");
    let is_directory = names_directory || may_be_several || made.torrents.len() > 1;
    if is_directory {
        std::fs::create_dir_all(out).with_context(|| format!("cannot make the directory {}", out.display()))?;
    }
    for torrent in &made.torrents {
        let file = if is_directory {
            out.join(&torrent.file_name)
        } else {
            out.to_path_buf()
        };
        write_file(&file, &outside.around(&torrent.info))?;
        println!(
            "{}  {}, {}",
            file.display(),
            Count(torrent.files, "file"),
            ByteSize(torrent.bytes)
        );
        println!("    info-hash {}", torrent.hash);
        println!("    {}", outside.magnet(torrent.hash, torrent.name.as_str()));
    }
    Ok(())
}

/// A file is there whole, or as it was before.
fn write_file(file: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let mut part = file.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let written = std::fs::File::create(&part).and_then(|mut out| {
        out.write_all(bytes)?;
        out.sync_all()
    });
    let done = written.and_then(|()| std::fs::rename(&part, file));
    if done.is_err() {
        let _ = std::fs::remove_file(&part);
    }
    done.with_context(|| format!("cannot write {}", file.display()))
}
