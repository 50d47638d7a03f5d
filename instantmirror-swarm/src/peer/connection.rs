//! One connection, from handshake to end.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use instantmirror_core::log_limited;
use instantmirror_core::swarm::{Offence, PeerKey};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};

use super::book::Origin;
use super::swarm::{Buffers, Swarm, Waiting};
use super::{Shared, lock, write};
use crate::session::{CloseReason, Hello};
use crate::wire::{Decoder, HANDSHAKE_BYTES, HANDSHAKE_PREFIX_BYTES, Handshake, Limits, PeerId, Reserved};

/// Handshakes are over within this, or the connection is.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Incoming connections whose handshake is not over; for one more the one that waits longest has to go.
const GREETING_MAX: usize = 64;
/// Where there is no room, no host has more than one of so many parts of all connections.
const HOSTS_MIN: usize = 4;
/// A connection for which another one was closed waits so long for that to end.
const ROOM_WAIT: Duration = Duration::from_millis(500);
/// What is read at once.
const READ_BYTES: usize = 256 * 1024;
/// Units of a connection that may be begun before we look which of them are still asked for.
const BUFFERS_MAX: usize = 160;
/// After the listener failed (no descriptors left) it rests for so long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// How a connection ended, for whoever made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// It got as far as messages.
    Good,
    /// It did not, or it went wrong.
    Failed,
    /// It led to ourselves, to somebody we are connected to, or to somebody with whom there is nothing to exchange.
    Double,
}

/// A connection after the handshakes.
#[derive(Debug)]
pub(super) struct Greeted {
    stream: TcpStream,
    address: SocketAddr,
    handshake: Handshake,
    is_outgoing: bool,
}

fn refused(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
}

/// Accepts connections for ever.
pub(super) async fn accept(shared: &Arc<Shared>, listener: TcpListener) -> io::Result<()> {
    let mut greetings: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                log_limited!(std::time::Instant::now(), warn, "a peer cannot be accepted: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        if !shared.admits(address.ip()) || !shared.has_room(address.ip()) {
            continue;
        }
        greetings.retain(|greeting| !greeting.is_finished());
        if greetings.len() >= GREETING_MAX
            && let Some(oldest) = greetings.pop_front()
        {
            oldest.abort();
        }
        let greeting = tokio::spawn(welcome(Arc::clone(shared), stream, address));
        greetings.push_back(greeting.abort_handle());
    }
}

/// Handshakes, and then runs the connection in a task of its own.
async fn welcome(shared: Arc<Shared>, stream: TcpStream, address: SocketAddr) {
    match timeout(HANDSHAKE_TIMEOUT, answer(&shared, stream, address)).await {
        Ok(Ok((swarm, greeted))) => _ = tokio::spawn(async move { run(&shared, &swarm, greeted).await }),
        Ok(Err(error)) => tracing::debug!(peer = %address, "no handshake: {error}"),
        Err(_) => tracing::debug!(peer = %address, "no handshake in time"),
    }
}

impl Shared {
    /// Whether there is room for one more connection from an address; makes some by closing one that is of no use, or the
    /// newest one from a host that has more than its share.
    fn has_room(&self, address: IpAddr) -> bool {
        let most = self.limits().connections_max;
        if self.connections.load(Ordering::Relaxed) < most {
            return true;
        }
        let (now, swarms) = (self.now(), self.all());
        let close_useless = |swarm: &Arc<Swarm>| swarm.with(|session| session.close_useless(now));
        swarms.iter().any(close_useless) || close_newest_of_many(&swarms, most / HOSTS_MIN, address)
    }

    fn handshake(&self, swarm: &Swarm) -> Handshake {
        Handshake {
            info_hash: swarm.info_hash(),
            peer_id: self.peer_id,
            reserved: Reserved::OURS,
        }
    }
}

