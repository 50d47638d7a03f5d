//! The routes of a master: a publish for build systems, answered with JSON when it is done (docs/formats/api.md), the mirrors
//! and the status on the control socket; the list of all.

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode, header};
use instantmirror_core::RepoName;
use instantmirror_http::{Access, Api, RouteError, RouteList, RouteRequest, Routes};
use serde::{Deserialize, Serialize};

use super::gate::MasterGate;
use super::serve::mounts_of;
use super::{Hints, Master, MasterError, NoProgress, PublishOptions, Published};
use crate::config::ServerConfig;
use crate::daemon::explain;
use crate::progress::{self, PathsByWord};
use crate::serve::{Answered, STATUS_PATH, STATUS_PURPOSE, StatusPage};
use crate::torrent::torrent_routes;

/// The mirrors and what they have.
pub(crate) const MIRRORS_PATH: &str = "/.im/mirrors";

/// What the routes of a master's control socket share.
#[derive(Debug, Clone)]
pub(super) struct MasterControl {
    pub(super) master: Master,
    pub(super) status: StatusPage,
    pub(super) gate: Arc<MasterGate>,
}

/// What the command line and build systems may ask.
pub(super) fn control_routes() -> Routes<MasterControl> {
    Routes::<MasterControl>::new()
        .get(STATUS_PATH, Access::Control, STATUS_PURPOSE, |request| async move {
            request.state.status.answer()
        })
        .get(
            MIRRORS_PATH,
            Access::Control,
            "Tells which mirrors there are and what they have, as JSON",
            |request| async move { json(StatusCode::OK, &request.state.gate.mirrors()) },
        )
        .post(
            "/.im/publish/{repository}",
            Access::Control,
            "Publishes a repository, and answers when that is done",
            answer_publish,
        )
}

/// The routes of a master with this configuration, as `imserver routes` shows them. No master needs to run.
///
/// # Errors
/// [`RouteError`] if two of them contradict each other, as they do not.
pub fn routes(config: &ServerConfig) -> Result<RouteList, RouteError> {
    let mut public = Api::routes();
    public.extend(torrent_routes().build()?.list());
    let repositories = config.repositories.iter().map(|one| one.name.clone());
    let answered = Answered {
        public,
        control: control_routes().build()?.list(),
        repositories: &repositories.collect::<Vec<_>>(),
        mounts: &mounts_of(config),
        http: &config.http,
    };
    Ok(answered.list())
}

/// The body of a request; all of it may be left out.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Asked {
    /// Paths to look at; without them everything.
    changed: Option<Vec<String>>,
    note: String,
    allow_empty: bool,
    wait: bool,
    no_check: bool,
}

/// The body of an answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
struct Done {
    repository: RepoName,
    /// False: the tree is what `snapshot` shows already.
    published: bool,
    snapshot: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Details>,
}

#[derive(Debug, Serialize)]
struct Details {
    sequence: u64,
    files: u64,
    bytes: u64,
    read_files: u64,
    read_bytes: u64,
    full_scan: bool,
    seconds: f64,
    /// By reason.
    left_out: PathsByWord,
    /// Symlinks that lead nowhere for readers, by kind.
    symlinks: PathsByWord,
}

#[derive(Debug, Serialize)]
struct Failed {
    error: String,
}

async fn answer_publish(request: RouteRequest<MasterControl>) -> Option<Response<Bytes>> {
    let (name, asked) = match parse(request.parameter("repository"), &request.body) {
        Ok(parsed) => parsed,
        Err(problem) => return json(StatusCode::BAD_REQUEST, &Failed::new(problem)),
    };
    let master = request.state.master;
    // Who closes the connection no longer waits for the publish, which goes on.
    let done = tokio::task::spawn_blocking(move || publish(&master, name, asked)).await;
    match done {
        Ok(Ok(done)) => json(StatusCode::OK, &done),
        Ok(Err(error)) => json(status_of(&error), &Failed::new(explain(&error))),
        Err(error) => json(StatusCode::INTERNAL_SERVER_ERROR, &Failed::new(error.to_string())),
    }
}

impl Failed {
    fn new(error: impl Into<String>) -> Self {
        Self { error: error.into() }
    }
}

fn parse(name: &str, body: &Bytes) -> Result<(RepoName, Asked), String> {
    let name = name.parse().map_err(|error| format!("'{name}': {error}"))?;
    let asked = match body.as_ref() {
        b"" => Asked::default(),
        body => serde_json::from_slice(body).map_err(|error| format!("the body: {error}"))?,
    };
    Ok((name, asked))
}

fn publish(master: &Master, name: RepoName, asked: Asked) -> Result<Done, MasterError> {
    let source = &master.repository(&name)?.source;
    let hints = asked.changed.map(|paths| Hints::of_paths(source, paths)).transpose()?;
    let options = PublishOptions {
        note: asked.note,
        allow_empty: asked.allow_empty,
        hints,
        wait: asked.wait,
        no_check: asked.no_check,
        stage: None,
        again: false,
    };
    let published = master.publish(&name, &options, &NoProgress)?;
    master.after_publish(&name);
    Ok(match published {
        Published::Unchanged(id) | Published::TakenBack(id) => Done {
            repository: name,
            published: false,
            snapshot: id.to_string(),
            details: None,
        },
        Published::Snapshot(new) => Done {
            repository: name,
            published: true,
            snapshot: new.snapshot.id.to_string(),
            details: Some(Details {
                sequence: new.sequence,
                files: new.snapshot.root.files,
                bytes: new.snapshot.root.bytes,
                read_files: new.scanned.counts.read_files,
                read_bytes: new.scanned.counts.read_bytes,
                full_scan: new.is_full_scan,
                seconds: new.took.as_secs_f64(),
                left_out: progress::left_out(&new.scanned.left_out),
                symlinks: progress::symlinks(&new.scanned.symlinks),
            }),
        },
    })
}

fn status_of(error: &MasterError) -> StatusCode {
    match error {
        MasterError::UnknownRepository { .. } => StatusCode::NOT_FOUND,
        MasterError::Hints(_) => StatusCode::BAD_REQUEST,
        MasterError::Busy { .. } => StatusCode::CONFLICT,
        refusal if refusal.is_refusal() => StatusCode::UNPROCESSABLE_ENTITY,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn json(status: StatusCode, body: &impl Serialize) -> Option<Response<Bytes>> {
    let body = serde_json::to_vec(body).ok()?;
    let response = Response::builder().status(status);
    let response = response.header(header::CONTENT_TYPE, "application/json");
    response.body(body.into()).ok()
}
