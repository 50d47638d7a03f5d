//! What the node's control socket answers: its status, and tags.

use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, StatusCode};
use instantmirror_core::{RepoName, SnapshotId, TagName};
use instantmirror_http::{Extra, ExtraRequest};
use serde::{Deserialize, Serialize};

use super::{Node, PrefetchRequest, Reloaded, Reloader};
use crate::daemon::explain;
use crate::serve::StatusPage;

/// `POST /.im/tag/REPO/TAG` with a [`TagRequest`].
pub(crate) const TAG_PATH: &str = ".im/tag/";
/// `POST /.im/untag/REPO/TAG`.
pub(crate) const UNTAG_PATH: &str = ".im/untag/";

/// `POST /.im/prefetch/REPO` with a [`PrefetchRequest`].
pub(crate) const PREFETCH_PATH: &str = ".im/prefetch/";
/// `POST /.im/reload`.
pub(crate) const RELOAD_PATH: &str = ".im/reload";

/// The answer to a [`PrefetchRequest`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Prefetched {
    pub(crate) id: u64,
}

/// What to tag.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct TagRequest {
    pub(crate) snapshot: SnapshotId,
    pub(crate) force: bool,
}

pub(super) struct NodeControl {
    pub(super) node: Node,
    pub(super) status: StatusPage,
    pub(super) reload: Option<Reloader>,
}

impl std::fmt::Debug for NodeControl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeControl")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

impl NodeControl {
    async fn tag(&self, name: &str, body: &[u8]) -> Result<(), String> {
        let (repository, tag) = names(name)?;
        let asked: TagRequest = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        let tagged = self.node.tag(&repository, &tag, asked.snapshot, asked.force).await;
        tagged.map_err(|error| error.to_string())
    }

    fn reload(&self) -> Result<Reloaded, String> {
        let reload = self
            .reload
            .as_ref()
            .ok_or("this daemon was not started from a configuration file")?;
        reload().map_err(|error| format!("{}; nothing was changed", explain(&error)))
    }

    async fn prefetch(&self, name: &str, body: &[u8]) -> Result<u64, String> {
        let repository = name.parse().map_err(|error| format!("{error}"))?;
        let PrefetchRequest { paths, snapshot } = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        let prefetched = self.node.prefetch(&repository, snapshot, &paths).await;
        prefetched.map_err(|error| error.to_string())
    }

    async fn untag(&self, name: &str) -> Result<(), String> {
        let (repository, tag) = names(name)?;
        self.node
            .untag(&repository, &tag)
            .await
            .map_err(|error| error.to_string())
    }
}

fn json(value: &impl Serialize) -> Result<String, String> {
    serde_json::to_string(value).map_err(|error| error.to_string())
}

fn names(name: &str) -> Result<(RepoName, TagName), String> {
    let (repository, tag) = name.split_once('/').ok_or("the path ends in REPO/TAG")?;
    let repository = repository.parse().map_err(|error| format!("{error}"));
    let tag = tag.parse().map_err(|error| format!("{error}"));
    Ok((
        repository.map_err(|text: String| text)?,
        tag.map_err(|text: String| text)?,
    ))
}

#[async_trait]
impl Extra for NodeControl {
    async fn answer(&self, request: ExtraRequest<'_>) -> Option<http::Response<Bytes>> {
        if request.method != Method::POST {
            return self.status.answer(request).await;
        }
        let empty = || "{}".to_owned();
        let done = if let Some(name) = request.path.strip_prefix(TAG_PATH) {
            self.tag(name, &request.body).await.map(|()| empty())
        } else if let Some(name) = request.path.strip_prefix(UNTAG_PATH) {
            self.untag(name).await.map(|()| empty())
        } else if let Some(name) = request.path.strip_prefix(PREFETCH_PATH) {
            self.prefetch(name, &request.body)
                .await
                .and_then(|id| json(&Prefetched { id }))
        } else if request.path == RELOAD_PATH {
            self.reload().and_then(|said| json(&said))
        } else {
            return self.status.answer(request).await;
        };
        let (status, body) = match done {
            Ok(body) => (StatusCode::OK, body),
            Err(text) => (StatusCode::CONFLICT, text),
        };
        let response = http::Response::builder().status(status);
        response.body(body.into()).ok()
    }
}
