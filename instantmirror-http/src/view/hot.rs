//! Answers about files that are asked for again and again: where the path leads, the header's bytes, and the
//! body, in memory if it is small and as an open file otherwise.
//!
//! Key decision: an answer is kept under the path of its request, together with the state of the repository
//! that it was made from, and is used only while that is still the state. Reason: nothing has to be told when
//! a snapshot appears; what was kept before then simply no longer fits.
//!
//! A kept file holds its object in the cache, where it counts and cannot be given up. So what is held is
//! bounded ([`HotLimits`]), and let go after [`HotLimits::lifetime`]: then the object is opened anew, which the
//! cache takes as a use of it.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use instantmirror_core::traits::{Catalogs, ObjectReader};
use instantmirror_core::view::RepositoryState;
use instantmirror_core::{FileMeta, RepoName, RepoPath};
use quick_cache::Equivalent;
use quick_cache::sync::Cache;

use crate::body::{Answer, Content, ObjectBody, ServeBody};
use crate::message::request::{Fields, Validators, http_seconds};
use crate::message::wire;
use crate::view::header_rules::HeaderRules;
use crate::view::respond::{Decision, Facts, decide, respond_file_decided, validators};
use crate::view::routing::Origin;

/// Bodies of at most so many bytes are kept in memory: sending them from there costs less than from a file.
pub const HOT_BODY_BYTES_MAX: u64 = 16 * 1024;

/// Room for the fields that are written anew for each answer.
const HEAD_TAIL_BYTES: usize = 192;

/// What a [`Service`](crate::Service) keeps ready.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HotLimits {
    /// Most answers kept, each with a file open or up to [`HOT_BODY_BYTES_MAX`] in memory; 0: none are.
    pub answers_max: usize,
    /// Most bytes of bodies in memory.
    pub memory_bytes_max: u64,
    /// Most bytes of objects whose files are kept open, and which a cache therefore cannot give up.
    pub held_bytes_max: u64,
    /// An answer is made anew after this time.
    pub lifetime: Duration,
}

impl Default for HotLimits {
    fn default() -> Self {
        Self {
            answers_max: 16_384,
            memory_bytes_max: 32 << 20,
            held_bytes_max: 16 << 30,
            lifetime: Duration::from_secs(30),
        }
    }
}

/// Kept answers, by the site and the encoded path of their request.
#[derive(Debug)]
pub(crate) struct HotAnswers {
    cache: Cache<Key, Arc<HotAnswer>>,
    lifetime: Duration,
    memory: Budget,
    files: Budget,
}

/// The number of a [site](crate::Site), and a path.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key(usize, Box<str>);

/// A [`Key`] that is looked for. It has the same hash.
#[derive(Hash)]
struct Sought<'a>(usize, &'a str);

impl Equivalent<Key> for Sought<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        self.0 == key.0 && *self.1 == *key.1
    }
}

/// Bytes that may be taken, and how many are.
#[derive(Debug)]
struct Budget {
    taken: Arc<AtomicU64>,
    max: u64,
}

/// Bytes of a [`Budget`], given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    taken: Arc<AtomicU64>,
    bytes: u64,
}

impl Budget {
    fn new(max: u64) -> Self {
        let taken = Arc::default();
        Self { taken, max }
    }

