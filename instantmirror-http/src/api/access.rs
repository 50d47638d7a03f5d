//! Who may ask, and who sees what is staged.
//!
//! What only staged snapshots have is, for everybody who is not a node of the master's, not there: the answer is the one
//! for what never was. Who asks for it with a token that is wrong gets 401, so that a node whose token was revoked
//! notices; what is released it gets like everybody else.

use std::fmt::Debug;
use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use http::header::{self, HeaderValue};
use instantmirror_core::heads::HeadQuestion;
use instantmirror_core::{NodeId, NodeName, ObjectId, RepoName, Snapshot, SnapshotId};

use super::{REPORT_BYTES_MAX, error};
use crate::body::{Answer, ServeBody};
use crate::message::request::{Client, Fields, Request};

/// What somebody says to have who polls for heads.
#[derive(Debug)]
pub struct HeadPoll<'a> {
    /// The address that it comes from.
    pub client: &'a Client,
    /// Its name, if it is a registered node.
    pub node: Option<&'a NodeName>,
    /// The number by which it asks to be told from others at its address.
    pub id: Option<u64>,
    /// Where the heads are, as far as it knows.
    pub question: &'a HeadQuestion,
}

/// Knows the nodes of a master, and what is staged for them. Called for every request to the API: cheap.
pub trait Gatekeeper: Debug + Send + Sync + 'static {
    /// Whether this client may use the API at all.
    fn admits(&self, client: &Client) -> bool;

    /// The node that a token belongs to; `None` if it belongs to nobody (any more).
    fn node(&self, token: &str) -> Option<NodeName>;

    /// The record of a staged snapshot.
    fn staged(&self, repository: &RepoName, snapshot: SnapshotId) -> Option<Arc<Snapshot>>;

    /// Whether a catalog node belongs to staged snapshots alone.
    fn is_staged_node(&self, node: &NodeId) -> bool;

    /// Whether an object belongs to staged snapshots alone.
    fn is_staged_object(&self, object: &ObjectId) -> bool;

    /// Takes note of a poll for heads, before it is answered.
    fn polled(&self, poll: &HeadPoll<'_>) {
        let _ = poll;
    }

    /// Takes note that a node has all of a staged snapshot. Returns whether there is such a snapshot.
    fn synced(&self, repository: &RepoName, snapshot: SnapshotId, node: &NodeName) -> bool;
}

/// What one request may see.
#[derive(Debug, Clone)]
pub(super) struct Sight {
    gatekeeper: Option<Arc<dyn Gatekeeper>>,
    node: Option<NodeName>,
    /// Why the token that was sent makes nobody a node.
    objection: Option<&'static str>,
}

impl Sight {
    /// What this request may see; `None` if its client may see nothing.
    pub(super) fn of(gatekeeper: Option<&Arc<dyn Gatekeeper>>, request: &Request<'_>) -> Option<Self> {
        let mut sight = Self {
            gatekeeper: gatekeeper.cloned(),
            node: None,
            objection: None,
        };
        let Some(gatekeeper) = gatekeeper else {
            return Some(sight);
        };
        if !gatekeeper.admits(&request.client) {
            return None;
        }
        // A user name is for a gate in front, which has passed it on: whoever sends one does not say to be a node.
        let authorization = request.fields.authorization.as_deref();
        if let Some(authorization) = authorization.filter(|value| token_of(value).is_some()) {
            match identify(gatekeeper.as_ref(), &request.client, authorization) {
                Ok(node) => sight.node = Some(node),
                Err(objection) => sight.objection = Some(objection),
            }
        }
        Some(sight)
    }

    /// The answer to a node that is none, if it said to be one.
    pub(super) fn unauthorized(&self) -> Option<Answer> {
        Some(who_are_you(self.objection?))
    }

    /// The answer to whoever is no node, where only nodes may ask.
    pub(super) fn needs_node(&self) -> Answer {
        let anonymous = || who_are_you("this needs the token of a node");
        self.unauthorized().unwrap_or_else(anonymous)
    }

    /// Whether a node of the master's asks.
    pub(super) fn is_node(&self) -> bool {
        self.node.is_some()
    }

    /// Takes note of a poll for heads.
    pub(super) fn polled(&self, client: &Client, id: Option<u64>, question: &HeadQuestion) {
        if let Some(keeper) = &self.gatekeeper {
            keeper.polled(&HeadPoll {
                client,
                node: self.node.as_ref(),
                id,
                question,
            });
        }
    }

