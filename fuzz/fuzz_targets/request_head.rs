//! The head of a request is taken exactly if a plain, line by line reading of the rules takes it, and then both agree
//! on what it says and where it ends. Who disagrees with us about that can be made to see another request: smuggling.
#![no_main]

use instantmirror_http::fuzzing::{Reading, read_head};
use libfuzzer_sys::fuzz_target;

const HEADER_BYTES_MAX: usize = 32 * 1024;
const FIELDS_MAX: usize = 100;

/// What random bytes never come to by themselves.
const PARTS: [&[u8]; 51] = [
    b"GET ",
    b"HEAD ",
    b"POST ",
    b"OPTIONS ",
    b"CONNECT ",
    b"get ",
    b" ",
    b"/",
    b"/a?b",
    b"*",
    b"http://h/x?y",
    b"h:80",
    b"//",
    b"#",
    b" HTTP/1.1",
    b" HTTP/1.0",
    b" HTTP/1.2",
    b" HTTP/2.0",
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n\r\n",
    b"Host: h\r\n",
    b"Host:\r\n",
    b"host: a b\r\n",
    b"Host: [::1]:8\r\n",
    b"Content-Length: ",
    b"content-length:5\r\n",
    b"0",
    b"5",
    b"+",
    b",",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding : x\r\n",
    b"Connection: close\r\n",
    b"Connection: keep-alive\r\n",
    b"Connection: x, Close\r\n",
    b"Expect: 100-continue\r\n",
    b"Expect: x\r\n",
    b"Range: bytes=0-1\r\n",
    b"range: 2\r\n",
    b" folded\r\n",
    b"\tfolded\r\n",
    b"X: y\r\n",
    b"X:\xff\r\n",
    b"X: \0\r\n",
    b"X : y\r\n",
    b": y\r\n",
    b"\x7f",
    b"PUT ",
    b"PROPFIND ",
];

/// Pieces of requests, strung together as the input says.
fn assemble(data: &[u8]) -> Vec<u8> {
    data.iter()
        .flat_map(|&byte| {
            PARTS
                .get(usize::from(byte))
                .copied()
                .map_or_else(|| vec![byte], <[u8]>::to_vec)
        })
        .collect()
}

#[derive(Default)]
struct Model {
    range: Option<String>,
    hosts: usize,
    lengths: Vec<Vec<u8>>,
    codings: Vec<Vec<u8>>,
    close: bool,
    keep: bool,
}

fn is_token(bytes: &[u8]) -> bool {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !bytes.is_empty() && bytes.iter().all(is_part)
}

/// The request at the beginning of `bytes`, if all of it is there and nothing of it is wrong.
fn model(bytes: &[u8]) -> Option<Reading> {
    let mut start = 0;
    while bytes[start..].starts_with(b"\r\n") {
        start += 2;
    }
    let rest = &bytes[start..];
    let end = rest.windows(4).position(|window| window == b"\r\n\r\n")?;
    let total = start + end + 4;
    let text = &rest[..end];
    let mut lines = Vec::new();
    let mut line_start = 0;
    for at in 0..text.len().saturating_sub(1) {
        if &text[at..at + 2] == b"\r\n" {
            lines.push(&text[line_start..at]);
            line_start = at + 2;
        }
    }
    lines.push(&text[line_start..]);
    if total > HEADER_BYTES_MAX || lines.len() - 1 > FIELDS_MAX || lines.iter().any(|line| line.contains(&b'\n')) {
        return None;
    }
    let parts: Vec<&[u8]> = lines[0].split(|&byte| byte == b' ').collect();
    let [method, target, version] = parts.as_slice() else {
        return None;
    };
    let is_new = match *version {
        b"HTTP/1.1" => true,
        b"HTTP/1.0" => false,
        _ => return None,
    };
    if !is_token(method) || target.is_empty() || target.iter().any(|&byte| byte <= b' ' || byte == 0x7f) {
        return None;
    }
    let (method, target) = (std::str::from_utf8(method).ok()?, std::str::from_utf8(target).ok()?);
    let mut said = Model::default();
    for line in &lines[1..] {
        field(&mut said, line)?;
    }
    let (path, query) = split_target(method, target)?;
    let length = match said.lengths.as_slice() {
        [] => 0,
        [one] if !one.is_empty() && one.iter().all(u8::is_ascii_digit) => {
            std::str::from_utf8(one).ok()?.parse::<u64>().ok()?
        }
        _ => return None,
    };
    let length = match said.codings.as_slice() {
        [] => length,
        // Methods that this server does not have may say that a body follows; nobody looks for its end.
        [one] if one == b"chunked" && is_new && said.lengths.is_empty() && !is_answered(method) => u64::MAX,
        _ => return None,
    };
    if (length > 0 && ["GET", "HEAD"].contains(&method)) || said.hosts > 1 || (said.hosts == 0 && is_new) {
        return None;
    }
    let fits = path.starts_with('/') || (path == "*" && method == "OPTIONS") || method == "CONNECT";
    let close = said.close || (!is_new && !said.keep) || method == "CONNECT";
    fits.then(|| {
        Reading::Request(Box::new((
            method.to_owned(),
            path,
            query,
            said.range,
            total,
            length,
            close,
        )))
    })
}

