//! Connections and requests that are one too many: they are told so, or wait for their turn.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use super::connection::{Connection, LINGER_TIME, client_address};
use super::head::Head;
use crate::body::Answer;
use crate::connection::is_for_nodes;

/// Why a request is not answered now.
pub(super) enum Excess {
    /// The connection has a place that is reserved for nodes, and this is no request of theirs.
    Reader,
    /// Its client asks too often, and may ask again after this time.
    Request(Duration),
}

impl Connection {
    /// Tells a client that it must encrypt what it says here, and ends.
    pub(crate) async fn refuse_plain(self) {
        let text = "this port speaks HTTPS, and the request came unencrypted; ask https://";
        let answer = self.service.refuse(StatusCode::BAD_REQUEST, text);
        self.refuse_all(answer).await;
    }

    /// Tells a client that its address has too many connections, and ends.
    pub(crate) async fn refuse_address(self) {
        let answer = self.service.too_many_connections();
        self.refuse_all(answer).await;
    }

    /// Gives this answer to whatever is asked, and ends.
    async fn refuse_all(mut self, answer: Answer) {
        let service = Arc::clone(&self.service);
        let open = service.counters().count_connection();
        self.deadline.lasts(self.shared.limits.header_timeout.min(LINGER_TIME));
        let refused = async {
            self.fill().await?;
            self.send_refusal(answer).await?;
            self.linger().await
        };
        if let Err(error) = Box::pin(refused).await {
            open.fails(&error);
        }
    }

    /// Whether a request is one too many.
    pub(super) fn excess(&self, head: &Head<'_>) -> Option<Excess> {
        if self.place.is_reserved() && !is_for_nodes(head.request.path) {
            return Some(Excess::Reader);
        }
        let client = || client_address(&self.service, self.address, head);
        let is_of_node = || self.service.is_of_node(&head.request, &self.client(head));
        let wait = self.shared.over_rate(&self.service, client, is_of_node)?;
        Some(Excess::Request(wait))
    }

    /// Waits for a place that readers may have, and turns the client away if there is none. Returns whether there is one.
    pub(super) async fn settle(&mut self) -> io::Result<bool> {
        self.flush(false).await?;
        let place = Arc::clone(&self.place);
        let is_settled = self.unless_gone(async move { place.settle().await }).await?;
        if !is_settled {
            let answer = self.service.turn_away();
            self.send_refusal(answer).await?;
        }
        Ok(is_settled)
    }
}
