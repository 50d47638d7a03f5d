//! [`Routes`]: what a server answers beside the published trees, as one table that dispatches and prints itself.
//!
//! A route is a method, a pattern of paths, who may ask, a sentence that says what it does, and a handler. A [`RouteTable`] is
//! made of routes that were checked against each other; [`Service::with_routes`](crate::Service::with_routes) serves it.
//!
//! ```
//! use http::Response;
//! use instantmirror_http::{Access, Routes};
//!
//! let table = Routes::<()>::new()
//!     .get("/hello/{name}", Access::Public, "Greets", |request| async move {
//!         Response::new(format!("Hello, {}!\n", request.parameter("name")).into())
//!     })
//!     .build()?;
//! assert_eq!(table.to_string(), "GET  /hello/{name}  everybody  Greets\n");
//! # Ok::<(), instantmirror_http::RouteError>(())
//! ```
//!
//! Key decision: **the list of routes is the table that dispatches.** Reason: a list that is written beside the code
//! that answers lies from the first change on. So a table can be listed without what its handlers need, which is given to it
//! later ([`RouteTable::with_state`]).
//!
//! Invariant: which route answers never depends on the order in which routes were added. Of several patterns that match a
//! path the most specific one wins: component by component a literal before a `{parameter}`, a parameter before a
//! `{*rest}`. Two of which neither is more specific are refused when the table is built.

mod listing;
mod pattern;
mod table;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Response};
use instantmirror_core::metainfo::WEB_SEED_PREFIX;

use crate::message::request::{Client, Request};

pub use listing::{RouteList, published_trees};
pub(crate) use table::{Found, Table};

/// Where the routes of the [`Api`](crate::Api) begin.
const API_PREFIX: &str = ".im/v1";

/// Who may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Access {
    /// Everybody who reaches the server.
    Public,
    /// Clients that the [`Gatekeeper`](crate::Gatekeeper) admits: everybody if there is none. Others get 403.
    Admitted,
    /// Registered nodes, which prove it by their token (RFC 6750). Others get 401.
    Nodes,
    /// Clients of a Unix socket ([`Client::is_at_unix_socket`]). To all others the route is not there.
    Control,
}

impl Access {
    /// One word for programs: `public`, `admitted`, `nodes`, `control`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Admitted => "admitted",
            Self::Nodes => "nodes",
            Self::Control => "control",
        }
    }
}

/// For people: `everybody`, `admitted`, `nodes`, `control socket`.
impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Public => "everybody",
            Self::Admitted => "admitted",
            Self::Nodes => "nodes",
            Self::Control => "control socket",
        })
    }
}

/// One route, without what answers it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RouteEntry {
    /// Its method. HEAD is served where GET is, OPTIONS everywhere.
    pub method: Method,
    /// The pattern of its paths.
    pub path: Cow<'static, str>,
    /// Who may ask.
    pub access: Access,
    /// What it does, in a sentence.
    pub purpose: Cow<'static, str>,
}

impl RouteEntry {
    /// Describes a route.
    #[must_use]
    pub fn new(
        method: Method,
        path: impl Into<Cow<'static, str>>,
        access: Access,
        purpose: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            method,
            path: path.into(),
            access,
            purpose: purpose.into(),
        }
    }
}

impl fmt::Display for RouteEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({})", self.method, self.path, self.purpose)
    }
}

/// Why a table of routes was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RouteError {
    /// A pattern is none.
    #[error("the route {route} has a bad path: {reason}; write one like /files/{{name}} or /files/{{*path}}")]
    Pattern {
        /// The route.
        route: Box<RouteEntry>,
        /// What is wrong.
        reason: &'static str,
    },
    /// Two routes of one method match the same paths.
    #[error("two routes are one: {first} and {second}; take one of them away")]
    Duplicate {
        /// The one that was added first.
        first: Box<RouteEntry>,
        /// The other one.
        second: Box<RouteEntry>,
    },
    /// Some paths match two routes, and neither is more specific.
    #[error("some paths match two routes, and neither is more specific: {first} and {second}; change one of them")]
    Ambiguous {
        /// The one that was added first.
        first: Box<RouteEntry>,
        /// The other one.
        second: Box<RouteEntry>,
    },
    /// A route lies where the server answers by itself.
    #[error("the route {route} lies below /{prefix}, which is the server's own; choose another path")]
    Reserved {
        /// The route.
        route: Box<RouteEntry>,
        /// Where those paths begin, without the leading slash.
        prefix: &'static str,
    },
}

