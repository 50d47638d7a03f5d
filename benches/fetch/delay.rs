//! A TCP proxy that delays bytes by a fixed time.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// Bytes read at a time.
const CHUNK_BYTES: usize = 64 * 1024;
/// Chunks on their way, of one connection and direction: with full ones 8 MiB, more than a window of TCP usually is.
const CHUNKS_ON_THE_WAY: usize = 128;

/// Bytes and when they arrive; none: that was the last.
type Parcel = (Instant, Vec<u8>);

pub(crate) fn run(listen: SocketAddr, to: SocketAddr, round_trip: Duration) -> Result<()> {
    let listener = TcpListener::bind(listen).with_context(|| format!("cannot listen on {listen}"))?;
    println!("http://{}", listener.local_addr()?);
    for client in listener.incoming() {
        let client = client?;
        // Connecting takes a round trip, before which nothing can be sent.
        let open_at = Instant::now() + round_trip;
        thread::spawn(move || {
            // A connection that cannot be made ends as one that was reset does.
            let _ = pass(client, to, open_at, round_trip / 2);
        });
    }
    Ok(())
}

fn pass(client: TcpStream, to: SocketAddr, open_at: Instant, one_way: Duration) -> io::Result<()> {
    let server = TcpStream::connect(to)?;
    for socket in [&client, &server] {
        socket.set_nodelay(true)?;
    }
    for (from, to) in [(client.try_clone()?, server.try_clone()?), (server, client)] {
        let (sender, parcels) = sync_channel(CHUNKS_ON_THE_WAY);
        thread::spawn(move || take(from, &sender, open_at, one_way));
        thread::spawn(move || deliver(to, &parcels));
    }
    Ok(())
}

fn take(mut from: TcpStream, parcels: &SyncSender<Parcel>, open_at: Instant, one_way: Duration) {
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        // An error ends it as the end does: whoever counts bytes notices.
        let read = from.read(&mut buffer).unwrap_or(0);
        let due = Instant::now().max(open_at) + one_way;
        let bytes = buffer.get(..read).unwrap_or_default().to_vec();
        if parcels.send((due, bytes)).is_err() || read == 0 {
            return;
        }
    }
}

fn deliver(mut to: TcpStream, parcels: &Receiver<Parcel>) {
    while let Ok((due, bytes)) = parcels.recv() {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if bytes.is_empty() || to.write_all(&bytes).is_err() {
            break;
        }
    }
    // It may be closed already.
    let _ = to.shutdown(Shutdown::Write);
}