    pub(super) fn is_staged_node(&self, node: &NodeId) -> bool {
        self.gatekeeper
            .as_ref()
            .is_some_and(|keeper| keeper.is_staged_node(node))
    }

    pub(super) fn is_staged_object(&self, object: &ObjectId) -> bool {
        self.gatekeeper
            .as_ref()
            .is_some_and(|keeper| keeper.is_staged_object(object))
    }

    /// The record of a staged snapshot, for a node.
    pub(super) fn staged(&self, repository: &RepoName, snapshot: SnapshotId) -> Option<Arc<Snapshot>> {
        let keeper = self.gatekeeper.as_ref().filter(|_| self.is_node())?;
        keeper.staged(repository, snapshot)
    }
}

/// Whether a token proves that a node of the master's asks.
pub(super) fn is_of_node(gatekeeper: Option<&dyn Gatekeeper>, fields: &Fields<'_>, client: &Client) -> bool {
    let (Some(gatekeeper), Some(authorization)) = (gatekeeper, &fields.authorization) else {
        return false;
    };
    gatekeeper.admits(client) && identify(gatekeeper, client, authorization).is_ok()
}

fn identify(gatekeeper: &dyn Gatekeeper, client: &Client, authorization: &str) -> Result<NodeName, &'static str> {
    if !client.may_tell_secrets() {
        return Err(
            "tokens are taken over TLS or from this machine only; this one may have been overheard: replace it",
        );
    }
    let node = token_of(authorization).and_then(|token| gatekeeper.node(token));
    node.ok_or("this token belongs to no node of this master")
}

