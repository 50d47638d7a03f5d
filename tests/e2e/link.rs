//! A link between node and master that breaks when so many bytes have crossed it, and stays broken until it is mended.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Forwards connections on a port of its own to a master.
pub(crate) struct Link {
    pub(crate) url: String,
    left: Arc<AtomicU64>,
}

impl Link {
    /// A link to `master` (`http://host:port`) that breaks after `bytes` bytes of answers.
    pub(crate) fn breaking_after(master: &str, bytes: u64) -> Self {
        let master = master.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let left = Arc::new(AtomicU64::new(bytes));
        let budget = Arc::clone(&left);
        // Ends with the test's process; every connection ends with its two sides.
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if let Ok(server) = TcpStream::connect(&master) {
                    let budget = Arc::clone(&budget);
                    std::thread::spawn(move || forward(&client, &server, &budget));
                }
            }
        });
        Self { url, left }
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.left.load(Ordering::SeqCst) == 0
    }

    pub(crate) fn mend(&self) {
        self.left.store(u64::MAX, Ordering::SeqCst);
    }
}

fn forward(client: &TcpStream, server: &TcpStream, left: &AtomicU64) {
    let (mut requests, mut up) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut requests, &mut up);
        let _ = up.shutdown(Shutdown::Both);
    });
    let (mut answers, mut down) = (server, client);
    let mut buffer = [0; 16 * 1024];
    while let Ok(read) = answers.read(&mut buffer) {
        let before = left.load(Ordering::SeqCst);
        left.store(before.saturating_sub(read as u64), Ordering::SeqCst);
        if read == 0 || before <= read as u64 || down.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = client.shutdown(Shutdown::Both);
    let _ = server.shutdown(Shutdown::Both);
}
