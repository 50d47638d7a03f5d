//! A real browser, without a screen: what it makes of a page, and what it looks like.
//!
//! Never leaves 127.0.0.1: every other name is unknown to it. Its profile lives in a folder of the test's.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::command::{Finished, clean_command, run};

/// Where Debian and others have it.
const PROGRAM: &str = "chromium";

/// Nothing of its own doings: no updates, no sync, no lists of bad sites.
const QUIET: &[&str] = &[
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--no-first-run",
    "--no-proxy-server",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
];

/// What every PNG begins with.
const PNG_SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";

/// Chromium with a profile of its own.
#[derive(Debug)]
pub struct Browser {
    folder: PathBuf,
}

/// A picture of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// The PNG; the more there is to see, the longer.
    pub png: Vec<u8>,
}

impl Browser {
    /// A browser that keeps everything in this folder.
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_path_buf(),
        }
    }

    /// The document after the browser has parsed, repaired and styled the page.
    pub fn document(&self, url: &str, limit: Duration) -> Result<String> {
        let text = self.open(url, &["--dump-dom".to_owned()], limit)?.text();
        if !text.contains("<body") {
            bail!("chromium shows no document for {url}: {text}");
        }
        Ok(text)
    }

    /// The page as a window of this size shows it.
    pub fn picture(&self, url: &str, width: u32, height: u32, limit: Duration) -> Result<Picture> {
        let file = self.folder.join("picture.png");
        let options = [
            format!("--screenshot={}", file.display()),
            format!("--window-size={width},{height}"),
        ];
        self.open(url, &options, limit)?;
        let png = std::fs::read(&file).with_context(|| format!("chromium left no picture of {url}"))?;
        let (width, height) = png_size(&png).context("chromium left no PNG")?;
        Ok(Picture { width, height, png })
    }

    fn open(&self, url: &str, options: &[String], limit: Duration) -> Result<Finished> {
        let mut command = clean_command(PROGRAM);
        command
            .env("HOME", &self.folder)
            .args(QUIET)
            .arg(format!("--user-data-dir={}", self.folder.join("profile").display()))
            .args(options)
            .arg(url);
        run(&mut command, limit)
    }
}

/// Width and height, from the header that comes first in every PNG.
fn png_size(png: &[u8]) -> Option<(u32, u32)> {
    let header = png.strip_prefix(PNG_SIGNATURE)?.get(8..16)?;
    let (width, height) = header.split_at(4);
    Some((
        u32::from_be_bytes(width.try_into().ok()?),
        u32::from_be_bytes(height.try_into().ok()?),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_a_picture_is_read() {
        let png = [PNG_SIGNATURE, b"\0\0\0\x0dIHDR\0\0\x03\xe8\0\0\x02\xbc"].concat();
        assert_eq!(png_size(&png), Some((1000, 700)));
        assert_eq!(png_size(b"<html>"), None);
    }
}
