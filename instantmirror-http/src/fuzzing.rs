//! What the fuzz targets need to see and nobody else does. Exists under `--cfg fuzzing` only.

use crate::h1::head::{Parsed, parse};
use crate::limits::Limits;
use crate::message::wire::Persistence;

/// What the engine makes of the bytes at the beginning of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading {
    /// A request: method, path, query, Range, bytes of the head, bytes of the body, and whether it is the last.
    Request(Box<(String, String, String, Option<String>, usize, u64, bool)>),
    /// The beginning of one.
    Incomplete,
    /// A status.
    Refused(u16),
}

/// Reads a head.
#[must_use]
pub fn read_head(bytes: &[u8]) -> Reading {
    match parse(bytes, &Limits::default()) {
        Parsed::Incomplete => Reading::Incomplete,
        Parsed::Refused(status, _) => Reading::Refused(status.as_u16()),
        Parsed::Head(head) => Reading::Request(Box::new((
            head.request.method.to_string(),
            head.request.path.to_owned(),
            head.request.query.to_owned(),
            head.request.fields.range.as_deref().map(str::to_owned),
            head.bytes,
            head.framing.body_bytes(),
            head.persistence() == Persistence::Close,
        ))),
    }
}
