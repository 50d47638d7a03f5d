//! Requests that are one too many.

use http::request::Parts;

use crate::admission::Place;
use crate::body::Answer;
use crate::connection::{Shared, is_for_nodes};
use crate::message::request::{Client, Request};
use crate::service::Service;

/// The answer to a request that is one too many; `None` if it is not. A reader may have to wait for its place before.
pub(super) async fn refusal(
    head: &Parts,
    client: &Client,
    service: &Service,
    shared: &Shared,
    place: &Place,
) -> Option<Answer> {
    let admission = &shared.admission;
    if admission.claims_place() {
        place.leaves();
    }
    if place.is_reserved() && !is_for_nodes(head.uri.path()) && !place.settle().await {
        // As over HTTP/1.1, the connection ends behind this answer: its place is for nodes.
        place.leaves();
        return Some(service.private_for(client, service.turn_away()));
    }
    let is_of_node = || service.is_of_node(&Request::new(&head.method, &head.uri, &head.headers), client);
    let wait = shared.over_rate(service, || client.address, is_of_node)?;
    Some(service.private_for(client, service.too_many(wait)))
}
