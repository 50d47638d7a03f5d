//! `imnode run`: follows the masters and serves what they publish over HTTP.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use instantmirror_http::Service;

use super::{Node, NodeError};
use crate::serve::{Sockets, StatusPage, mounts};

/// The cache writes down its state this often.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(60);

/// A node with its sockets open.
#[derive(Debug)]
pub struct NodeServer {
    node: Node,
    sockets: Sockets,
}

impl NodeServer {
    /// Opens the sockets. Nothing is answered or fetched before [`run`](Self::run).
    ///
    /// # Errors
    /// [`NodeError::Http`] for an address in use.
    pub async fn bind(node: Node) -> Result<Self, NodeError> {
        let sockets = Sockets::open(&node.config().http, &node.config().control_socket()).await?;
        Ok(Self { node, sockets })
    }

    /// The addresses it listens on.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.sockets.addresses()
    }

    /// Follows and serves until `shutdown` is ready, then finishes what runs and writes down the cache's state.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let Self { node, sockets } = self;
        let repositories = &node.config().repositories;
        let all = repositories
            .iter()
            .flat_map(|one| one.mounts.iter().map(|mount| (&one.name, mount)));
        let service = Service::new(node.publication()).with_mounts(mounts(all));
        let shown = node.clone();
        let page = StatusPage::new(move || serde_json::to_vec(&shown.status()));
        let local = Service::new(node.publication()).with_extra(Arc::new(page));
        let background = futures_util::future::join(node.follow(), checkpoints(&node));
        sockets.serve(service, local, background, shutdown).await;
        write_down(&node).await;
    }
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
