//! The `/.im/v1` routes (docs/formats/api.md): what a node asks a master, or another node.
//!
//! Nothing that is released is secret and nothing is trusted: heads are signed, the rest is named by its hash. What
//! belongs to staged snapshots alone is shown to nodes that a [`Gatekeeper`] knows, and to nobody else.

mod access;
mod calls;
mod delta;
mod heads;
mod objects;
pub(crate) mod polls;

use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Response, StatusCode};
use instantmirror_core::traits::{Catalogs, NodeApi, Objects};
use instantmirror_core::{RepoName, SnapshotId};
use serde_json::json;

use crate::body::{Answer, ServeBody};
use crate::limits::Stopping;
use crate::message::request::{Client, Fields, Request};
use crate::routes::{Access, RouteList};

pub use access::{Gatekeeper, HeadPoll};
pub(crate) use calls::{Asked, find, is_api};

use access::Sight;
use calls::Call;

const FOREVER: &str = "public, max-age=31536000, immutable";
/// Longest report of a node.
const REPORT_BYTES_MAX: usize = 1024;

/// What the API needs besides the [`Catalogs`].
#[derive(Debug, Clone)]
pub struct Api {
    node_api: Arc<dyn NodeApi>,
    objects: Arc<dyn Objects>,
    gatekeeper: Option<Arc<dyn Gatekeeper>>,
}

/// The answer to a long poll whose time is over.
pub(crate) fn no_news() -> Answer {
    let mut answer = Response::new(ServeBody::whole(Bytes::new()));
    *answer.status_mut() = StatusCode::NO_CONTENT;
    answer
}

impl Api {
    /// An API that answers heads, keys and swarms from `node_api`, and content from `objects`.
    #[must_use]
    pub fn new(node_api: Arc<dyn NodeApi>, objects: Arc<dyn Objects>) -> Self {
        Self {
            node_api,
            objects,
            gatekeeper: None,
        }
    }

    /// Lets this one decide who may ask, and who sees what is staged. Without it everybody may ask, and nothing is
    /// staged.
    #[must_use]
    pub fn with_gatekeeper(mut self, gatekeeper: Arc<dyn Gatekeeper>) -> Self {
        self.gatekeeper = Some(gatekeeper);
        self
    }

    /// Its calls, as `imserver routes` shows them.
    ///
    /// ```
    /// let calls = instantmirror_http::Api::routes();
    /// assert!(calls.iter().any(|call| call.path == "/.im/v1/{repository}/objects/{object}"));
    /// ```
    #[must_use]
    pub fn routes() -> RouteList {
        calls::list()
    }

    /// Whether a request comes from a node that its token proves.
    pub(crate) fn is_of_node(&self, fields: &Fields<'_>, client: &Client) -> bool {
        access::is_of_node(self.gatekeeper.as_deref(), fields, client)
    }

