//! The routes of a node: status, tags, verification, adoption and reloads on its control socket; the list of all.

use bytes::Bytes;
use http::StatusCode;
use instantmirror_core::snapshot_ref::SnapshotRef;
use instantmirror_core::{RepoName, TagName};
use instantmirror_http::{Access, RouteError, RouteList, RouteRequest, Routes};
use serde::{Deserialize, Serialize};

use super::serve::mounts_of;
use super::{AdoptRequest, Node, PrefetchRequest, Reloaded, Reloader, VerifyRequest};
use crate::config::NodeConfig;
use crate::daemon::explain;
use crate::reload::RELOAD_PATH;
use crate::serve::{Answered, STATUS_PATH, STATUS_PURPOSE, StatusPage};
use crate::torrent::torrent_routes;

/// Asked with a [`TagRequest`].
pub(crate) const TAG_PATH: &str = "/.im/tag/{repository}/{tag}";
/// Asked with nothing.
pub(crate) const UNTAG_PATH: &str = "/.im/untag/{repository}/{tag}";
/// Asked with a [`VerifyRequest`]: answered when it has begun.
pub(crate) const VERIFY_PATH: &str = "/.im/verify";
/// Asked with an [`AdoptRequest`]: answered when it has begun.
pub(crate) const ADOPT_PATH: &str = "/.im/adopt";
/// Asked with a [`PrefetchRequest`].
pub(crate) const PREFETCH_PATH: &str = "/.im/prefetch/{repository}";

/// The answer to a [`PrefetchRequest`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Prefetched {
    pub(crate) id: u64,
}

/// What to tag.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct TagRequest {
    pub(crate) snapshot: SnapshotRef,
    pub(crate) force: bool,
}

/// What the routes of a node's control socket share.
#[derive(Clone)]
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
    async fn tag(&self, request: &RouteRequest<Self>) -> Result<(), String> {
        let (repository, tag) = names(request)?;
        let asked: TagRequest = serde_json::from_slice(&request.body).map_err(|error| error.to_string())?;
        let snapshot = self.node.resolve(&repository, &asked.snapshot);
        let snapshot = snapshot.map_err(|error| error.to_string())?;
        let tagged = self.node.tag(&repository, &tag, snapshot, asked.force).await;
        tagged.map_err(|error| error.to_string())
    }

    fn verify(&self, body: &[u8]) -> Result<(), String> {
        let asked: VerifyRequest = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        let subset = self.node.begin_verify(&asked).map_err(|error| error.to_string())?;
        let node = self.node.clone();
        tokio::spawn(async move {
            match node.run_verify(asked, subset).await {
                Ok(status) => tracing::info!("the cache was verified: {status}"),
                Err(error) => tracing::error!("the cache was not verified to the end: {error}"),
            }
        });
        Ok(())
    }

    fn adopt(&self, body: &[u8]) -> Result<(), String> {
        let asked: AdoptRequest = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        let prepared = self.node.begin_adopt(&asked).map_err(|error| error.to_string())?;
        let node = self.node.clone();
        tokio::spawn(async move {
            match node.run_adopt(prepared).await {
                Ok(status) => tracing::info!(dir = %asked.dir.display(), "{} files adopted", status.adopted),
                Err(error) => tracing::error!(dir = %asked.dir.display(), "not adopted to the end: {error}"),
            }
        });
        Ok(())
    }

    fn reload(&self) -> Result<Reloaded, String> {
        let reload = self
            .reload
            .as_ref()
            .ok_or("this daemon was not started from a configuration file")?;
        reload().map_err(|error| format!("{}; nothing was changed", explain(&error)))
    }

    async fn prefetch(&self, request: &RouteRequest<Self>) -> Result<u64, String> {
        let repository = request.parameter("repository").parse();
        let repository = repository.map_err(|error| format!("{error}"))?;
        let asked = serde_json::from_slice(&request.body);
        let PrefetchRequest { paths, snapshot } = asked.map_err(|error| error.to_string())?;
        let snapshot = snapshot.map(|asked| self.node.resolve(&repository, &asked)).transpose();
        let snapshot = snapshot.map_err(|error| error.to_string())?;
        let prefetched = self.node.prefetch(&repository, snapshot, &paths).await;
        prefetched.map_err(|error| error.to_string())
    }

    async fn untag(&self, request: &RouteRequest<Self>) -> Result<(), String> {
        let (repository, tag) = names(request)?;
        self.node
            .untag(&repository, &tag)
            .await
            .map_err(|error| error.to_string())
    }
}

fn json(value: &impl Serialize) -> Result<String, String> {
    serde_json::to_string(value).map_err(|error| error.to_string())
}

fn names(request: &RouteRequest<NodeControl>) -> Result<(RepoName, TagName), String> {
    let repository = request.parameter("repository").parse();
    let tag = request.parameter("tag").parse();
    let repository = repository.map_err(|error| format!("{error}"));
    let tag = tag.map_err(|error| format!("{error}"));
    Ok((
        repository.map_err(|text: String| text)?,
        tag.map_err(|text: String| text)?,
    ))
}

/// What the command line may ask.
pub(super) fn control_routes() -> Routes<NodeControl> {
    Routes::<NodeControl>::new()
        .get(STATUS_PATH, Access::Control, STATUS_PURPOSE, |asked| async move {
            asked.state.status.answer()
        })
        .post(
            TAG_PATH,
            Access::Control,
            "Names a snapshot, which is fetched whole and kept",
            |asked| async move { answer(asked.state.tag(&asked).await.and_then(|()| nothing())) },
        )
        .post(UNTAG_PATH, Access::Control, "Takes a tag away", |asked| async move {
            answer(asked.state.untag(&asked).await.and_then(|()| nothing()))
        })
        .post(
            PREFETCH_PATH,
            Access::Control,
            "Begins to fetch files of a repository",
            |asked| async move {
                let begun = asked.state.prefetch(&asked).await;
                answer(begun.and_then(|id| json(&Prefetched { id })))
            },
        )
        .post(
            VERIFY_PATH,
            Access::Control,
            "Begins to verify the cache",
            |asked| async move { answer(asked.state.verify(&asked.body).and_then(|()| nothing())) },
        )
        .post(
            ADOPT_PATH,
            Access::Control,
            "Begins to take a directory into the cache",
            |asked| async move { answer(asked.state.adopt(&asked.body).and_then(|()| nothing())) },
        )
        .post(
            RELOAD_PATH,
            Access::Control,
            "Reads the configuration again",
            |asked| async move { answer(asked.state.reload().and_then(|said| json(&said))) },
        )
}

fn nothing() -> Result<String, String> {
    Ok("{}".to_owned())
}

fn answer(done: Result<String, String>) -> Option<http::Response<Bytes>> {
    let (status, body) = match done {
        Ok(body) => (StatusCode::OK, body),
        Err(text) => (StatusCode::CONFLICT, text),
    };
    http::Response::builder().status(status).body(body.into()).ok()
}

/// The routes of a node with this configuration, as `imnode routes` shows them. No node needs to run.
///
/// # Errors
/// [`RouteError`] if two of them contradict each other, as they do not.
pub fn routes(config: &NodeConfig) -> Result<RouteList, RouteError> {
    let repositories = config.repositories.iter().map(|one| one.name.clone());
    let answered = Answered {
        public: torrent_routes().build()?.list(),
        control: control_routes().build()?.list(),
        repositories: &repositories.collect::<Vec<_>>(),
        mounts: &mounts_of(config),
        http: &config.http,
    };
    Ok(answered.list())
}
