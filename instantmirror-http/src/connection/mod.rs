//! What connections have in common, whatever protocol they speak.

mod deadline;
mod reset;

use std::sync::Arc;

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