    /// Answers one request to the calls that its path was found to have. `body`: what a POST sent.
    pub(crate) async fn answer(
        &self,
        catalogs: &dyn Catalogs,
        request: &Request<'_>,
        asked: &Asked<'_>,
        body: Bytes,
        stopping: &Stopping,
    ) -> Answer {
        let parsed = match asked.call() {
            Ok(parsed) => parsed,
            Err(text) => return error(StatusCode::BAD_REQUEST, &text),
        };
        if let Some(answer) = answer_method(&request.method, asked) {
            return answer;
        }
        let Some((repository, call)) = parsed else {
            return self.answer_heads(request, body, stopping).await;
        };
        if catalogs.state(&repository).is_none() {
            return error(
                StatusCode::NOT_FOUND,
                &format!("there is no repository '{repository}' here"),
            );
        }
        let Some(sight) = Sight::of(self.gatekeeper.as_ref(), request) else {
            return access::not_admitted();
        };
        let is_staged = match &call {
            Call::Snapshot(id) => catalogs
                .state(&repository)
                .is_none_or(|state| !state.snapshots.contains_key(id)),
            Call::Catalog(root) => sight.is_staged_node(root),
            Call::Object(object) | Call::Outboard(object) => sight.is_staged_object(object),
            Call::Head | Call::Keys | Call::Batch | Call::Synced | Call::Swarm => false,
        };
        if is_staged && !sight.is_node() {
            if let Some(refusal) = sight.unauthorized() {
                return refusal;
            }
            return nothing_staged(catalogs, &repository, &call);
        }
        let answer = match call {
            Call::Head => {
                let node_api = self.node_api.as_ref();
                heads::head(node_api, catalogs, &repository, request, &sight, stopping).await
            }
            Call::Keys => match self.node_api.keys(&repository) {
                Some(keys) => whole("application/vnd.instantmirror.keys.v1+jsonl", "no-cache", keys),
                None => error(
                    StatusCode::NOT_FOUND,
                    &format!("the master of '{repository}' has never changed its key"),
                ),
            },
            Call::Snapshot(id) => match sight.staged(&repository, id) {
                Some(staged) => whole("application/json", FOREVER, staged.encode().1.into()),
                None => snapshot(catalogs, &repository, id),
            },
            Call::Catalog(root) => delta::answer(catalogs, root, request).await,
            Call::Object(object) => objects::object(&self.objects, &repository, object, request).await,
            Call::Outboard(object) => objects::outboard(&self.objects, &object).await,
            Call::Batch => objects::batch(&self.objects, &body, sight),
            Call::Synced => access::synced(&sight, &repository, &body),
            Call::Swarm => match self.node_api.swarm(&repository, sight.is_node()) {
                Some(offer) => access::private(whole("application/json", "no-store", offer)),
                None => error(StatusCode::NOT_FOUND, &format!("'{repository}' has no swarm")),
            },
        };
        if is_staged { access::private(answer) } else { answer }
    }

    /// The one call that is not about one repository: which of many have another head than the asker knows.
    async fn answer_heads(&self, request: &Request<'_>, body: Bytes, stopping: &Stopping) -> Answer {
        match Sight::of(self.gatekeeper.as_ref(), request) {
            Some(sight) => heads::moved(self.node_api.as_ref(), request, body, &sight, stopping).await,
            None => access::not_admitted(),
        }
    }
}

/// What somebody hears of something staged who may not know that it is there.
fn nothing_staged(catalogs: &dyn Catalogs, repository: &RepoName, call: &Call) -> Answer {
    match call {
        Call::Snapshot(id) => snapshot(catalogs, repository, *id),
        Call::Catalog(root) => error(StatusCode::NOT_FOUND, &format!("there is no catalog node {root} here")),
        Call::Object(object) | Call::Outboard(object) => objects::not_here(object),
        Call::Head | Call::Keys | Call::Batch | Call::Synced | Call::Swarm => error(StatusCode::NOT_FOUND, "not here"),
    }
}

fn answer_method(method: &Method, asked: &Asked<'_>) -> Option<Answer> {
    if asked.takes(method) {
        return None;
    }
    let allow = asked.allow();
    let mut answer = if *method == Method::OPTIONS {
        no_news()
    } else {
        error(StatusCode::METHOD_NOT_ALLOWED, &format!("use one of {allow}"))
    };
    let value = HeaderValue::from_static(allow);
    answer.headers_mut().insert(header::ALLOW, value);
    Some(answer)
}

/// The answer to a client that may not ask for a route with this access; `None` if it may. Without an API nobody is a node.
pub(crate) fn refusal(api: Option<&Api>, access: Access, request: &Request<'_>) -> Option<Answer> {
    if matches!(access, Access::Public | Access::Control) {
        return None;
    }
    match Sight::of(api.and_then(|api| api.gatekeeper.as_ref()), request) {
        None => Some(access::not_admitted()),
        Some(sight) if access == Access::Nodes && !sight.is_node() => Some(sight.needs_node()),
        Some(_) => None,
    }
}

