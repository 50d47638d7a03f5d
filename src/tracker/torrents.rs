//! Which torrents are served: those that the configuration names, and those whose files lie in a directory.
//!
//! A file is read once and again when its size or time has changed. One that is no torrent is named, and keeps the others
//! from nothing.

use std::collections::{BTreeMap, HashSet};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use instantmirror_tracker::{InfoHash, info_hashes};

use crate::config::ServedTorrentsConfig;

/// Larger files are not read: no client would take them.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Why the directory of torrents cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("[torrents] dir {}: cannot be read", dir.display())]
pub struct TorrentsError {
    dir: PathBuf,
    source: std::io::Error,
}

/// A file, and what came of reading it.
#[derive(Debug, Clone)]
struct Read {
    size: u64,
    modified: Option<SystemTime>,
    found: Result<Vec<InfoHash>, String>,
}

/// The torrents that are served, and what they come from.
#[derive(Debug, Default)]
pub(super) struct Torrents {
    configured: Vec<InfoHash>,
    /// By masters.
    named: HashSet<InfoHash>,
    files: BTreeMap<PathBuf, Read>,
    is_scanned: bool,
}

impl Torrents {
    /// Reads what has changed. Whether anything has.
    pub(super) fn scan(&mut self, config: &ServedTorrentsConfig) -> Result<bool, TorrentsError> {
        let before = self.allowed();
        let mut files = BTreeMap::new();
        if let Some(dir) = &config.dir {
            let failed = |source| TorrentsError {
                dir: dir.clone(),
                source,
            };
            for entry in std::fs::read_dir(dir).map_err(failed)? {
                let path = entry.map_err(failed)?.path();
                if path.extension().is_some_and(|extension| extension == "torrent") {
                    let read = read(&path, self.files.get(&path));
                    files.insert(path, read);
                }
            }
        }
        self.files = files;
        self.configured.clone_from(&config.allow);
        let is_first = !std::mem::replace(&mut self.is_scanned, true);
        Ok(is_first || self.allowed() != before)
    }

    pub(super) fn allowed(&self) -> HashSet<InfoHash> {
        let found = self.files.values().filter_map(|read| read.found.as_ref().ok());
        found
            .flatten()
            .chain(&self.configured)
            .chain(&self.named)
            .copied()
            .collect()
    }

    /// Replaces what masters name. Whether that changes what is served.
    pub(super) fn set_named(&mut self, named: HashSet<InfoHash>) -> bool {
        let before = self.allowed();
        self.named = named;
        self.allowed() != before
    }

    /// Files that were read.
    pub(super) fn files(&self) -> usize {
        self.files.values().filter(|read| read.found.is_ok()).count()
    }

    /// Files that are no torrents, and why.
    pub(super) fn bad(&self) -> Vec<String> {
        let bad = self
            .files
            .iter()
            .filter_map(|(path, read)| Some((path, read.found.as_ref().err()?)));
        bad.map(|(path, why)| format!("{}: {why}", path.display())).collect()
    }
}

fn read(path: &Path, before: Option<&Read>) -> Read {
    let (size, modified) = match std::fs::metadata(path) {
        Ok(found) => (found.len(), found.modified().ok()),
        Err(_) => (0, None),
    };
    if let Some(before) = before
        && (before.size, before.modified) == (size, modified)
    {
        return before.clone();
    }
    let found = content(path).and_then(|bytes| info_hashes(&bytes).map_err(|error| error.to_string()));
    if let Err(why) = &found {
        tracing::warn!("{}: {why}; it is left out", path.display());
    }
    Read { size, modified, found }
}

fn content(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let is_file = file.metadata().map_err(|error| error.to_string())?.is_file();
    if !is_file {
        return Err("this is no file".to_owned());
    }
    let limited = file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes);
    match limited.map_err(|error| error.to_string())? as u64 {
        length if length > FILE_BYTES_MAX => Err(format!("larger than {FILE_BYTES_MAX} bytes")),
        _ => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TimeSpan;

    #[test]
    fn a_directory_is_followed_and_bad_files_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let config = ServedTorrentsConfig {
            allow: vec![InfoHash([1; 20])],
            masters: Vec::new(),
            dir: Some(dir.path().to_path_buf()),
            rescan: TimeSpan(std::time::Duration::from_secs(1)),
        };
        let put = |name: &str, content: &[u8]| std::fs::write(dir.path().join(name), content).unwrap();
        put("a.torrent", b"d4:infod4:name1:aee");
        put("b.torrent", b"no torrent");
        put("c.txt", b"d4:infod4:name1:cee");
        std::fs::create_dir(dir.path().join("d.torrent")).unwrap();
        let mut torrents = Torrents::default();
        assert!(torrents.scan(&config).unwrap());
        assert_eq!(
            (torrents.allowed().len(), torrents.files(), torrents.bad().len()),
            (2, 1, 2)
        );
        assert!(!torrents.scan(&config).unwrap());
        put("b.torrent", b"d4:infod4:name2:bbee");
        assert!(torrents.scan(&config).unwrap());
        assert_eq!((torrents.allowed().len(), torrents.bad().len()), (3, 1));
        std::fs::remove_file(dir.path().join("a.torrent")).unwrap();
        assert!(torrents.scan(&config).unwrap());
        assert_eq!(torrents.allowed().len(), 2);
        std::fs::remove_dir_all(dir.path()).unwrap();
        assert!(torrents.scan(&config).is_err());
        assert_eq!(torrents.allowed().len(), 2, "what was served stays served");
    }
}
