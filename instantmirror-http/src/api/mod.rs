//! The `/.im/v1` routes (docs/formats/api.md): what a node asks a master, or another node.
//!
//! Nothing that is released is secret and nothing is trusted: heads are signed, the rest is named by its hash. What
//! belongs to staged snapshots alone is shown to nodes that a [`Gatekeeper`] knows, and to nobody else.

mod access;
mod delta;
mod heads;
mod objects;
pub(crate) mod polls;

use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Response, StatusCode};
use instantmirror_core::traits::{Catalogs, NodeApi, Objects};
use instantmirror_core::{NodeId, ObjectId, RepoName, RepoPath, SnapshotId};
use serde_json::json;

use crate::body::{Answer, ServeBody};
use crate::limits::Stopping;
use crate::message::request::{Client, Fields, Request, query_value};

pub use access::{Gatekeeper, HeadPoll};

use access::Sight;

const FOREVER: &str = "public, max-age=31536000, immutable";
const ALLOW: &str = "GET, HEAD, OPTIONS";
/// The path of the one call that is not about one repository.
const HEADS: &str = ".im/v1/heads";
const ALLOW_POST: &str = "POST, OPTIONS";
/// Longest report of a node.
const REPORT_BYTES_MAX: usize = 1024;

/// What the API needs besides the [`Catalogs`].
#[derive(Debug, Clone)]
pub struct Api {
    node_api: Arc<dyn NodeApi>,
    objects: Arc<dyn Objects>,
    gatekeeper: Option<Arc<dyn Gatekeeper>>,
}

/// A path of the API, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Call {
    Head,
    Keys,
    Snapshot(SnapshotId),
    Catalog(NodeId),
    Object(ObjectId),
    Outboard(ObjectId),
    Batch,
    Synced,
    Swarm,
}

impl Call {
    /// The repository and the call of a path; `None` if it is not one of the API at all.
    fn parse(path: &RepoPath) -> Option<Result<(RepoName, Self), String>> {
        let parts: Vec<&str> = path.components().collect();
        let [".im", "v1", rest @ ..] = parts.as_slice() else {
            return None;
        };
        Some(Self::parse_rest(rest))
    }

    fn parse_rest(parts: &[&str]) -> Result<(RepoName, Self), String> {
        fn id<T: std::str::FromStr<Err: ToString>>(text: &str) -> Result<T, String> {
            text.parse().map_err(|error: T::Err| error.to_string())
        }
        let (repository, call) = match parts {
            [repository, "head"] => (repository, Self::Head),
            [repository, "keys"] => (repository, Self::Keys),
            [repository, "snapshots", uuid] => (repository, Self::Snapshot(id(uuid)?)),
            [repository, "catalog", hash] => (repository, Self::Catalog(id(hash)?)),
            [repository, "objects", hash] => (repository, Self::Object(id(hash)?)),
            [repository, "objects", hash, "outboard"] => (repository, Self::Outboard(id(hash)?)),
            [repository, "batch"] => (repository, Self::Batch),
            [repository, "synced"] => (repository, Self::Synced),
            [repository, "swarm"] => (repository, Self::Swarm),
            _ => return Err("there is no such call in version 1 of the API".to_owned()),
        };
        Ok((id(repository)?, call))
    }
}

/// Whether a path belongs to the API, version known or not called by name.
pub(crate) fn is_api(path: &RepoPath) -> bool {
    Call::parse(path).is_some()
}

