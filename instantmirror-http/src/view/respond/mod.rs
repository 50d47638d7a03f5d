//! From a request and where it leads to a status, header fields and the description of a body. Nothing is
//! opened or sent here: every transport carries the same [`Response`] out in its own way.

mod page;

use std::ops::Range;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use instantmirror_core::FileMeta;
use instantmirror_core::log_limited;
use instantmirror_core::traits::{Duplicate, TorrentLink};

use crate::body::OwnFile;
use crate::message::coding::Coding;
use crate::message::request::{
    Fields, Request, RequestPath, Selection, Validators, Verdict, evaluate, http_date, http_seconds, is_worth_parting,
    range_counts, select_ranges,
};
use crate::view::header_rules::Said;
use crate::view::lifetime::cache_control;
use crate::view::listing::Listing;
use crate::view::mime::media_type;
use crate::view::routing::{Origin, Route};

pub use crate::body::{Content, Multipart};

/// Names the snapshot that an answer was taken from.
pub const SNAPSHOT_HEADER: HeaderName = HeaderName::from_static("instantmirror-snapshot");

/// The digest of the whole file, whatever part of it is sent (RFC 9530).
const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");
/// The same for older clients (RFC 3230).
const DIGEST: HeaderName = HeaderName::from_static("digest");
/// Most other places that an answer names.
const DUPLICATES_MAX: usize = 16;

/// For what a URL with a snapshot id shows: it never changes.
const CACHE_FOREVER: &str = "public, max-age=31536000, immutable";
/// For what `current`, tags and mounts show: may be kept, must be asked about. The question costs a 304.
const CACHE_ASK: &str = "no-cache";
/// When to ask again for what is on its way, in seconds.
const RETRY_AFTER_SECONDS: &str = "10";
/// For pages about what never changes: we may come to write them more beautifully.
const CACHE_HOUR: &str = "public, max-age=3600";
/// The methods of published trees.
pub(crate) const ALLOW: &str = "GET, HEAD, OPTIONS";

/// A whole answer, its body not yet opened.
#[derive(Debug)]
pub struct Response {
    /// The status.
    pub status: StatusCode,
    /// Header fields that belong to this answer; those of every answer are the transport's matter.
    pub headers: HeaderMap,
    /// What to send behind the header.
    pub body: Body,
}

/// What to send behind the header.
#[derive(Debug)]
#[non_exhaustive]
pub enum Body {
    /// Nothing.
    Empty,
    /// These bytes.
    Bytes(Bytes),
    /// One range of an object, not empty.
    Object(Content, Range<u64>),
    /// Several ranges of an object.
    Multipart(Content, Multipart),
    /// A page that makes itself, to be sent in this coding.
    Listing(Box<Listing>, Coding),
    /// So many zeros.
    Zeros(u64),
    /// A range of a file of the operator's own.
    Own(OwnFile, Range<u64>),
}

impl Response {
    /// An answer without body.
    #[must_use]
    pub fn empty(status: StatusCode) -> Self {
        Self {
            status,
            headers: HeaderMap::new(),
            body: Body::Empty,
        }
    }

    /// An answer of plain text for a person.
    #[must_use]
    pub fn text(status: StatusCode, text: &str) -> Self {
        let mut response = Self::empty(status);
        response.set(header::CONTENT_TYPE, "text/plain; charset=utf-8");
        response.body = Body::Bytes(format!("{}: {text}\n", status.as_u16()).into());
        response
    }

    /// An answer with one range of a whole of `size` bytes.
    pub(crate) fn part(range: &Range<u64>, size: u64) -> Self {
        let mut response = Self::empty(StatusCode::PARTIAL_CONTENT);
        response.set(header::CONTENT_RANGE, &content_range(range, size));
        response
    }