fn is_answered(method: &str) -> bool {
    ["GET", "HEAD", "POST", "OPTIONS"].contains(&method)
}

fn is_host(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[').map(|rest| rest.split_once(']')) {
        Some(None) => return false,
        Some(Some((address, rest))) => {
            let is_address = address
                .chars()
                .all(|part| part.is_ascii_hexdigit() || part == ':' || part == '.');
            if address.is_empty() || !is_address || !(rest.is_empty() || rest.starts_with(':')) {
                return false;
            }
            ("", rest.strip_prefix(':').unwrap_or(""))
        }
        None => host.split_once(':').unwrap_or((host, "")),
    };
    let is_name = name
        .chars()
        .all(|part| part.is_ascii_alphanumeric() || ".-_~%".contains(part));
    is_name && !name.contains("..") && port.chars().all(|digit| digit.is_ascii_digit())
}

fn field(said: &mut Model, line: &[u8]) -> Option<()> {
    let colon = line.iter().position(|&byte| byte == b':')?;
    let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
    let is_value = |byte: &u8| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f);
    if !is_token(name) || !value.iter().all(is_value) {
        return None;
    }
    // Blanks are spaces and tabs; a form feed at the end is not.
    if !line[colon + 1..].iter().all(is_value) {
        return None;
    }
    let lower = value.to_ascii_lowercase();
    match name.to_ascii_lowercase().as_slice() {
        b"host" => {
            said.hosts += 1;
            is_host(std::str::from_utf8(value).ok()?).then_some(())?;
        }
        b"content-length" => said.lengths.push(value.to_vec()),
        b"transfer-encoding" => said.codings.push(lower),
        b"expect" if lower != b"100-continue" => return None,
        b"connection" => {
            for token in lower.split(|&byte| byte == b',') {
                said.close |= token.trim_ascii() == b"close";
                said.keep |= token.trim_ascii() == b"keep-alive";
            }
        }
        b"range" => {
            let value = String::from_utf8_lossy(value);
            said.range = Some(match said.range.take() {
                None => value.into_owned(),
                Some(before) => format!("{before}, {value}"),
            });
        }
        _ => {}
    }
    Some(())
}

fn split_target(method: &str, target: &str) -> Option<(String, String)> {
    if method == "CONNECT" || target == "*" {
        return Some((target.to_owned(), String::new()));
    }
    if target.contains('#') {
        return None;
    }
    let mut origin = target;
    if !target.starts_with('/') {
        let lower = target.to_ascii_lowercase();
        let skip = ["http://", "https://"]
            .into_iter()
            .find(|scheme| lower.starts_with(scheme))?
            .len();
        let rest = &target[skip..];
        let authority = rest.split(['/', '?']).next()?;
        if authority.is_empty() || authority.contains('@') {
            return None;
        }
        origin = &rest[authority.len()..];
    }
    let (path, query) = origin.split_once('?').unwrap_or((origin, ""));
    let path = if path.is_empty() { "/" } else { path };
    Some((path.to_owned(), query.to_owned()))
}

fuzz_target!(|data: &[u8]| {
    let bytes = match data.split_first() {
        Some((first, rest)) if first % 4 != 0 => assemble(rest),
        _ => data.to_vec(),
    };
    let reading = read_head(&bytes);
    let expected = model(&bytes);
    match (&reading, &expected) {
        (Reading::Request(_), _) | (_, Some(_)) => assert_eq!(Some(&reading), expected.as_ref()),
        (Reading::Incomplete | Reading::Refused(400 | 414 | 431), None) => {}
        (Reading::Refused(status), None) => panic!("status {status}"),
    }
    // What follows makes no difference to a request, and no beginning of it is one.
    if let Reading::Request(request) = &reading {
        let end = request.4;
        assert_eq!(read_head(&bytes[..end]), reading);
        assert_eq!(read_head(&bytes[..end - 1]), Reading::Incomplete);
    }
});
