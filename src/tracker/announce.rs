//! The routes of the tracker: `/announce` and `/scrape`, and those of the control socket.

use bytes::Bytes;
use http::{Response, StatusCode, header};
use instantmirror_http::{Access, Mounts, RouteError, RouteList, RouteRequest, Routes};
use instantmirror_tracker::http::{announce, failure, scrape};

use super::Tracker;
use crate::config::TrackerConfig;
use crate::daemon::explain;
use crate::reload::{RELOAD_PATH, Reloader};
use crate::serve::{Answered, STATUS_PATH, STATUS_PURPOSE, StatusPage};

/// What the public may ask.
pub(super) fn public_routes() -> Routes<Tracker> {
    Routes::<Tracker>::new()
        .get(
            "/announce",
            Access::Public,
            "Takes an announce and tells of peers (BEP 3, 7, 23)",
            |request| async move { answer(&request, true) },
        )
        .get(
            "/scrape",
            Access::Public,
            "Counts the peers of torrents (BEP 48)",
            |request| async move { answer(&request, false) },
        )
}

/// `is_announce`, or it is a scrape.
fn answer(request: &RouteRequest<Tracker>, is_announce: bool) -> Option<Response<Bytes>> {
    let (tracker, query) = (&request.state, &*request.query);
    let body = match request.client.address {
        // Only to be had by embedders: the public side has no Unix sockets.
        None => failure("the tracker does not see where you are"),
        Some(from) => {
            let (now, mut registry) = (tracker.now(), tracker.registry());
            if is_announce {
                announce(&mut registry, now, from, query)
            } else {
                scrape(&mut registry, now, from, query)
            }
        }
    };
    Response::builder()
        .header(header::CONTENT_TYPE, "text/plain")
        .header(header::CACHE_CONTROL, "no-store")
        .body(body.into())
        .ok()
}

/// What the command line may ask.
#[derive(Clone)]
pub(super) struct Control {
    pub(super) status: StatusPage,
    pub(super) reload: Option<Reloader>,
}

pub(super) fn control_routes() -> Routes<Control> {
    Routes::<Control>::new()
        .get(STATUS_PATH, Access::Control, STATUS_PURPOSE, |request| async move {
            request.state.status.answer()
        })
        .post(
            RELOAD_PATH,
            Access::Control,
            "Reads configuration and torrent files again",
            |request| async move { reload(request.state.reload.as_ref()) },
        )
}

fn reload(reload: Option<&Reloader>) -> Option<Response<Bytes>> {
    let reloaded = match reload {
        Some(reload) => reload().map_err(|error| explain(&error)),
        None => Err("it was not said how this tracker reads its configuration".to_owned()),
    };
    let (status, body) = match reloaded.map(|reloaded| serde_json::json!(reloaded).to_string()) {
        Ok(body) => (StatusCode::OK, body),
        Err(text) => (StatusCode::CONFLICT, text),
    };
    Response::builder().status(status).body(body.into()).ok()
}

/// The routes of a tracker with this configuration, as `imtracker routes` shows them. No tracker needs to run.
///
/// # Errors
/// [`RouteError`] if two of them contradict each other, as they do not.
pub fn routes(config: &TrackerConfig) -> Result<RouteList, RouteError> {
    let answered = Answered {
        public: public_routes().build()?.list(),
        control: control_routes().build()?.list(),
        repositories: &[],
        mounts: &Mounts::default(),
        http: &config.http,
    };
    Ok(answered.list())
}