    /// The answer to a method that is not there.
    #[must_use]
    pub fn method_not_allowed(allow: &'static str) -> Self {
        let mut response = Self::text(StatusCode::METHOD_NOT_ALLOWED, &format!("use one of {allow}"));
        response.set(header::ALLOW, allow);
        response
    }

    /// Sets one field. What cannot stand in a header is left out.
    pub(crate) fn set(&mut self, name: HeaderName, value: &str) {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
    }

    pub(crate) fn set_number(&mut self, name: HeaderName, value: u64) {
        self.headers.insert(name, HeaderValue::from(value));
    }
}

/// Answers methods that need no path: `None` for GET and HEAD.
#[must_use]
pub fn respond_to_method(method: &Method) -> Option<Response> {
    if *method == Method::GET || *method == Method::HEAD {
        return None;
    }
    if *method == Method::OPTIONS {
        let mut response = Response::empty(StatusCode::NO_CONTENT);
        response.set(header::ALLOW, ALLOW);
        return Some(response);
    }
    Some(Response::method_not_allowed(ALLOW))
}

/// What is known of a file besides what its catalog says.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    pub(crate) sha256: Option<[u8; 32]>,
    /// The operator's say about its fields.
    pub(crate) said: Said,
    pub(crate) duplicates: Vec<Duplicate>,
}

/// Answers a GET or HEAD that leads to `route`. The body of an answer to HEAD is left out, its length stays. A page about a
/// directory shows `torrents`.
#[must_use]
pub fn respond(request: &Request<'_>, path: &RequestPath, route: Route, torrents: Vec<TorrentLink>) -> Response {
    match route {
        Route::File(origin, file, mtime) => respond_file(request, &origin, &Facts::default(), file, mtime),
        Route::Directory(origin, directory, nodes) => {
            page::respond_directory(request, &path.path, &origin, directory, nodes, torrents)
        }
        Route::Virtual(rows) => page::respond_virtual(request, &path.path, rows),
        Route::Zeros(bytes) => respond_zeros(request, bytes),
        Route::Redirect(location, lasting) => respond_redirect(request, location, lasting),
        Route::NotFound(text) => not_found(&text),
        Route::NotYet(text) => {
            let mut response = Response::text(StatusCode::SERVICE_UNAVAILABLE, &format!("{text}; try again soon"));
            response.set(header::CACHE_CONTROL, "no-store");
            response.set(header::RETRY_AFTER, RETRY_AFTER_SECONDS);
            response
        }
        Route::Elsewhere => not_found(&format!("there is no '/{}' here", path.path)),
        Route::Failed(repository, error) => {
            log_limited!(Instant::now(), warn, %repository, path = %path.path, %error, "the catalog cannot be read: 500");
            let text = format!("the catalog of repository '{repository}' cannot be read; the operator's log says why");
            Response::text(StatusCode::INTERNAL_SERVER_ERROR, &text)
        }
    }
}

fn not_found(text: &str) -> Response {
    let mut response = Response::text(StatusCode::NOT_FOUND, text);
    // What is missing now may be published in a second.
    response.set(header::CACHE_CONTROL, CACHE_ASK);
    response
}

pub(crate) fn respond_redirect(request: &Request<'_>, mut location: String, lasting: bool) -> Response {
    // A query that cannot stand in a header is left behind: the directory is more than its order.
    if !request.query.is_empty() && request.query.is_ascii() {
        location.push('?');
        location.push_str(request.query);
    }
    let mut response = Response::text(StatusCode::MOVED_PERMANENTLY, &format!("it is at {location}"));
    response.set(header::LOCATION, &location);
    response.set(header::CACHE_CONTROL, if lasting { CACHE_FOREVER } else { CACHE_ASK });
    response
}

/// Fields that tell where an answer came from.
fn describe(response: &mut Response, origin: &Origin) {
    response.set(SNAPSHOT_HEADER, &origin.snapshot.to_string());
    if let Some(permanent) = &origin.permanent {
        response.set(header::CONTENT_LOCATION, permanent);
    }
}