/// The answer to a path that no call has.
pub(crate) fn no_such_call() -> Answer {
    let text = "there is no such call in version 1 of the API";
    error(StatusCode::BAD_REQUEST, text)
}

/// `{"error": "text for a person"}`.
pub(crate) fn error(status: StatusCode, text: &str) -> Answer {
    let mut answer = whole(
        "application/json",
        "no-store",
        format!("{}\n", json!({ "error": text })).into(),
    );
    *answer.status_mut() = status;
    answer
}

/// An answer of bytes that are in memory.
fn whole(media: &'static str, cache: &'static str, bytes: Bytes) -> Answer {
    typed(media, cache, ServeBody::whole(bytes))
}

fn typed(media: &'static str, cache: &'static str, body: ServeBody) -> Answer {
    let mut answer = Response::new(body);
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(cache));
    answer
}

fn snapshot(catalogs: &dyn Catalogs, repository: &RepoName, id: SnapshotId) -> Answer {
    // Only what is visible: the state holds released snapshots that are whole, and no others.
    let state = catalogs.state(repository);
    match state.as_ref().and_then(|state| state.snapshots.get(&id)) {
        Some(snapshot) => whole("application/json", FOREVER, snapshot.encode().1.into()),
        None => error(
            StatusCode::NOT_FOUND,
            &format!("snapshot {id} of repository '{repository}' is not visible here"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures_util::FutureExt as _;
    use instantmirror_core::memory::{MemoryCache, Nothing};
    use instantmirror_core::{HeadMark, HeadMarks, RepoPath};

    use super::*;

    /// Has one repository, whose head does not move, and writes down what it is asked.
    #[derive(Debug, Default)]
    struct One(Mutex<HeadMarks>);

    #[async_trait::async_trait]
    impl NodeApi for One {
        async fn head_after(&self, _: &RepoName, _: u64) -> Option<Arc<instantmirror_core::head::SignedHead>> {
            std::future::pending().await
        }

        fn head_mark(&self, repository: &RepoName) -> HeadMark {
            match repository.as_str() {
                "debian" => HeadMark::Sequence(4),
                _ => HeadMark::Absent,
            }
        }

        async fn heads_moved(&self, known: &HeadMarks) -> HeadMarks {
            *self.0.lock().unwrap() = known.clone();
            std::future::pending().await
        }
    }

    /// Thousands may wait, whoever they are.
    #[tokio::test(start_paused = true)]
    async fn a_poll_that_waits_holds_neither_its_question_nor_names_of_nothing() {
        let one = Arc::new(One::default());
        let api = Api::new(one.clone(), Arc::new(MemoryCache::new(None)));
        let lines: String = (0..1000).map(|number| format!("r{number} - pending\n")).collect();
        let sent = Arc::new(format!("debian 4\n{lines}"));
        struct Sent(Arc<String>);
        impl AsRef<[u8]> for Sent {
            fn as_ref(&self) -> &[u8] {
                self.0.as_bytes()
            }
        }
        let body = Bytes::from_owner(Sent(Arc::clone(&sent)));
        let (uri, headers) = (http::Uri::from_static("/.im/v1/heads?wait=5"), http::HeaderMap::new());
        let request = Request::new(&Method::POST, &uri, &headers);
        let path = RepoPath::new(".im/v1/heads").unwrap();
        let asked = find(&path).unwrap();
        let stopping = Stopping::never();
        let mut answer = Box::pin(api.answer(&Nothing, &request, &asked, body, &stopping));
        assert!(answer.as_mut().now_or_never().is_none());
        assert_eq!(Arc::strong_count(&sent), 1, "the body is gone");
        let asked = HeadMarks::from([("debian".parse().unwrap(), HeadMark::Sequence(4))]);
        assert_eq!(*one.0.lock().unwrap(), asked);
        assert_eq!(answer.await.status(), StatusCode::NO_CONTENT);
    }
}
