//! imhttpd: serves the published trees of [`Catalogs`](instantmirror_core::traits::Catalogs) over HTTP.
//!
//! Key decision: **a request is answered by plain functions, and carried by transports.** [`request`] reads
//! it, [`routing`] finds what it means inside one snapshot, [`respond`] describes the answer; none of them
//! knows a socket. Reason: conditions, ranges and hostile paths are where servers go wrong, and functions can
//! be tested by tables, while there are several ways to send bytes, each best for something.
//!
//! * [`Service`] answers requests for one set of catalogs: at `/<repository>/` and at [`Mount`]s, with the node
//!   API ([`Api`]) and routes of the embedder ([`Routes`]) where they are wanted; [`Service::routes`] lists them all.
//! * [`Server`] listens, plain or encrypted ([`Tls`]), within [`Limits`] and [`Admission`], and stops in order.
//!   HTTP/1.1 is carried by an engine of our own, which sends files by the kernel and keeps answers ready
//!   ([`HotLimits`]), HTTP/2 on top of the `h2` crate.
//! * [`body`] drives an object's reader: the first byte is there before a header is sent, later failures
//!   break the connection off, so a short answer never looks like a whole one.
//! * [`AccessLog`] and [`Stats`] tell what was answered.
//!
//! Features, both on by default: `tls` (without it [`Tls`] has no values) and `http2`, which needs it. Without them the crate serves
//! plain HTTP/1.1, and compiles neither rustls with aws-lc nor `h2`.
//!
//! It knows nothing of how objects arrive: a reader waits, and its bytes come.
//!
//! ```
//! use std::sync::Arc;
//! use instantmirror_core::traits::Catalogs;
//! use instantmirror_http::{Server, Service};
//!
//! async fn run(catalogs: Arc<dyn Catalogs>) -> Result<(), Box<dyn std::error::Error>> {
//!     let server = Server::bind("127.0.0.1:0".parse()?).await?;
//!     println!("listening on {:?}", server.addresses());
//!     let service = Arc::new(Service::new(catalogs));
//!     server.serve(service, async { /* a signal, in a daemon */ }).await;
//!     Ok(())
//! }
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?
//! #     .block_on(run(Arc::new(instantmirror_core::memory::Nothing)))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]
// The build with all features tells what nobody uses.
#![cfg_attr(
    not(feature = "http2"),
    allow(dead_code, reason = "some of what both protocols stand on is used by HTTP/2 alone")
)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod admission;
mod api;
pub mod body;
mod connection;
#[cfg(fuzzing)]
pub mod fuzzing;
mod h1;
#[cfg(feature = "http2")]
mod h2;
pub mod limits;
mod message;
mod observe;
mod proxies;
mod routes;
mod server;
mod service;
mod view;

pub use admission::{Admission, AdmissionStats};
pub use api::{Api, Gatekeeper, HeadPoll};
pub use body::{OwnFile, ServeBody};
pub use limits::{AddressLimits, Limits, RequestRate, Stopping};
pub use message::coding::Coding;
pub use message::request;
pub use observe::access_log::{AccessLog, AccessLogError, AccessLogFormat};
pub use observe::stats::Stats;
pub use proxies::{ForwardedBy, TrustedProxies};
pub use routes::{Access, RouteEntry, RouteError, RouteList, RouteRequest, RouteTable, Routes, published_trees};
#[cfg(feature = "tls")]
pub use server::TlsError;
pub use server::{ServeError, Server, Tls};
pub use service::Service;
pub use view::header_rules::{HeaderRule, HeaderRuleError, HeaderRules, header_field};
pub use view::hot::{HOT_BODY_BYTES_MAX, HotLimits};
pub use view::mounts::{HostName, Mount, MountError, Mounts, Overlap, RESERVED, Site, is_reserved};
pub use view::own_files::OwnFiles;
pub use view::{listing, respond, routing};
