//! Files of the operator's own on their way out: read piece by piece.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;
use futures_core::Stream;
use futures_util::stream;

use super::BodyError;

/// Bytes that are read at once.
const PIECE_BYTES: u64 = 64 * 1024;

/// An open file, whose size is that of the moment when it was opened.
#[derive(Debug, Clone)]
pub struct OwnFile {
    pub(crate) file: Arc<File>,
    pub(crate) name: String,
    pub(crate) size: u64,
    pub(crate) modified: i64,
    pub(crate) nanoseconds: i64,
}

impl OwnFile {
    /// The bytes of a range. A file that has become shorter meanwhile ends them with an error.
    pub(crate) fn read(self, range: Range<u64>) -> impl Stream<Item = Result<Bytes, BodyError>> + Send + 'static {
        stream::try_unfold((self, range), |(own, range)| async move {
            if range.is_empty() {
                return Ok(None);
            }
            let end = range.end.min(range.start + PIECE_BYTES);
            let (file, at) = (Arc::clone(&own.file), range.start);
            let len = usize::try_from(end - at).unwrap_or(0);
            let read = tokio::task::spawn_blocking(move || {
                let mut piece = vec![0; len];
                file.read_exact_at(&mut piece, at).map(|()| piece)
            });
            let piece = read.await.map_err(io::Error::other).and_then(|read| read);
            let piece =
                piece.map_err(|error| BodyError(format!("a file of [http] root cannot be read on: {error}")))?;
            Ok(Some((Bytes::from(piece), (own, end..range.end))))
        })
    }
}