/// Whether a request may wait for news: a long poll, about one repository or many.
pub(crate) fn may_wait(path: &RepoPath, query: &str) -> bool {
    if heads::wait_of(query).is_some_and(|wait| wait.is_zero()) {
        return false;
    }
    let parts: Vec<&str> = path.components().collect();
    match parts.as_slice() {
        [".im", "v1", "heads"] => true,
        [".im", "v1", _, "head"] => query_value(query, "after").is_some(),
        _ => false,
    }
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

    /// Whether a request comes from a node that its token proves.
    pub(crate) fn is_of_node(&self, fields: &Fields<'_>, client: &Client) -> bool {
        access::is_of_node(self.gatekeeper.as_deref(), fields, client)
    }

    /// Answers one request whose path is one of the API. `body`: what a POST sent.
    pub(crate) async fn answer(
        &self,
        catalogs: &dyn Catalogs,
        request: &Request<'_>,
        path: &RepoPath,
        body: Bytes,
        stopping: &Stopping,
    ) -> Answer {
        if path.as_str() == HEADS {
            return self.answer_heads(request, body, stopping).await;
        }
        let (repository, call) = match Call::parse(path) {
            Some(Ok(parsed)) => parsed,
            Some(Err(text)) => return error(StatusCode::BAD_REQUEST, &text),
            None => return error(StatusCode::NOT_FOUND, "not a path of the API"),
        };
        if let Some(answer) = answer_method(&request.method, matches!(call, Call::Batch | Call::Synced)) {
            return answer;
        }
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
        if let Some(answer) = answer_method(&request.method, true) {
            return answer;
        }
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

fn answer_method(method: &Method, is_post: bool) -> Option<Answer> {
    let allow = if is_post { ALLOW_POST } else { ALLOW };
    let fits = match *method {
        Method::OPTIONS => {
            let mut answer = Response::new(ServeBody::whole(Bytes::new()));
            *answer.status_mut() = StatusCode::NO_CONTENT;
            answer
                .headers_mut()
                .insert(header::ALLOW, HeaderValue::from_static(allow));
            return Some(answer);
        }
        Method::POST => is_post,
        Method::GET | Method::HEAD => !is_post,
        _ => false,
    };
    if fits {
        return None;
    }
    let mut answer = error(StatusCode::METHOD_NOT_ALLOWED, &format!("use one of {allow}"));
    answer
        .headers_mut()
        .insert(header::ALLOW, HeaderValue::from_static(allow));
    Some(answer)
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
    use instantmirror_core::{HeadMark, HeadMarks};

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
        let path = RepoPath::new(HEADS).unwrap();
        let stopping = Stopping::never();
        let mut answer = Box::pin(api.answer(&Nothing, &request, &path, body, &stopping));
        assert!(answer.as_mut().now_or_never().is_none());
        assert_eq!(Arc::strong_count(&sent), 1, "the body is gone");
        let asked = HeadMarks::from([("debian".parse().unwrap(), HeadMark::Sequence(4))]);
        assert_eq!(*one.0.lock().unwrap(), asked);
        assert_eq!(answer.await.status(), StatusCode::NO_CONTENT);
    }

    #[test]
    fn a_poll_of_no_seconds_does_not_wait() {
        let heads = RepoPath::new(HEADS).unwrap();
        let head = RepoPath::new(".im/v1/debian/head").unwrap();
        for query in ["after=1", "after=1&wait=1", "after=1&wait=x"] {
            assert!(may_wait(&heads, query) && may_wait(&head, query), "{query}");
        }
        for query in ["after=1&wait=0", "wait=00&after=1"] {
            assert!(!may_wait(&heads, query) && !may_wait(&head, query), "{query}");
        }
        assert!(may_wait(&heads, "") && !may_wait(&head, ""));
    }

    #[test]
    fn calls_are_taken_apart() {
        let hash = "a".repeat(64);
        let uuid = SnapshotId::from_random([0xab; 16]);
        let repository: RepoName = "debian".parse().unwrap();
        let object: ObjectId = hash.parse().unwrap();
        for (path, call) in [
            ("head".to_owned(), Call::Head),
            ("keys".to_owned(), Call::Keys),
            (format!("snapshots/{uuid}"), Call::Snapshot(uuid)),
            (format!("catalog/{hash}"), Call::Catalog(hash.parse().unwrap())),
            (format!("objects/{hash}"), Call::Object(object)),
            (format!("objects/{hash}/outboard"), Call::Outboard(object)),
            ("batch".to_owned(), Call::Batch),
            ("synced".to_owned(), Call::Synced),
            ("swarm".to_owned(), Call::Swarm),
        ] {
            let path = RepoPath::new(format!(".im/v1/debian/{path}")).unwrap();
            assert_eq!(Call::parse(&path), Some(Ok((repository.clone(), call))));
        }
        for path in [
            ".im/v1",
            ".im/v1/debian",
            ".im/v1/DEBIAN/head",
            ".im/v1/debian/heads",
            ".im/v1/debian/head/x",
            ".im/v1/debian/objects",
            ".im/v1/debian/objects/abc",
            &format!(".im/v1/debian/objects/{hash}/x"),
            &format!(".im/v1/debian/objects/{}", hash.to_uppercase()),
            &format!(".im/v1/debian/snapshots/{}", uuid.to_string().to_uppercase()),
        ] {
            assert!(Call::parse(&RepoPath::new(path).unwrap()).unwrap().is_err(), "{path}");
        }
        for path in ["", ".im", ".im/v2/debian/head", "debian/.im/v1/debian/head"] {
            assert!(!is_api(&RepoPath::new(path).unwrap()), "{path}");
        }
    }
}