/// A request to a route.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RouteRequest<S = ()> {
    /// What the handlers of the table share.
    pub state: S,
    /// The method: GET, HEAD or POST. The body of an answer to HEAD is not sent.
    pub method: Method,
    /// The path, decoded, without the leading slash and without one at its end.
    pub path: String,
    /// The query as it came, `""` if there is none.
    pub query: String,
    /// The body of a POST, at most [`REQUEST_BODY_BYTES_MAX`](crate::limits::REQUEST_BODY_BYTES_MAX).
    pub body: Bytes,
    /// Who asks, as far as the connection tells.
    pub client: Client,
    parameters: Vec<(Box<str>, Box<str>)>,
}

impl<S> RouteRequest<S> {
    /// What stands in the path for a parameter of the pattern, decoded; `""` if the pattern has none of that name.
    #[must_use]
    pub fn parameter(&self, name: &str) -> &str {
        let found = self.parameters.iter().find(|(other, _)| **other == *name);
        found.map_or("", |(_, value)| value)
    }

    fn split(self) -> (S, RouteRequest) {
        let request = RouteRequest {
            state: (),
            method: self.method,
            path: self.path,
            query: self.query,
            body: self.body,
            client: self.client,
            parameters: self.parameters,
        };
        (self.state, request)
    }

    fn with_state<T>(self, state: T) -> RouteRequest<T> {
        let (_, request) = self.split();
        RouteRequest {
            state,
            method: request.method,
            path: request.path,
            query: request.query,
            body: request.body,
            client: request.client,
            parameters: request.parameters,
        }
    }
}

type Answering = Pin<Box<dyn Future<Output = Option<Response<Bytes>>> + Send>>;
/// What answers a route.
type Handler<S> = Arc<dyn Fn(RouteRequest<S>) -> Answering + Send + Sync>;

/// Routes that are being collected. `S` is what their handlers share: a handler finds it in its request.
pub struct Routes<S = ()> {
    routes: Vec<(RouteEntry, Handler<S>)>,
}

impl<S> Default for Routes<S> {
    fn default() -> Self {
        Self { routes: Vec::new() }
    }
}

impl<S> fmt::Debug for Routes<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.routes.iter().map(|(entry, _)| entry))
            .finish()
    }
}

impl<S: 'static> Routes<S> {
    /// No routes yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a route for GET, and with it for HEAD. `handler` returns a response, or an `Option` of one: `None` is 404, or
    /// a file of [`OwnFiles`](crate::OwnFiles).
    ///
    /// Cancellation: the future of a handler is dropped when the client goes.
    #[must_use]
    pub fn get<F, A>(
        self,
        path: impl Into<Cow<'static, str>>,
        access: Access,
        purpose: impl Into<Cow<'static, str>>,
        handler: F,
    ) -> Self
    where
        F: Fn(RouteRequest<S>) -> A + Send + Sync + 'static,
        A: Future<Output: Into<Option<Response<Bytes>>>> + Send + 'static,
    {
        self.on(RouteEntry::new(Method::GET, path, access, purpose), handler)
    }

    /// Adds a route for POST, whose body is read before `handler` is asked. Else as [`get`](Self::get).
    #[must_use]
    pub fn post<F, A>(
        self,
        path: impl Into<Cow<'static, str>>,
        access: Access,
        purpose: impl Into<Cow<'static, str>>,
        handler: F,
    ) -> Self
    where
        F: Fn(RouteRequest<S>) -> A + Send + Sync + 'static,
        A: Future<Output: Into<Option<Response<Bytes>>>> + Send + 'static,
    {
        self.on(RouteEntry::new(Method::POST, path, access, purpose), handler)
    }

    fn on<F, A>(mut self, entry: RouteEntry, handler: F) -> Self
    where
        F: Fn(RouteRequest<S>) -> A + Send + Sync + 'static,
        A: Future<Output: Into<Option<Response<Bytes>>>> + Send + 'static,
    {
        let handler: Handler<S> = Arc::new(move |request| {
            let answer = handler(request);
            Box::pin(async move { answer.await.into() })
        });
        self.routes.push((entry, handler));
        self
    }

    /// Adds the routes of another collection.
    #[must_use]
    pub fn merge(mut self, others: Self) -> Self {
        self.routes.extend(others.routes);
        self
    }

    /// Gives the handlers what they share, so that the routes can be [merged](Self::merge) with others that share something else.
    #[must_use]
    pub fn with_state(self, state: S) -> Routes
    where
        S: Clone + Send + Sync,
    {
        let bind = |(entry, handler)| (entry, bound(handler, state.clone()));
        Routes {
            routes: self.routes.into_iter().map(bind).collect(),
        }
    }

    /// Checks the routes against each other.
    ///
    /// # Errors
    /// [`RouteError`], which names the routes that it is about.
    pub fn build(self) -> Result<RouteTable<S>, RouteError> {
        for (route, _) in &self.routes {
            let path = route.path.strip_prefix('/').unwrap_or_default();
            let is_below = |prefix: &&str| {
                let rest = path.strip_prefix(prefix);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            };
            if let Some(prefix) = [API_PREFIX, WEB_SEED_PREFIX].into_iter().find(is_below) {
                let route = Box::new(route.clone());
                return Err(RouteError::Reserved { route, prefix });
            }
        }
        let is_of_the_net = |(entry, _): &&(RouteEntry, Handler<S>)| entry.access != Access::Control;
        let of_the_net: Vec<_> = self.routes.iter().filter(is_of_the_net).cloned().collect();
        Ok(RouteTable(Arc::new(Tables {
            all: Table::build(self.routes)?,
            of_the_net: Table::build(of_the_net)?,
        })))
    }
}

