//! Brings the bytes of one READ.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use futures_util::future::{Either, select};
use instantmirror_core::traits::{ObjectReader, ObjectSource, ReadIntent};
use instantmirror_core::{CacheError, FetchError, log_limited};

use super::waiting::Wait;
use crate::filesystem::Errno;
use crate::tree::FileSpot;

/// The bytes that a READ asks for.
pub(super) struct Asked<'a> {
    pub(super) objects: Arc<dyn ObjectSource>,
    pub(super) file: &'a FileSpot,
    pub(super) range: Range<u64>,
    /// A reader of all of it.
    pub(super) settled: Option<Arc<dyn ObjectReader>>,
}

/// The errno for whoever reads.
pub(super) fn errno_of(error: &FetchError) -> Errno {
    match error {
        FetchError::Unavailable { source, .. } if source.is_transient() => Errno::TIMEDOUT,
        _ => Errno::IO,
    }
}

/// The bytes, and the reader that had them. Ends when `wait` is told to; the interest of the reader is withdrawn then.
pub(super) async fn read_content(asked: Asked<'_>, mut wait: Wait) -> Result<(Bytes, Arc<dyn ObjectReader>), Errno> {
    let file = asked.file;
    let reading = Box::pin(read_all(&asked));
    match select(reading, &mut wait.end).await {
        Either::Left((Ok(content), _)) => Ok(content),
        Either::Left((Err(error), _)) => {
            let (repository, path) = (&file.repository, &file.path);
            log_limited!(Instant::now(), info, %repository, %path, %error, "a read has failed");
            Err(errno_of(&error))
        }
        Either::Right((why, _)) => Err(why.unwrap_or(Errno::IO)),
    }
}

async fn read_all(asked: &Asked<'_>) -> Result<(Bytes, Arc<dyn ObjectReader>), FetchError> {
    let FileSpot { repository, path, file } = asked.file;
    let reader = match &asked.settled {
        Some(reader) => Arc::clone(reader),
        None => {
            let intent = ReadIntent {
                range: asked.range.clone(),
                path: Some(path.clone()),
            };
            asked.objects.open(repository, file, intent).await?
        }
    };
    if reader.size() != file.size {
        let reason = format!("it has {} bytes, its catalog says {}", reader.size(), file.size);
        let object = file.object;
        return Err(CacheError::Damaged { object, reason }.into());
    }
    let Range { start, end } = asked.range;
    let mut bytes = BytesMut::with_capacity(usize::try_from(end - start).unwrap_or(0));
    let mut at = start;
    while at < end {
        let ready = reader.ready(at).await?.min(end);
        let piece = next_piece(&reader, at..ready).await?;
        if piece.is_empty() {
            let (object, range) = (file.object, at..end);
            return Err(CacheError::Absent { object, range }.into());
        }
        at += piece.len() as u64;
        if at == end && bytes.is_empty() {
            return Ok((piece, reader));
        }
        bytes.extend_from_slice(&piece);
    }
    Ok((bytes.freeze(), reader))
}

/// The first bytes of a range that is ready: what is in memory, or all of it.
async fn next_piece(reader: &Arc<dyn ObjectReader>, range: Range<u64>) -> Result<Bytes, FetchError> {
    if range.is_empty() {
        return Ok(Bytes::new());
    }
    let len = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
    if let Some(mut held) = reader.held(range.start).filter(|held| !held.is_empty()) {
        held.truncate(len);
        return Ok(held);
    }
    let piece = reader.read(range).await?;
    Ok(if piece.len() == len { piece } else { Bytes::new() })
}
