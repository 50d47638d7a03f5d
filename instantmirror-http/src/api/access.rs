//! Who may ask, and who sees what is staged.
//!
//! What only staged snapshots have is, for everybody who is not a node of the master's, not there: the answer is the one
//! for what never was. A token that is wrong is refused with 401, so that a node whose token was revoked notices.

use std::fmt::Debug;
use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use http::header::{self, HeaderValue};
use instantmirror_core::{NodeId, NodeName, ObjectId, RepoName, Snapshot, SnapshotId};

use super::{Answer, REPORT_BYTES_MAX, error};
use crate::body::ServeBody;
use crate::request::{Client, Request};

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

    /// Takes note that a node has all of a staged snapshot. Returns whether there is such a snapshot.
    fn synced(&self, repository: &RepoName, snapshot: SnapshotId, node: &NodeName) -> bool;
}

/// What one request may see.
#[derive(Debug, Clone)]
pub(super) struct Sight {
    gatekeeper: Option<Arc<dyn Gatekeeper>>,
    node: Option<NodeName>,
}

impl Sight {
    /// What this request may see, or the status and text to refuse it with.
    pub(super) fn of(
        gatekeeper: Option<&Arc<dyn Gatekeeper>>,
        request: &Request<'_>,
    ) -> Result<Self, (StatusCode, String)> {
        let Some(gatekeeper) = gatekeeper else {
            return Ok(Self {
                gatekeeper: None,
                node: None,
            });
        };
        let client = &request.client;
        if !gatekeeper.admits(client) {
            let text = "this address may not use the API of this master";
            return Err((StatusCode::FORBIDDEN, text.to_owned()));
        }
        let node = match &request.fields.authorization {
            None => None,
            Some(authorization) => Some(identify(gatekeeper.as_ref(), client, authorization)?),
        };
        Ok(Self {
            gatekeeper: Some(Arc::clone(gatekeeper)),
            node,
        })
    }

    /// Whether a node of the master's asks.
    pub(super) fn is_node(&self) -> bool {
        self.node.is_some()
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

fn identify(
    gatekeeper: &dyn Gatekeeper,
    client: &Client,
    authorization: &str,
) -> Result<NodeName, (StatusCode, String)> {
    let refused = |text: &str| (StatusCode::UNAUTHORIZED, text.to_owned());
    if !client.may_tell_secrets() {
        return Err(refused(
            "tokens are taken over TLS or from this machine only; this one may have been overheard: replace it",
        ));
    }
    let scheme = authorization
        .split_once(' ')
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let token = scheme.map(|(_, token)| token.trim());
    let node = token.and_then(|token| gatekeeper.node(token));
    node.ok_or_else(|| refused("this token belongs to no node of this master"))
}

/// A refusal of who asks.
pub(super) fn refusal(status: StatusCode, text: &str) -> Answer {
    let mut answer = error(status, text);
    if status == StatusCode::UNAUTHORIZED {
        let scheme = HeaderValue::from_static("Bearer");
        answer.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
    }
    answer
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
        return refusal(StatusCode::UNAUTHORIZED, "a report needs the token of a node");
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