/// Answers a GET or HEAD of a file.
pub(crate) fn respond_file(
    request: &Request<'_>,
    origin: &Origin,
    facts: &Facts,
    file: FileMeta,
    mtime: i64,
) -> Response {
    let content = content(origin, file);
    let media = media_of(origin, facts);
    let mut response = respond_object(request, content, http_seconds(mtime), media, true);
    describe_file(&mut response, origin, facts);
    response
}

/// The same for a request of which this is known already. For those who keep answers.
pub(crate) fn respond_file_decided(
    decision: &Decision,
    origin: &Origin,
    facts: &Facts,
    file: FileMeta,
    mtime: i64,
) -> Response {
    let validators = validators(&file, http_seconds(mtime));
    let media = media_of(origin, facts);
    let mut response = respond_decided(decision, content(origin, file), &validators, media, true);
    describe_file(&mut response, origin, facts);
    response
}

fn content(origin: &Origin, file: FileMeta) -> Content {
    Content {
        repository: origin.repository.clone(),
        path: origin.path.clone(),
        file,
    }
}

fn name_of(origin: &Origin) -> &str {
    origin.path.split_last().map_or("", |(_, name)| name)
}

/// What the operator says it is, or what its name does.
fn media_of<'a>(origin: &Origin, facts: &'a Facts) -> &'a str {
    let said = facts.said.media.as_ref().and_then(|media| media.to_str().ok());
    said.unwrap_or_else(|| media_type(name_of(origin)))
}

fn describe_file(response: &mut Response, origin: &Origin, facts: &Facts) {
    describe(response, origin);
    // What one client's conditions came to is nothing that a cache may keep for others.
    if response.status.is_client_error() {
        return;
    }
    describe_lifetime(response, origin, facts);
    if !response.status.is_success() {
        return;
    }
    for (name, value) in &facts.said.fields {
        response.headers.insert(name.clone(), value.clone());
    }
    if let Some(sha256) = &facts.sha256 {
        let encoded = base64::engine::general_purpose::STANDARD.encode(sha256);
        response.set(REPR_DIGEST, &format!("sha-256=:{encoded}:"));
        response.set(DIGEST, &format!("SHA-256={encoded}"));
    }
    for duplicate in facts.duplicates.iter().take(DUPLICATES_MAX) {
        if let Ok(value) = HeaderValue::from_str(&link(duplicate)) {
            response.headers.append(header::LINK, value);
        }
    }
}

/// What a snapshot shows never changes; elsewhere the operator has a say.
fn describe_lifetime(response: &mut Response, origin: &Origin, facts: &Facts) {
    let cache = match &facts.said.cache {
        _ if origin.fixed => HeaderValue::from_static(CACHE_FOREVER),
        Some(cache) => cache.clone(),
        None => HeaderValue::from_static(cache_control(&origin.path, facts.sha256.as_ref())),
    };
    response.headers.insert(header::CACHE_CONTROL, cache);
}

/// `<url>; rel=duplicate; pri=1; geo=de` (RFC 6249). What cannot stand in it is encoded in the URL, or left out.
fn link(duplicate: &Duplicate) -> String {
    let url = duplicate.url.replace(['<', '>', '"', ' '], "");
    let mut link = format!("<{url}>; rel=duplicate; pri={}", duplicate.priority);
    let country = duplicate.country.as_deref().filter(|country| {
        let is_code = country.len() == 2;
        is_code && country.bytes().all(|byte| byte.is_ascii_alphabetic())
    });
    if let Some(country) = country {
        link.push_str("; geo=");
        link.push_str(&country.to_ascii_lowercase());
    }
    link
}

/// What conditions and ranges of a request come to, before anything is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision {
    /// 304.
    NotModified,
    /// 412.
    Failed,
    /// 200.
    Whole,
    /// 206 with these ranges.
    Parts(Vec<Range<u64>>),
    /// 416.
    Unsatisfiable,
}

