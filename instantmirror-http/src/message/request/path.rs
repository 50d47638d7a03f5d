//! From the path of a request target to a validated path, and back.
//!
//! Percent-decoding happens exactly once and what is hostile is refused, never normalised: two spellings
//! of one path that mean the same are only ever the same bytes, percent-encoded or not. That holds for slashes too:
//! what was decoded goes through the one constructor of paths, which refuses empty names and dots.

use std::fmt::Write as _;

use instantmirror_core::{NameError, RepoPath};

/// The path of a request target, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestPath {
    /// The names, in the one constructor's hands.
    pub path: RepoPath,
    /// Whether a slash ended it: the client means a directory. True for the root.
    pub directory: bool,
    /// Slashes in the URL path behind the first: a client that follows `../` so many times from there is at the root.
    pub levels: usize,
}

impl RequestPath {
    /// Whether a slash was encoded (`/@scope%2Fname`, as npm asks): the same file, found another way.
    #[must_use]
    pub fn encodes_slash(&self) -> bool {
        let names = self.path.components().count();
        let plain = if self.directory { names } else { names.saturating_sub(1) };
        self.levels != plain
    }

    /// What a client that asked for this path has to follow to come to `target`: a relative reference (RFC 3986,
    /// 4.2), which leads there from behind a proxy too that shows our root below a path of its own.
    ///
    /// ```
    /// use instantmirror_core::RepoPath;
    /// use instantmirror_http::request::decode_path;
    /// let request = decode_path("/pub/debian/dists").unwrap();
    /// let to = |target, directory| request.reference_to(&RepoPath::new(target).unwrap(), directory);
    /// assert_eq!(to("pub/debian/dists", true), "dists/");
    /// assert_eq!(to("debian/snap", true), "../../debian/snap/");
    /// assert_eq!(to("pub/debian", true), "./");
    /// ```
    #[must_use]
    pub fn reference_to(&self, target: &RepoPath, directory: bool) -> String {
        let names: Vec<&str> = target.components().collect();
        // Where the client's idea of the levels is another, only the root is common ground.
        let common = if self.encodes_slash() {
            0
        } else {
            // The last name is spelled out, unless it is a directory that the client is in already.
            let kept = if directory {
                names.len()
            } else {
                names.len().saturating_sub(1)
            };
            let ours = self.path.components().take(self.levels.min(kept));
            ours.zip(&names).take_while(|(ours, name)| ours == *name).count()
        };
        let mut reference = "../".repeat(self.levels - common);
        for (number, name) in names.iter().skip(common).enumerate() {
            if number > 0 {
                reference.push('/');
            }
            encode_path_into(&mut reference, name);
        }
        if directory && names.len() > common {
            reference.push('/');
        }
        if reference.is_empty() {
            reference.push_str("./");
        }
        reference
    }
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
/// assert_eq!(decode_path("/@scope%2Fname").unwrap().path.as_str(), "@scope/name");
/// for hostile in ["/a/../b", "/%2e%2e/b", "/..%2Fb", "/a%2F%2Fb", "//a", "/a%00", "a", "/%"] {
///     assert!(decode_path(hostile).is_err());
/// }
/// ```
pub fn decode_path(raw: &str) -> Result<RequestPath, PathError> {
    let rest = raw.strip_prefix('/').ok_or(PathError::Relative)?;
    if rest.is_empty() {
        return Ok(RequestPath {
            path: RepoPath::ROOT,
            directory: true,
            levels: 0,
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
    let levels = rest.bytes().filter(|&byte| byte == b'/').count();
    Ok(RequestPath {
        path,
        directory,
        levels,
    })
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
        out.push(high << 4 | low);
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
            ("/a%2Fb", "a/b", false),
            ("/@scope%2fname", "@scope/name", false),
            ("/@scope%252fname", "@scope%2fname", false),
            ("/a%2Fb/", "a/b", true),
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
            ("/..%2f..%2fetc", name(Dots)),
            ("/a%2f..%2fb", name(Dots)),
            ("/a%2f%2e%2e/b", name(Dots)),
            ("/a%2f.", name(Dots)),
            ("/%2F", name(Empty)),
            ("/%2F/", name(Empty)),
            ("/%2fa", name(Empty)),
            ("/a%2F", name(Empty)),
            ("/a%2F/", name(Empty)),
            ("/a%2f%2fb", name(Empty)),
            ("/a/%2fb", name(Empty)),
            ("/%2f%2fevil.example", name(Empty)),
            ("/a%2f%00", name(Control)),
            ("/a%2f%ff", name(NotUtf8)),
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
            let decoded = decode_path(&raw).unwrap();
            prop_assert_eq!((&decoded.path, decoded.directory, decoded.encodes_slash()), (&path, slash, false));
        }

        /// As the RFC has clients do it: what is behind the last slash goes, then dots lead up.
        #[test]
        fn references_lead_to_their_target(
            from in "(/(a|b|a%2Fb|%3A|c)){0,4}/?",
            target in "((a|b|:|c)/){0,3}(a|b|:|c)",
            directory: bool,
        ) {
            let Ok(request) = decode_path(if from.is_empty() { "/" } else { &from }) else { return Ok(()) };
            let target = RepoPath::new(&target).unwrap();
            let reference = request.reference_to(&target, directory);
            prop_assert!(!reference.starts_with('/') && !reference.contains(':') && !reference.is_empty());
            let base = from.rsplit_once('/').map_or("", |(base, _)| base);
            let mut names: Vec<&str> = base.split('/').filter(|name| !name.is_empty()).collect();
            for name in reference.split('/') {
                match name {
                    ".." => _ = names.pop().expect("the root is left"),
                    "." | "" => {}
                    name => names.push(name),
                }
            }
            let led = decode_path(&format!("/{}{}", names.join("/"), if directory { "/" } else { "" })).unwrap();
            prop_assert_eq!(led.path, target);
            prop_assert_eq!(reference.ends_with('/'), directory);
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
