//! `/announce` and `/scrape`, and the control socket of the tracker.

use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, StatusCode, header};
use instantmirror_http::{Extra, ExtraRequest};
use instantmirror_tracker::http::{announce, failure, scrape};

use super::Tracker;
use crate::daemon::explain;
use crate::node::{RELOAD_PATH, Reloader};
use crate::serve::StatusPage;

const ANNOUNCE: &str = "announce";
const SCRAPE: &str = "scrape";

/// What the public may ask.
#[derive(Debug)]
pub(super) struct Announces(pub(super) Tracker);

#[async_trait]
impl Extra for Announces {
    async fn answer(&self, request: ExtraRequest<'_>) -> Option<http::Response<Bytes>> {
        if request.path != ANNOUNCE && request.path != SCRAPE {
            return None;
        }
        let response = http::Response::builder().header(header::CONTENT_TYPE, "text/plain");
        if request.method != Method::GET && request.method != Method::HEAD {
            let response = response
                .status(StatusCode::METHOD_NOT_ALLOWED)
                .header(header::ALLOW, "GET, HEAD");
            return response
                .body(Bytes::from_static(b"405: trackers are asked by GET\n"))
                .ok();
        }
        let body = match request.client.address {
            // Only to be had by embedders: the public side has no Unix sockets.
            None => failure("the tracker does not see where you are"),
            Some(from) => {
                let (now, mut registry) = (self.0.now(), self.0.registry());
                match request.path {
                    ANNOUNCE => announce(&mut registry, now, from, request.query),
                    _ => scrape(&mut registry, now, from, request.query),
                }
            }
        };
        response
            .header(header::CACHE_CONTROL, "no-store")
            .body(body.into())
            .ok()
    }
}

/// What the command line may ask.
pub(super) struct Control {
    pub(super) status: StatusPage,
    pub(super) reload: Option<Reloader>,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Control")
    }
}

#[async_trait]
impl Extra for Control {
    async fn answer(&self, request: ExtraRequest<'_>) -> Option<http::Response<Bytes>> {
        if request.path != RELOAD_PATH || request.method != Method::POST {
            return self.status.answer(request).await;
        }
        let reloaded = match &self.reload {
            Some(reload) => reload().map_err(|error| explain(&error)),
            None => Err("it was not said how this tracker reads its configuration".to_owned()),
        };
        let (status, body) = match reloaded.map(|reloaded| serde_json::json!(reloaded).to_string()) {
            Ok(body) => (StatusCode::OK, body),
            Err(text) => (StatusCode::CONFLICT, text),
        };
        http::Response::builder().status(status).body(body.into()).ok()
    }
}
