//! Files of the operator's own at the root: `robots.txt`, `favicon.ico`, `.well-known/`, a front page.
//!
//! Key decision: they are asked for last, where no tree, mount or repository has anything. Reason: what a master signed
//! is never replaced by what lies in a directory of one mirror.
//!
//! Invariant: nothing outside of the directory is read, whatever links are in it (`openat2`, `RESOLVE_BENEATH`), nothing
//! whose name begins with a dot but `.well-known`, nothing that is no regular file, and nothing that others of this machine may not
//! read: neither a file without that right, nor one below a directory that they may not enter.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use http::{StatusCode, header};
use instantmirror_core::RepoPath;
use instantmirror_core::log_limited;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;

use crate::body::OwnFile;
use crate::message::request::{Request, RequestPath, Validators};
use crate::view::mime::media_type;
use crate::view::respond::{Body, Decision, Response, decide, respond_redirect, set_validators, unsatisfiable};
use crate::view::routing::INDEX;

/// The one name with a dot that is read (RFC 8615).
const WELL_KNOWN: &str = ".well-known";
/// Files change when the operator likes; so long a cache need not ask.
const CACHE: &str = "public, max-age=300, must-revalidate";
/// Challenges and front pages are asked about each time.
const CACHE_ASK: &str = "no-cache";

/// A directory of files of the operator's own.
#[derive(Debug, Clone)]
pub struct OwnFiles {
    dir: PathBuf,
}

/// What there is at a path.
enum Found {
    File(OwnFile),
    Directory,
}

impl OwnFiles {
    /// Files in this directory. It is opened anew for each request, so it may be replaced at any time.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Answers a GET or HEAD of what is there; `None` if nothing is. A directory is its `index.html`.
    pub(crate) async fn answer(&self, request: &Request<'_>, path: &RequestPath) -> Option<Response> {
        if !is_public(&path.path) {
            return None;
        }
        let sought = path.path.as_str();
        let index = if sought.is_empty() {
            INDEX.to_owned()
        } else {
            format!("{sought}/{INDEX}")
        };
        if path.directory {
            return match self.find(index).await? {
                Found::File(file) => Some(respond(request, path, file)),
                Found::Directory => None,
            };
        }
        match self.find(sought.to_owned()).await? {
            Found::File(file) => Some(respond(request, path, file)),
            Found::Directory => match self.find(index).await? {
                Found::File(_) => Some(respond_redirect(request, path.reference_to(&path.path, true), false)),
                Found::Directory => None,
            },
        }
    }

    /// What is there, if anything that may be read is.
    async fn find(&self, path: String) -> Option<Found> {
        let dir = self.dir.clone();
        let found = tokio::task::spawn_blocking(move || find(&dir, &path)).await.ok()?;
        match found {
            Ok(found) => Some(found),
            Err(error) if is_absence(&error) => None,
            Err(error) => {
                log_limited!(Instant::now(), info, dir = %self.dir.display(), %error, "a file of [http] root cannot be read");
                None
            }
        }
    }
}

/// Errors that mean that there is nothing to be had, whoever asks.
fn is_absence(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    let absent = [
        Errno::NOENT,
        Errno::NOTDIR,
        Errno::XDEV,
        Errno::LOOP,
        Errno::NAMETOOLONG,
        Errno::NXIO,
    ];
    errno.is_some_and(|errno| absent.contains(&errno))
}

fn is_public(path: &RepoPath) -> bool {
    let mut parts = path.components().enumerate();
    parts.all(|(depth, part)| !part.starts_with('.') || depth == 0 && part == WELL_KNOWN)
}

fn find(dir: &Path, path: &str) -> io::Result<Found> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, dir, flags, Mode::empty())?;
    // Without NONBLOCK opening a fifo would wait for a writer.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let file = rustix::io::retry_on_intr(|| openat2(&root, path, flags, Mode::empty(), resolve))?;
    let file = File::from(file);
    let meta = file.metadata()?;
    if meta.is_dir() {
        return Ok(Found::Directory);
    }
    if !meta.is_file() {
        return Err(Errno::NOENT.into());
    }
    let is_open = meta.mode() & Mode::ROTH.bits() != 0 && is_way_open(&root, path)?;
    if !is_open {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("'{path}' is not for everybody: others may not read it, or not enter a directory above it"),
        ));
    }
    Ok(Found::File(OwnFile {
        file: Arc::new(file),
        name: path.rsplit('/').next().unwrap_or_default().to_owned(),
        size: meta.len(),
        modified: meta.mtime(),
        nanoseconds: meta.mtime_nsec(),
    }))
}

/// Whether others may enter every directory on the way to a path, as it is spelt; links on it are followed.
fn is_way_open(root: &OwnedFd, path: &str) -> io::Result<bool> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    for (end, _) in path.match_indices('/') {
        let way = path.get(..end).unwrap_or_default();
        let directory = rustix::io::retry_on_intr(|| openat2(root, way, flags, Mode::empty(), resolve))?;
        if rustix::fs::fstat(&directory)?.st_mode & Mode::XOTH.bits() == 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

fn respond(request: &Request<'_>, path: &RequestPath, file: OwnFile) -> Response {
    let size = file.size;
    let validators = Validators {
        etag: format!("\"{:x}-{:x}-{size:x}\"", file.modified, file.nanoseconds),
        modified: u64::try_from(file.modified).ok(),
    };
    let is_fleeting = path.directory || path.path.components().next() == Some(WELL_KNOWN);
    let cache = if is_fleeting { CACHE_ASK } else { CACHE };
    let (mut response, range) = match decide(&request.method, &request.fields, &validators, size) {
        Decision::NotModified => (Response::empty(StatusCode::NOT_MODIFIED), 0..0),
        Decision::Failed => return Response::text(StatusCode::PRECONDITION_FAILED, "the file is another one by now"),
        Decision::Unsatisfiable => return unsatisfiable(size),
        Decision::Parts(parts) if parts.len() == 1 => {
            let range = parts.into_iter().next().unwrap_or(0..size);
            (Response::part(&range, size), range)
        }
        Decision::Parts(_) | Decision::Whole => (Response::empty(StatusCode::OK), 0..size),
    };
    set_validators(&mut response, &validators);
    response.set(header::CACHE_CONTROL, cache);
    if response.status != StatusCode::NOT_MODIFIED {
        response.set(header::CONTENT_TYPE, media_type(&file.name));
        response.set_number(header::CONTENT_LENGTH, range.end - range.start);
        if request.method != http::Method::HEAD && !range.is_empty() {
            response.body = Body::Own(file, range);
        }
    }
    response
}
