//! What connections have in common, whatever protocol they speak.

mod deadline;
mod reset;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::admission::Admission;
use crate::limits::{Limits, Stopping};
use crate::service::Service;

pub(crate) use deadline::Deadline;
pub(crate) use reset::ResetAtEnd;

/// What all connections of a server have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) services: watch::Receiver<Arc<Service>>,
    pub(crate) limits: Limits,
    pub(crate) admission: Admission,
    pub(crate) stopping: Stopping,
    /// Where answers that nobody waits for are made and sent, if not where all others are.
    pub(crate) background: Option<Handle>,
}

impl Shared {
    /// Takes one request into account and returns how long its client has to wait, if that asks too often. Both questions
    /// are asked only where requests are limited, the second one only if the request is one too many: nodes that prove
    /// to be nodes of this master may ask on.
    pub(crate) fn over_rate(
        &self,
        service: &Service,
        client: impl FnOnce() -> Option<IpAddr>,
        is_of_node: impl FnOnce() -> bool,
    ) -> Option<Duration> {
        if !self.admission.limits_requests() {
            return None;
        }
        // A proxy that asks for itself is not limited.
        let address = client().filter(|address| !service.proxies().contains(*address))?;
        let wait = self.admission.take_request(address).err()?;
        if is_of_node() {
            return None;
        }
        self.admission.count_limited(address);
        Some(wait)
    }
}

/// A task that ends with its owner.
pub(crate) struct AbortOnDrop<T>(pub(crate) JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Whether a request is one of those that places are reserved for.
pub(crate) fn is_for_nodes(path: &str) -> bool {
    path.starts_with("/.im/")
}
