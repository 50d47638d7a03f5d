//! The HTTP/1.1 engine: carries requests and answers over sockets, with as little in between as there can be.
//!
//! Key decision: our own engine for HTTP/1.1, plain and encrypted, and the `h2` crate for
//! HTTP/2 ([`crate::h2`]). Reason: a mirror's
//! work is short answers in great number and long files; with a prepared header, `sendfile` and no allocation
//! per request both cost less than in nginx, while a general server needs several times as much
//! (docs/performance.md).
//!
//! What is answered is [`Service`](crate::Service)'s matter. Here is how: a request is read ([`head`]), its
//! answer is one that is kept ready ([`crate::view::hot`]) or is asked for, and goes out as bytes ([`wire`]) and
//! ranges of files ([`socket`]). A client that is too slow is cut ([`pace`]).

mod answer;
mod connection;
mod excess;
pub(crate) mod head;
mod pace;
mod socket;

pub(crate) use connection::Connection;
#[cfg(feature = "tls")]
pub(crate) use socket::Encrypted;
pub(crate) use socket::Socket;
