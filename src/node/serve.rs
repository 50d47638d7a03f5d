//! `imnode run`: follows the masters and serves what they publish over HTTP.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use instantmirror_http::{HotLimits, Mounts, RouteTable, Routes, Service};

use super::control::{NodeControl, control_routes};
use super::{Node, NodeError, Reloader};
use crate::config::{ConfigError, NodeConfig, VerifyKind};
use crate::serve::{Frontend, Load, OpenError, Sockets, StatusPage, mounts};
use crate::torrent::torrent_routes;

/// The cache writes down its state this often.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(60);

/// Objects that are kept open for the next request may hold this part of the cache, which cannot give them up.
const HELD_PART: u64 = 8;

/// A node with its sockets open.
#[derive(Debug)]
pub struct NodeServer {
    node: Node,
    sockets: Sockets,
    frontend: Frontend,
    load: Option<Load<NodeConfig>>,
    control: RouteTable<NodeControl>,
}

impl NodeServer {
    /// Opens the sockets. Nothing is answered or fetched before [`run`](Self::run).
    ///
    /// # Errors
    /// [`NodeError::Http`] for an address in use, or a certificate or access log that cannot be used.
    pub async fn bind(node: Node) -> Result<Self, NodeError> {
        Self::bind_with_routes(node, Routes::new()).await
    }

    /// The same with routes of the embedder's beside those of the node, for the public. They stay through every reload.
    ///
    /// # Errors
    /// As [`bind`](Self::bind), and [`OpenError::Routes`] if routes contradict each other.
    pub async fn bind_with_routes(node: Node, routes: Routes) -> Result<Self, NodeError> {
        let routes = torrent_routes().with_state(node.torrents.offers()).merge(routes);
        let routes = routes.build().map_err(OpenError::from)?;
        let control = control_routes().build().map_err(OpenError::from)?;
        let config = node.config();
        let sockets = Sockets::open(
            &config.http,
            node.control_socket.as_deref(),
            Some(node.background.handle()),
        )
        .await?;
        let shown = node.publication();
        let mut hot = HotLimits::default();
        hot.held_bytes_max = config.cache.max_size.0 / HELD_PART;
        if config.cache.verify == VerifyKind::Always {
            // An answer that is kept ready was verified for another request.
            hot.answers_max = 0;
        }
        let make = move || {
            Service::new(shown.clone())
                .with_annotations(shown.clone())
                .with_hot_limits(&hot)
                .with_routes(routes.clone())
        };
        let frontend = sockets.frontend(&config.http, mounts_of(config), make);
        Ok(Self {
            node,
            sockets,
            frontend,
            load: None,
            control,
        })
    }

    /// Reads its configuration so when it is told to reload: by the control socket, or by whoever calls
    /// [`reloader`](Self::reloader).
    #[must_use]
    pub fn reloading(mut self, load: impl Fn() -> Result<NodeConfig, ConfigError> + Send + Sync + 'static) -> Self {
        self.load = Some(Load::new(load));
        self
    }

    /// Reads the configuration again and takes up what can change while the node runs; `None` if it was not said
    /// [how](Self::reloading). To be called inside a tokio runtime.
    #[must_use]
    pub fn reloader(&self) -> Option<Reloader> {
        let (node, frontend, load) = (self.node.clone(), self.frontend.clone(), self.load.clone()?);
        Some(Arc::new(move || {
            let config = load.load()?;
            let shown = frontend.reload(&config.http, mounts_of(&config));
            let mut reloaded = node.reload(config);
            reloaded.extend(shown);
            reloaded.tell();
            Ok(reloaded)
        }))
    }

    /// The addresses it listens on.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.sockets.addresses()
    }

    /// The same as URLs.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        self.sockets.urls()
    }

    /// What can be changed while it runs.
    #[must_use]
    pub fn frontend(&self) -> Frontend {
        self.frontend.clone()
    }

    /// Follows and serves until `shutdown` is ready, then finishes what runs and writes down the cache's state.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let reload = self.reloader();
        let Self {
            node,
            sockets,
            frontend,
            control,
            ..
        } = self;
        let (shown, answers) = (node.clone(), frontend.clone());
        let page = StatusPage::new(move || serde_json::to_vec(&shown.status(answers.status())));
        let control = control.with_state(NodeControl {
            node: node.clone(),
            status: page,
            reload,
        });
        let local = Service::new(node.publication())
            .with_annotations(node.publication())
            .with_routes(control);
        let background = futures_util::future::join(node.follow(), checkpoints(&node));
        sockets.serve(&frontend, local, background, shutdown).await;
        node.leave_swarms().await;
        write_down(&node).await;
    }
}

pub(super) fn mounts_of(config: &NodeConfig) -> Mounts {
    let all = config.repositories.iter();
    mounts(all.flat_map(|one| one.mounts.iter().map(|mount| (&one.name, mount))))
}

async fn checkpoints(node: &Node) {
    loop {
        tokio::time::sleep(CHECKPOINT_INTERVAL).await;
        write_down(node).await;
    }
}

async fn write_down(node: &Node) {
    if let Err(error) = node.checkpoint().await {
        tracing::error!("the cache cannot write down its state: {error}; a restart will verify more than it had to");
    }
}
