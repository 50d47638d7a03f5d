//! Download clients that people use: wget for whole trees, aria2 for lists of URLs.
//!
//! Never follows links out of the tree that was asked for, and leaves in the target folder only what was in the tree:
//! listing pages are removed.

use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::command::{Finished, clean_command, run, run_any};
use crate::http::encode_path;

/// The name under which wget stores the listing page of a folder; no tree holds a file of this name.
const LISTING_NAME: &str = ".instantmirror-listing";

/// wget's exit status when the server answered some request with an error.
const WGET_SERVER_ERROR: i32 = 8;

/// What wget met on its way.
#[derive(Debug)]
pub struct Fetched {
    /// Requests that the server answered with an error (a symlink that leads nowhere, for example).
    pub had_server_errors: bool,
    /// Everything wget said.
    pub transcript: String,
}

/// Fetches everything below the folder `url` (with its final `/`) into `into`, as `wget -r` does.
pub fn wget_tree(url: &str, into: &Path, limit: Duration) -> Result<Fetched> {
    let path = url
        .splitn(4, '/')
        .nth(3)
        .with_context(|| format!("{url} has no path"))?;
    if !url.ends_with('/') {
        bail!("{url} is not the URL of a folder: it does not end in a slash");
    }
    let cut_folders = path.matches('/').count();
    fs::create_dir_all(into).with_context(|| format!("cannot make {}", into.display()))?;
    let mut command = clean_command("wget");
    // The machine's wgetrc must not change what is tested.
    command.current_dir(into).args(["--no-config", "--no-hsts"]);
    command.args([
        "--recursive",
        "--level=inf",
        "--no-parent",
        "--no-host-directories",
        "--execute=robots=off",
    ]);
    command.args([
        "--no-iri",
        "--local-encoding=UTF-8",
        "--restrict-file-names=unix,nocontrol",
        "--no-verbose",
    ]);
    command.args(["--no-proxy", "--tries=2", "--timeout=30", "--reject-regex=[?]"]);
    command
        .arg(format!("--default-page={LISTING_NAME}"))
        .arg(format!("--cut-dirs={cut_folders}"))
        .arg(url);
    let finished = run_any(&mut command, limit)?;
    let had_server_errors = finished.status.code() == Some(WGET_SERVER_ERROR);
    if !finished.status.success() && !had_server_errors {
        bail!(
            "wget of {url} ended with {}:\n{}",
            finished.status,
            finished.transcript()
        );
    }
    remove_listings(into)?;
    Ok(Fetched {
        had_server_errors,
        transcript: finished.transcript(),
    })
}

fn remove_listings(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_listings(&entry.path())?;
        } else if entry.file_name() == LISTING_NAME {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Whether aria2's list format can hold this path: it knows no quoting, and strips white space from both ends.
pub fn aria2_takes(file: &Path) -> bool {
    let bytes = file.as_os_str().as_bytes();
    bytes == bytes.trim_ascii() && !bytes.contains(&b'\n')
}

/// Fetches files below `base_url` (with its final `/`) into the same places below `into`, up to 16 at a time with up to
/// 16 connections each, as `aria2c -i LIST -x16` does.
pub fn aria2<'a>(
    base_url: &str,
    files: impl IntoIterator<Item = &'a Path>,
    into: &Path,
    limit: Duration,
) -> Result<Finished> {
    let mut list = tempfile::NamedTempFile::new().context("cannot make a temporary file")?;
    for file in files {
        let bytes = file.as_os_str().as_bytes();
        if !aria2_takes(file) {
            bail!(
                "the format of aria2's lists cannot hold this name: {:?}",
                file.display().to_string()
            );
        }
        writeln!(list, "{base_url}{}", encode_path(bytes))?;
        list.write_all(b"  out=")?;
        list.write_all(bytes)?;
        list.write_all(b"\n")?;
    }
    list.flush()?;
    let mut command = clean_command("aria2c");
    command
        .env("HOME", into)
        .args(["--no-conf=true", "--console-log-level=warn", "--summary-interval=0"]);
    command.args(["--max-connection-per-server=16", "--split=16", "--min-split-size=1M"]);
    command.args([
        "--max-concurrent-downloads=16",
        "--auto-file-renaming=false",
        "--allow-overwrite=true",
    ]);
    command.args([
        "--file-allocation=none",
        "--connect-timeout=10",
        "--timeout=30",
        "--max-tries=2",
    ]);
    command.args([
        "--enable-dht=false",
        "--follow-torrent=false",
        "--follow-metalink=false",
    ]);
    command.arg("--dir").arg(into).arg("--input-file").arg(list.path());
    run(&mut command, limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_aria2_would_change_are_known() {
        assert!(aria2_takes(Path::new("a b/%20#?")));
        for name in ["trailing ", " leading", "line\nfeed", "tab\t"] {
            assert!(!aria2_takes(Path::new(name)), "{name:?}");
        }
    }

    #[test]
    fn a_url_that_is_no_folder_is_refused() {
        for url in ["http://127.0.0.1:1", "http://127.0.0.1:1/file"] {
            assert!(
                wget_tree(url, &std::env::temp_dir(), Duration::from_secs(1)).is_err(),
                "{url}"
            );
        }
    }
}
