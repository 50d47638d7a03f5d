//! A client that notes when the first byte of each body came.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

/// How long the first file is asked for, while the node has no snapshot yet.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// Asks for file after file; returns milliseconds, of which those to connect are no part.
pub(crate) fn run(
    address: SocketAddr,
    prefix: &str,
    numbers: Range<usize>,
    size: usize,
    pause_ms: u64,
) -> Result<Vec<f64>> {
    let (mut times, begun, mut seed) = (Vec::new(), Instant::now(), 13_u64);
    for number in numbers {
        let path = format!("{prefix}{number}");
        let time = loop {
            match ask(address, &path, size) {
                Ok(time) => break time,
                Err(error) if !times.is_empty() || begun.elapsed() > READY_TIMEOUT => return Err(error.context(path)),
                Err(_) => thread::sleep(Duration::from_millis(50)),
            }
        };
        times.push(time.as_secs_f64() * 1000.0);
        // Knuth's constants for a generator of 64 bits; the upper ones are drawn from.
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        thread::sleep(Duration::from_millis((seed >> 33) % (pause_ms + 1)));
    }
    Ok(times)
}

fn ask(address: SocketAddr, path: &str, size: usize) -> Result<Duration> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(Duration::from_secs(60)))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n");
    let begun = Instant::now();
    socket.write_all(request.as_bytes())?;
    let (mut answer, mut buffer, mut first) = (Vec::new(), vec![0; 256 * 1024], None);
    loop {
        let read = socket.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        answer.extend_from_slice(buffer.get(..read).unwrap_or_default());
        if first.is_none() && body_of(&answer).is_some_and(|body| !body.is_empty()) {
            first = Some(begun.elapsed());
        }
    }
    let status = String::from_utf8_lossy(answer.get(..15).unwrap_or_default()).into_owned();
    ensure!(status.starts_with("HTTP/1.1 200"), "it answers {status}");
    let len = body_of(&answer).map_or(0, <[u8]>::len);
    ensure!(len == size, "a body of {len} bytes instead of {size}");
    first.ok_or_else(|| anyhow::anyhow!("a body without a byte"))
}

fn body_of(answer: &[u8]) -> Option<&[u8]> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    answer.get(end + 4..)
}
