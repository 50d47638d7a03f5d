//! Views of published trees: where a path leads ([`routing`]), what the answer is ([`respond`]), and the body
//! that it describes ([`open`]). Plain functions of a request and of what is published at that moment; only
//! [`open`] waits for content.

pub(crate) mod header_rules;
pub(crate) mod hot;
mod lifetime;
pub mod listing;
mod mime;
pub(crate) mod mounts;
pub(crate) mod open;
pub(crate) mod own_files;
pub mod respond;
pub mod routing;
