//! A request target leads to the path that decoding it once gives, or nowhere.
#![no_main]

use instantmirror_core::RepoPath;
use instantmirror_http::request::{canonical_path, decode_path, encode_path};
use libfuzzer_sys::fuzz_target;

/// Decodes once, by the simplest means. `None`: a broken escape. An encoded slash is a slash.
fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        rest = behind;
        if first != b'%' {
            out.push(first);
            continue;
        }
        let digits = std::str::from_utf8(behind.get(..2)?).ok()?;
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        out.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &behind[2..];
    }
    Some(out)
}

fn model(raw: &str) -> Option<(RepoPath, bool)> {
    let rest = raw.strip_prefix('/')?;
    if rest.is_empty() {
        return Some((RepoPath::ROOT, true));
    }
    let directory = rest.ends_with('/');
    let names = if directory { &rest[..rest.len() - 1] } else { rest };
    let path = RepoPath::new(unescape(names)?).ok()?;
    (!path.is_root()).then_some((path, directory))
}

fuzz_target!(|data: &[u8]| {
    let Ok(raw) = std::str::from_utf8(data) else { return };
    let decoded = decode_path(raw).ok();
    assert_eq!(
        decoded
            .as_ref()
            .map(|decoded| (decoded.path.clone(), decoded.directory)),
        model(raw)
    );
    if let Some(decoded) = decoded {
        assert!(canonical_path(raw).is_none(), "a good path is the one spelling");
        let slash = if decoded.directory && !decoded.path.is_root() {
            "/"
        } else {
            ""
        };
        let again = format!("/{}{slash}", encode_path(decoded.path.as_str()));
        let back = decode_path(&again).expect("what is encoded can be decoded");
        assert!(!back.encodes_slash(), "and has plain slashes");
        assert_eq!(
            (&back.path, back.directory),
            (&decoded.path, decoded.directory),
            "what is encoded leads back"
        );
        assert!(
            !again.contains(['<', '>', '"', '\'', '&', '\\', ' ', ':', '?', '#']),
            "and is safe in a page"
        );
    }
    if let Some(location) = canonical_path(raw) {
        assert!(
            location.starts_with('/') && !location.starts_with("//"),
            "a redirect stays on this host"
        );
        assert!(canonical_path(&location).is_none(), "and is the last");
    }
});
