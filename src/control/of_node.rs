//! What only a node is asked: tags, verification, adoption, fetching ahead.

use std::path::Path;

use instantmirror_core::snapshot_ref::SnapshotRef;
use instantmirror_core::{RepoName, TagName};

use super::{ControlError, ask, post};
use crate::node::{
    ADOPT_PATH, AdoptRequest, PREFETCH_PATH, PrefetchRequest, Prefetched, TAG_PATH, TagRequest, UNTAG_PATH,
    VERIFY_PATH, VerifyRequest,
};

/// Has a running node tag a snapshot.
///
/// # Errors
/// [`ControlError`].
pub async fn tag(
    socket: &Path,
    repository: &RepoName,
    tag: &TagName,
    snapshot: SnapshotRef,
    force: bool,
) -> Result<(), ControlError> {
    let body = serde_json::json!(TagRequest { snapshot, force }).to_string();
    post(socket, &filled(TAG_PATH, repository, Some(tag)), &body).await
}

/// Has a running node take a tag away.
///
/// # Errors
/// [`ControlError`].
pub async fn untag(socket: &Path, repository: &RepoName, tag: &TagName) -> Result<(), ControlError> {
    post(socket, &filled(UNTAG_PATH, repository, Some(tag)), "").await
}

/// Has a running node begin to verify its cache; its status says how far it is.
///
/// # Errors
/// [`ControlError`].
pub async fn verify(socket: &Path, request: &VerifyRequest) -> Result<(), ControlError> {
    post(socket, VERIFY_PATH, &serde_json::json!(request).to_string()).await
}

/// Has a running node begin to adopt a directory; its status says how far it is.
///
/// # Errors
/// [`ControlError`].
pub async fn adopt(socket: &Path, request: &AdoptRequest) -> Result<(), ControlError> {
    post(socket, ADOPT_PATH, &serde_json::json!(request).to_string()).await
}

/// Has a running node fetch files, and returns the number of that prefetch.
///
/// # Errors
/// [`ControlError`].
pub async fn prefetch(
    socket: &Path,
    repository: &RepoName,
    snapshot: Option<SnapshotRef>,
    paths: &[String],
) -> Result<u64, ControlError> {
    let request = PrefetchRequest {
        paths: paths.to_vec(),
        snapshot,
    };
    let body = serde_json::json!(request).to_string();
    let answer: Prefetched = ask(socket, &filled(PREFETCH_PATH, repository, None), &body).await?;
    Ok(answer.id)
}

/// The path of a route about these. Their names need no encoding.
fn filled(pattern: &str, repository: &RepoName, tag: Option<&TagName>) -> String {
    let path = pattern.replace("{repository}", repository.as_str());
    match tag {
        Some(tag) => path.replace("{tag}", tag.as_str()),
        None => path,
    }
}
