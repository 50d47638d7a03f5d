//! `GET /.im/v1/REPO/catalog/HASH`: the nodes of one tree that another lacks, compressed while they are found.
//!
//! The walk runs in bounded steps on the blocking pool, each started when the client has taken what the one
//! before made. So a slow client holds one step's output, and no thread.

use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{Method, StatusCode};
use instantmirror_core::NodeId;
use instantmirror_core::catalog::{Delta, NodeSource, frame};
use instantmirror_core::log_limited;
use instantmirror_core::traits::Catalogs;
use zstd::stream::write::Encoder;

use super::{FOREVER, error, typed};
use crate::body::{Answer, BodyError, PIECE_BYTES_MAX, ServeBody};
use crate::message::request::{Request, query_value};

const MEDIA: &str = "application/vnd.instantmirror.catalog.v1+zstd";
/// Most nodes that one step reads.
const STEP_NODES: usize = 256;
/// zstd's own default: beyond it a few per cent cost several times the work.
const LEVEL: i32 = 3;

pub(super) async fn answer(catalogs: &dyn Catalogs, want: NodeId, request: &Request<'_>) -> Answer {
    let have = match query_value(request.query, "have").map(str::parse::<NodeId>).transpose() {
        Ok(have) => have,
        Err(text) => return error(StatusCode::BAD_REQUEST, &text.to_string()),
    };
    let nodes = catalogs.nodes();
    match nodes.node(&want) {
        Ok(Some(_)) => {}
        Ok(None) => return error(StatusCode::NOT_FOUND, &format!("there is no catalog node {want} here")),
        Err(failed) => return cannot(want, &failed.to_string()),
    }
    if request.method == Method::HEAD {
        return typed(MEDIA, FOREVER, ServeBody::whole(Bytes::new()));
    }
    let encoder = match Encoder::new(Vec::new(), LEVEL) {
        Ok(encoder) => encoder,
        Err(failed) => return cannot(want, &failed.to_string()),
    };
    let walk = Walk {
        delta: Delta::new(nodes, have, want),
        encoder,
    };
    match step(walk).await {
        Err(failed) => cannot(want, &failed.to_string()),
        Ok((first, rest)) => {
            let rest = stream::try_unfold(rest, |walk| async move {
                let Some(walk) = walk else { return Ok(None) };
                step(walk).await.map(Some).inspect_err(|failed| {
                    log_limited!(Instant::now(), warn, error = %failed, "a catalog delta broke off; the connection is closed");
                })
            });
            let pieces = stream::iter([Ok(first)]).chain(rest);
            typed(MEDIA, FOREVER, ServeBody::pieces(pieces, None))
        }
    }
}

fn cannot(want: NodeId, reason: &str) -> Answer {
    log_limited!(Instant::now(), warn, node = %want, reason, "cannot send a catalog: 500");
    error(
        StatusCode::INTERNAL_SERVER_ERROR,
        &format!("the catalog of {want} cannot be read; the operator's log says why"),
    )
}

struct Walk {
    delta: Delta<Arc<dyn NodeSource>>,
    encoder: Encoder<'static, Vec<u8>>,
}

/// One step: the bytes it made, maybe none, and the walk if it goes on.
async fn step(walk: Walk) -> Result<(Bytes, Option<Walk>), BodyError> {
    match tokio::task::spawn_blocking(move || walk.advance()).await {
        Ok(result) => result,
        Err(failed) => Err(BodyError(failed.to_string())),
    }
}

impl Walk {
    fn advance(mut self) -> Result<(Bytes, Option<Self>), BodyError> {
        let broken = |error: io::Error| BodyError(error.to_string());
        let mut bytes = Vec::new();
        for _ in 0..STEP_NODES {
            bytes.clear();
            let Some(node) = self.delta.next() else {
                frame::put_end(&mut bytes);
                self.encoder.write_all(&bytes).map_err(broken)?;
                return Ok((self.encoder.finish().map_err(broken)?.into(), None));
            };
            let node = node.map_err(|error| BodyError(error.to_string()))?;
            frame::put_frame(&mut bytes, node.bytes());
            self.encoder.write_all(&bytes).map_err(broken)?;
            if self.encoder.get_ref().len() as u64 >= PIECE_BYTES_MAX {
                break;
            }
        }
        let made = std::mem::take(self.encoder.get_mut());
        Ok((made.into(), Some(self)))
    }
}