/// The token in `Authorization: Bearer TOKEN` (RFC 6750).
fn token_of(authorization: &str) -> Option<&str> {
    let (scheme, token) = authorization.split_once(' ').unwrap_or((authorization, ""));
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// 401, and what would help.
fn who_are_you(text: &str) -> Answer {
    let mut answer = error(StatusCode::UNAUTHORIZED, text);
    let scheme = HeaderValue::from_static("Bearer");
    answer.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
    answer
}

/// The answer to a client that may see nothing.
pub(super) fn not_admitted() -> Answer {
    error(StatusCode::FORBIDDEN, "this address may not use the API of this master")
}

/// An answer that no cache may keep for others.
pub(super) fn private(mut answer: Answer) -> Answer {
    let value = HeaderValue::from_static("private, no-store");
    answer.headers_mut().insert(header::CACHE_CONTROL, value);
    answer
}

/// `POST synced`: the body is the snapshot's id.
pub(super) fn synced(sight: &Sight, repository: &RepoName, body: &[u8]) -> Answer {
    let (Some(keeper), Some(node)) = (&sight.gatekeeper, &sight.node) else {
        let text = "a report needs the token of a node";
        let anonymous = || who_are_you(text);
        return sight.unauthorized().unwrap_or_else(anonymous);
    };
    let text = std::str::from_utf8(body)
        .ok()
        .filter(|text| text.len() <= REPORT_BYTES_MAX);
    let Some(snapshot) = text.and_then(|text| text.trim().parse::<SnapshotId>().ok()) else {
        return error(StatusCode::BAD_REQUEST, "the body of a report is the id of a snapshot");
    };
    if !keeper.synced(repository, snapshot, node) {
        let text = format!("no snapshot {snapshot} of repository '{repository}' is staged");
        return error(StatusCode::NOT_FOUND, &text);
    }
    let mut answer = http::Response::new(ServeBody::whole(Bytes::new()));
    *answer.status_mut() = StatusCode::NO_CONTENT;
    answer
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use http::{HeaderMap, Method, Uri};

    use super::*;

    /// Admits all but one address, and knows one token.
    #[derive(Debug)]
    struct Keeper;

    impl Gatekeeper for Keeper {
        fn admits(&self, client: &Client) -> bool {
            client.address.is_none_or(|address| address.to_string() != "192.0.2.13")
        }

        fn node(&self, token: &str) -> Option<NodeName> {
            (token == "alpha:1").then(|| "alpha".parse().unwrap())
        }

        fn staged(&self, _: &RepoName, _: SnapshotId) -> Option<Arc<Snapshot>> {
            None
        }

        fn is_staged_node(&self, _: &NodeId) -> bool {
            true
        }

        fn is_staged_object(&self, _: &ObjectId) -> bool {
            true
        }

        fn synced(&self, _: &RepoName, snapshot: SnapshotId, _: &NodeName) -> bool {
            snapshot == SnapshotId::from_random([1; 16])
        }
    }

    fn sight(authorization: Option<&str>, address: Option<&str>, is_private: bool) -> Option<Sight> {
        let address: Option<IpAddr> = address.map(|address| address.parse().unwrap());
        let is_local = address.is_some_and(|address| address.to_canonical().is_loopback());
        sight_through(authorization, address, is_private, is_local)
    }

    fn sight_through(
        authorization: Option<&str>,
        address: Option<IpAddr>,
        is_private: bool,
        is_local: bool,
    ) -> Option<Sight> {
        let mut headers = HeaderMap::new();
        if let Some(value) = authorization {
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
        }
        let uri = Uri::from_static("/");
        let mut request = Request::new(&Method::GET, &uri, &headers);
        request.client.address = address;
        request.client.is_private = is_private;
        request.client.is_local = is_local;
        let keeper: Arc<dyn Gatekeeper> = Arc::new(Keeper);
        Sight::of(Some(&keeper), &request)
    }

    #[test]
    fn a_token_through_a_proxy_counts_by_where_the_proxy_is() {
        let [public, here] = ["203.0.113.5", "127.0.0.1"].map(|address| Some(address.parse().unwrap()));
        let is_node = |address, is_local| {
            let sight = sight_through(Some("Bearer alpha:1"), address, false, is_local);
            sight.unwrap().is_node()
        };
        assert!(is_node(public, true), "a proxy on this machine asks for somebody");
        assert!(!is_node(here, false), "a proxy elsewhere says that its client is here");
    }

    #[test]
    fn a_token_counts_where_nobody_could_overhear_it() {
        for (authorization, address, is_private, is_node) in [
            ("Bearer alpha:1", Some("127.0.0.1"), false, true),
            ("bearer  alpha:1 ", Some("::1"), false, true),
            ("Bearer alpha:1", Some("::ffff:127.0.0.1"), false, true),
            ("Bearer alpha:1", Some("198.51.100.1"), true, true),
            ("Bearer alpha:1", Some("198.51.100.1"), false, false),
            ("Bearer alpha:1", None, false, false),
            ("Bearer alpha:2", Some("127.0.0.1"), false, false),
            ("Bearer", Some("127.0.0.1"), false, false),
        ] {
            let sight = sight(Some(authorization), address, is_private).unwrap();
            assert_eq!(sight.is_node(), is_node, "{authorization} {address:?}");
            assert_eq!(sight.unauthorized().is_some(), !is_node, "{authorization} {address:?}");
        }
        for nobody in [
            None,
            Some("Basic YWxwaGE6MQ=="),
            Some("Digest username=\"x\""),
            Some("alpha:1"),
            Some(""),
        ] {
            let anonymous = sight(nobody, Some("198.51.100.1"), false).unwrap();
            assert!(!anonymous.is_node() && anonymous.unauthorized().is_none(), "{nobody:?}");
        }
        assert!(
            sight(Some("Bearer alpha:1"), Some("192.0.2.13"), true).is_none(),
            "not admitted at all"
        );
    }

    #[test]
    fn reports_are_taken_from_nodes_about_what_is_staged() {
        let repository: RepoName = "r".parse().unwrap();
        let node = sight(Some("Bearer alpha:1"), Some("127.0.0.1"), false).unwrap();
        let status = |sight: &Sight, body: &str| synced(sight, &repository, body.as_bytes()).status().as_u16();
        let staged = SnapshotId::from_random([1; 16]).to_string();
        assert_eq!(status(&node, &staged), 204);
        assert_eq!(status(&node, &format!("{staged}\n")), 204);
        assert_eq!(status(&node, &SnapshotId::from_random([2; 16]).to_string()), 404);
        assert_eq!(status(&node, "nonsense"), 400);
        assert_eq!(status(&node, &" ".repeat(2000)), 400);
        assert_eq!(status(&sight(None, Some("127.0.0.1"), false).unwrap(), &staged), 401);
        assert_eq!(
            status(&sight(Some("Bearer x"), Some("127.0.0.1"), false).unwrap(), &staged),
            401
        );
    }
}
