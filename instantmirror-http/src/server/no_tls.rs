//! What stands in for [`Tls`] where the feature `tls` is missing: a type without values, so that no other module has to know.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::net::TcpStream;

use crate::admission::Place;
use crate::connection::Shared;

/// A certificate with its key. There is none without the feature `tls`, and nothing that makes one.
///
/// Not to be matched on outside of this crate: another crate of the same build may ask for the feature, and then it has values.
#[derive(Debug)]
#[non_exhaustive]
pub enum Tls {}

pub(crate) async fn carry(_: TcpStream, tls: &Tls, _: IpAddr, _: Arc<Shared>, _: Arc<Place>) {
    match *tls {}
}
