//! A client that sends exactly the bytes it is told to, and takes answers apart strictly.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream};

/// An answer as it came.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Whether the body came to the end that its framing announced.
    pub(crate) whole: bool,
}

impl Reply {
    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> &str {
        self.find(name).unwrap_or_else(|| panic!("no {name} in {self:?}"))
    }

    pub(crate) fn find(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// Sends raw bytes on a new connection and reads until the server closes it.
pub(crate) async fn raw(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The server may refuse and close before it has read everything.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    answer
}

/// One request with these header lines (each ending in CRLF) and this body, on a connection of its own.
pub(crate) async fn send(address: SocketAddr, method: &str, target: &str, lines: &str, body: &[u8]) -> Reply {
    let mut request = format!("{method} {target} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n{lines}");
    if !body.is_empty() {
        request.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    request.push_str("\r\n");
    let mut bytes = request.into_bytes();
    bytes.extend_from_slice(body);
    parse(&raw(address, &bytes).await, method == "HEAD")
}

pub(crate) async fn get(address: SocketAddr, target: &str) -> Reply {
    send(address, "GET", target, "", b"").await
}

/// The same for another host.
pub(crate) async fn on_host(address: SocketAddr, host: &str, target: &str) -> Reply {
    let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    parse(&raw(address, request.as_bytes()).await, false)
}

#[track_caller]
pub(crate) fn parse(answer: &[u8], head_only: bool) -> Reply {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n");
    let end = end.unwrap_or_else(|| panic!("no header in {:?}", String::from_utf8_lossy(answer)));
    let head = std::str::from_utf8(&answer[..end]).unwrap();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let pair = |line: &str| {
        let (name, value) = line.split_once(": ").unwrap();
        (name.to_lowercase(), value.to_owned())
    };
    let mut reply = Reply {
        status,
        headers: lines.map(pair).collect(),
        body: answer[end + 4..].to_vec(),
        whole: true,
    };
    if head_only || status == 204 || status == 304 {
        assert!(reply.body.is_empty(), "a body behind {head}");
    } else if reply.find("transfer-encoding").is_some() {
        (reply.body, reply.whole) = dechunk(&reply.body);
    } else {
        reply.whole = reply.header("content-length") == reply.body.len().to_string();
    }
    reply
}

/// Where a relative reference leads from a path, as RFC 3986 has it.
pub(crate) fn resolve(from: &str, reference: &str) -> String {
    if reference.starts_with('/') {
        return reference.to_owned();
    }
    let path = from.split('?').next().unwrap();
    let mut names: Vec<&str> = path.split('/').collect();
    names.pop();
    let (reference, query) = reference
        .split_once('?')
        .map_or((reference, None), |(a, b)| (a, Some(b)));
    for name in reference.split('/') {
        match name {
            "." => {}
            ".." if names.len() > 1 => _ = names.pop(),
            ".." => panic!("{reference} leads out of {from}"),
            name => names.push(name),
        }
    }
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    names.join("/") + &query
}

fn dechunk(mut rest: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    loop {
        let Some(end) = rest.windows(2).position(|window| window == b"\r\n") else {
            return (body, false);
        };
        let len = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
        rest = &rest[end + 2..];
        if len == 0 {
            return (body, rest == b"\r\n");
        }
        if rest.len() < len + 2 {
            body.extend_from_slice(&rest[..rest.len().min(len)]);
            return (body, false);
        }
        body.extend_from_slice(&rest[..len]);
        rest = &rest[len + 2..];
    }
}

/// A connection that is kept: sends requests and reads each answer to its end, and not beyond.
pub(crate) struct Kept {
    input: OwnedReadHalf,
    pub(crate) output: OwnedWriteHalf,
    unread: Vec<u8>,
}

impl Kept {
    pub(crate) async fn connect(address: SocketAddr) -> std::io::Result<Self> {
        Ok(Self::on(TcpStream::connect(address).await?))
    }

    /// The same from one of the many addresses of this machine.
    pub(crate) async fn connect_from(source: &str, address: SocketAddr) -> std::io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(source.parse().unwrap(), 0))?;
        Ok(Self::on(socket.connect(address).await?))
    }

    fn on(stream: TcpStream) -> Self {
        let (input, output) = stream.into_split();
        let unread = Vec::new();
        Self { input, output, unread }
    }

    /// Whether the other side has closed the connection, once it says anything.
    pub(crate) async fn is_closed(&mut self) -> bool {
        !self.more().await
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.output.write_all(bytes).await
    }

    /// The next answer; `None` if the connection ends before its header did.
    pub(crate) async fn answer(&mut self, head_only: bool) -> Option<Reply> {
        let end = loop {
            if let Some(end) = self.unread.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            if !self.more().await {
                return None;
            }
        };
        let head = String::from_utf8(self.unread[..end].to_vec()).unwrap().to_lowercase();
        let length = head
            .split("content-length: ")
            .nth(1)
            .and_then(|rest| rest.split('\r').next());
        let length: usize = length
            .filter(|_| !head_only && !head.contains(" 304 "))
            .map_or(0, |text| text.parse().unwrap());
        while self.unread.len() < end + length {
            if !self.more().await {
                break;
            }
        }
        let rest = self.unread.split_off(self.unread.len().min(end + length));
        let answer = std::mem::replace(&mut self.unread, rest);
        Some(parse(&answer, head_only))
    }

    async fn more(&mut self) -> bool {
        let mut buffer = vec![0; 64 * 1024];
        match self.input.read(&mut buffer).await {
            Ok(read) if read > 0 => {
                self.unread.extend_from_slice(&buffer[..read]);
                true
            }
            _ => false,
        }
    }
}
