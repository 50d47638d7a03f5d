//! `POST /.im/publish/<repository>` on the control socket: a publish for build systems, answered with JSON when it is
//! done (docs/formats/api.md).

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, Response, StatusCode, header};
use instantmirror_core::RepoName;
use instantmirror_http::{Extra, ExtraRequest};
use serde::{Deserialize, Serialize};

use super::gate::MasterGate;
use super::{Hints, Master, MasterError, NoProgress, PublishOptions, Published};
use crate::daemon::explain;
use crate::progress::{self, PathsByWord};
use crate::serve::StatusPage;

const PREFIX: &str = ".im/publish/";
/// `GET /.im/mirrors`: the mirrors and what they have.
pub(crate) const MIRRORS_PATH: &str = ".im/mirrors";

/// What the control socket of a master answers.
#[derive(Debug)]
pub(super) struct ControlPages {
    pub(super) master: Master,
    pub(super) status: StatusPage,
    pub(super) gate: Arc<MasterGate>,
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

#[async_trait]
impl Extra for ControlPages {
    async fn answer(&self, request: ExtraRequest<'_>) -> Option<Response<Bytes>> {
        if request.path == MIRRORS_PATH {
            return json(StatusCode::OK, &self.gate.mirrors());
        }
        let Some(name) = request.path.strip_prefix(PREFIX) else {
            return self.status.answer(request).await;
        };
        if request.method != Method::POST {
            return json(StatusCode::METHOD_NOT_ALLOWED, &Failed::new("publish with POST"));
        }
        let (name, asked) = match parse(name, &request.body) {
            Ok(parsed) => parsed,
            Err(problem) => return json(StatusCode::BAD_REQUEST, &Failed::new(problem)),
        };
        let master = self.master.clone();
        // Who closes the connection no longer waits for the publish, which goes on.
        let done = tokio::task::spawn_blocking(move || publish(&master, name, asked)).await;
        match done {
            Ok(Ok(done)) => json(StatusCode::OK, &done),
            Ok(Err(error)) => json(status_of(&error), &Failed::new(explain(&error))),
            Err(error) => json(StatusCode::INTERNAL_SERVER_ERROR, &Failed::new(error.to_string())),
        }
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
