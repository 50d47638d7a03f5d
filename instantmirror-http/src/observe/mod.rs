//! What is told of requests: counters ([`stats`]) and lines of the access log ([`access_log`]).

pub(crate) mod access_log;
pub(crate) mod stats;
