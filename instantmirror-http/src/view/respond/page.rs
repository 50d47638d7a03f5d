//! Answers about directories: which form of a page, in which coding, and what it is known by.

use http::StatusCode;
use http::header;
use instantmirror_core::traits::TorrentLink;
use instantmirror_core::{Directory, ObjectId, RepoPath};

use super::{Body, CACHE_ASK, CACHE_HOUR, Response, describe};
use crate::message::coding::Coding;
use crate::message::request::{Request, Validators, Verdict, evaluate, media_preference, query_value};
use crate::view::listing::{Format, Links, Listing, Order, Row, Subject};
use crate::view::routing::{Nodes, Origin};

/// What a page depends on besides its URL.
const VARY: &str = "Accept, Accept-Encoding";

/// The form of a page that a client is to get.
#[derive(Debug, Clone, Copy)]
struct Form {
    format: Format,
    order: Order,
    coding: Coding,
}

impl Form {
    fn of(request: &Request<'_>) -> Self {
        Self {
            format: format(request),
            order: Order::from_query(request.query),
            coding: Coding::accepted(request.fields.accept_encoding.as_deref()),
        }
    }
}

/// JSON if the query says so, or if the client likes it better than HTML.
fn format(request: &Request<'_>) -> Format {
    let accept = request.fields.accept.as_deref();
    let preference = |media| accept.and_then(|accept| media_preference(accept, media));
    if query_value(request.query, "json").is_some() || preference("application/json") > preference("text/html") {
        Format::Json
    } else {
        Format::Html
    }
}

/// A page about a directory of a tree.
pub(super) fn respond_directory(
    request: &Request<'_>,
    path: &RepoPath,
    origin: &Origin,
    directory: Directory,
    nodes: Nodes,
    torrents: Vec<TorrentLink>,
) -> Response {
    let form = Form::of(request);
    let subject = Subject {
        path: path.clone(),
        snapshot: Some((origin.repository.clone(), origin.snapshot)),
        torrents,
    };
    let validators = Validators {
        etag: page_tag(origin, &directory, &subject.torrents, form),
        modified: None,
    };
    let cache = if origin.fixed { CACHE_HOUR } else { CACHE_ASK };
    let mut response = match evaluate(&request.fields, &validators) {
        Verdict::NotModified => {
            let mut response = Response::empty(StatusCode::NOT_MODIFIED);
            response.set(header::VARY, VARY);
            response.set(header::CACHE_CONTROL, cache);
            response
        }
        // If-Match asks for a strong tag, which a page does not have.
        Verdict::Failed => return Response::text(StatusCode::PRECONDITION_FAILED, "a page has no strong tag"),
        Verdict::Proceed => {
            let root = origin.state.snapshots.get(&origin.snapshot);
            let links = root.map(|snapshot| Links::new(snapshot.root.meta(), origin.path.clone()));
            let page = Listing::of_directory(subject, form.format, form.order, directory, nodes, links);
            respond_page(page, form, cache)
        }
    };
    response.set(header::ETAG, &validators.etag);
    describe(&mut response, origin);
    response
}

/// A page about a directory that exists in the name space only.
pub(super) fn respond_virtual(request: &Request<'_>, path: &RepoPath, rows: Vec<Row>) -> Response {
    let form = Form::of(request);
    let subject = Subject {
        path: path.clone(),
        snapshot: None,
        torrents: Vec::new(),
    };
    respond_page(
        Listing::of_rows(subject, form.format, form.order, rows),
        form,
        CACHE_ASK,
    )
}

/// What a page about a directory is known by. Weak: we may come to write the same page otherwise.
fn page_tag(origin: &Origin, directory: &Directory, torrents: &[TorrentLink], form: Form) -> String {
    let Form { format, order, coding } = form;
    let name = match format {
        Format::Html => "html",
        Format::Json => "json",
    };
    // Torrents come a little later than their snapshot.
    let torrents = match torrents {
        [] => String::new(),
        some => {
            let magnets: Vec<&str> = some.iter().map(|torrent| torrent.magnet.as_str()).collect();
            format!("-{}", ObjectId::of(magnets.join("\n").as_bytes()))
        }
    };
    let coding = coding.name().map(|coding| format!("-{coding}")).unwrap_or_default();
    format!(
        "W/\"{}-{}-{name}-{order}{torrents}{coding}\"",
        directory.node, origin.snapshot
    )
}

fn respond_page(page: Listing, form: Form, cache: &str) -> Response {
    let mut response = Response::empty(StatusCode::OK);
    let media = match form.format {
        Format::Html => "text/html; charset=utf-8",
        Format::Json => "application/json",
    };
    response.set(header::CONTENT_TYPE, media);
    if let Some(coding) = form.coding.name() {
        response.set(header::CONTENT_ENCODING, coding);
    }
    response.set(header::VARY, VARY);
    response.set(header::CACHE_CONTROL, cache);
    if form.format == Format::Html {
        // Names come from others: whatever they hold, nothing of it runs.
        let policy = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'";
        response.set(header::CONTENT_SECURITY_POLICY, policy);
    }
    response.body = Body::Listing(Box::new(page), form.coding);
    response
}
