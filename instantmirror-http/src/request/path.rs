//! From the path of a request target to a validated path, and back.
//!
//! Percent-decoding happens exactly once and what is hostile is refused, never normalised: two spellings
//! of one path that mean the same are only ever the same bytes, percent-encoded or not.

use std::fmt::Write as _;

use instantmirror_core::{NameError, RepoPath};

/// The path of a request target, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestPath {
    /// The names, in the one constructor's hands.
    pub path: RepoPath,
    /// Whether a slash ended it: the client means a directory. True for the root.
    pub directory: bool,
}

/// Why the path of a request target was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// It does not begin with a slash.
    #[error("the path does not begin with a slash")]
    Relative,
    /// A `%` that two hexadecimal digits do not follow.
    #[error("a '%' without two hexadecimal digits behind it")]
    Escape,
    /// `%2F`: a slash that is none.
    #[error("an encoded slash")]
    EncodedSlash,
    /// A name that no published tree can hold.
    #[error("{0}")]
    Name(#[from] NameError),
}

impl PathError {
    /// Whether the path is well formed and only too long or too deep to exist anywhere.
    #[must_use]
    pub fn is_only_too_long(self) -> bool {
        matches!(self, Self::Name(NameError::TooLong(_) | NameError::TooDeep))
    }
}

/// Decodes the path of a request target, query already cut off.
///
/// # Errors
/// [`PathError`]; nothing is repaired.
///
/// ```
/// use instantmirror_http::request::decode_path;
/// let decoded = decode_path("/pool/a%20b/").unwrap();
/// assert_eq!((decoded.path.as_str(), decoded.directory), ("pool/a b", true));
/// for hostile in ["/a/../b", "/%2e%2e/b", "/a%2Fb", "//a", "/a%00", "a", "/%"] {
///     assert!(decode_path(hostile).is_err());
/// }
/// ```
pub fn decode_path(raw: &str) -> Result<RequestPath, PathError> {
    let rest = raw.strip_prefix('/').ok_or(PathError::Relative)?;
    if rest.is_empty() {
        return Ok(RequestPath {
            path: RepoPath::ROOT,
            directory: true,
        });
    }
    let (names, directory) = match rest.strip_suffix('/') {
        Some(names) => (names, true),
        None => (rest, false),
    };
    let path = RepoPath::new(unescape(names)?)?;
    if path.is_root() {
        // "//": an empty name in front of the last slash.
        return Err(PathError::Name(NameError::Empty));
    }
    Ok(RequestPath { path, directory })
}

/// Where a client should look that asked for a path with `.` or empty segments, as apt does for flat
/// repositories (`URL/./Release`) and others that join URLs with a slash too many. `None` if there are none.
/// It is told the one spelling there is; the path it asked for is not served under two. Only plain segments
/// count: an encoded dot is hostile, and `..` always is.
///
/// ```
/// use instantmirror_http::request::canonical_path;
/// assert_eq!(canonical_path("/a/./b//c/").as_deref(), Some("/a/b/c/"));
/// assert_eq!(canonical_path("/a/b/c/"), None);
/// // A leading empty segment looks like a host to some: refused, not repaired.
/// assert_eq!(canonical_path("//host/x"), None);
/// ```
#[must_use]
pub fn canonical_path(raw: &str) -> Option<String> {
    let rest = raw.strip_prefix('/').filter(|rest| !rest.starts_with('/'))?;
    let (names, slash) = match rest.strip_suffix('/') {
        Some(names) => (names, "/"),
        None => (rest, if rest == "." || rest.ends_with("/.") { "/" } else { "" }),
    };
    let is_idle = |name: &&str| name.is_empty() || *name == ".";
    if rest.is_empty() || !names.split('/').any(|name| is_idle(&name)) {
        return None;
    }
    let kept: Vec<&str> = names.split('/').filter(|name| !is_idle(name)).collect();
    Some(if kept.is_empty() {
        "/".to_owned()
    } else {
        format!("/{}{slash}", kept.join("/"))
    })
}

fn unescape(text: &str) -> Result<Vec<u8>, PathError> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let high = bytes.next().and_then(hex_digit).ok_or(PathError::Escape)?;
        let low = bytes.next().and_then(hex_digit).ok_or(PathError::Escape)?;
        let decoded = high << 4 | low;
        if decoded == b'/' {
            return Err(PathError::EncodedSlash);
        }
        out.push(decoded);
    }
    Ok(out)
}

fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

/// Bytes that stand for themselves in a link. `:` is not among them, so that no name looks like a scheme;
/// nor `\`, which browsers take for a slash; nor anything HTML gives a meaning to.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'+' | b',' | b'=' | b'@')
}

