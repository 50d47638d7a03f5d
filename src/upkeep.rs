//! `imnode verify` and `imnode adopt`: done by the running node, or by this process where none runs, with a progress
//! line on a terminal.

use std::time::Duration;

use crate::bars::{Bar, Unit};
use crate::config::NodeConfig;
use crate::control::{self, ControlError};
use crate::node::{
    AdoptError, AdoptRequest, AdoptStatus, Node, NodeError, NodeStatus, VerifyError, VerifyRequest, VerifyStatus,
};

/// How often a running node is asked how far it is.
const ASK: Duration = Duration::from_millis(200);

/// Why it was not done, or not to the end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpkeepError {
    /// The running node refuses, or does not answer.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// No node runs, and this process cannot open the cache either.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// Verifying failed.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// Adopting failed.
    #[error(transparent)]
    Adopt(#[from] AdoptError),
    /// The running node came to no end.
    #[error("the node ended it early: {0}")]
    Ended(String),
}

/// Verifies the cache of a node. Must be called inside a tokio runtime.
///
/// # Errors
/// [`UpkeepError`].
pub async fn verify(config: NodeConfig, request: VerifyRequest) -> Result<VerifyStatus, UpkeepError> {
    let socket = config.control_socket();
    let bar = Bar::new("verify", Unit::Bytes);
    let status = match control::verify(&socket, &request).await {
        Err(ControlError::NotRunning { .. }) => {
            let node = Node::open(config).await?;
            let show = every(|| show_verify(&bar, &node.verify_status()));
            let done = tokio::select! {
                done = node.verify(request) => done?,
                never = show => never,
            };
            node.checkpoint()
                .await
                .unwrap_or_else(|error| tracing::warn!("{error}"));
            done
        }
        begun => {
            begun?;
            loop {
                let status = control::status::<NodeStatus>(&socket).await?.verify;
                show_verify(&bar, &status);
                if !status.running {
                    break status;
                }
                tokio::time::sleep(ASK).await;
            }
        }
    };
    bar.finish();
    match status.error {
        Some(error) => Err(UpkeepError::Ended(error)),
        None => Ok(status),
    }
}

/// Adopts a directory into the cache of a node. Must be called inside a tokio runtime.
///
/// # Errors
/// [`UpkeepError`].
pub async fn adopt(config: NodeConfig, request: AdoptRequest) -> Result<AdoptStatus, UpkeepError> {
    let socket = config.control_socket();
    let bar = Bar::new("adopt", Unit::Files);
    let status = match control::adopt(&socket, &request).await {
        Err(ControlError::NotRunning { .. }) => {
            let node = Node::open(config).await?;
            let show = every(|| show_adopt(&bar, &node.adopt_status()));
            tokio::select! {
                done = node.adopt(&request) => done?,
                never = show => never,
            }
        }
        begun => {
            begun?;
            loop {
                let status = control::status::<NodeStatus>(&socket).await?.adopt;
                show_adopt(&bar, &status);
                if !status.running {
                    break status;
                }
                tokio::time::sleep(ASK).await;
            }
        }
    };
    bar.finish();
    match status.error {
        Some(error) => Err(UpkeepError::Ended(error)),
        None => Ok(status),
    }
}

async fn every<T>(show: impl Fn()) -> T {
    loop {
        show();
        tokio::time::sleep(ASK).await;
    }
}

fn show_verify(bar: &Bar, status: &VerifyStatus) {
    let wrong = status.damaged + status.missing + status.foreign;
    let note = match wrong {
        0 => String::new(),
        wrong => format!("; {wrong} wrong"),
    };
    bar.set(status.bytes_done, Some(status.bytes), &note);
}

fn show_adopt(bar: &Bar, status: &AdoptStatus) {
    let note = format!("; {} adopted, {} missing", status.adopted, status.missing);
    bar.set(status.files_done, Some(status.files), &note);
}