/// Closes the newest connection from the host that has most, if those are more than `share` and it is not the one that comes.
fn close_newest_of_many(swarms: &[Arc<Swarm>], share: usize, comes: IpAddr) -> bool {
    let mut hosts: HashMap<IpAddr, Vec<(PeerKey, &Arc<Swarm>)>> = HashMap::new();
    for swarm in swarms {
        for (key, address) in swarm.peers() {
            hosts.entry(host(address.ip())).or_default().push((key, swarm));
        }
    }
    let many = hosts.into_iter().max_by_key(|(_, peers)| peers.len());
    let many = many.filter(|(most, peers)| peers.len() > share && *most != host(comes));
    let Some((key, swarm)) = many.and_then(|(_, peers)| peers.into_iter().max_by_key(|(key, _)| *key)) else {
        return false;
    };
    swarm.with(|session| session.expel(key, CloseReason::Crowded));
    true
}

/// What one host can have many of, by IPv6 its network of 64 bits, counts as one address.
fn host(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) >> 64 << 64).into()),
    }
}

/// Handshakes as the side that connected.
pub(super) async fn greet(
    shared: &Shared,
    swarm: &Swarm,
    mut stream: TcpStream,
    address: SocketAddr,
) -> io::Result<Greeted> {
    stream.set_nodelay(true)?;
    stream.write_all(&shared.handshake(swarm).encode()).await?;
    let mut bytes = [0; HANDSHAKE_BYTES];
    stream.read_exact(&mut bytes).await?;
    let handshake = Handshake::decode(&bytes).map_err(|error| refused(&error.to_string()))?;
    if handshake.info_hash != swarm.info_hash() {
        return Err(refused("it is in another swarm"));
    }
    Ok(Greeted {
        stream,
        address,
        handshake,
        is_outgoing: true,
    })
}

/// Handshakes as the side that was connected to.
async fn answer(shared: &Shared, mut stream: TcpStream, address: SocketAddr) -> io::Result<(Arc<Swarm>, Greeted)> {
    stream.set_nodelay(true)?;
    let mut bytes = [0; HANDSHAKE_BYTES];
    let (prefix, rest) = bytes.split_at_mut(HANDSHAKE_PREFIX_BYTES);
    // The first byte tells another protocol; whoever speaks it may never send more.
    let (first, others) = prefix.split_at_mut(1);
    stream.read_exact(first).await?;
    Handshake::decode_prefix(first).map_err(|error| refused(&error.to_string()))?;
    stream.read_exact(others).await?;
    let known = Handshake::decode_prefix(prefix).map_err(|error| refused(&error.to_string()))?;
    let (reserved, info_hash) = known.ok_or_else(|| refused("the handshake is too short"))?;
    let swarm = shared
        .get(&info_hash)
        .ok_or_else(|| refused("we are not in that swarm"))?;
    stream.write_all(&shared.handshake(&swarm).encode()).await?;
    stream.read_exact(rest).await?;
    let mut peer_id = [0; 20];
    peer_id.copy_from_slice(rest);
    let handshake = Handshake {
        info_hash,
        peer_id: PeerId(peer_id),
        reserved,
    };
    let greeted = Greeted {
        stream,
        address,
        handshake,
        is_outgoing: false,
    };
    Ok((swarm, greeted))
}

/// Counts a connection for as long as it lives.
struct Counted<'a>(&'a Shared);

