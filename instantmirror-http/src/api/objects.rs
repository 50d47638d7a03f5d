//! Objects, outboards and batches straight from [`Objects`]: what is here whole, and nothing else. Asking a
//! node for an object never makes it fetch one.

use std::sync::Arc;
use std::time::Instant;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::stream;
use http::header::{self, HeaderValue};
use http::{Response, StatusCode};
use instantmirror_core::batch::{
    BATCH_ANSWER_BYTES_MAX, BATCH_OBJECT_BYTES_MAX, MISSING_ITEM, decode_request, found_header,
};
use instantmirror_core::log_limited;
use instantmirror_core::reader::HandleReader;
use instantmirror_core::traits::blocking::may_block;
use instantmirror_core::traits::{ObjectHandle, Objects};
use instantmirror_core::{CacheError, FileMeta, ObjectId, RepoName, RepoPath};
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;

use super::access::Sight;
use super::{FOREVER, error, typed, whole};
use crate::body::{Answer, BodyError, ObjectBody, ServeBody};
use crate::message::request::Request;
use crate::view::respond::{Body, Content, respond_object};

/// Most bytes of a batch that are read at once: many objects, for each time costs a change of threads.
const BATCH_PIECE_BYTES_MAX: u64 = 256 * 1024;
const MEDIA: &str = "application/octet-stream";

/// An object that is here as a whole.
async fn open(store: &Arc<dyn Objects>, object: &ObjectId) -> Result<Option<Arc<dyn ObjectHandle>>, CacheError> {
    let handle = store.open(object).await?;
    Ok(handle.filter(|handle| handle.is_complete()))
}

pub(super) fn not_here(object: &ObjectId) -> Answer {
    error(StatusCode::NOT_FOUND, &format!("object {object} is not here"))
}

