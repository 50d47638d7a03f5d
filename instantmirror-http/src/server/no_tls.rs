//! What stands in for [`Tls`] where the feature `tls` is missing: a type without values, so that no other module has to know.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::net::TcpStream;

use crate::admission::Place;
use crate::connection::Shared;

/// A certificate with its key. There is none without the feature `tls`, and nothing that makes one.
#[derive(Debug)]
pub enum Tls {}

pub(crate) async fn carry(_: TcpStream, tls: &Tls, _: IpAddr, _: Arc<Shared>, _: Arc<Place>) {
    match *tls {}
}