/// Decides about a GET or HEAD of an object of `size` bytes.
pub(crate) fn decide(method: &Method, fields: &Fields<'_>, validators: &Validators, size: u64) -> Decision {
    match evaluate(fields, validators) {
        Verdict::NotModified => return Decision::NotModified,
        Verdict::Failed => return Decision::Failed,
        Verdict::Proceed => {}
    }
    match fields.range.as_deref() {
        // Ranges are defined for GET only.
        Some(range) if *method == Method::GET && range_counts(fields, validators) => match select_ranges(range, size) {
            Selection::Whole => Decision::Whole,
            Selection::Unsatisfiable => Decision::Unsatisfiable,
            Selection::Parts(parts) => Decision::Parts(parts),
        },
        _ => Decision::Whole,
    }
}

/// What an object is known by: its id is its tag.
pub(crate) fn validators(file: &FileMeta, modified: Option<u64>) -> Validators {
    Validators {
        etag: format!("\"{}\"", file.object),
        modified,
    }
}

/// Answers a GET or HEAD of one object: conditions, ranges, length. `several`: whether an answer may have
/// several parts; if not, a Range header that asks for them is ignored.
pub(crate) fn respond_object(
    request: &Request<'_>,
    content: Content,
    modified: Option<u64>,
    media: &str,
    several: bool,
) -> Response {
    let validators = validators(&content.file, modified);
    let decision = decide(&request.method, &request.fields, &validators, content.file.size);
    let mut response = respond_decided(&decision, content, &validators, media, several);
    if request.method == Method::HEAD {
        response.body = Body::Empty;
    }
    response
}

fn respond_decided(
    decision: &Decision,
    content: Content,
    validators: &Validators,
    media: &str,
    several: bool,
) -> Response {
    let size = content.file.size;
    let mut response = match decision {
        Decision::NotModified => Response::empty(StatusCode::NOT_MODIFIED),
        Decision::Failed => Response::text(
            StatusCode::PRECONDITION_FAILED,
            "the file is not the one the request is about",
        ),
        Decision::Parts(parts) => respond_parts(content, parts, media, several),
        Decision::Whole => respond_whole(content, media),
        Decision::Unsatisfiable => unsatisfiable(size),
    };
    if matches!(decision, Decision::Failed | Decision::Unsatisfiable) {
        response.set(header::ACCEPT_RANGES, "bytes");
    } else {
        set_validators(&mut response, validators);
    }
    response
}

/// The answer to a range that begins behind the end.
pub(crate) fn unsatisfiable(size: u64) -> Response {
    let text = format!("the file has {size} bytes; none of them was asked for");
    let mut response = Response::text(StatusCode::RANGE_NOT_SATISFIABLE, &text);
    response.set(header::CONTENT_RANGE, &format!("bytes */{size}"));
    response
}

/// The fields that say what a file is known by, and that ranges of it can be had.
pub(crate) fn set_validators(response: &mut Response, validators: &Validators) {
    response.set(header::ACCEPT_RANGES, "bytes");
    response.set(header::ETAG, &validators.etag);
    // A date that is still to come may not be told (RFC 9110, 8.8.2.1), and one of now would be another each time.
    let has_come = |modified: &u64| UNIX_EPOCH + Duration::from_secs(*modified) <= SystemTime::now();
    if let Some(modified) = validators.modified.filter(has_come) {
        response.set(header::LAST_MODIFIED, &http_date(modified));
    }
}