/// Appends `text` percent-encoded; slashes stay.
pub fn encode_path_into(out: &mut String, text: &str) {
    for byte in text.bytes() {
        if is_plain(byte) || byte == b'/' {
            out.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

/// `text` percent-encoded so that it stands in a link, a header and an HTML attribute as it is; slashes stay.
#[must_use]
pub fn encode_path(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    encode_path_into(&mut out, text);
    out
}

#[cfg(test)]
mod tests {
    use instantmirror_core::Name;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ordinary_paths_decode_once() {
        let cases = [
            ("/", "", true),
            ("/a", "a", false),
            ("/a/", "a", true),
            ("/a/b", "a/b", false),
            ("/a/b/", "a/b", true),
            ("/a%20b", "a b", false),
            ("/a b", "a b", false),
            ("/a+b", "a+b", false),
            ("/%41", "A", false),
            ("/%61%62", "ab", false),
            ("/%c3%a9", "é", false),
            ("/%C3%A9", "é", false),
            ("/é", "é", false),
            ("/100%25", "100%", false),
            ("/%252e%252e/x", "%2e%2e/x", false),
            ("/%252F", "%2F", false),
            ("/%2500", "%00", false),
            ("/%2525", "%25", false),
            ("/a\\b", "a\\b", false),
            ("/a%5cb", "a\\b", false),
            ("/..%5c..%5cetc", "..\\..\\etc", false),
            ("/...", "...", false),
            ("/..a", "..a", false),
            ("/a..", "a..", false),
            ("/.im/v1", ".im/v1", false),
            ("/%2eim/v1", ".im/v1", false),
            ("/.hidden/", ".hidden", true),
            ("/%3Fq", "?q", false),
            ("/%23f", "#f", false),
            ("/%22%27%3C%3E%26", "\"'<>&", false),
            ("/a:b", "a:b", false),
            ("/http:%5c%5cevil", "http:\\\\evil", false),
            ("/a;b=c", "a;b=c", false),
            ("/~user", "~user", false),
            ("/%E2%80%AE", "\u{202e}", false),
        ];
        for (raw, path, directory) in cases {
            let decoded = decode_path(raw).unwrap_or_else(|error| panic!("{raw}: {error}"));
            assert_eq!((decoded.path.as_str(), decoded.directory), (path, directory), "{raw}");
        }
    }

    #[test]
    fn hostile_paths_are_refused_each_for_its_reason() {
        use NameError::{Control, Dots, Empty, NotUtf8};
        let name = PathError::Name;
        let cases = [
            ("", PathError::Relative),
            ("a", PathError::Relative),
            ("*", PathError::Relative),
            ("http://h/a", PathError::Relative),
            ("//", name(Empty)),
            ("///", name(Empty)),
            ("//evil.example/", name(Empty)),
            ("/a//b", name(Empty)),
            ("/a//", name(Empty)),
            ("/.", name(Dots)),
            ("/..", name(Dots)),
            ("/./", name(Dots)),
            ("/../", name(Dots)),
            ("/a/.", name(Dots)),
            ("/a/..", name(Dots)),
            ("/a/../b", name(Dots)),
            ("/a/./b", name(Dots)),
            ("/../../etc/passwd", name(Dots)),
            ("/%2e", name(Dots)),
            ("/%2e%2e", name(Dots)),
            ("/%2E%2E/%2e%2e/etc", name(Dots)),
            ("/.%2e/a", name(Dots)),
            ("/%2e./a", name(Dots)),
            ("/a%2Fb", PathError::EncodedSlash),
            ("/a%2fb", PathError::EncodedSlash),
            ("/..%2f..%2fetc", PathError::EncodedSlash),
            ("/%2F", PathError::EncodedSlash),
            ("/a%2F", PathError::EncodedSlash),
            ("/%", PathError::Escape),
            ("/%2", PathError::Escape),
            ("/a%", PathError::Escape),
            ("/%g0", PathError::Escape),
            ("/%0g", PathError::Escape),
            ("/%%32e", PathError::Escape),
            ("/%u002e", PathError::Escape),
            ("/%+1", PathError::Escape),
            ("/%-1", PathError::Escape),
            ("/% 1", PathError::Escape),
            ("/%é", PathError::Escape),
            ("/%00", name(Control)),
            ("/a%00.html", name(Control)),
            ("/a%0ab", name(Control)),
            ("/a%0d%0aSet-Cookie:x", name(Control)),
            ("/%09", name(Control)),
            ("/%1f", name(Control)),
            ("/%7f", name(Control)),
            ("/%c2%85", name(Control)),
            ("/a\u{7f}", name(Control)),
            ("/%ff", name(NotUtf8)),
            ("/%c0%ae%c0%ae/", name(NotUtf8)),
            ("/%c0%af", name(NotUtf8)),
            ("/%e0%80%af", name(NotUtf8)),
            ("/%ed%a0%80", name(NotUtf8)),
            ("/%f8%80%80%80%af", name(NotUtf8)),
        ];
        for (raw, error) in cases {
            assert_eq!(decode_path(raw), Err(error), "{raw:?}");
        }
    }

    #[test]
    fn what_is_too_long_is_told_from_what_is_wrong() {
        for raw in [
            "/".to_owned() + &"a".repeat(256),
            "/a".repeat(256),
            "/abcdefgh".repeat(500),
        ] {
            assert!(decode_path(&raw).unwrap_err().is_only_too_long());
        }
        assert!(!decode_path("/..").unwrap_err().is_only_too_long());
    }

    proptest! {
        #[test]
        fn every_name_survives_the_way_there_and_back(names in proptest::collection::vec("\\PC{1,40}", 1..6), slash: bool) {
            let Ok(names) = names.iter().map(Name::new).collect::<Result<Vec<_>, _>>() else { return Ok(()) };
            let path = names.iter().try_fold(RepoPath::ROOT, |path, name| path.join(name)).unwrap();
            let raw = format!("/{}{}", encode_path(path.as_str()), if slash { "/" } else { "" });
            prop_assert!(raw.is_ascii());
            prop_assert_eq!(decode_path(&raw), Ok(RequestPath { path, directory: slash }));
        }

        #[test]
        fn nothing_panics_and_nothing_escapes(raw in "[/%.0-9a-f\\\\é\u{0}-\u{ff}]{0,60}") {
            if let Ok(decoded) = decode_path(&raw) {
                for name in decoded.path.components() {
                    prop_assert!(name != "." && name != ".." && !name.contains(['/', '\0']));
                }
                prop_assert_eq!(RepoPath::new(decoded.path.as_str()), Ok(decoded.path));
            }
        }
    }
}