impl<'a> Counted<'a> {
    /// `None` if there are as many as there may be, and none of them ends soon.
    async fn new(shared: &'a Shared) -> Option<Self> {
        let most = shared.limits().connections_max;
        let one_more = |count: usize| (count < most).then_some(count + 1);
        let count = || {
            let counted = shared
                .connections
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
            counted.is_ok()
        };
        let end = Instant::now() + ROOM_WAIT;
        while !count() {
            if Instant::now() >= end {
                return None;
            }
            sleep(Duration::from_millis(10)).await;
        }
        Some(Self(shared))
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Runs a connection to its end.
pub(super) async fn run(shared: &Arc<Shared>, swarm: &Arc<Swarm>, greeted: Greeted) -> Ending {
    let Some(_counted) = Counted::new(shared).await else {
        return Ending::Failed;
    };
    let key = shared.next_key();
    let (address, is_outgoing) = (greeted.address, greeted.is_outgoing);
    let (orders, waiting) = swarm.open_line(key);
    let unread = Arc::clone(&waiting);
    let hello = Hello {
        address,
        peer_id: greeted.handshake.peer_id,
        reserved: greeted.handshake.reserved,
        is_outgoing,
        preference: u32::try_from(shared.limits().policy.rank(address.ip())).unwrap_or(u32::MAX),
        nonce: shared.nonce(key),
    };
    let now = shared.now();
    swarm.with(|session| session.connected(key, hello, now));
    let (reading, writing) = greeted.stream.into_split();
    let writer = write::Writer::new(Arc::clone(shared), Arc::clone(swarm), key, writing, orders, waiting);
    let reason = tokio::select! {
        reason = writer.run() => reason,
        ended = read(shared, swarm, key, reading, address, &unread) => ended,
    };
    swarm.close_line(key);
    shared.takers_changed.notify_one();
    shared.judge(address, reason.as_ref());
    match reason {
        Some(CloseReason::Duplicate | CloseReason::Useless) => Ending::Double,
        Some(CloseReason::Breach(_) | CloseReason::Lie) => Ending::Failed,
        _ => Ending::Good,
    }
}

impl Shared {
    /// 32 bytes that nobody can guess or see twice.
    fn nonce(&self, key: PeerKey) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("instantmirror 2026 peer wire: nonces");
        hasher.update(&self.secret);
        hasher.update(&key.0.to_le_bytes());
        *hasher.finalize().as_bytes()
    }

    /// Remembers what a peer did wrong.
    fn judge(&self, address: SocketAddr, reason: Option<&CloseReason>) {
        let offence = match reason {
            Some(CloseReason::Lie) => Offence::Lie,
            Some(CloseReason::Breach(_)) => Offence::Breach,
            _ => {
                if let Some(reason) = reason {
                    tracing::debug!(peer = %address, "connection closed: {reason}");
                }
                return;
            }
        };
        let is_banned = lock(&self.blame).note(address.ip(), offence, self.now());
        let why = reason.map_or_else(String::new, ToString::to_string);
        // Whoever finds us can offend as often as there are addresses: `status` counts and names them all.
        let now = std::time::Instant::now();
        if !is_banned {
            log_limited!(now, info, peer = %address, "connection closed: {why}");
            return;
        }
        log_limited!(now, info, peer = %address, "connection closed, and none is taken from there for a while: {why}");
        for swarm in self.all() {
            swarm.with(|session| {
                let same = session.peers().filter(|(_, other)| other.ip() == address.ip());
                let keys: Vec<PeerKey> = same.map(|(key, _)| key).collect();
                keys.into_iter().for_each(|key| session.expel(key, CloseReason::Lie));
            });
        }
    }
}

/// Reads to the end. Returns why the connection is to be closed, if it is the other side's fault.
async fn read(
    shared: &Arc<Shared>,
    swarm: &Arc<Swarm>,
    key: PeerKey,
    mut reading: OwnedReadHalf,
    address: SocketAddr,
    unread: &Waiting,
) -> Option<CloseReason> {
    let mut decoder = Decoder::new(Limits {
        bitfield_bytes: swarm.piece_end().div_ceil(8),
        ..Limits::default()
    });
    let (mut buffer, mut buffers) = (BytesMut::with_capacity(READ_BYTES), Buffers::new());
    loop {
        if buffer.capacity() - buffer.len() < READ_BYTES / 4 {
            buffer.reserve(READ_BYTES);
        }
        match reading.read_buf(&mut buffer).await {
            Ok(0) => return None,
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(peer = %address, "connection lost: {error}");
                return None;
            }
        }
        let received = match swarm.receive(key, &mut decoder, &mut buffer, &mut buffers, address) {
            Ok(received) => received,
            Err(error) => return Some(CloseReason::Breach(error.to_string())),
        };
        if received.takers_changed {
            shared.takers_changed.notify_one();
        }
        if !received.peers.is_empty() {
            for peer in received.peers {
                swarm.learn(peer.address, Origin::Peer);
            }
            shared.known_changed.notify_one();
        }
        if buffers.len() > BUFFERS_MAX {
            swarm.trim(key, &mut buffers);
        }
        if received.is_answered {
            unread.few().await;
        }
        if received.block_bytes > 0 {
            shared.pace(&shared.download, received.block_bytes).await;
        }
    }
}