fn cannot(object: &ObjectId, failed: &CacheError) -> Answer {
    log_limited!(Instant::now(), warn, %object, error = %failed, "cannot send an object");
    let status = match failed {
        // It was put aside, so it is not here any more.
        CacheError::Damaged { .. } => return not_here(object),
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    error(
        status,
        &format!("object {object} cannot be read; the operator's log says why"),
    )
}

pub(super) async fn object(
    store: &Arc<dyn Objects>,
    repository: &RepoName,
    object: ObjectId,
    request: &Request<'_>,
) -> Answer {
    let handle = match open(store, &object).await {
        Ok(Some(handle)) => handle,
        Ok(None) => return not_here(&object),
        Err(failed) => return cannot(&object, &failed),
    };
    let file = FileMeta {
        size: handle.size(),
        object,
        first_piece: 0,
        link_group: None,
    };
    let content = Content {
        repository: repository.clone(),
        path: RepoPath::ROOT,
        file,
    };
    let response = respond_object(request, content, None, MEDIA, false);
    let body = match response.body {
        Body::Object(content, range) => {
            let reader = Arc::new(HandleReader::new(handle));
            match ObjectBody::of_reader(content, reader, range).await {
                Ok(body) => ServeBody::object(body),
                Err(refusal) => return error(refusal.status, &refusal.text),
            }
        }
        Body::Bytes(_) if response.status.is_client_error() => {
            let mut answer = error(response.status, "the request is about another object or another range");
            let ours = answer.headers_mut();
            ours.extend(response.headers.into_iter().filter(|(name, _)| {
                let name = name.as_ref();
                name == Some(&header::CONTENT_RANGE) || name == Some(&header::ACCEPT_RANGES)
            }));
            return answer;
        }
        _ => ServeBody::whole(Bytes::new()),
    };
    let mut answer = Response::new(body);
    *answer.status_mut() = response.status;
    *answer.headers_mut() = response.headers;
    let cache = HeaderValue::from_static(FOREVER);
    answer.headers_mut().insert(header::CACHE_CONTROL, cache);
    answer
}

pub(super) async fn outboard(store: &Arc<dyn Objects>, object: &ObjectId) -> Answer {
    match store.outboard(object).await {
        Ok(Some(outboard)) => whole(MEDIA, FOREVER, outboard.values().clone()),
        Ok(None) => not_here(object),
        Err(failed) => cannot(object, &failed),
    }
}

/// A batch that is being answered.
struct Batch {
    store: Arc<dyn Objects>,
    objects: std::vec::IntoIter<ObjectId>,
    sight: Sight,
    /// Bytes of objects that may still be sent.
    left: u64,
    /// What comes next, as far as it was sent.
    next: Option<Item>,
}

/// One object of a batch.
struct Item {
    object: ObjectId,
    /// `None` if it is answered as missing.
    handle: Option<Arc<dyn ObjectHandle>>,
    size: u64,
    at: u64,
}

/// Answers a batch while it is read: whatever is asked for, memory is that of one piece.
pub(super) fn batch(store: &Arc<dyn Objects>, body: &[u8], sight: Sight) -> Answer {
    let objects = match decode_request(body) {
        Ok(objects) => objects.into_iter(),
        Err(malformed) => return error(StatusCode::BAD_REQUEST, &malformed.to_string()),
    };
    let batch = Batch {
        store: Arc::clone(store),
        objects,
        sight,
        left: BATCH_ANSWER_BYTES_MAX,
        next: None,
    };
    let pieces = stream::unfold(Some(batch), |batch| async move {
        // Opening and reading may take a disk long. One thread does it for all objects of a piece: to wake one for each
        // would cost more than what it does.
        let (mut batch, runtime) = (batch?, Handle::current());
        let gathered = spawn_blocking(move || {
            let piece = may_block(|| runtime.block_on(batch.piece()));
            (piece, batch)
        });
        match gathered.await {
            Ok((Ok(piece), batch)) => (!piece.is_empty()).then_some((Ok(piece), Some(batch))),
            Ok((Err(broken), _)) => Some((Err(broken), None)),
            Err(failed) => Some((Err(BodyError(failed.to_string())), None)),
        }
    });
    typed(MEDIA, "no-store", ServeBody::pieces(pieces, None))
}

impl Batch {
    /// The next items, as many as fill a piece; empty at the end. An object that fits into a piece is read whole before
    /// anything of it is sent, so that one that cannot be read counts as missing; where a larger one breaks off, so does the
    /// answer.
    async fn piece(&mut self) -> Result<Bytes, BodyError> {
        let mut out = BytesMut::new();
        loop {
            if self.next.is_none() {
                let Some(object) = self.objects.next() else { break };
                self.next = Some(self.open(object).await);
            }
            let Some(item) = &mut self.next else { break };
            let Some(handle) = &item.handle else {
                out.put_slice(&MISSING_ITEM);
                self.next = None;
                continue;
            };
            let room = BATCH_PIECE_BYTES_MAX.saturating_sub(out.len() as u64);
            if room == 0 || (!out.is_empty() && item.at == 0 && item.size > room) {
                break;
            }
            let end = item.size.min(item.at + room);
            let content = handle.read(item.at..end).await;
            match content.ok().filter(|content| content.len() as u64 == end - item.at) {
                Some(content) => {
                    if item.at == 0 {
                        out.put_slice(&found_header(item.size));
                    }
                    out.put_slice(&content);
                    item.at = end;
                }
                None if item.at == 0 => {
                    log_limited!(Instant::now(), warn, object = %item.object, "it cannot be read, and is left out of a batch");
                    out.put_slice(&MISSING_ITEM);
                    item.at = item.size;
                }
                None => {
                    log_limited!(Instant::now(), warn, object = %item.object, "it cannot be read to its end, so a batch breaks off");
                    return Err(BodyError(format!("object {} cannot be read", item.object)));
                }
            }
            if item.at == item.size {
                self.next = None;
            }
        }
        Ok(out.freeze())
    }

    async fn open(&mut self, object: ObjectId) -> Item {
        let is_hidden = !self.sight.is_node() && self.sight.is_staged_object(&object);
        let handle = match is_hidden {
            true => None,
            false => open(&self.store, &object).await.unwrap_or_else(|error| {
                log_limited!(Instant::now(), warn, %object, %error, "an object is left out of a batch");
                None
            }),
        };
        let size = handle.as_ref().map_or(0, |handle| handle.size());
        let handle = handle.filter(|_| size <= BATCH_OBJECT_BYTES_MAX.min(self.left));
        if handle.is_some() {
            self.left -= size;
        }
        Item {
            object,
            handle,
            size,
            at: 0,
        }
    }
}
