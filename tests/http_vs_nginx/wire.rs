//! What came back on a connection: how many answers, which, and what became of the connection.
//!
//! Behind every case goes one more request, the canary, which asks the server to close. So a connection that the
//! server kept shows the canary's answer, one that it closed does not, and one on which it waits for more (because it
//! takes the canary for the rest of something) stays silent.

use std::fmt;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::world::{CANARY, CANARY_CONTENT};

/// How long a connection may take from its first byte to its last.
const EXCHANGE_LIMIT: Duration = Duration::from_secs(20);

/// Between two segments, so that they arrive as two.
const SEGMENT_PAUSE: Duration = Duration::from_millis(1);

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// 0 for bytes without any head, as HTTP/0.9 has it.
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    fn is_canary(&self) -> bool {
        self.status == 200 && self.body == CANARY_CONTENT.as_bytes()
    }

    fn is_interim(&self) -> bool {
        (100..200).contains(&self.status)
    }
}

/// What became of the connection behind the case's own answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The canary was answered.
    Kept,
    /// The server closed before it.
    Closed,
    /// The server said nothing more, and did not close.
    Waiting,
}

/// Everything a server did with a case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Without the canary's.
    pub(crate) answers: Vec<Answer>,
    pub(crate) end: End,
}

impl Outcome {
    /// The answers that are no interim ones.
    pub(crate) fn finals(&self) -> Vec<&Answer> {
        self.answers.iter().filter(|answer| !answer.is_interim()).collect()
    }
}

/// A status as it is compared: refusals that mean the same to a client are one.
pub(crate) fn status_text(status: u16) -> String {
    match status {
        0 => "bare".to_owned(),
        404 | 405 | 412 | 416 => status.to_string(),
        400..=499 => "4xx".to_owned(),
        500.. => "5xx".to_owned(),
        _ => status.to_string(),
    }
}

/// For example `200 4xx closed`.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for answer in &self.answers {
            write!(f, "{} ", status_text(answer.status))?;
        }
        f.write_str(match self.end {
            End::Kept => "kept",
            End::Closed => "closed",
            End::Waiting => "waiting",
        })
    }
}

/// Sends a case and its canary on a new connection. Silence for `quiet` counts as waiting.
pub(crate) fn exchange(
    address: SocketAddr,
    bytes: &[u8],
    segment: Option<usize>,
    heads: &[usize],
    quiet: Duration,
) -> Outcome {
    let mut stream = TcpStream::connect_timeout(&address, EXCHANGE_LIMIT).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_write_timeout(Some(EXCHANGE_LIMIT)).unwrap();
    stream.set_read_timeout(Some(quiet)).unwrap();
    send(&mut stream, bytes, segment);
    let (received, closed) = receive(&mut stream);
    let mut answers = parse(&received, heads);
    let end = match answers.last() {
        Some(last) if last.is_canary() => End::Kept,
        _ if closed => End::Closed,
        _ => End::Waiting,
    };
    if end == End::Kept {
        answers.pop();
    }
    Outcome { answers, end }
}

fn send(stream: &mut TcpStream, bytes: &[u8], segment: Option<usize>) {
    let canary = format!("GET {CANARY} HTTP/1.1\r\nHost: canary\r\nConnection: close\r\n\r\n");
    // A server may refuse and close before it has read everything: what it said counts, not that it would not listen.
    match segment {
        None => {
            let _ = stream.write_all(&[bytes, canary.as_bytes()].concat());
        }
        Some(size) => {
            for piece in bytes.chunks(size).chain([canary.as_bytes()]) {
                let _ = stream.write_all(piece);
                std::thread::sleep(SEGMENT_PAUSE);
            }
        }
    }
}

/// Everything until the server closes or falls silent, and whether it closed.
fn receive(stream: &mut TcpStream) -> (Vec<u8>, bool) {
    let deadline = Instant::now() + EXCHANGE_LIMIT;
    let mut received = Vec::new();
    let mut buffer = [0; 64 * 1024];
    while Instant::now() < deadline {
        match stream.read(&mut buffer) {
            Ok(0) => return (received, true),
            Ok(count) => received.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => {
                let is_silent = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
                return (received, !is_silent);
            }
        }
    }
    (received, false)
}

/// Takes answers apart. Whatever does not begin like an answer is one bare answer to the end.
pub(crate) fn parse(mut rest: &[u8], heads: &[usize]) -> Vec<Answer> {
    let mut answers: Vec<Answer> = Vec::new();
    while !rest.is_empty() {
        let finals = answers.iter().filter(|answer| !answer.is_interim()).count();
        let Some((mut answer, behind)) = parse_head(rest) else {
            let bare = Answer {
                status: 0,
                headers: Vec::new(),
                body: rest.to_vec(),
            };
            answers.push(bare);
            break;
        };
        let has_no_body = answer.is_interim() || matches!(answer.status, 204 | 304) || heads.contains(&finals);
        rest = if has_no_body {
            behind
        } else {
            take_body(&mut answer, behind)
        };
        answers.push(answer);
    }
    answers
}

fn parse_head(bytes: &[u8]) -> Option<(Answer, &[u8])> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    let pair = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_ascii_lowercase(), value.trim().to_owned()))
    };
    let headers = lines.map(pair).collect::<Option<Vec<_>>>()?;
    let answer = Answer {
        status,
        headers,
        body: Vec::new(),
    };
    Some((answer, &bytes[end + 4..]))
}

/// Moves the body into the answer and returns what lies behind it.
fn take_body<'a>(answer: &mut Answer, bytes: &'a [u8]) -> &'a [u8] {
    if answer.header("transfer-encoding") == Some("chunked") {
        return take_chunks(&mut answer.body, bytes);
    }
    let announced = answer.header("content-length").and_then(|length| length.parse().ok());
    let length = announced.unwrap_or(bytes.len()).min(bytes.len());
    let (body, behind) = bytes.split_at(length);
    answer.body = body.to_vec();
    behind
}

fn take_chunks<'a>(body: &mut Vec<u8>, mut bytes: &'a [u8]) -> &'a [u8] {
    loop {
        let Some(end) = bytes.windows(2).position(|window| window == b"\r\n") else {
            return &[];
        };
        let size = std::str::from_utf8(&bytes[..end]).ok();
        let Some(size) = size.and_then(|size| usize::from_str_radix(size, 16).ok()) else {
            return &[];
        };
        let (from, to) = (end + 2, end + 2 + size);
        if bytes.len() < to + 2 {
            return &[];
        }
        body.extend_from_slice(&bytes[from..to]);
        bytes = &bytes[to + 2..];
        if size == 0 {
            return bytes;
        }
    }
}

#[test]
fn answers_in_a_row_come_apart() {
    let bytes = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n\
        HTTP/1.1 206 Partial\r\ncontent-length: 2\r\n\r\nab\
        HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\ncd\r\n0\r\n\r\nnonsense";
    let answers = parse(bytes, &[0]);
    let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses, [100, 200, 206, 200, 0]);
    assert_eq!(
        (answers[2].body.as_slice(), answers[3].body.as_slice()),
        (&b"ab"[..], &b"cd"[..])
    );
    assert_eq!(answers[4].body, b"nonsense");
}