    /// Others who take too much are let go when their time has come, so nobody waits for it for long.
    fn take(&self, bytes: u64) -> Option<Share> {
        let add = |taken: u64| taken.checked_add(bytes).filter(|sum| *sum <= self.max);
        let added = self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        added.is_ok().then(|| Share {
            taken: Arc::clone(&self.taken),
            bytes,
        })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.taken.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// What is kept about one file at one path.
#[derive(Debug)]
pub(crate) struct HotAnswer {
    repository: RepoName,
    state: Arc<RepositoryState>,
    made: Instant,
    validators: Validators,
    path: RepoPath,
    file: FileMeta,
    body: HotBody,
    /// Headers without Date, Connection and the empty line.
    whole: Vec<u8>,
    not_modified: Vec<u8>,
    /// The same without Content-Length and Content-Range.
    part: Vec<u8>,
    /// The lines of `whole` taken apart, once a carrier has asked for them.
    headers: OnceLock<Box<HeaderMap>>,
}

/// Where the body of a kept answer is.
#[derive(Debug)]
pub(crate) enum HotBody {
    /// All of it here.
    Memory { bytes: Bytes, _share: Share },
    /// In the file of this reader, which has a descriptor and is settled.
    File {
        reader: Arc<dyn ObjectReader>,
        _share: Share,
    },
    /// Not here: only answers without a body are.
    Elsewhere,
}

/// A header that was written, and what is to follow it.
pub(crate) struct Written {
    pub(crate) status: StatusCode,
    /// Range of the file; `None`: there is no body, or it was written too.
    pub(crate) file: Option<(Arc<dyn ObjectReader>, Range<u64>)>,
    pub(crate) body_bytes: u64,
}

impl HotAnswers {
    pub(crate) fn new(limits: &HotLimits) -> Self {
        Self {
            cache: Cache::new(limits.answers_max),
            lifetime: limits.lifetime,
            memory: Budget::new(limits.memory_bytes_max),
            files: Budget::new(limits.held_bytes_max),
        }
    }

    /// What is kept of an object for the next one who asks; `None`: it cannot be had as it should be.
    pub(crate) async fn body(&self, size: u64, reader: Option<Arc<dyn ObjectReader>>) -> Option<HotBody> {
        let Some(reader) = reader else {
            return Some(HotBody::Elsewhere);
        };
        if size <= HOT_BODY_BYTES_MAX
            && let Some(share) = self.memory.take(size)
        {
            let bytes = reader.read(0..size).await.ok()?;
            let bytes = (bytes.len() as u64 == size).then_some(bytes)?;
            return Some(HotBody::Memory { bytes, _share: share });
        }
        let share = reader.descriptor().and_then(|_| self.files.take(size));
        Some(share.map_or(HotBody::Elsewhere, |share| HotBody::File { reader, _share: share }))
    }

    /// The answer kept for a path of a site, if it still fits what is published.
    pub(crate) fn get(&self, site: usize, path: &str, catalogs: &dyn Catalogs, now: Instant) -> Option<Arc<HotAnswer>> {
        let sought = Sought(site, path);
        let answer = self.cache.get(&sought)?;
        let state = catalogs.state(&answer.repository);
        let fits = state.is_some_and(|state| Arc::ptr_eq(&state, &answer.state));
        if fits && now.saturating_duration_since(answer.made) < self.lifetime {
            return Some(answer);
        }
        self.cache.remove(&sought);
        None
    }

    pub(crate) fn keep(&self, site: usize, path: &str, answer: HotAnswer) {
        self.cache.insert(Key(site, path.into()), Arc::new(answer));
    }

    /// Lets go of what is too old, so that a path that nobody asks for any more holds nothing.
    pub(crate) fn expire(&self, now: Instant) {
        self.cache
            .retain(|_, answer| now.saturating_duration_since(answer.made) < self.lifetime);
    }
}

impl HotAnswer {
    pub(crate) fn new(
        origin: &Origin,
        facts: &Facts,
        rules: &HeaderRules,
        (file, mtime): (FileMeta, i64),
        body: HotBody,
    ) -> Self {
        let head = |decision: &Decision, spliced: bool| {
            let mut response = respond_file_decided(decision, origin, facts, file, mtime);
            rules.dress_tree(&mut response.headers);
            rules.dress(&mut response.headers);
            if spliced {
                response.headers.remove(http::header::CONTENT_LENGTH);
                response.headers.remove(http::header::CONTENT_RANGE);
            }
            let mut out = Vec::with_capacity(512);
            wire::begin(&mut out, response.status);
            wire::fields(&mut out, &response.headers);
            out
        };
        Self {
            repository: origin.repository.clone(),
            state: Arc::clone(&origin.state),
            made: Instant::now(),
            validators: validators(&file, http_seconds(mtime)),
            path: origin.path.clone(),
            file,
            body,
            whole: head(&Decision::Whole, false),
            not_modified: head(&Decision::NotModified, false),
            part: head(&Decision::Parts(std::iter::once(0..1).collect()), true),
            headers: OnceLock::new(),
        }
    }

    /// What a GET or HEAD is answered with: the status, the prepared lines of the header, and the range that follows; `None`
    /// if the answer has to be made in the common way.
    fn choose(&self, method: &Method, fields: &Fields<'_>) -> Option<(StatusCode, &[u8], Range<u64>)> {
        let decision = if fields.is_plain() {
            Decision::Whole
        } else {
            decide(method, fields, &self.validators, self.file.size)
        };
        let (status, head, range) = match &decision {
            Decision::Whole => (StatusCode::OK, &self.whole, 0..self.file.size),
            Decision::NotModified => (StatusCode::NOT_MODIFIED, &self.not_modified, 0..0),
            Decision::Parts(parts) => match parts.as_slice() {
                [range] => (StatusCode::PARTIAL_CONTENT, &self.part, range.clone()),
                _ => return None,
            },
            Decision::Failed | Decision::Unsatisfiable => return None,
        };
        let range = if *method == Method::HEAD { 0..0 } else { range };
        let is_missing = range.end > range.start && matches!(self.body, HotBody::Elsewhere);
        (!is_missing).then_some((status, head.as_slice(), range))
    }

    /// The answer to a GET or HEAD for carriers that write no bytes of HTTP/1.1; `None` if it has to be made in the common
    /// way. Cancellation safe.
    pub(crate) async fn answer(&self, method: &Method, fields: &Fields<'_>) -> Option<Answer> {
        let (status, head, range) = self.choose(method, fields)?;
        let headers = match status {
            StatusCode::OK => (**self.headers.get_or_init(|| Box::new(wire::header_map(head)))).clone(),
            StatusCode::PARTIAL_CONTENT => {
                let mut lines = head.to_vec();
                wire::content_range(&mut lines, &range, self.file.size);
                wire::header_map(&lines)
            }
            _ => wire::header_map(head),
        };
        let body = match &self.body {
            _ if range.is_empty() => ServeBody::whole(Bytes::new()),
            HotBody::Memory { bytes, .. } => ServeBody::whole(part_of(bytes, &range)),
            HotBody::File { reader, .. } => {
                let content = Content {
                    repository: self.repository.clone(),
                    path: self.path.clone(),
                    file: self.file,
                };
                ServeBody::object(ObjectBody::of_reader(content, Arc::clone(reader), range).await.ok()?)
            }
            HotBody::Elsewhere => return None,
        };
        let mut answer = Answer::new(body.kept());
        *answer.status_mut() = status;
        *answer.headers_mut() = headers;
        Some(answer)
    }

    /// Writes the answer to a GET or HEAD, with the lines of `more`, all of it or up to the body in a file; `None` if it
    /// has to be made in the common way.
    pub(crate) fn write(
        &self,
        method: &Method,
        fields: &Fields<'_>,
        persistence: wire::Persistence,
        more: &[u8],
        out: &mut Vec<u8>,
    ) -> Option<Written> {
        let (status, head, range) = self.choose(method, fields)?;
        let body_bytes = match &self.body {
            HotBody::Memory { bytes, .. } => bytes.len(),
            HotBody::File { .. } | HotBody::Elsewhere => 0,
        };
        out.reserve(head.len() + HEAD_TAIL_BYTES + body_bytes);
        out.extend_from_slice(head);
        if status == StatusCode::PARTIAL_CONTENT {
            wire::content_range(out, &range, self.file.size);
        }
        out.extend_from_slice(more);
        wire::end(out, persistence);
        let mut written = Written {
            status,
            file: None,
            body_bytes: range.end - range.start,
        };
        match &self.body {
            HotBody::Memory { bytes, .. } => {
                let place = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
                out.extend_from_slice(place.and_then(|(start, end)| bytes.get(start..end)).unwrap_or_default());
            }
            HotBody::File { reader, .. } if range.end > range.start => written.file = Some((Arc::clone(reader), range)),
            HotBody::File { .. } | HotBody::Elsewhere => {}
        }
        Some(written)
    }
}

fn part_of(bytes: &Bytes, range: &Range<u64>) -> Bytes {
    let place = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
    let place = place.filter(|(start, end)| start <= end && *end <= bytes.len());
    place.map_or_else(Bytes::new, |(start, end)| bytes.slice(start..end))
}
