//! Messages of HTTP, whatever version carries them: what a request says ([`request`]), where it ends
//! ([`framing`]), how the head of an answer is written ([`wire`]), and how content is coded ([`coding`]).
//!
//! Nothing here knows a tree, a socket or a body that has to be fetched.

pub(crate) mod coding;
pub(crate) mod framing;
pub mod request;
pub(crate) mod wire;

use http::header::{self, HeaderName};

/// Fields of every answer.
pub(crate) const COMMON: [(HeaderName, &str); 2] = [
    (header::SERVER, "InstantMirror"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
];
