//! How long a cache may keep a file without asking, at a URL whose content can change.
//!
//! Key decision: long where the name says what is in it, seconds where it does not. Reason: a cache that asks each time is
//! no cache to Varnish and nginx, and one that mixes an old index with a new release file breaks the client. So what
//! clients find by name and compare with a hash that they have just read (`Release`, `repomd.xml`, indexes) is kept for
//! less time than a publish takes to be noticed, and what is never made anew under the same name for as long as people
//! keep packages.

use instantmirror_core::RepoPath;

/// Content that its name states, by hash: never anything else.
const FOREVER: &str = "public, max-age=31536000, immutable";
/// Files of a Debian pool: their names have versions, and an archive refuses another file of the same name.
const POOL: &str = "public, max-age=2592000";
/// Packages of registries that never take another file for a version that they have.
const RELEASE: &str = "public, max-age=86400";
/// Everything else. The question costs a 304. The last word is for Varnish, which would answer with what is stale for ten
/// seconds more while it asks (RFC 5861, 3; its `beresp.grace`).
const SHORT: &str = "public, max-age=5, must-revalidate, stale-while-revalidate=0";

/// Hexadecimal digits of the hashes in `by-hash` directories.
const BY_HASH: [(&str, usize); 4] = [("MD5Sum", 32), ("SHA1", 40), ("SHA256", 64), ("SHA512", 128)];
/// What lies in a pool, by the end of its name.
const OF_POOL: [&str; 6] = [".deb", ".udeb", ".ddeb", ".dsc", ".orig.tar.", ".debian.tar."];
/// Packages of PyPI, RubyGems, crates.io, conda, Maven and NuGet. Not those of distributions outside a pool (`.rpm`, `.apk`,
/// `.deb`, `.pkg.tar.zst`): third parties sign and build them again under the same name, and a cache that goes on with the old
/// one breaks clients that have read the new index.
const RELEASES: [&str; 6] = [".whl", ".gem", ".crate", ".conda", ".jar", ".nupkg"];

/// Words of names that are given to one version after the other.
const MOVING: [&str; 6] = ["latest", "current", "newest", "nightly", "snapshot", "daily"];

/// The Cache-Control of a file at a path of its repository. `sha256`: that of its content, if it is known.
pub(crate) fn cache_control(path: &RepoPath, sha256: Option<&[u8; 32]>) -> &'static str {
    let name = path.split_last().map_or("", |(_, name)| name);
    if states_content(path, name, sha256) {
        FOREVER
    } else if is_in_pool(path, name) {
        POOL
    } else if is_release(name) {
        RELEASE
    } else {
        SHORT
    }
}

/// Whether the name holds the hash of what is in it: proven where the content's SHA-256 is known, otherwise believed where
/// the format asks for it (`by-hash` of apt, `repodata` of dnf, blobs of OCI registries).
fn states_content(path: &RepoPath, name: &str, sha256: Option<&[u8; 32]>) -> bool {
    if let Some(sha256) = sha256 {
        let hex: String = sha256.iter().map(|byte| format!("{byte:02x}")).collect();
        if name.split(|c: char| !c.is_ascii_alphanumeric()).any(|part| part == hex) {
            return true;
        }
    }
    // A SHA-256 that is known and was not found above is another one.
    let is_hex = |text: &str, digits: usize| {
        text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit()) && !(digits == 64 && sha256.is_some())
    };
    let mut parts = path.components().rev().skip(1);
    let (kind, by_hash) = (parts.next(), parts.next());
    if by_hash == Some("by-hash") {
        return BY_HASH
            .iter()
            .any(|(known, digits)| Some(*known) == kind && is_hex(name, *digits));
    }
    let of_repodata = name.split_once('-').filter(|_| kind == Some("repodata"));
    let of_registry = name.strip_prefix("sha256:");
    let digits = of_repodata.map(|(digits, _)| digits).or(of_registry);
    digits.is_some_and(|digits| BY_HASH.iter().any(|(_, len)| is_hex(digits, *len)))
}

fn is_in_pool(path: &RepoPath, name: &str) -> bool {
    let is_below = path.components().rev().skip(1).any(|part| part == "pool");
    // Versions stand behind the first underscore.
    is_below
        && name.contains('_')
        && OF_POOL
            .iter()
            .any(|part| name.ends_with(part) || part.ends_with('.') && name.contains(part))
}

/// Whether a name is that of a package with a version: `tool-1.0-SNAPSHOT.jar` is another file tomorrow.
fn is_release(name: &str) -> bool {
    let Some(stem) = RELEASES.iter().find_map(|end| name.strip_suffix(end)) else {
        return false;
    };
    let mut words = stem.split(|c: char| !c.is_ascii_alphanumeric());
    let is_moving = words.any(|word| MOVING.iter().any(|moving| word.eq_ignore_ascii_case(moving)));
    stem.bytes().any(|byte| byte.is_ascii_digit()) && !is_moving
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_its_name_states_is_kept_long_and_what_it_does_not_for_seconds() {
        let hash = [0xab; 32];
        let hex = "ab".repeat(32);
        let other = "cd".repeat(32);
        for (path, known, cache) in [
            (format!("dists/sid/main/by-hash/SHA256/{hex}"), true, FOREVER),
            (format!("dists/sid/main/by-hash/SHA256/{hex}"), false, FOREVER),
            (format!("dists/sid/main/by-hash/SHA256/{other}"), true, SHORT),
            (
                format!("dists/sid/main/by-hash/MD5Sum/{}", "a".repeat(32)),
                true,
                FOREVER,
            ),
            (format!("dists/sid/main/by-hash/SHA256/{}", "a".repeat(32)), true, SHORT),
            (format!("repodata/{hex}-primary.xml.zst"), true, FOREVER),
            (format!("repodata/{hex}-primary.xml.zst"), false, FOREVER),
            (format!("repodata/{other}-primary.xml.zst"), true, SHORT),
            (format!("other/{hex}-primary.xml.zst"), false, SHORT),
            (format!("v2/x/blobs/sha256:{hex}"), true, FOREVER),
            ("pool/main/h/hello/hello_1.0_amd64.deb".to_owned(), false, POOL),
            ("debian/pool/main/h/hello_1.0.orig.tar.gz".to_owned(), false, POOL),
            ("pool/main/h/hello.deb".to_owned(), false, SHORT),
            ("epel-release-latest-9.noarch.rpm".to_owned(), false, SHORT),
            ("google-chrome-stable_current_amd64.deb".to_owned(), false, SHORT),
            ("hello_1.0_amd64.deb".to_owned(), false, SHORT),
            ("Packages/h/hello-1.0-1.x86_64.rpm".to_owned(), false, SHORT),
            ("packages/hello-1.0-py3-none-any.whl".to_owned(), false, RELEASE),
            ("org/tool/1.0-SNAPSHOT/tool-1.0-SNAPSHOT.jar".to_owned(), false, SHORT),
            ("dists/sid/InRelease".to_owned(), true, SHORT),
            ("pool/main/h/index.html".to_owned(), false, SHORT),
            ("repodata/repomd.xml".to_owned(), true, SHORT),
            ("core.db".to_owned(), true, SHORT),
            ("latest.iso".to_owned(), true, SHORT),
            (".deb".to_owned(), false, SHORT),
        ] {
            let found = cache_control(&RepoPath::new(&path).unwrap(), known.then_some(&hash));
            assert_eq!(found, cache, "{path} {known}");
        }
    }
}
