//! Connections that we make.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::book::Origin;
use super::connection::{self, Ending, HANDSHAKE_TIMEOUT};
use super::swarm::Swarm;
use super::{Shared, lock};

/// Connections that are being made at a time.
const HALF_OPEN_MAX: usize = 16;
/// A connection that ends sooner counts as a failure.
const SHORT: Duration = Duration::from_secs(20);
/// Peers of one export torrent that a node which has something of it and wants nothing looks for: those who cannot connect to it.
const SEEDED_SOUGHT: usize = 10;
/// It does so as long as no more than one of so many parts of all connections is there.
const SEEDING_SHARE: usize = 2;
/// Looks for somebody to connect to this often at least.
const INTERVAL: Duration = Duration::from_secs(1);

/// Connects to whom the address books offer, for ever.
pub(super) async fn run(shared: &Arc<Shared>) {
    let half_open = Arc::new(Semaphore::new(HALF_OPEN_MAX));
    loop {
        for swarm in shared.all() {
            dial_some(shared, &swarm, &half_open);
        }
        let _ = timeout(INTERVAL, shared.known_changed.notified()).await;
    }
}

fn dial_some(shared: &Arc<Shared>, swarm: &Arc<Swarm>, half_open: &Arc<Semaphore>) {
    let limits = shared.limits();
    // Trackers name to a seed those who lack something; of others nobody knows that they do.
    let (sought, told_by, share) = if swarm.looks_for_peers(shared.now()) {
        (limits.connections_sought, None, 1)
    } else if swarm.standing().has_some {
        let sought = limits.connections_sought.min(SEEDED_SOUGHT);
        (sought, Some(Origin::Tracker), SEEDING_SHARE)
    } else {
        return;
    };
    let free = (limits.connections_max / share)
        .saturating_sub(shared.connections.load(Ordering::Relaxed))
        .saturating_sub(HALF_OPEN_MAX - half_open.available_permits());
    let sought = sought.saturating_sub(swarm.peer_count());
    let most = free.min(sought).min(half_open.available_permits());
    if most == 0 || *shared.leaving.borrow() {
        return;
    }
    let rank = |address: &SocketAddr| shared.admits(address.ip()).then(|| limits.policy.rank(address.ip()));
    let due = lock(&swarm.book).take(most, told_by, shared.now(), rank);
    for address in due {
        let Ok(permit) = Arc::clone(half_open).try_acquire_owned() else {
            lock(&swarm.book).ended(address, true, shared.now());
            continue;
        };
        let (shared, swarm) = (Arc::clone(shared), Arc::clone(swarm));
        tokio::spawn(async move {
            let ending = dial(&shared, &swarm, address, permit).await;
            let now = shared.now();
            let mut book = lock(&swarm.book);
            match ending {
                Ending::Double => book.is_double(address, now),
                Ending::Good => book.ended(address, true, now),
                Ending::Failed => book.ended(address, false, now),
            }
        });
    }
}

/// Connects from the address that we listen on, if it is one in particular: then others see where we can be reached.
async fn connect(shared: &Shared, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    let own = shared
        .limits()
        .listen
        .into_iter()
        .find(|own| own.is_ipv4() == address.is_ipv4());
    if let Some(own) = own.filter(|own| !own.is_unspecified()) {
        socket.bind(SocketAddr::new(own, 0))?;
    }
    socket.connect(address).await
}

async fn dial(
    shared: &Arc<Shared>,
    swarm: &Arc<Swarm>,
    address: SocketAddr,
    permit: tokio::sync::OwnedSemaphorePermit,
) -> Ending {
    let stream = match timeout(HANDSHAKE_TIMEOUT, connect(shared, address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(peer = %address, "cannot be reached: {error}");
            return Ending::Failed;
        }
        Err(_) => return Ending::Failed,
    };
    let greeted = timeout(HANDSHAKE_TIMEOUT, connection::greet(shared, swarm, stream, address)).await;
    drop(permit);
    match greeted {
        Ok(Ok(greeted)) => {
            let begun = shared.now();
            let ending = connection::run(shared, swarm, greeted).await;
            let is_short = shared.now().since(begun) < SHORT;
            // Whoever lets go of us at once is not to be bothered again and again.
            if ending == Ending::Good && is_short {
                Ending::Failed
            } else {
                ending
            }
        }
        Ok(Err(error)) => {
            tracing::debug!(peer = %address, "no handshake: {error}");
            Ending::Failed
        }
        Err(_) => Ending::Failed,
    }
}