fn bound<S: Clone + Send + Sync + 'static>(handler: Handler<S>, state: S) -> Handler<()> {
    Arc::new(move |request: RouteRequest| handler(request.with_state(state.clone())))
}

/// Routes that were checked against each other. Cheap to clone.
pub struct RouteTable<S = ()>(Arc<Tables<S>>);

/// The same routes for clients of a Unix socket and for all others, so that a route that is hidden from a client hides no
/// less specific one.
struct Tables<S> {
    all: Table<Handler<S>>,
    of_the_net: Table<Handler<S>>,
}

impl<S> Clone for RouteTable<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S> Default for RouteTable<S> {
    fn default() -> Self {
        Self(Arc::new(Tables {
            all: Table::default(),
            of_the_net: Table::default(),
        }))
    }
}

impl<S> fmt::Debug for RouteTable<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.all.entries()).finish()
    }
}

impl<S: 'static> RouteTable<S> {
    /// The routes, in the order in which they were added.
    #[must_use]
    pub fn list(&self) -> RouteList {
        self.0.all.entries().cloned().collect()
    }

    /// Gives the handlers what they share.
    #[must_use]
    pub fn with_state(&self, state: S) -> RouteTable
    where
        S: Clone + Send + Sync,
    {
        let bind = |handler: &Handler<S>| bound(Arc::clone(handler), state.clone());
        RouteTable(Arc::new(Tables {
            all: self.0.all.map(bind),
            of_the_net: self.0.of_the_net.map(bind),
        }))
    }
}

/// The [list](RouteTable::list), a line for each route.
impl<S: 'static> fmt::Display for RouteTable<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.list().fmt(f)
    }
}

impl RouteTable {
    /// The routes of a path (decoded, without the slashes at both ends), as far as this client may know of them.
    pub(crate) fn find<'p>(&self, path: &'p str, client: &Client) -> Option<FoundRoutes<'_, 'p>> {
        let table = if client.is_at_unix_socket() {
            &self.0.all
        } else {
            &self.0.of_the_net
        };
        table.find(path)
    }
}

/// The routes of a path.
pub(crate) type FoundRoutes<'t, 'p> = Found<'t, 'p, Handler<()>>;

impl FoundRoutes<'_, '_> {
    /// What the route for the method of a request answers; `None` leaves it to become a 404.
    pub(crate) async fn answer(&self, request: &Request<'_>, path: &str, body: Bytes) -> Option<Response<Bytes>> {
        let row = self.row(&request.method)?;
        let asked = RouteRequest {
            state: (),
            method: request.method.clone(),
            path: path.to_owned(),
            query: request.query.to_owned(),
            body,
            client: request.client,
            parameters: self.parameters(row),
        };
        (row.endpoint)(asked).await
    }
}
