//! What master and node have in common when they serve: sockets, mounts, the status page of the control socket.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use instantmirror_core::{RepoName, RepoPath};
use instantmirror_http::{Extra, ExtraRequest, Limits, Mount, Mounts, ServeError, Server, Service};
use tokio::sync::watch;

use crate::config::{HttpConfig, MountConfig};

/// Path of the status page on the control socket.
pub(crate) const STATUS_PATH: &str = ".im/status";

/// The open sockets of a daemon.
#[derive(Debug)]
pub(crate) struct Sockets {
    http: Server,
    control: Server,
}

impl Sockets {
    /// Opens the public sockets and the control socket.
    pub(crate) async fn open(config: &HttpConfig, socket: &Path) -> Result<Self, ServeError> {
        let mut http = Server::new(Limits {
            connections_max: config.max_connections,
            ..Limits::default()
        });
        for address in &config.listen {
            http.listen(*address).await?;
        }
        let mut control = Server::new(Limits::default());
        control.listen_unix(socket).await?;
        Ok(Self { http, control })
    }

    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.http.addresses()
    }

    /// Serves, with `background` beside it, until `shutdown` is ready; then finishes what runs.
    pub(crate) async fn serve(
        self,
        public: Service,
        local: Service,
        background: impl Future,
        shutdown: impl Future<Output = ()>,
    ) {
        let (stop, stopped) = watch::channel(false);
        let until_stopped = || {
            let mut stopped = stopped.clone();
            async move {
                // An error means that the sender is gone: stopped as well.
                let _ = stopped.wait_for(|stopped| *stopped).await;
            }
        };
        let public = self.http.serve(Arc::new(public), until_stopped());
        let local = self.control.serve(Arc::new(local), until_stopped());
        let stopping = async {
            shutdown.await;
            stop.send_replace(true);
        };
        tokio::select! {
            _ = futures_util::future::join3(public, local, stopping) => {}
            _ = background => tracing::error!("the background work ended, so the daemon does"),
        }
    }
}

/// The mounts of all repositories.
pub(crate) fn mounts<'a>(all: impl Iterator<Item = (&'a RepoName, &'a MountConfig)>) -> Mounts {
    let mount = |(repository, config): (&RepoName, &MountConfig)| {
        let path = RepoPath::new(config.path.trim_matches('/')).ok()?;
        Some(Mount {
            path,
            repository: repository.clone(),
            view: config.view.clone(),
            index: config.index,
        })
    };
    // The configuration was checked by the same rules; what is refused here would have been refused there.
    Mounts::new(all.filter_map(mount).collect()).unwrap_or_else(|error| {
        tracing::error!("no mounts: {error}");
        Mounts::default()
    })
}

/// Answers `GET /.im/status` on the control socket with JSON.
pub(crate) struct StatusPage(Box<dyn Fn() -> serde_json::Result<Vec<u8>> + Send + Sync>);

impl StatusPage {
    pub(crate) fn new(produce: impl Fn() -> serde_json::Result<Vec<u8>> + Send + Sync + 'static) -> Self {
        Self(Box::new(produce))
    }
}

impl fmt::Debug for StatusPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StatusPage")
    }
}

#[async_trait]
impl Extra for StatusPage {
    async fn answer(&self, request: ExtraRequest<'_>) -> Option<http::Response<Bytes>> {
        if request.path != STATUS_PATH {
            return None;
        }
        let json = (self.0)().unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}").into_bytes());
        let response = http::Response::builder().header(http::header::CONTENT_TYPE, "application/json");
        response.body(json.into()).ok()
    }
}
