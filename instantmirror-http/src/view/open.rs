//! Opens the body that a response describes: objects, files, pages that make themselves.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures_core::Stream;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http::StatusCode;
use instantmirror_core::log_limited;
use instantmirror_core::traits::ObjectSource;

use crate::body::{BodyError, ObjectBody, Refusal, ServeBody};
use crate::message::coding::Packer;
use crate::view::listing::Listing;
use crate::view::respond::Body;

/// So much of a page is made at once, as it waits for its client.
const PAGE_BYTES: usize = 16 * 1024;
/// The same of one that becomes some tenth of it.
const PACKED_PAGE_BYTES: usize = 64 * 1024;

/// Opens what a response describes.
pub(crate) async fn open(body: Body, objects: &Arc<dyn ObjectSource>) -> Result<ServeBody, Refusal> {
    match body {
        Body::Empty => Ok(ServeBody::whole(Bytes::new())),
        Body::Bytes(bytes) => Ok(ServeBody::whole(bytes)),
        Body::Object(content, range) => Ok(ServeBody::object(ObjectBody::one(content, range, objects).await?)),
        Body::Multipart(content, parts) => Ok(ServeBody::object(ObjectBody::several(content, parts, objects).await?)),
        Body::Own(file, range) => {
            let bytes = range.end - range.start;
            first_then_rest(file.read(range), Some(bytes))
                .await
                .map_err(|error| Refusal {
                    status: StatusCode::INTERNAL_SERVER_ERROR,
                    text: error.to_string(),
                })
        }
        Body::Zeros(bytes) => Ok(ServeBody::pieces(zeros(bytes), Some(bytes))),
        Body::Listing(listing, coding) => {
            let pieces = stream::try_unfold(Some((listing, Packer::new(coding))), |page| async move {
                let Some((listing, packer)) = page else { return Ok(None) };
                // It may sort, follow links, and wait for the disk.
                let made = tokio::task::spawn_blocking(move || next_of_page(listing, packer)).await;
                let made = made.unwrap_or_else(|failed| Err(BodyError(failed.to_string())));
                made.map(Some).inspect_err(|error| {
                    log_limited!(Instant::now(), warn, %error, "a listing broke off");
                })
            });
            first_then_rest(pieces, None).await.map_err(|_| Refusal {
                status: StatusCode::INTERNAL_SERVER_ERROR,
                text: "the directory cannot be read; the operator's log says why".to_owned(),
            })
        }
    }
}

/// A page that is not at its end, and what packs it.
type Page = (Box<Listing>, io::Result<Packer>);

/// The next bytes of a page, maybe none, and the page if it goes on.
fn next_of_page(mut listing: Box<Listing>, packer: io::Result<Packer>) -> Result<(Bytes, Option<Page>), BodyError> {
    let cannot_pack = |error: io::Error| BodyError(error.to_string());
    let mut packer = packer.map_err(cannot_pack)?;
    let bytes = match packer {
        Packer::Identity | Packer::Raw(_) => PAGE_BYTES,
        Packer::Gzip(_) | Packer::Zstd(_) => PACKED_PAGE_BYTES,
    };
    match listing
        .next_piece(bytes)
        .map_err(|error| BodyError(error.to_string()))?
    {
        Some(piece) => Ok((packer.pack(piece).map_err(cannot_pack)?, Some((listing, Ok(packer))))),
        None => Ok((packer.finish().map_err(cannot_pack)?, None)),
    }
}

/// So many zeros, all from the same few.
fn zeros(bytes: u64) -> impl Stream<Item = Result<Bytes, BodyError>> + Send + 'static {
    static ZEROS: [u8; 16 << 10] = [0; 16 << 10];
    stream::iter((0..bytes).step_by(ZEROS.len()).map(move |at| {
        let len = usize::try_from(bytes - at).map_or(ZEROS.len(), |left| left.min(ZEROS.len()));
        Ok(Bytes::from_static(&ZEROS[..len]))
    }))
}

/// Makes the first piece before the body is returned.
async fn first_then_rest(
    pieces: impl Stream<Item = Result<Bytes, BodyError>> + Send + 'static,
    len: Option<u64>,
) -> Result<ServeBody, BodyError> {
    let mut pieces = Box::pin(pieces);
    let first = pieces.try_next().await?;
    Ok(ServeBody::pieces(stream::iter(first.map(Ok)).chain(pieces), len))
}
