//! The plainest HTTP client there is: one GET, one connection, every byte of the request as the test wrote it.
//!
//! Never follows redirects, never normalises a path, never decodes what it was not asked to: hostile requests must
//! reach the server as they are.

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

/// How long one read or write may take.
const IO_LIMIT: Duration = Duration::from_secs(30);

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Header fields in their order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The content, chunked coding removed.
    pub body: Vec<u8>,
}

impl Answer {
    /// The first field of this name (lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(field, _)| field == name)
            .map(|(_, value)| value.as_str())
    }

    /// The content as text, with whatever is not UTF-8 replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// GETs a URL of the form `http://host:port/path`.
pub fn get(url: &str) -> Result<Answer> {
    request("GET", url, &[])
}

/// Sends one request with extra header fields to a URL of the form `http://host:port/path`.
pub fn request(method: &str, url: &str, headers: &[(&str, &str)]) -> Result<Answer> {
    let rest = url
        .strip_prefix("http://")
        .with_context(|| format!("{url} is not an http URL"))?;
    let (host, target) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    };
    let mut head = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    let bytes = exchange(host, head.as_bytes()).with_context(|| format!("{method} {url}"))?;
    parse(&bytes, method == "HEAD").with_context(|| format!("{method} {url}"))
}

/// Sends bytes to `host:port` as they are and returns everything that comes back until the server closes.
pub fn exchange(host: &str, bytes: &[u8]) -> Result<Vec<u8>> {
    let address = host
        .to_socket_addrs()
        .context("not a host and port")?
        .next()
        .context("the host has no address")?;
    let mut stream = TcpStream::connect_timeout(&address, IO_LIMIT).context("cannot connect")?;
    stream.set_read_timeout(Some(IO_LIMIT))?;
    stream.set_write_timeout(Some(IO_LIMIT))?;
    stream.write_all(bytes).context("cannot send the request")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).context("cannot read the answer")?;
    Ok(answer)
}

fn parse(bytes: &[u8], is_head: bool) -> Result<Answer> {
    let end = bytes
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .context("the answer has no end of its head")?;
    let (head, body) = bytes.split_at(end + 4);
    let head = std::str::from_utf8(head).context("the answer's head is not UTF-8")?;
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1))
        .and_then(|code| code.parse().ok());
    let headers = lines.filter_map(|line| line.split_once(':'));
    let headers = headers
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let mut answer = Answer {
        status: status.context("the answer has no status")?,
        headers,
        body: body.to_vec(),
    };
    if is_head {
        return Ok(answer);
    }
    if answer
        .header("transfer-encoding")
        .is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"))
    {
        answer.body = unchunked(body)?;
    } else if let Some(length) = answer.header("content-length") {
        let length: usize = length.parse().context("the answer's Content-Length is not a number")?;
        if answer.body.len() != length {
            bail!("the answer announced {length} bytes and had {}", answer.body.len());
        }
    }
    Ok(answer)
}

fn unchunked(mut rest: &[u8]) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest
            .windows(2)
            .position(|window| window == b"\r\n")
            .context("a chunk has no size line")?;
        let (size, after) = rest.split_at(end);
        let size = std::str::from_utf8(size).ok().and_then(|size| size.split(';').next());
        let size = size
            .and_then(|size| usize::from_str_radix(size.trim(), 16).ok())
            .context("a bad chunk size")?;
        if size == 0 {
            return Ok(body);
        }
        let chunk = after.get(2..2 + size).context("the answer ends inside a chunk")?;
        body.extend_from_slice(chunk);
        rest = after.get(2 + size + 2..).context("the answer ends after a chunk")?;
    }
}

/// Percent-encodes a path for a URL: everything but unreserved characters and `/`.
pub fn encode_path(path: &[u8]) -> String {
    let mut encoded = String::with_capacity(path.len());
    for &byte in path {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_answer_is_taken_apart() {
        let answer = parse(
            b"HTTP/1.1 206 Partial\r\nETag: \"a\"\r\nContent-Length: 2\r\n\r\nab",
            false,
        )
        .unwrap();
        assert_eq!(
            (answer.status, answer.header("etag"), answer.text().as_str()),
            (206, Some("\"a\""), "ab")
        );
    }

    #[test]
    fn chunks_are_joined() {
        let bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1;x=y\r\nc\r\n0\r\n\r\n";
        assert_eq!(parse(bytes, false).unwrap().body, b"abc");
    }

    #[test]
    fn a_cut_answer_is_an_error() {
        assert!(parse(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab", false).is_err());
        assert!(parse(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", false).is_err());
        assert!(parse(b"HTTP/1.1 200 OK\r\n", false).is_err());
    }

    #[test]
    fn paths_are_encoded_once() {
        assert_eq!(encode_path("a b/100%/ä#?".as_bytes()), "a%20b/100%25/%C3%A4%23%3F");
    }
}
