//! Objects, outboards and batches straight from the cache: what is held whole, and nothing else. Asking a
//! node for an object never makes it fetch one.

use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::stream;
use http::header::{self, HeaderValue};
use http::{Response, StatusCode};
use instantmirror_core::batch::{BATCH_OBJECT_BYTES_MAX, MISSING_ITEM, decode_request, found_header};
use instantmirror_core::reader::HandleReader;
use instantmirror_core::traits::{ObjectCache, ObjectHandle};
use instantmirror_core::{CacheError, FileMeta, ObjectId, RepoName, RepoPath};
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;

use super::access::Sight;
use super::{Answer, FOREVER, error, typed, whole};
use crate::body::{BodyError, ObjectBody, PIECE_BYTES_MAX, ServeBody};
use crate::request::Request;
use crate::respond::{Body, Content, respond_object};

const MEDIA: &str = "application/octet-stream";

/// An object that is here as a whole.
async fn open(cache: &Arc<dyn ObjectCache>, object: &ObjectId) -> Result<Option<Arc<dyn ObjectHandle>>, CacheError> {
    let handle = cache.open(object).await?;
    Ok(handle.filter(|handle| handle.is_complete()))
}

pub(super) fn not_here(object: &ObjectId) -> Answer {
    error(StatusCode::NOT_FOUND, &format!("object {object} is not here"))
}

fn cannot(object: &ObjectId, failed: &CacheError) -> Answer {
    tracing::warn!(%object, error = %failed, "cannot send an object");
    let status = match failed {
        // It was put aside, so it is not here any more.
        CacheError::Damaged { .. } => StatusCode::NOT_FOUND,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    error(status, &failed.to_string())
}

pub(super) async fn object(
    cache: &Arc<dyn ObjectCache>,
    repository: &RepoName,
    object: ObjectId,
    request: &Request<'_>,
) -> Answer {
    let handle = match open(cache, &object).await {
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

pub(super) async fn outboard(cache: &Arc<dyn ObjectCache>, object: &ObjectId) -> Answer {
    match cache.outboard(object).await {
        Ok(Some(outboard)) => whole(MEDIA, FOREVER, outboard.values().clone()),
        Ok(None) => not_here(object),
        Err(failed) => cannot(object, &failed),
    }
}

/// A batch that is being answered.
struct Batch {
    cache: Arc<dyn ObjectCache>,
    objects: std::vec::IntoIter<ObjectId>,
    sight: Sight,
}

/// Answers a batch while it is read: memory is that of one object and one piece.
pub(super) fn batch(cache: &Arc<dyn ObjectCache>, body: &[u8], sight: Sight) -> Answer {
    let objects = match decode_request(body) {
        Ok(objects) => objects.into_iter(),
        Err(malformed) => return error(StatusCode::BAD_REQUEST, &malformed.to_string()),
    };
    let cache = Arc::clone(cache);
    let pieces = stream::unfold(Some(Batch { cache, objects, sight }), |batch| async move {
        // Opening and reading may take a disk long. One thread does it for all objects of a piece: to wake one for each
        // would cost more than what it does.
        let (mut batch, runtime) = (batch?, Handle::current());
        let gathered = spawn_blocking(move || {
            let piece = runtime.block_on(batch.piece());
            (piece, batch)
        });
        match gathered.await {
            Ok((piece, batch)) => (!piece.is_empty()).then_some((Ok(piece), Some(batch))),
            Err(failed) => Some((Err(BodyError(failed.to_string())), None)),
        }
    });
    typed(MEDIA, "no-store", ServeBody::pieces(pieces, None))
}

impl Batch {
    /// The next items, as many as fill a piece; empty at the end.
    async fn piece(&mut self) -> Bytes {
        let mut out = BytesMut::new();
        while (out.len() as u64) < PIECE_BYTES_MAX {
            let Some(object) = self.objects.next() else { break };
            let is_hidden = !self.sight.is_node() && self.sight.is_staged_object(&object);
            let found = if is_hidden {
                None
            } else {
                item(&self.cache, &object).await
            };
            match found {
                Some(content) => {
                    out.put_slice(&found_header(content.len() as u64));
                    out.put_slice(&content);
                }
                None => out.put_slice(&MISSING_ITEM),
            }
        }
        out.freeze()
    }
}

/// The content of one object of a batch, read whole before anything of it is sent: one that cannot be read
/// counts as missing and does not end the batch.
async fn item(cache: &Arc<dyn ObjectCache>, object: &ObjectId) -> Option<Bytes> {
    let failed = |error: &dyn std::fmt::Display| {
        tracing::warn!(%object, %error, "an object is left out of a batch");
    };
    let handle = open(cache, object).await.inspect_err(|error| failed(error)).ok()??;
    let size = handle.size();
    if size > BATCH_OBJECT_BYTES_MAX {
        return None;
    }
    let content = handle.read(0..size).inspect_err(|error| failed(error)).ok()?;
    (content.len() as u64 == size).then_some(content)
}