/// Answers a GET or HEAD of a pad file. One range is sent; of several, which nobody asks of zeros, all.
fn respond_zeros(request: &Request<'_>, size: u64) -> Response {
    let validators = Validators {
        etag: format!("\"zeros-{size}\""),
        modified: None,
    };
    let (mut response, bytes) = match decide(&request.method, &request.fields, &validators, size) {
        Decision::NotModified => (Response::empty(StatusCode::NOT_MODIFIED), 0),
        Decision::Failed => return Response::text(StatusCode::PRECONDITION_FAILED, "zeros have no other tag"),
        Decision::Unsatisfiable => return unsatisfiable(size),
        Decision::Parts(parts) if parts.len() == 1 => {
            let range = parts.into_iter().next().unwrap_or(0..size);
            (Response::part(&range, size), range.end - range.start)
        }
        Decision::Parts(_) | Decision::Whole => (Response::empty(StatusCode::OK), size),
    };
    response.set(header::ACCEPT_RANGES, "bytes");
    response.set(header::ETAG, &validators.etag);
    response.set(header::CACHE_CONTROL, CACHE_FOREVER);
    if bytes > 0 {
        response.set(header::CONTENT_TYPE, "application/octet-stream");
        response.set_number(header::CONTENT_LENGTH, bytes);
    }
    if bytes > 0 && request.method != Method::HEAD {
        response.body = Body::Zeros(bytes);
    }
    response
}

fn respond_whole(content: Content, media: &str) -> Response {
    let size = content.file.size;
    let mut response = Response::empty(StatusCode::OK);
    response.set(header::CONTENT_TYPE, media);
    response.set_number(header::CONTENT_LENGTH, size);
    if size > 0 {
        response.body = Body::Object(content, 0..size);
    }
    response
}

fn content_range(range: &Range<u64>, size: u64) -> String {
    format!("bytes {}-{}/{size}", range.start, range.end - 1)
}

fn respond_parts(content: Content, ranges: &[Range<u64>], media: &str, several: bool) -> Response {
    let size = content.file.size;
    let mut response = Response::empty(StatusCode::PARTIAL_CONTENT);
    if let [range] = ranges {
        response.set(header::CONTENT_TYPE, media);
        response.set(header::CONTENT_RANGE, &content_range(range, size));
        response.set_number(header::CONTENT_LENGTH, range.end - range.start);
        response.body = Body::Object(content, range.clone());
        return response;
    }
    // The boundary is the object's own hash: no content can hold that.
    let boundary = content.file.object.to_string();
    let part = |range: &Range<u64>| {
        let fields = content_range(range, size);
        let head = format!("\r\n--{boundary}\r\nContent-Type: {media}\r\nContent-Range: {fields}\r\n\r\n");
        (Bytes::from(head), range.clone())
    };
    let multipart = Multipart {
        parts: ranges.iter().map(part).collect(),
        end: format!("\r\n--{boundary}--\r\n").into(),
    };
    if !several || !is_worth_parting(multipart.len(), size) {
        return respond_whole(content, media);
    }
    response.set(
        header::CONTENT_TYPE,
        &format!("multipart/byteranges; boundary={boundary}"),
    );
    response.set_number(header::CONTENT_LENGTH, multipart.len());
    response.body = Body::Multipart(content, multipart);
    response
}

#[cfg(test)]
mod tests {
    use instantmirror_core::{ObjectId, RepoPath};

    use super::*;

    #[test]
    fn a_date_that_is_still_to_come_is_not_told() {
        let file = FileMeta {
            size: 1,
            object: ObjectId::of(b"x"),
            first_piece: 0,
            link_group: None,
        };
        let content = Content {
            repository: "debian".parse().unwrap(),
            path: RepoPath::ROOT,
            file,
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        for (modified, is_told) in [(0, true), (now, true), (now + 3600, false)] {
            for decision in [Decision::Whole, Decision::NotModified] {
                let validators = validators(&content.file, Some(modified));
                let response = respond_decided(&decision, content.clone(), &validators, "text/plain", true);
                let told = response.headers.get(header::LAST_MODIFIED);
                assert_eq!(told.is_some(), is_told, "{modified}");
                assert!(response.headers.contains_key(header::ETAG));
            }
        }
    }
}
